"""Charts of the results, as SVG files."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.results import Cell, Result, Row

__all__ = ["CHARTS", "draw"]

# Okabe and Ito's colours, which are distinguishable with every kind of colour vision.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#666666"
STYLE: Any = {
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "figure.facecolor": "white",
    "svg.fonttype": "none",  # text stays text: small, searchable files
    "svg.hashsalt": "ana",  # equal figures make equal files
    "legend.frameon": False,
}
WIDTH_INCHES = 7.2
BAR = 0.38
PUT_GET = ("put µs", "get µs")


def draw(result: Result, folder: Path, suffix: str = "svg") -> dict[str, Path]:
    """Draw the charts of a result's tables into a folder; returns the files by table name."""
    drawn = {}
    with mpl.rc_context(STYLE):
        for table in result.tables:
            make = CHARTS.get(table.name)
            if make is None or not table.rows:
                continue
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{table.name}.{suffix}"
            metadata = {"Date": None} if suffix == "svg" else None
            make(table.rows).savefig(path, format=suffix, metadata=metadata, dpi=110)
            if suffix == "svg":
                # Matplotlib ends lines with blanks.
                lines = path.read_text(encoding="utf-8").splitlines()
                path.write_text("".join(f"{line.rstrip()}\n" for line in lines), encoding="utf-8")
            drawn[table.name] = path
    return drawn


def _figure(height_inches: float, columns: int = 1) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), layout="constrained")
    axes = [figure.add_subplot(1, columns, number + 1) for number in range(columns)]
    return figure, axes


def _number(value: Cell) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def _plain(rows: Sequence[Row]) -> Figure:
    """Draw one bar for each ratio, and a line where the target is."""
    figure, (axes,) = _figure(0.7 + 0.27 * len(rows))
    for position, row in enumerate(rows):
        colour = BLUE if str(row["what"]).startswith("store") else ORANGE
        axes.barh(position, _number(row["ratio"]), color=colour, height=0.7)
        target = float(str(row["target"]).split()[-1])
        axes.plot([target, target], [position - 0.45, position + 0.45], color="black", linewidth=2)
    axes.set_yticks(range(len(rows)), [f"{row['state']}: {row['what']}" for row in rows])
    axes.invert_yaxis()
    axes.axvline(1, color=GREY, linestyle=":")
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("time / time of a plain pickle file (int64: of zstd in memory)\nblack lines: targets")
    return figure


def _peers(rows: Sequence[Row]) -> Figure:
    """Draw a panel for each state, with put and get of each peer."""
    states = list(dict.fromkeys(row["state"] for row in rows))
    names = list(dict.fromkeys(str(row["with"]) for row in rows))
    figure, panels = _figure(0.9 + 0.24 * len(names), len(states))
    for axes, state in zip(panels, states, strict=True):
        for position, name in enumerate(names):
            (row,) = (row for row in rows if row["state"] == state and row["with"] == name)
            put, get = (_number(row[column]) for column in PUT_GET)
            axes.plot([put, get], [position, position], color="#bbbbbb", zorder=1)
            axes.plot(put, position, "o", color=BLUE, label="put" if not position else None)
            axes.plot(get, position, "s", color=ORANGE, label="get" if not position else None)
        axes.set_xscale("log")
        axes.set_title(str(state), fontsize=10.5)
        axes.set_yticks(range(len(names)), names if axes is panels[0] else [""] * len(names))
        axes.invert_yaxis()
        axes.set_xlabel("µs")
        _whole_decades(axes, [_number(row[column]) for row in rows if row["state"] == state for column in PUT_GET])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _whole_decades(axes: Any, values: Sequence[float]) -> None:
    """Start and end a logarithmic axis at powers of ten, and label only those: panels are narrow."""
    first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    axes.set_xlim(10**first, 10**last)
    axes.set_xticks([10**power for power in range(first, last + 1)])
    axes.minorticks_off()


def _tasks(rows: Sequence[Row]) -> Figure:
    """Draw tasks per second of each way."""
    rows = [row for row in rows if "tasks/s" in row]
    figure, (axes,) = _figure(0.8 + 0.3 * len(rows))
    values = [_number(row["tasks/s"]) for row in rows]
    colours = [BLUE if row["way"] == "ANA" else GREY for row in rows]
    bars = axes.barh([str(row["way"]) for row in rows], values, color=colours, height=0.65)
    axes.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3)
    axes.set_xscale("log")
    axes.margins(x=0.1)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("tasks per second")
    return figure


def _pairs(what: str, ours: str, theirs: str, unit: str) -> Callable[[Sequence[Row]], Figure]:
    """Return a function that draws two bars for each row."""

    def make(rows: Sequence[Row]) -> Figure:
        figure, (axes,) = _figure(1.1 + 0.45 * len(rows))
        positions = range(len(rows))
        sides = ((ours, BLUE, "ANA", -BAR / 2), (theirs, ORANGE, "pickle file", BAR / 2))
        for column, colour, label, offset in sides:
            values = [_number(row[column]) for row in rows]
            bars = axes.barh([place + offset for place in positions], values, BAR, color=colour, label=label)
            axes.bar_label(bars, [f"{value:.3g}" for value in values], padding=3)
        axes.set_yticks(positions, [f"{row[what]}\n{row['network']}" for row in rows])
        axes.invert_yaxis()
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(unit)
        figure.legend(loc="outside upper right", ncols=2)
        return figure

    return make


def _growth(rows: Sequence[Row]) -> Figure:
    """Draw what each operation costs, over the number of states."""
    figure, (axes,) = _figure(3.2)
    sizes = [_number(row["states"]) for row in rows]
    lines = (
        ("put µs", BLUE, "o-", "ANA put"),
        ("get µs", ORANGE, "s-", "ANA get"),
        ("look-up µs", GREEN, "^-", "ANA look-up"),
        ("listing µs per state", PURPLE, "v-", "ANA listing, per state"),
        ("pickle file put µs", BLUE, "o:", "pickle file put"),
        ("pickle file get µs", ORANGE, "s:", "pickle file get"),
    )
    for column, colour, style, label in lines:
        axes.plot(sizes, [_number(row[column]) for row in rows], style, color=colour, label=label)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("states in the tree")
    axes.set_ylabel("µs")
    figure.legend(loc="outside right upper")
    return figure


def _writers(rows: Sequence[Row]) -> Figure:
    """Draw the throughput of all writers together."""
    figure, (axes,) = _figure(2.8)
    writers = [_number(row["writers"]) for row in rows]
    for column, colour, style, label in (
        ("own states/s", BLUE, "o-", "each its own states"),
        ("the same states/s", ORANGE, "s-", "all the same states"),
    ):
        axes.plot(writers, [_number(row[column]) for row in rows], style, color=colour, label=label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(writers, [f"{count:.0f}" for count in writers])
    axes.set_ylim(bottom=0)
    axes.set_xlabel("processes that write")
    axes.set_ylabel("states per second, all together")
    axes.legend()
    return figure


CHARTS: dict[str, Callable[[Sequence[Row]], Figure]] = {
    "plain": _plain,
    "sizes": _plain,
    "peers": _peers,
    "tasks": _tasks,
    "wire": _pairs("what", "ANA s", "pickle file s", "seconds"),
    "latency": _pairs("what", "ANA ms", "pickle file ms", "ms per state"),
    "growth": _growth,
    "writers": _writers,
}
"""The function that draws each table."""
