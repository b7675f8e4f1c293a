"""Parts: a sweep whose objects share a large array, and what a part costs an array that nobody shares."""

import functools
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ana
from ana.format import record
from benchmarks import measure
from benchmarks.options import Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import WORKLOADS, size_text

__all__ = ["Simulation", "run"]

MB = 1_000_000
SWEEP_RATIO, ALONE_RATIO = 1.1, 1.05
"""The most that a sweep takes, of one store and a hash for each object; and an array alone, of one without parts."""
AGAIN_BYTES = MB
"""The most that a second sweep may write."""
MEMORY_RATIO = 1.1
"""The most memory that all objects of a sweep take in a worker, of one array's."""


class Simulation(ana.Storable):
    """An array that others share, and parameters of its own."""

    def __init__(self, array: Any, parameters: dict[str, float]) -> None:
        self.array = array
        self.parameters = parameters


def run(options: Options) -> Result:
    """Measure all, and note which targets are met."""
    size_bytes = options.pick(9 * MB, 20 * MB, 20 * MB)
    count = options.pick(5, 50, 50)
    sweep = _Sweep(options.folder, size_bytes, count)
    rounds = options.round_count(7)
    title = f"{count} objects with one array of {size_text(size_bytes)} and parameters of their own"
    tables = [
        Table("parts", title, [*_times(sweep, rounds), *_written(sweep), *_memory(sweep)], SWEEP_NOTE),
        Table("parts-alone", "An array that nobody shares", _alone(options), ALONE_NOTE),
    ]
    return Result("parts", options.size, tables, machine(options.folder))


SWEEP_NOTE = (
    "Times are medians; ratios are medians of the rounds' ratios, measured alternately, each round in a new folder. "
    "A hash is that of one object's content, as its UUID needs it. Memory is what a new process grows by when it has "
    "loaded and summed up all arrays, those that it maps included."
)
ALONE_NOTE = (
    "float64 noise. Stored in a new folder, without waiting for the disk, and loaded by a layer that does not know it. "
    "Medians of the rounds' ratios of the time with parts and without, measured alternately."
)


class _Sweep:
    """Objects that share an array."""

    def __init__(self, folder: Path, size_bytes: int, count: int) -> None:
        self.folder = folder
        self.size_bytes = size_bytes
        self.count = count
        self.array = WORKLOADS["noise"].make(0, size_bytes)
        self._numbers = itertools.count()

    def objects(self, count: int | None = None, first: int = 0) -> list[Simulation]:
        """Return new objects."""
        numbers = range(first, first + (self.count if count is None else count))
        return [Simulation(self.array, {"speed": float(number)}) for number in numbers]

    def store(self, count: int, *, durable: bool, part_bytes: int | None = None, pack_bytes: int = 0) -> float:
        """Return the seconds that it takes to store so many objects in a new tree."""
        objects = self.objects(count)
        with measure.emptied(self.folder / f"tree{next(self._numbers)}") as tree:
            layer = ana.DirDataLayer(tree, durable=durable, part_bytes=part_bytes, pack_bytes=pack_bytes)
            with ana.using_dl(layer):
                return measure.seconds(lambda: layer.store_many(objects))

    def hash(self) -> float:
        """Return the seconds that it takes to hash the content of all objects."""
        views = [memoryview(b"stream"), memoryview(self.array).cast("B")]
        return measure.seconds(lambda: [record.content("a:B", views) for _ in range(self.count)])


def _times(sweep: _Sweep, rounds: int) -> Iterator[Row]:
    for durable in (False, True):
        found = measure.in_turns(_actions(sweep, durable=durable), rounds)
        best = [one + hashes for one, hashes in zip(found["one"], found["hashes"], strict=True)]
        waiting = "waiting for the disk" if durable else "without waiting for the disk"
        for way, what in (("parts", ""), ("packs", ", small states in packs")):
            ratio = measure.ratio(found[way], best)
            yield {
                "what": f"store all, {waiting}{what}, s",
                "ANA": measure.median(found[way]),
                "one store and the hashes": measure.median(best),
                "without parts": measure.median(found["whole"]),
                "rounds": rounds,
                "ratio": ratio,
                "target": f"≤ {SWEEP_RATIO:g}",
                "met": ratio <= SWEEP_RATIO,
            }


