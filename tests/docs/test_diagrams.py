"""The drawings are of their sources."""

import importlib.util
import xml.etree.ElementTree

import pytest
from conftest import ROOT

FOLDER = ROOT / "docs/diagrams"
SPECIFICATION = importlib.util.spec_from_file_location("render", FOLDER / "render.py")
render = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(render)

SOURCES = sorted(FOLDER.glob("*.dot"))


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_a_drawing_is_of_its_source(source):
    drawing = source.with_suffix(".svg").read_text()
    assert drawing.startswith(render.mark(source)), "draw it anew: docs/diagrams/render.py, with Debian's graphviz"
    assert xml.etree.ElementTree.fromstring(drawing).tag.endswith("svg")


def test_every_drawing_has_a_source():
    assert {drawing.stem for drawing in FOLDER.glob("*.svg")} == {source.stem for source in SOURCES}
