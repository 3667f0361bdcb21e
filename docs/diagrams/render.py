#!/usr/bin/env python3
"""Draws the diagrams of the book anew: `docs/diagrams/render.py`, with Debian's graphviz.

Each drawing names the hash of its source, so that a test can tell when it was forgotten.
"""

import hashlib
import re
import subprocess
from pathlib import Path

HERE = Path(__file__).parent


def mark(source):
    """What a drawing of this source has in it."""
    return f"<!-- drawn from sha256:{hashlib.sha256(source.read_bytes()).hexdigest()} -->"


def draw(source):
    svg = subprocess.run(["dot", "-Tsvg", source], check=True, stdout=subprocess.PIPE, text=True).stdout
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--(?!.*sha256).*?-->\n?", "", svg, flags=re.DOTALL)
    # Fonts that are there on every system; graphviz has measured Helvetica, and these are as wide.
    svg = svg.replace('font-family="Helvetica,sans-Serif"', 'font-family="Helvetica, Arial, Liberation Sans, sans-serif"')
    source.with_suffix(".svg").write_text(f"{mark(source)}\n{svg}")


if __name__ == "__main__":
    for source in sorted(HERE.glob("*.dot")):
        draw(source)
        print(source.with_suffix(".svg").name)
