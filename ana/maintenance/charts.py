"""Charts for a self-contained page: no scripts, no fonts, no images.

All text is HTML, of the same size at any width; only lines are SVG, which is stretched. A chart's values are also there
as text, in a table, for people and for screen readers.
"""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Bar", "line", "rows", "table"]

LISTED = 60
"""How many of the latest points a line's table lists."""
DOTTED = 120
"""More points are drawn without dots, which would be a thick line."""

Write = Callable[[float], str]


class Bar(NamedTuple):
    """One bar: its name, its value, its value in words."""

    name: str
    value: float
    words: str
    behind: float = 0.0
    """The value of a pale bar behind it."""
    note: str = ""
    """A second line below the name."""
    hot: bool = False
    """Whether to highlight it as a warning. The words or the chart's note must say so, too."""


def line(points: Sequence[tuple[float, float]], write: Write, when: Write, label: str) -> str:
    """Draw values over time as a line, with the area below it filled and the last value written at its end.

    `points`: (s since 1970, value), sorted, at least one. `write` and `when` format values and times.
    """
    first, last = points[0][0], points[-1][0]
    ticks = _ticks(max(value for _, value in points))
    # A single point is drawn at the right, which is "now".
    x = _scale(first, last)
    y = _scale(0, ticks[-1])
    at = [(x(time), 100 - y(value)) for time, value in points]
    path = "M" + "L".join(f"{px:.2f} {py:.2f}" for px, py in at)
    # A line of no length with round ends is a dot, however the picture is stretched.
    dots = "".join(f"M{px:.2f} {py:.2f}h0" for px, py in at) if len(points) <= DOTTED else ""
    end = points[-1][1]
    said = f"{label}: {write(points[0][1])} on {when(first)}, {write(end)} on {when(last)}"
    grid = "".join(f'<i style="bottom:{y(tick):.2f}%"><span>{escape(write(tick))}</span></i>' for tick in ticks)
    # Between the first and the last time, if there is a time between them.
    times = [first, (first + last) / 2, last] if last > first else [last]
    return (
        f'<div class="plot" role="img" aria-label="{escape(said)}">{grid}'
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
        f'<path class="area" d="{path}L100 100L{at[0][0]:.2f} 100Z"/><path class="line" d="{path}"/>'
        f'<path class="dots" d="{dots}"/></svg>'
        f'<b style="bottom:{y(end):.2f}%">{escape(write(end))}</b></div>'
        f'<div class="times" aria-hidden="true">{"".join(f"<span>{escape(when(time))}</span>" for time in times)}</div>'
        + _figures(points, write, when, label)
    )


def _figures(points: Sequence[tuple[float, float]], write: Write, when: Write, label: str) -> str:
    latest = [(when(time), write(value)) for time, value in reversed(points[-LISTED:])]
    left_out = len(points) - len(latest)
    title = f"The last {len(latest)} of {len(points)} counts" if left_out else f"All {len(latest)} counts"
    return f"<details><summary>{title}</summary>{table(('counted', 'value'), latest, label)}</details>"


def rows(items: Sequence[Bar], label: str, heads: tuple[str, str] = ("name", "value")) -> str:
    """Draw horizontal bars with names of any length, as a table of names and values."""
    most = max((max(bar.value, bar.behind) for bar in items), default=0) or 1
    lines = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{escape(bar.name)}'
        f"{f'<small>{escape(bar.note)}</small>' if bar.note else ''}</th>"
        f'<td role="cell"><div class="track" aria-hidden="true">{_bar("behind", bar.behind / most)}'
        f"{_bar('hot' if bar.hot else 'front', bar.value / most)}</div><span>{escape(bar.words)}</span></td></tr>"
        for bar in items
    )
    kind = "rows noted" if any(bar.note for bar in items) else "rows"
    # Named roles: browsers forget what a table is once it is laid out as a grid.
    return (
        f'<table class="{kind}" role="table" aria-label="{escape(label)}">{_head(heads, "hidden")}'
        f'<tbody role="rowgroup">{lines}</tbody></table>'
    )


def _bar(kind: str, share: float) -> str:
    return f'<div class="{kind}" style="width:{100 * share:.2f}%"></div>' if share else ""


def table(heads: Sequence[str], lines: Sequence[Sequence[str]], label: str) -> str:
    """Return a table of text, the first column of which names the rows."""
    body = "".join(
        f'<tr role="row"><th scope="row" role="rowheader">{escape(first)}</th>'
        f"{''.join(f'<td role=cell>{escape(cell)}</td>' for cell in cells)}</tr>"
        for first, *cells in lines
    )
    return (
        f'<table class="figures" role="table" aria-label="{escape(label)}">{_head(heads, "")}'
        f'<tbody role="rowgroup">{body}</tbody></table>'
    )


def _head(heads: Sequence[str], kind: str) -> str:
    cells = "".join(f'<th scope="col" role="columnheader">{escape(head)}</th>' for head in heads)
    return f'<thead role="rowgroup" class="{kind}"><tr role="row">{cells}</tr></thead>'


def _scale(low: float, high: float) -> Callable[[float], float]:
    """Return a function that gives a value's place in a range, in percent."""
    span = high - low
    # Anybody may have written the history.
    return lambda value: 100 * (min(1, max(0, (value - low) / span)) if span else 1)


def _ticks(most: float) -> list[float]:
    """Return 0 and a few round numbers up to at least the largest value."""
    if most <= 0:
        return [0, 1]
    rough = most / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]
