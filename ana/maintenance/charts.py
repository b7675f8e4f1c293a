"""Charts as SVG for a self-contained page: no scripts, no fonts, no images."""

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

__all__ = ["Bar", "bars", "line", "rows"]

WIDTH, HEIGHT = 560, 230
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 24, 34

Write = Callable[[float], str]


class Bar(NamedTuple):
    """One bar: its label, its value, its text, and whether to highlight it as a warning."""

    label: str
    value: float
    text: str
    hot: bool = False


def line(points: Sequence[tuple[float, float]], write: Write, when: Write, label: str) -> str:
    """Draw values over time as a line, with the area below it filled and the last value written at its end.

    `points`: (s since 1970, value), sorted, at least one. `write` and `when` format values and times.
    """
    first, last = points[0][0], points[-1][0]
    ticks = _ticks(max(value for _, value in points))
    x = _scale(first, last, LEFT, WIDTH - RIGHT)
    y = _scale(0, ticks[-1], HEIGHT - BOTTOM, TOP)
    at = [(x(time), y(value)) for time, value in points]
    path = "M" + "L".join(f"{px:.1f} {py:.1f}" for px, py in at)
    floor = HEIGHT - BOTTOM
    marks = "".join(
        f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="3"><title>{escape(when(time))}: {escape(write(value))}'
        "</title></circle>"
        for (px, py), (time, value) in zip(at, points, strict=True)
    )
    end_x, end_y = at[-1]
    parts = [
        _grid(ticks, y, write),
        f'<path class="area" d="{path}L{end_x:.1f} {floor}L{at[0][0]:.1f} {floor}Z"/>' if len(points) > 1 else "",
        f'<path class="line" d="{path}"/>',
        marks if len(points) <= 120 else "",  # noqa: PLR2004 - more dots would be a thick line
        f'<text class="end" x="{end_x - 6:.1f}" y="{max(TOP - 8, end_y - 9):.1f}">',
        f"{escape(write(points[-1][1]))}</text>",
        f'<text class="tick" x="{LEFT}" y="{HEIGHT - 10}">{escape(when(first))}</text>',
    ]
    if len(points) > 1:
        parts.append(f'<text class="tick right" x="{WIDTH - RIGHT}" y="{HEIGHT - 10}">{escape(when(last))}</text>')
    return _svg(label, parts)


def bars(items: Sequence[Bar], write: Write, label: str) -> str:
    """Draw vertical bars, each with its label below and its text above."""
    ticks = _ticks(max((bar.value for bar in items), default=0))
    y = _scale(0, ticks[-1], HEIGHT - BOTTOM, TOP)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(items))
    parts = [_grid(ticks, y, write)]
    for number, bar in enumerate(items):
        middle = LEFT + step * (number + 0.5)
        top, wide = y(bar.value), step * 0.62
        height = max(0.0, HEIGHT - BOTTOM - top)
        kind = "bar hot" if bar.hot else "bar"
        parts.append(
            f'<rect class="{kind}" x="{middle - wide / 2:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{height:.1f}" '
            f'rx="3"><title>{escape(bar.label)}: {escape(bar.text)}</title></rect>'
            f'<text class="tick middle" x="{middle:.1f}" y="{HEIGHT - 12}">{escape(bar.label)}</text>'
        )
        if bar.value:
            parts.append(f'<text class="value" x="{middle:.1f}" y="{top - 6:.1f}">{escape(bar.text)}</text>')
    return _svg(label, parts)


def rows(items: Sequence[tuple[str, float, float, str]], label: str) -> str:
    """Draw horizontal bars with names of any length: (name, value, value of the pale bar behind it, text)."""
    most = max((max(value, behind) for _, value, behind, _ in items), default=0) or 1
    lines = "".join(
        f'<div class="row" role="listitem"><div class="name" title="{escape(name)}">{escape(name)}</div>'
        '<div class="track">'
        f'<div class="behind" style="width:{100 * behind / most:.2f}%"></div>'
        f'<div class="front" style="width:{100 * value / most:.2f}%"></div></div>'
        f'<div class="words">{escape(words)}</div></div>'
        for name, value, behind, words in items
    )
    return f'<div class="rows" role="list" aria-label="{escape(label)}">{lines}</div>'


def _svg(label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"<title>{escape(label)}</title>{''.join(parts)}</svg>"
    )


def _grid(ticks: Sequence[float], y: Callable[[float], float], write: Write) -> str:
    return "".join(
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick right" x="{LEFT - 8}" y="{y(tick) + 4:.1f}">{escape(write(tick))}</text>'
        for tick in ticks
    )


def _scale(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    span = high - low
    # A single point is drawn at the right, which is "now".
    return lambda value: begin + (end - begin) * ((value - low) / span if span else 1)


def _ticks(most: float) -> list[float]:
    """Return 0 and a few round numbers up to at least the largest value."""
    if most <= 0:
        return [0, 1]
    rough = most / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough)
    return [step * number for number in range(math.ceil(most / step - 1e-9) + 1)]
