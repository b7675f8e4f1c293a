"""A store of many packed states: looking up, opening, listing and collecting, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import ana
from benchmarks import measure
from benchmarks.measure import median
from benchmarks.options import Options
from benchmarks.results import Row, Table

__all__ = ["measured"]

CHILDREN = 4
"""How many processes make the store."""
HAS_MICROSECONDS = 5.0
INDEX_MEGABYTES = 40.0
FIRST_LOAD_SECONDS = 0.2
COMMAND_SECONDS = 60.0
COMMAND_MEGABYTES = 300.0
LIST = ("ls",)
COLLECT = ("gc", "--older-than", "30d", "--dry-run")
OLD_SECONDS = 90 * 86400


def measured(options: Options) -> Table:
    """Make the store, and measure in it."""
    count = options.states or options.pick(400, 100_000, 1_000_000)
    with measure.emptied(options.folder / "large") as folder:
        tree, samples = folder / "tree", folder / "samples"
        samples.mkdir()
        _make(tree, samples, count)
        rounds = options.round_count(5)
        first = [measure.run_child("packs-first-load", tree, samples) for _ in range(rounds + 1)][1:]
        looks = [measure.run_child("packs-has", tree, samples) for _ in range(options.round_count(3))]
        packs = len(list((tree / "packs").iterdir()))
        opened = median(answer["seconds"] for answer in first)
        looked = median(answer["seconds"] for answer in looks) * 1e6
        grown = median(answer["bytes"] for answer in looks) / 1e6
        rows = [
            _limit("open the store in a new process, and load by UUID", opened, "s", FIRST_LOAD_SECONDS),
            _limit("`has` of a content address", looked, "µs", HAS_MICROSECONDS),
            _limit("memory of the index", grown, "MB", INDEX_MEGABYTES),
        ]
        rows += _command_rows("`ana ls`", tree, LIST)
        rows += _command_rows("`ana gc --dry-run`, all states young", tree, COLLECT)
        _let_age(tree / "packs")
        rows += _command_rows("`ana gc --dry-run`, all states old", tree, COLLECT)
    note = (
        f"{packs} packs, written by {CHILDREN} processes; all files are in the page cache. The UUID comes without a "
        "hint, so that all indexes are read. The memory of the index is what the process grows by from opening the "
        "store until look-ups have searched all of it. `has` is measured once the indexes are merged. A command runs "
        "in a new process; its memory is that process's peak."
    )
    return Table("packs-large", f"A store of {count:,} packed states of 1 kB", rows, note)


def _make(tree: Path, samples: Path, count: int) -> None:
    """Store all states, in processes of their own, with `store_many`."""
    # The tree is made first: all processes are to find the same one.
    with ana.using_dl(pickle_dir=tree, durable=False):
        pass
    share = -(-count // CHILDREN)
    starts = range(0, count, share)
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.children", "states-make", *_words(tree, samples, first, count, share)],
            stdout=subprocess.DEVNULL,
            cwd=measure.ROOT,
        )
        for first in starts
    ]
    if any([child.wait() for child in children]):  # noqa: C419 - waits for all of them
        msg = "the store could not be made"
        raise AssertionError(msg)


def _words(tree: Path, samples: Path, first: int, count: int, share: int) -> list[str]:
    return [str(tree), str(samples), str(first), str(min(share, count - first))]


def _let_age(folder: Path) -> None:
    for path in folder.iterdir():
        then = path.stat().st_mtime - OLD_SECONDS
        os.utime(path, (then, then))


def _command_rows(what: str, tree: Path, words: tuple[str, ...]) -> list[Row]:
    """Run a command of `ana` once: it takes long enough."""
    answer: dict[str, float] = measure.run_child("command", *words, "-d", tree)
    return [
        _limit(what, answer["seconds"], "s", COMMAND_SECONDS),
        _limit(f"{what}: memory", answer["bytes"] / 1e6, "MB", COMMAND_MEGABYTES),
    ]


def _limit(what: str, value: float, unit: str, most: float) -> Row:
    return {"what": what, "value": value, "unit": unit, "target": f"≤ {most:g}", "met": value <= most}
