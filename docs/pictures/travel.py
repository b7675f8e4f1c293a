"""The picture of how an object travels: `python docs/pictures/travel.py` writes travel.svg beside it.

Text is large for the width, since the picture is also read on a phone. Colours follow the reader's light or dark mode;
the picture has its own background, so that it can be read on any page.
"""

from collections.abc import Iterator
from pathlib import Path

__all__ = ["draw"]

WIDTH, PANEL, SPACE = 460, 200, 14
PROGRAM, FOLDER, NODE = 14, 170, 326
"""Where the three columns begin."""
COLUMN = 120
EDGE = 20
"""The side of an object's square."""

STYLE = """
  svg { font: 14px system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
  text { fill: #1f2328; }
  .page { fill: #ffffff; }
  .panel { fill: #f6f8fa; }
  .title { font-size: 17px; font-weight: 600; }
  .soft { fill: #57606a; }
  .box { fill: #ffffff; stroke: #8c959f; }
  .large { fill: #0072b2; }
  .small { fill: #d55e00; }
  .view { fill: none; stroke: #0072b2; stroke-width: 2; stroke-dasharray: 4 3; }
  .thick { stroke: #0072b2; stroke-width: 6; }
  .thin { fill: none; stroke: #d55e00; stroke-width: 1.5; }
  .thick-end { fill: #0072b2; }
  .thin-end { fill: #d55e00; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; }
    .page { fill: #0d1117; }
    .panel { fill: #161b22; }
    .soft { fill: #9da7b3; }
    .box { fill: #0d1117; stroke: #6e7681; }
    .large, .thick-end { fill: #56b4e9; }
    .small, .thin-end { fill: #f0883e; }
    .view, .thick { stroke: #56b4e9; }
    .thin { stroke: #f0883e; }
  }
"""


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> str:
    return f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'


def _box(x: float, y: float, height: float, name: str, width: float = COLUMN) -> str:
    frame = f'<rect class="box" x="{x}" y="{y}" width="{width}" height="{height}" rx="6"/>'
    return frame + _text(x + width / 2, y + 18, name)


def _square(x: float, y: float, kind: str = "large", edge: float = EDGE) -> str:
    return f'<rect class="{kind}" x="{x}" y="{y}" width="{edge}" height="{edge}" rx="2"/>'


def _arrow(start: float, end: float, y: float, kind: str) -> str:
    """Draw an arrow to the right."""
    half, length = (9, 13) if kind == "thick" else (4, 9)
    line = f'<path class="{kind}" d="M{start} {y}H{end - length}"/>'
    return line + f'<path class="{kind}-end" d="M{end - length} {y - half}L{end} {y}L{end - length} {y + half}Z"/>'


def _by_value() -> Iterator[str]:
    yield _box(PROGRAM, 50, 110, "your program")
    yield _square(PROGRAM + 50, 92)
    yield _text(PROGRAM + 60, 138, "200 MB", "soft")
    for number, y in enumerate((50, 108), start=1):
        yield _box(NODE, y, 52, f"process {number}")
        yield from (_square(NODE + 24 + 28 * place, y + 27, edge=16) for place in range(3))
    for y in (72, 96, 120, 144):
        yield _arrow(PROGRAM + COLUMN + 4, NODE - 4, y, "thick")
    yield _text(WIDTH / 2, 54, "1000 &#215; 200 MB")
    yield _text(WIDTH / 2, 186, "Every task is sent a copy and unpickles it.", "soft")


def _by_reference() -> Iterator[str]:
    yield _box(PROGRAM, 50, 110, "your program")
    yield _square(PROGRAM + 50, 110)
    yield _arrow(PROGRAM + COLUMN + 4, NODE - 4, 64, "thin")
    yield _text(WIDTH / 2, 54, "1000 &#215; 150 bytes")
    yield _box(FOLDER, 86, 74, "shared folder")
    yield _square(FOLDER + 50, 110)
    yield _text(FOLDER + 60, 150, "200 MB once", "soft")
    yield _arrow(PROGRAM + COLUMN + 4, FOLDER - 4, 120, "thick")
    yield _arrow(FOLDER + COLUMN + 4, NODE - 4, 120, "thick")
    for number, y in enumerate((50, 108), start=1):
        yield _box(NODE, y, 52, f"process {number}")
        yield _square(NODE + 50, y + 25)
    yield _text(WIDTH / 2, 186, "The first task in a process loads it; later tasks share it.", "soft")


def _with_parts_and_cache() -> Iterator[str]:
    yield _box(PROGRAM, 50, 110, "a sweep")
    for place in range(3):
        yield _square(PROGRAM + 24 + 29 * place, 84, "small", 14)
    yield f'<path class="thin" d="M{PROGRAM + 31} 98L{PROGRAM + 60} 112L{PROGRAM + 89} 98M{PROGRAM + 60} 98v14"/>'
    yield _square(PROGRAM + 50, 112)
    yield _text(PROGRAM + 60, 150, "one array", "soft")
    yield _arrow(PROGRAM + COLUMN + 4, NODE - 4, 64, "thin")
    yield _text(WIDTH / 2, 54, "references")
    yield _box(FOLDER, 86, 74, "shared folder")
    for place in range(3):
        yield _square(FOLDER + 16 + 19 * place, 116, "small", 14)
    yield _square(FOLDER + 80, 113)
    yield _text(FOLDER + 60, 150, "each once", "soft")
    yield _arrow(PROGRAM + COLUMN + 4, FOLDER - 4, 124, "thick")
    yield _arrow(FOLDER + COLUMN + 4, NODE - 4, 124, "thick")
    yield _box(NODE, 50, 110, "a node")
    for place in range(3):
        yield _square(NODE + 10 + 36 * place, 76, "view", 28)
        yield _square(NODE + 17 + 36 * place, 83, "small", 14)
    yield _square(NODE + 50, 114)
    yield _text(NODE + 60, 150, "node cache", "soft")
    yield _text(WIDTH / 2, 186, "A node fetches the array once; its processes map it.", "soft")


PANELS = (
    ("By value", _by_value),
    ("By reference", _by_reference),
    ("With parts and a node cache", _with_parts_and_cache),
)
DESCRIPTION = (
    "By value: the program sends 1000 tasks a copy of 200 MB each. By reference: the program writes the object to a "
    "shared folder once, sends each task 150 bytes, and each process loads the object once. With parts and a node "
    "cache: objects that share an array store it once, and each node fetches it once for all of its processes."
)


def draw() -> str:
    """Return the picture as an SVG document."""
    lines, top = [], SPACE
    for title, panel in PANELS:
        lines += [
            f'<g transform="translate(0 {top})">',
            f'<rect class="panel" x="4" y="0" width="{WIDTH - 8}" height="{PANEL}" rx="8"/>',
            _text(PROGRAM, 30, title, "title", "start"),
            *panel(),
            "</g>",
        ]
        top += PANEL + SPACE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img">',
            "<title>How an object travels</title>",
            f"<desc>{DESCRIPTION}</desc>",
            f"<style>{STYLE}</style>",
            f'<rect class="page" width="{WIDTH}" height="{top}" rx="10"/>',
            *lines,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    Path(__file__).with_suffix(".svg").write_text(draw(), encoding="utf-8")
