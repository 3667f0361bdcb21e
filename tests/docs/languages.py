"""How a snippet of the book is run in each language, and what has to be there for it."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT, run_to_end

SNIPPETS = ROOT / "docs/snippets"
BUILT = ROOT / "target/snippets"

# How long installing or compiling may take, in seconds: a cold Go build took one minute on two busy cores.
BUILDING = 600


def need(*programs):
    """Skips a test whose programs are not installed, and says which one it was."""
    for program in programs:
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")


def build(*command, cwd):
    code, said = run_to_end(command, cwd=cwd, timeout=BUILDING)
    assert code == 0, f"{command}\n{said}"


def has(*command):
    """Whether a command succeeds, for libraries that are in Debian's packages."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60).returncode == 0


def python(snippet):
    return "python3", snippet


def node(snippet):
    """Node looks for packages beside the file, so that it is run from a folder beside ours."""
    need("node")
    BUILT.mkdir(parents=True, exist_ok=True)
    packages = BUILT / "node_modules"
    if not packages.is_symlink():
        packages.symlink_to(ROOT / "tests/e2e/node_modules")
    copy = BUILT / f"{snippet.parent.name}-{snippet.name}"
    shutil.copyfile(snippet, copy)
    return "node", copy


def go(snippet):
    need("go")
    if go_version("go", "version") < go_version("cat", SNIPPETS / "go/go.mod"):
        pytest.skip("go is older than the snippets' modules")
    program = BUILT / "go" / snippet.stem
    program.parent.mkdir(parents=True, exist_ok=True)
    build("go", "build", "-o", program, snippet.name, cwd=snippet.parent)
    return (program,)


@cache
def go_version(*command):
    """The version of Go that a text names, for comparing."""
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return tuple(int(part) for part in re.search(r"\bgo ?(\d+(?:\.\d+)+)", said).group(1).split(".")[:2])


@cache
def jars():
    folder = BUILT / "java"
    stamp = folder / "pom.xml"
    pom = SNIPPETS / "java/pom.xml"
    if not stamp.exists() or stamp.read_bytes() != pom.read_bytes():
        shutil.rmtree(folder, ignore_errors=True)
        build("mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", f"-DoutputDirectory={folder}", cwd=ROOT)
        shutil.copyfile(pom, stamp)
    return folder


def java(snippet):
    need("java", "mvn")
    return "java", "-cp", f"{jars()}/*", snippet


def php(snippet):
    need("php")
    extension = {"redis": "redis", "http": "curl"}.get(snippet.stem)
    if extension and not has("php", "-r", f"exit(extension_loaded('{extension}') ? 0 : 1);"):
        pytest.skip(f"PHP's extension {extension} is not installed")
    return "php", snippet


def ruby(snippet):
    need("ruby")
    if snippet.stem == "redis" and not has("ruby", "-e", "require 'redis'"):
        pytest.skip("ruby-redis is not installed")
    return "ruby", snippet


def shell(snippet):
    if snippet.stem == "nats":
        need("nats")
    return "bash", "-euo", "pipefail", snippet


LANGUAGES = {".py": python, ".mjs": node, ".go": go, ".java": java, ".php": php, ".rb": ruby, ".sh": shell}


def command(snippet):
    """The command that runs a snippet; skips the test where its language is not installed."""
    return LANGUAGES[Path(snippet).suffix](SNIPPETS / snippet)


def environment(**variables):
    """This process's variables without ours, with those given, and with `clarion` in the path."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CLARION_")}
    path = f"{os.environ['PATH']}{os.pathsep}{ROOT / 'target/debug'}"
    return {**own, "PATH": path, "PYTHONUNBUFFERED": "1", **variables}


def run(snippet, **variables):
    """Runs a snippet to its end; returns its exit code and all that it said."""
    return run_to_end(command(snippet), env=environment(**variables), cwd=ROOT / "target", timeout=BUILDING)
