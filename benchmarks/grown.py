"""Stores that grow by powers of ten, with a file for each state or in packs: what states and commands cost there."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ana
from benchmarks import measure
from benchmarks.options import Options
from benchmarks.results import Row, Table

__all__ = ["decades", "measured"]

FIRST = 1000
COMMANDS = {
    "stats": ("stats",),
    "ls": ("ls",),
    "gc": ("gc", "--older-than", "30d", "--dry-run"),
    "verify 1 %": ("verify", "--sample", "1%"),
}


class _Kind(NamedTuple):
    """How states are stored: a name, the option, the most states, and the size of a state in units of 12 bytes."""

    name: str
    pack_bytes: str
    most: int
    repeats: int


KINDS = (_Kind("files", "0", 1_000_000, 80), _Kind("packs", "64k", 10_000_000, 8))


def measured(options: Options) -> list[Table]:
    """Let a store of each kind grow, and measure at each power of ten."""
    largest = options.states or options.pick(1000, 10_000, 100_000)
    return [_table(options.folder, kind, min(largest, kind.most)) for kind in KINDS]


def decades(largest: int, first: int) -> Iterator[int]:
    """Yield the powers of ten times `first` up to `largest`, then `largest`."""
    size = min(first, largest)
    while size < largest:
        yield size
        size *= 10
    yield largest


def _table(folder: Path, kind: _Kind, largest: int) -> Table:
    rows = []
    with measure.emptied(folder / f"grown-{kind.name}") as place:
        tree, samples = place / "tree", place / "samples"
        samples.mkdir()
        # Created first, so that all processes find the same store.
        with ana.using_dl(pickle_dir=tree, durable=False):
            pass
        before = 0
        for size in decades(largest, FIRST):
            put = _grow(tree, samples, kind, before, size)
            rows.append({"states": size, "put µs": put, **_row(tree, samples, kind)})
            before = size
    note = (
        "Processor time: in µs for each state, in seconds for each command. Put: `store_many`, over all states added "
        "since the row above. Get: by UUID, states at random, in a new process. Has: half of the states exist. All "
        "states are young, so `gc` reads all headers; its memory is the process's peak, 46 MB of which are libraries."
    )
    size_bytes = 12 * kind.repeats
    title = f"A store that grows: states of {size_bytes} bytes in {kind.name}, without waiting for the disk"
    return Table(f"grown-{kind.name}", title, rows, note)


def _grow(tree: Path, samples: Path, kind: _Kind, first: int, last: int) -> float:
    """Add states, in a process for each CPU; return the microseconds of processor time that each took."""
    share = -(-(last - first) // (os.cpu_count() or 1))
    parts = [(start, min(share, last - start)) for start in range(first, last, share)]
    children = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.children", "states-make", str(tree), str(samples)),
                *map(str, (start, count, kind.repeats, kind.pack_bytes)),
            ],
            stdout=subprocess.PIPE,
            cwd=measure.ROOT,
        )
        for start, count in parts
    ]
    answers = [measure.answer_of(child) for child in children]
    return sum(float(answer["seconds"]) for answer in answers) / (last - first) * 1e6


def _row(tree: Path, samples: Path, kind: _Kind) -> Row:
    looked: Any = measure.run_child("grown-get", tree, samples, kind.repeats)
    row: Row = {"get µs": looked["get"] * 1e6, "has µs": looked["has"] * 1e6}
    for name, words in COMMANDS.items():
        answer = measure.run_child("command", *words, "-d", tree)
        row[f"{name} s"] = answer["processor_seconds"]
        if name == "gc":
            row["gc MB"] = answer["bytes"] / 1e6
    return row
