"""What the book tells its readers to type: each `curl` works against a node, and each piece of configuration is good."""

import re
import subprocess

import pytest
from conftest import BROKER, PATIENCE, ROOT, make_certificate, run_to_end
from languages import environment

BOOK = ROOT / "docs"


def blocks(kind):
    """The blocks of code of one kind, with their page."""
    for page in sorted(BOOK.rglob("*.md")):
        for text in re.findall(rf"^```{kind}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            yield page.relative_to(BOOK), text


def lines(kind):
    """The commands of these blocks; those that a backslash continues are one."""
    for page, text in blocks(kind):
        for line in text.replace("\\\n", " ").splitlines():
            yield page, line.strip()


CURLS = sorted({(str(page), line) for page, line in lines("sh") if line.startswith("curl ") and "localhost:8000" in line})
CONFIGURATION = [(page, text) for page, text in blocks("toml") if str(page) != "benchmarks.md"]


@pytest.mark.parametrize("page, line", CURLS, ids=[f"{page}-{at}" for at, (page, _) in enumerate(CURLS)])
def test_a_curl_works_as_printed(page, line, broker, tmp_path):
    (tmp_path / "inbox.toml").write_text('[[namespaces]]\nprefix = "users"\ninbox = true\n')
    node = broker("--config", str(tmp_path / "inbox.toml")) if "/me/" in line else broker()
    signed = subprocess.run(
        [ROOT / "target/debug/clarion", "token", "--user", "42"], env=environment(), check=True, stdout=subprocess.PIPE, text=True
    )
    (tmp_path / "picture.webp").write_bytes(b"\xff a picture")
    line = line.replace("http://localhost:8000", node.url)
    # A stream does not end by itself: two seconds are enough for its head, and curl then says 28.
    streams = "text/event-stream" in line
    command = f"{line} --silent --show-error --fail-with-body {'--max-time 2 ' if streams else ''}"
    variables = environment(CLARION_TOKEN=signed.stdout.strip())
    code, said = run_to_end(["bash", "-c", command], cwd=tmp_path, env=variables, timeout=PATIENCE)
    assert code == (28 if streams else 0), f"{command}\n{said}"
    assert '"error"' not in said, f"{command}\n{said}"


def with_certificate(text, folder):
    """Exchanges the certificate and the key that a piece names for some that are there."""
    pair = re.compile(r'^(certificate|key) = "/[^"]*"', re.MULTILINE)
    if not pair.search(text):
        return text
    out = dict(zip(["certificate", "key"], make_certificate(folder)))
    return pair.sub(lambda found: f'{found[1]} = "{out[found[1]]}"', text)


@pytest.mark.parametrize("page, text", CONFIGURATION, ids=[f"{page}-{at}" for at, (page, _) in enumerate(CONFIGURATION)])
def test_configuration_is_good(page, text, tmp_path):
    file = tmp_path / "clarion.toml"
    file.write_text(with_certificate(text, tmp_path))
    keys = {"CLARION_JWT_SECRET": "a secret of this test, and long enough", "CLARION_API_KEYS": "a key of this test"}
    done = subprocess.run(
        [BROKER, "config", "--check", "--config", file],
        env=environment(**keys),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}"


def test_there_are_commands():
    assert len(CURLS) >= 10 and len(CONFIGURATION) >= 2
