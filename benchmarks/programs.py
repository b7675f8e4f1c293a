"""Parts that are programs of their own: they take a folder and a number of states, and print JSON."""

import contextlib
import io
import json
from types import ModuleType

from benchmarks.options import Options
from benchmarks.results import Result, Row, Table, machine

__all__ = ["run"]


def run(part: str, program: ModuleType, options: Options) -> Result:
    """Run a program twice, with and without waiting for the disk; returns one row per operation."""
    states = options.states or options.pick(20, 1000, 1000)
    rows: list[Row] = []
    for way, more in (("no", ["--fast"]), ("yes", [])):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            program.main(["--folder", str(options.folder), "--states", str(states), "--json", *more])
        for name, figures in json.loads(printed.getvalue())["operations"].items():
            rows.append({"operation": name, "waits for the disk": way, "states": states} | _named(figures))
    title = (program.__doc__ or part).partition("\n")[0].removesuffix(".")
    return Result(part, options.size, [Table(part, title, rows)], machine(options.folder))


def _named(figures: dict[str, float]) -> Row:
    """Write a unit as the tables do: `many_s` is `many s`."""
    return {name.replace("_", " "): value for name, value in figures.items()}
