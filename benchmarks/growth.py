"""Trees that grow to many states, and trees that many processes write to at once."""

import gc
import os
import pickle
import random
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import ana
from benchmarks import grown, measure
from benchmarks.options import Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import WORKLOADS

__all__ = ["run"]

FIRST_DECADE = 100
SAMPLE = 1000
MOST_COMPARED = 100_000
"""A folder with more pickle files says nothing about ANA."""
START_SECONDS = 120


def run(options: Options) -> Result:
    """Measure at each power of ten, beside pickle files and alone, then with each number of writers."""
    largest = min(options.states or options.pick(1000, 10_000, 100_000), MOST_COMPARED)
    tables = [_growth(options.folder, largest), *grown.measured(options), _writers(options)]
    return Result("growth", options.size, tables, machine(options.folder))


def _state(number: int) -> Any:
    return WORKLOADS["dict"].make(number, 0)


def _growth(folder: Path, largest: int) -> Table:
    with measure.emptied(folder / "growth") as place:
        flat = place / "flat"
        flat.mkdir()
        growing = _Growing(place / "tree", flat)
        rows = [growing.to(size) for size in grown.decades(largest, FIRST_DECADE if largest <= SAMPLE else SAMPLE)]
        del growing
        ana.set_dl()
    note = (
        "Put: the last 1000 states (or the last tenth) before that number. Get and look-up: as many states at random, "
        "in a layer with no live objects. Listing: a walk over the whole tree. The pickle files are in one folder. "
        "The tree has up to 65,792 folders, made when first needed, so the first states pay for them."
    )
    return Table("growth", "A growing tree, states of 1 kB, without waiting for the disk", rows, note)


class _Growing:
    """A tree and a folder of pickle files that hold the same states."""

    def __init__(self, tree: Path, flat: Path) -> None:
        self.tree = tree
        self.flat = flat
        self.uuids: list[str] = []

    def to(self, size: int) -> Row:
        """Grow to a number of states, and measure there."""
        timed = min(SAMPLE, max(1, size // 10))
        self._open()
        for number in range(len(self.uuids), size - timed):
            state = _state(number)
            self._put([state])
            self._put_plain(number, [state])
        # In two halves, so that other load on the machine affects both sides.
        put = put_plain = 0.0
        for first, last in ((size - timed, size - timed // 2), (size - timed // 2, size)):
            states = [_state(number) for number in range(first, last)]
            put_plain += measure.seconds(partial(self._put_plain, first, states))
            put += measure.seconds(partial(self._put, states))
        chosen = random.Random(size).sample(range(size), timed)
        self._open()
        get = measure.seconds(partial(self._get, chosen))
        get_plain = measure.seconds(partial(self._get_plain, chosen))
        look = measure.seconds(lambda: [ana.get_dl().store.has(self.uuids[number]) for number in chosen])
        listed, listing = 0, time.perf_counter()
        for _, _, names in os.walk(self.tree):
            listed += sum(name.endswith(".zst") for name in names)
        listing = time.perf_counter() - listing
        if listed != size:
            msg = f"the tree lists {listed} states, not {size}"
            raise AssertionError(msg)
        return {
            "states": size,
            "put µs": put / timed * 1e6,
            "pickle file put µs": put_plain / timed * 1e6,
            "get µs": get / timed * 1e6,
            "pickle file get µs": get_plain / timed * 1e6,
            "look-up µs": look / timed * 1e6,
            "listing µs per state": listing / size * 1e6,
        }

    def _open(self) -> None:
        gc.collect()
        ana.set_dl(pickle_dir=self.tree, keep_bytes=0, durable=False)

    def _put(self, states: list[Any]) -> None:
        self.uuids += [ana.Ref(state).make_uuid() for state in states]

    def _put_plain(self, first: int, states: list[Any]) -> None:
        for number, state in enumerate(states, first):
            with open(self.flat / f"{number}.p", "wb") as file:
                pickle.dump(state, file, protocol=5)

    def _get(self, numbers: list[int]) -> None:
        for number in numbers:
            loaded: Any = ana.Ref.ana_load(self.uuids[number]).value
            del loaded

    def _get_plain(self, numbers: list[int]) -> None:
        for number in numbers:
            with open(self.flat / f"{number}.p", "rb") as file:
                loaded = pickle.load(file)
            del loaded


def _writers(options: Options) -> Table:
    """Let processes store at once: each its own states, or all of them the same states."""
    count = options.pick(20, 500, 1000)
    rounds = options.round_count(3)
    rows: list[Row] = []
    for writers in options.pick((1, 2), (1, 2, 4, 8), (1, 2, 4, 8, 16)):
        row: Row = {"writers": writers}
        for column, shared in (("own states/s", False), ("the same states/s", True)):
            times = []
            for _ in range(rounds):
                with measure.emptied(options.folder / "writers") as folder:
                    times.append(_store_at_once(folder / "tree", writers, count, shared=shared))
            row[column] = writers * count / measure.median(times)
        rows.append(row)
    note = (
        f"Each process stores {count} states of 1 kB into a new tree. states/s counts the make_uuid calls of all "
        f"processes; it is the median of {rounds} rounds. This machine has {os.cpu_count()} cores."
    )
    return Table("writers", "Many processes storing at once, without waiting for the disk", rows, note)


def _store_at_once(tree: Path, writers: int, count: int, *, shared: bool) -> float:
    """Return the seconds from the first start to the last end."""
    ana.set_dl(pickle_dir=tree, durable=False)
    ana.set_dl()
    context = get_context("spawn")
    barrier = context.Barrier(writers, timeout=START_SECONDS)
    times: Any = context.SimpleQueue()
    processes = [
        context.Process(target=_write, args=(tree, 0 if shared else writer * count, count, barrier, times))
        for writer in range(writers)
    ]
    for process in processes:
        process.start()
    found: Sequence[tuple[float, float]] = [times.get() for _ in processes]
    for process in processes:
        process.join()
    times.close()
    return max(end for _, end in found) - min(begin for begin, _ in found)


def _write(tree: Path, first: int, count: int, barrier: Barrier, times: Any) -> None:
    """Store states at the same time as the other processes; they share one clock."""
    states = [_state(first + number) for number in range(count)]
    ana.set_dl(pickle_dir=tree, durable=False)
    barrier.wait()
    begin = time.perf_counter()
    for state in states:
        ana.Ref(state).make_uuid()
    times.put((begin, time.perf_counter()))
