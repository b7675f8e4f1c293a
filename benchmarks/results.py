"""Results of the parts: tables of figures and the machine they were measured on, as Markdown and JSON."""

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["Cell", "Result", "Row", "Table", "filesystem_of", "load", "machine", "markdown", "save"]

Cell = str | float | int | bool | None
Row = dict[str, Cell]

LIBRARIES = ("ana", "numpy", "zstandard", "blake3", "joblib", "diskcache", "proxystore", "lmdb", "disk-objectstore")


@dataclass(slots=True)
class Table:
    """Rows of figures with the same columns; a column's name includes its unit."""

    name: str
    title: str
    rows: list[Row] = field(default_factory=list)
    note: str = ""

    @property
    def columns(self) -> list[str]:
        """The columns of all rows, in the order of their first appearance."""
        return list(dict.fromkeys(column for row in self.rows for column in row))


@dataclass(slots=True)
class Result:
    """What one part measured, and where."""

    part: str
    size: str
    tables: list[Table]
    machine: dict[str, str]
    command: str = ""

    def table(self, name: str) -> Table | None:
        """Return the table of that name, or None."""
        return next((table for table in self.tables if table.name == name), None)


def markdown(result: Result) -> str:
    """Return all tables of a result as Markdown, followed by the machine."""
    parts = [_table_markdown(table) for table in result.tables]
    where = "; ".join(f"{name} {value}" for name, value in result.machine.items())
    return "\n\n".join([*parts, f"Measured on: {where}.\n`{result.command}`"])


def _table_markdown(table: Table) -> str:
    columns = table.columns
    lines = [f"**{table.title}**", "", _line(columns), _line(_rule(table, column) for column in columns)]
    lines += [_line(_text(row.get(column)) for column in columns) for row in table.rows]
    if table.note:
        lines += ["", table.note]
    return "\n".join(lines)


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _rule(table: Table, column: str) -> str:
    """Align numbers to the right."""
    values = [row.get(column) for row in table.rows]
    return "---:" if any(isinstance(value, int | float) and not isinstance(value, bool) for value in values) else "---"


def _text(value: Cell) -> str:
    """Format a figure with three digits, more than its accuracy."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else value


def save(results: Sequence[Result], path: Path) -> None:
    """Write results to a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> list[Result]:
    """Read results that `save` wrote."""
    return [_result(found) for found in json.loads(path.read_text(encoding="utf-8"))]


def _result(found: dict[str, Any]) -> Result:
    tables = [Table(**table) for table in found.pop("tables")]
    return Result(tables=tables, **found)


def machine(folder: Path) -> dict[str, str]:
    """Describe the machine, the filesystem of `folder` and the measured versions."""
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "filesystem": filesystem_of(folder),
        "Python": sys.version.split()[0],
        "libraries": ", ".join(f"{name} {version}" for name in LIBRARIES if (version := _version(name))),
    }


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def filesystem_of(folder: Path) -> str:
    """Return the type of filesystem that a folder is on."""
    path = str(folder.resolve())
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, kind, *_ = line.split(" ")
        if (path == mount or path.startswith(f"{mount.rstrip('/')}/")) and len(mount) >= len(best[0]):
            best = (mount, kind)
    return best[1]
