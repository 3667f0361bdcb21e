"""The book builds without a warning, and what comes out has no link that leads nowhere."""

import html.parser
import re
import subprocess
from urllib.parse import unquote

import pytest
from conftest import ROOT
from languages import need


class Page(html.parser.HTMLParser):
    """The names and links of a page."""

    def __init__(self, text):
        super().__init__()
        self.names, self.links = set(), set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names.update(value for key, value in attributes.items() if key in ("id", "name") and value)
        self.links.update(value for key, value in attributes.items() if key in ("href", "src") and value)


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    need("mdbook")
    folder = tmp_path_factory.mktemp("book")
    command = ["mdbook", "build", ROOT / "docs", "--dest-dir", folder]
    built = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert built.returncode == 0, built.stdout
    assert not re.search(r"\b(WARN|ERROR)\b", built.stdout), built.stdout
    # print.html is all pages in one, whose links are made to fit, and 404.html is served anywhere.
    files = {path for path in folder.rglob("*.html") if path.name not in ("print.html", "404.html")}
    return folder, {path.resolve(): Page(path.read_text()) for path in files if "snippets" not in path.parts}


def test_its_links_lead_somewhere(book):
    folder, pages = book
    wrong = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"(https?|mailto|data|javascript):", link):
                continue
            address, _, fragment = link.partition("#")
            target = (path.parent / unquote(address.split("?")[0])).resolve() if address else path
            if not target.exists():
                wrong.append(f"{path.relative_to(folder.resolve())}: {link}")
            elif fragment and target in pages and unquote(fragment) not in pages[target].names:
                wrong.append(f"{path.relative_to(folder.resolve())}: {link}: no such anchor")
    assert not wrong
    assert len(pages) > 30


def test_nothing_is_left_to_include(book):
    folder, _ = book
    for path in folder.rglob("*.html"):
        assert "{{#" not in path.read_text(), path.name