def _actions(sweep: _Sweep, *, durable: bool) -> dict[str, Callable[[], float]]:
    return {
        "parts": lambda: sweep.store(sweep.count, durable=durable),
        "packs": lambda: sweep.store(sweep.count, durable=durable, pack_bytes=64_000),
        "one": lambda: sweep.store(1, durable=durable),
        "hashes": sweep.hash,
        "whole": lambda: sweep.store(sweep.count, durable=durable, part_bytes=0),
    }


def _written(sweep: _Sweep) -> Iterator[Row]:
    written = []
    for part_bytes in (None, 0):
        with measure.emptied(sweep.folder / f"again{part_bytes}") as tree:
            layer = ana.DirDataLayer(tree, durable=False, part_bytes=part_bytes)
            with ana.using_dl(layer):
                layer.store_many(sweep.objects())
                before = measure.disk_bytes(tree)
                layer.store_many(sweep.objects(first=sweep.count))
                written += [before / MB, (measure.disk_bytes(tree) - before) / MB]
    yield {"what": "disk, MB", "ANA": written[0], "without parts": written[2]}
    yield {
        "what": "a second sweep's other parameters, MB",
        "ANA": written[1],
        "without parts": written[3],
        "target": f"< {AGAIN_BYTES / MB:g}",
        "met": written[1] * MB < AGAIN_BYTES,
    }


def _memory(sweep: _Sweep) -> Iterator[Row]:
    tree = sweep.folder / "tree"
    layer = ana.DirDataLayer(tree, durable=False)
    with ana.using_dl(layer):
        uuids = layer.store_many(sweep.objects())
    ways = {
        "memory of all in one worker with a node cache, MB": {"node_cache": str(sweep.folder / "cache")},
        "memory of all in one worker with share_parts, MB": {"share_parts": True},
        "memory of all in one worker, MB": {},
    }
    for what, options in ways.items():
        # The first process of a node makes the entry of its cache.
        measure.run_child("parts", tree, options, *uuids[:1])
        found = measure.run_child("parts", tree, options, *uuids)
        ratio = (found["mapped_bytes"] + found["own_bytes"]) / sweep.size_bytes
        row: Row = {"what": what, "ANA": ratio * sweep.size_bytes / MB, "one array": sweep.size_bytes / MB}
        yield row | ({"ratio": ratio, "target": f"≤ {MEMORY_RATIO:g}", "met": ratio <= MEMORY_RATIO} if options else {})
        yield {"what": what.replace("memory of", "load").replace("MB", "s"), "ANA": found["seconds"]}


def _alone(options: Options) -> list[Row]:
    rows: list[Row] = []
    for size_bytes in options.pick([9 * MB], [16 << 20, 64 << 20], [16 << 20, 64 << 20, 256 << 20]):
        bench = _Alone(options.folder, size_bytes)
        rounds = options.round_count(15)
        turns = {way: functools.partial(bench.turn, way) for way in WAYS}
        stores = measure.in_turns(turns, rounds)
        loads = {way: found[-rounds:] for way, found in bench.loads.items()}
        for what, found in (("store", stores), ("load", loads)):
            ours, theirs = (found[way] for way in WAYS)
            ratio = measure.ratio(ours, theirs)
            rows.append(
                {
                    "array": size_text(size_bytes),
                    "what": what,
                    "with parts ms": measure.median(ours) * 1e3,
                    "without ms": measure.median(theirs) * 1e3,
                    "rounds": rounds,
                    "ratio": ratio,
                    "target": f"≤ {ALONE_RATIO:g}",
                    "met": ratio <= ALONE_RATIO,
                }
            )
    return rows


WAYS = {"with parts": None, "without": 0}
"""What `part_bytes` is."""


class _Alone:
    """One array, stored and loaded."""

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = folder / "alone"
        self.array = WORKLOADS["noise"].make(1, size_bytes)
        self.loads: dict[str, list[float]] = {way: [] for way in WAYS}

    def turn(self, way: str) -> float:
        """Return the seconds of a store in a new tree, and note those of a load."""
        with measure.emptied(self.folder) as tree:
            with ana.using_dl(self._layer(tree, way)):
                ref = ana.Ref(self.array)
                stored = measure.seconds(ref.make_uuid)
                uuid = ref.make_uuid()
            del ref
            with ana.using_dl(self._layer(tree, way)):
                self.loads[way].append(measure.seconds(lambda: ana.Ref.ana_load(uuid).value))
        return stored

    def _layer(self, tree: Path, way: str) -> ana.DirDataLayer:
        return ana.DirDataLayer(tree, durable=False, keep_bytes=0, part_bytes=WAYS[way])
