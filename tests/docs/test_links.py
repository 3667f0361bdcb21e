"""Every link of every page leads somewhere: files, anchors, images, and the snippets that pages include."""

import html
import re
import subprocess
import unicodedata

import pytest
from conftest import ROOT

BOOK = ROOT / "docs"

LINK = re.compile(r"(?<!\\)\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]*(?:\([^()]*\))?[^()\s]*)(?:\s+\"[^\"]*\")?\)")
ATTRIBUTE = re.compile(r"<(?:a|img|source)\b[^>]*?\b(?:href|src|srcset)=\"([^\"]*)\"")
INCLUDE = re.compile(r"\{\{#include ([^}:]+)(?::[^}]*)?\}\}")


def pages():
    """The Markdown files of the repository, those that are not committed yet included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"]
    listed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [ROOT / name for name in sorted(set(listed.splitlines())) if (ROOT / name).exists()]


def prose(text):
    """A page without its code, where brackets mean other things."""
    text = re.sub(r"^(```+).*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", text)


def anchors(text):
    """The anchors of a page's headings, as mdBook and code hosts make them."""
    found = {}
    for heading in re.findall(r"^#{1,6} +(.*?)\s*#*$", re.sub(r"^(```+).*?^\1\s*$", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE):
        heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        kept = [c for c in heading.strip().lower() if c in " -_" or unicodedata.category(c)[0] in "LN"]
        name = "".join(kept).replace(" ", "-")
        count = found.get(name, 0)
        found[name] = count + 1
        if count:
            found[f"{name}-{count}"] = 1
    return set(found) | set(re.findall(r"\bid=\"([^\"]+)\"", text))


def problem(page, link):
    """What is wrong with a link, or nothing."""
    link = html.unescape(link)
    if re.match(r"(https|mailto):", link):
        return None
    if link.startswith("http://"):
        return None if re.match(r"http://(localhost|127\.0\.0\.1)\b", link) else "not https"
    path, _, fragment = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.exists():
        return "no such file"
    if BOOK in page.parents and BOOK not in target.parents:
        return "leads out of the book, where readers cannot follow: name the file instead"
    if BOOK in page.parents and target.is_dir():
        return "a folder is no page of the book"
    if fragment and target.suffix == ".md" and fragment not in anchors(target.read_text()):
        return "no such heading"
    return None


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text()
    found = LINK.findall(prose(text)) + ATTRIBUTE.findall(prose(text))
    wrong = {link: trouble for link in found if (trouble := problem(page, link))}
    assert not wrong


def test_every_page_is_in_the_summary():
    listed = {(BOOK / path).resolve() for path in LINK.findall((BOOK / "SUMMARY.md").read_text())}
    there = {page for page in pages() if BOOK in page.parents} - {BOOK / "SUMMARY.md"}
    assert there == listed


def test_every_snippet_is_shown_and_every_include_is_there():
    included = set()
    for page in pages():
        if BOOK in page.parents:
            for path in INCLUDE.findall(page.read_text()):
                assert (page.parent / path.strip()).is_file(), f"{page.name} includes {path}, which is not there"
                included.add((page.parent / path.strip()).resolve())
    programs = {path for path in (BOOK / "snippets").rglob("*") if path.is_file() and path.name not in ("go.mod", "go.sum")}
    assert programs == included


def test_every_picture_is_shown_and_small():
    text = "\n".join(page.read_text() for page in pages() if BOOK in page.parents)
    for picture in [*BOOK.glob("images/*"), *BOOK.glob("diagrams/*.svg")]:
        assert picture.name in text, f"{picture.name} is in no page"
        assert picture.stat().st_size < 150_000, f"{picture.name} is too large"


def test_the_checks_can_fail(tmp_path):
    assert anchors("## JSON-RPC 2.0\n## `a_b` & Ü\n## x\n## x\n```\n# no\n```") == {"json-rpc-20", "a_b--ü", "x", "x-1"}
    page = BOOK / "why.md"
    assert problem(page, "nowhere.md") == "no such file"
    assert problem(page, "doors.md#nowhere") == "no such heading"
    assert problem(page, "../README.md").startswith("leads out")
    assert LINK.findall(prose("[a](b.md) `[c](d.md)` ![e](f.svg) [g `h`](i.md#j)")) == ["b.md", "f.svg", "i.md#j"]
