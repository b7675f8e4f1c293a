"""Writes docs/performance.md and its charts from the figures of earlier runs."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.results import Result

__all__ = ["main", "write"]

ALTERNATIVES = {
    "plain": "Ratios of ANA's times to those of a pickle file, one bar for each state and direction, and the targets",
    "peers": "Times to put and get four kinds of states, for ANA and the others",
    "tasks": "Tasks per second for each way to send a large array",
    "wire": "Seconds to store and load on NFS behind 1 Gbit/s",
    "latency": "Milliseconds to store and load small states on NFS, with and without latency",
    "growth": "Microseconds per operation over the number of states in the tree",
    "writers": "States per second over the number of writing processes",
}

INTRODUCTION = """\
# What ANA costs

Written by `python -m benchmarks report`; the figures are from single runs on one machine, named below each part.
That machine is small and does other work, too: only ratios count whose two sides were measured in turns, in one run.
`python -m benchmarks --help` says how to repeat it; `pip install -e '.[bench]'` gets what it compares with."""

TEXTS = {
    "plain": """\
## Next to plain pickle files

What a plain pickle file lacks makes the difference: ANA hashes each byte, compresses what can be compressed, writes
under a temporary name, makes shard folders, and checks each byte that it reads.

**End to end** has had its price since 1.0. Content is hashed once for its address. When it is stored, a raw chunk is
copied and the copy hashed, and a compressed chunk is decompressed again and hashed. A load hashes what it has
decompressed. Times against the commit before, processes in turns, medians of five ratios, on a machine that did other
work, too (ext4, two cores, BLAKE3 at about 1 GB/s a thread). Waiting for the disk: store 16 and 64 MB of noise 1.38 and
1.35, 64 MB of int64 < 1000 1.54; without waiting 1.54, 1.67 and 1.47. Load noise 1.0, the integers 1.1 to 1.25. The
target of 1.1 is met by loads of noise alone. The script is not kept.""",
    "peers": """\
## Next to what others use

ANA is not the fastest place for small values: a database in one file makes no file per state, and none of the others
looks at what it reads. ANA is for large objects that many processes need: see the tasks below.""",
    "tasks": """\
## One object for many tasks

What ANA is for: the object is stored once, each process loads it once, and a task costs a reference.""",
    "exchange": """\
## Objects that pass between tasks

Small objects travel best by value: each one that ANA stores is a file. ANA is for what many tasks take, and for what
is too large to travel; that a task's result, which one other task takes once, is hashed, verified and (by default) on
the disk before it counts costs what it costs. A task suite's filter by size is the place to say from where on.""",
    "tier": """\
## Many processes on one node

With a [node cache](node-cache.md) the first process of a node fetches a large state, and all others map it: one copy in
memory, and next to no time.""",
    "nfs": """\
## On NFS

Where the wire is what takes the time, what compresses goes faster through ANA than as a pickle file. Small states cost
ANA more round trips than a file in a folder that is there.""",
    "growth": """\
## Many states, many writers

Folders of a tree are made as they are needed, so the first tens of thousands of states cost more than later ones.""",
    "many": """\
## Many states at once

A layer's `store_many` and `load_many`, next to one at a time. They overlap what the states wait for: on a local disk
that is only the disk itself. On NFS it is the network, which takes another command than the table's:
`tests/nfs/lab --netem "delay 1ms" python -m benchmarks.many --folder /run/nfs/v4a --reader /run/nfs/v4b`.""",
}
"""How each part begins: what is to be said of it whatever the figures are."""


def main(arguments: Sequence[str]) -> int:
    """Write the report that the command line asks for, or print it; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks report",
        description="Makes a document of results.",
        epilog="example: python -m benchmarks report --from results/*.json --write docs/performance.md",
    )
    parser.add_argument("--from", dest="sources", nargs="+", type=Path, required=True, metavar="FILE", help="by --json")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the document; its charts go to charts/ beside it")
    parser.add_argument("--png", type=Path, metavar="FOLDER", help="draw the charts there, too, to look at")
    asked = parser.parse_args(arguments)
    # A part that was measured again counts as in the later file.
    found = {result.part: result for path in asked.sources for result in results.load(path)}
    ordered = [found[part] for part in dict.fromkeys([*TEXTS, *found]) if part in found]
    if asked.png is not None:
        charts = importlib.import_module("benchmarks.charts")
        for result in ordered:
            charts.draw(result, asked.png, "png")
    if asked.write is None:
        sys.stdout.write(_document(ordered, {}))
    else:
        write(ordered, asked.write)
    return 0


def write(found: Sequence[Result], path: Path) -> None:
    """Write the document, and the charts beside it."""
    charts = importlib.import_module("benchmarks.charts")
    drawn: dict[str, Path] = {}
    for result in found:
        drawn |= charts.draw(result, path.parent / "charts")
    links = {name: os.path.relpath(chart, path.parent) for name, chart in drawn.items()}
    path.write_text(_document(found, links), encoding="utf-8")


def _document(found: Sequence[Result], links: dict[str, str]) -> str:
    parts = [INTRODUCTION, _missed(found)]
    for result in found:
        parts.append(TEXTS.get(result.part, f"## {result.part}"))
        shown = [table for table in result.tables if table.name in links]
        parts += [f"![{ALTERNATIVES.get(table.name, table.title)}]({links[table.name]})" for table in shown]
        parts.append(results.markdown(result))
    return "\n\n".join(part for part in parts if part) + "\n"


def _missed(found: Sequence[Result]) -> str:
    """List the targets that were not met."""
    rows = [(result.part, row) for result in found for table in result.tables for row in table.rows]
    known = [(part, row) for part, row in rows if row.get("met") is not None]
    if not known:
        return ""
    missed = [_missed_line(part, row) for part, row in known if not row["met"]]
    if not missed:
        return f"All {len(known)} targets are met."
    verb = "is" if len(missed) == 1 else "are"
    return f"Of {len(known)} targets, {len(missed)} {verb} not met:\n\n" + "\n".join(missed)


def _missed_line(part: str, row: results.Row) -> str:
    words = [str(row[column]) for column in ("state", "what", "way") if row.get(column)]
    value = next((row[column] for column in ("ratio", "value", "ANA %") if column in row), None)
    figure = f": {value:.3g}" if isinstance(value, int | float) else ""
    unit = f" {row['unit']}" if row.get("unit") else ""
    return f"- {part}: {', '.join(words)}{figure}{unit}, target {row['target']}"
