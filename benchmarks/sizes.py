"""New arrays of many sizes in a tree that is in use, compared with plain pickle files: each in a file of its own."""

import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import ana
from benchmarks import measure
from benchmarks.options import Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import size_text

__all__ = ["run"]

WARM_STATES = 1500
"""How many states are in the tree before: some shard folders are there, and others come as they are needed."""
TARGETS = {10_000: 2.0, 100_000: 1.3, 1_000_000: 1.2, 1_100_000: 1.15, 4_000_000: 1.15, 16_000_000: 1.2}
DURABLE_TARGETS = {size: 1.0 for size in TARGETS if size >= 100_000}
TOTAL_BYTES = 400_000_000


def run(options: Options) -> Result:
    """Store and load arrays that do not compress, alternately in both ways, without and with waiting for the disk."""
    note = (
        "Each array is new, an attribute of an object of its own. It is stored in both ways, the order alternating, "
        f"and then loaded in both. The tree has {WARM_STATES} states before. Ratios are medians over all arrays."
    )
    loose = Table("sizes", "New arrays in a tree that is in use, without waiting for the disk", [], note)
    durable = Table("sizes-durable", "The same, waiting for the disk, compared with a pickle file with fsync", [], "")
    for table, targets in ((loose, TARGETS), (durable, DURABLE_TARGETS)):
        with measure.emptied(options.folder / table.name) as folder:
            table.rows.extend(_rows(options, folder, targets, durable=table is durable))
    return Result("sizes", options.size, [loose, durable], machine(options.folder))


class _Holder(ana.Storable):
    """An object with an array."""

    def __init__(self, array: Any) -> None:
        self.array = array


def _rows(options: Options, folder: Path, targets: dict[int, float], *, durable: bool) -> Iterator[Row]:
    random = np.random.default_rng()
    ana.set_dl(pickle_dir=folder / "tree", durable=False, keep_bytes=0)
    for _ in range(options.pick(5, WARM_STATES, WARM_STATES)):
        _Holder(random.integers(0, 256, 100, "u1")).make_uuid()
    ana.set_dl(pickle_dir=folder / "tree", durable=durable, keep_bytes=0)
    pairs = _Pairs(folder, durable=durable)
    for size, target in targets.items():
        arrays = options.pick(2, 60, 200)
        arrays = max(2, min(arrays, TOTAL_BYTES // size))
        found = [pairs.measure(random.integers(0, 256, size, "u1"), number) for number in range(arrays + 2)][2:]
        times = {name: [one[name] for one in found] for name in found[0]}
        ratio = measure.ratio(times["store"], times["plain store"])
        yield {
            "state": size_text(size),
            "arrays": arrays,
            "ANA store µs": measure.median(times["store"]) * 1e6,
            "pickle file store µs": measure.median(times["plain store"]) * 1e6,
            "what": "store",
            "ratio": ratio,
            "target": f"≤ {target:g}",
            "met": ratio <= target,
            "load ratio": measure.ratio(times["load"], times["plain load"]),
        }
    ana.set_dl()


class _Pairs:
    """Stores and loads in both ways, and removes what is large."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.flat = folder / "flat"
        self.flat.mkdir()
        self.durable = durable
        self.uuid = ""

    def measure(self, array: Any, number: int) -> dict[str, float]:
        """Return the seconds of storing and loading one array."""
        path = self.flat / str(number)
        stored = {
            "store": lambda: measure.seconds(lambda: self._store(array)),
            "plain store": lambda: measure.seconds(lambda: self._pickle(array, path)),
        }
        loaded = {
            "load": lambda: measure.seconds(lambda: _Holder.ana_load(self.uuid).array),
            "plain load": lambda: measure.seconds(lambda: _unpickled(path)),
        }
        found = measure.take_turns(stored, number) | measure.take_turns(loaded, number)
        path.unlink()
        return found

    def _store(self, array: Any) -> None:
        self.uuid = _Holder(array).make_uuid()

    def _pickle(self, array: Any, path: Path) -> None:
        with open(path, "wb") as file:
            pickle.dump(array, file, protocol=5)
            if self.durable:
                file.flush()
                os.fsync(file.fileno())


def _unpickled(path: Path) -> Any:
    with open(path, "rb") as file:
        return pickle.load(file)
