"""Packs: small states that share files, compared with a pickle file for each state and with disk-objectstore."""

import gc
import importlib
import importlib.util
import os
import pickle
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ana
from benchmarks import large_store, measure, nfs, pack_trips, pack_writers
from benchmarks.measure import median
from benchmarks.options import CannotRunError, Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import WORKLOADS

__all__ = ["run"]

PACK_BYTES = "64k"
OBJECT_STORE = "disk_objectstore"
FILES = 100
"""Target: the most files and folders in a tree of any number of states."""
PICKLE_FILE, SYNCED_FILE, PEER = "pickle file", "pickle file, fsync", "disk-objectstore"

Sides = tuple[list[float], list[float]]
"""What each round of ANA took, and each round of the other, in seconds per state."""


def run(options: Options) -> Result:
    """Measure on this machine's disk, then round trips in the NFS lab; with mounts given, only the round trips."""
    if os.environ.get(nfs.MOUNTS):
        return Result("packs", options.size, [pack_trips.measured(options)], machine(options.folder))
    tables = [*_small_states(options), large_store.measured(options), pack_writers.measured(options)]
    try:
        inside = nfs.in_the_lab("packs", options)
    except CannotRunError as error:
        tables[0].note += f" No round trips were counted: {error}."
    else:
        (trips,) = inside.tables
        trips.note += f" Counted by `{inside.command}`, kernel {inside.machine['kernel']}."
        tables.append(trips)
    return Result("packs", options.size, tables, machine(options.folder))


def _small_states(options: Options) -> list[Table]:
    count = options.pick(50, 10_000, 100_000)
    states = [WORKLOADS["dict"].make(number, 0) for number in range(count)]
    bench = _Bench(options, states)
    rows = [*bench.bulk_rows(), *bench.single_rows(), *bench.peer_rows(), bench.load_row()]
    note = (
        "µs per state, medians of the rounds. A ratio is the median of the rounds' ratios; the two sides were measured "
        "alternately, each time in a new folder. `store_many` takes new `Ref` objects, and the time includes making "
        "them. One at a time, the process has its pack open. The pickle files are in one folder. disk-objectstore adds "
        "all pickles with one call of `add_objects_to_pack`. It does so with its own guarantees, and so does ANA: both "
        "wait for the disk, and a single process may add to a disk-objectstore at a time. A load by reference is "
        "`pickle.loads` of the reference and the use of its value."
    )
    if importlib.util.find_spec(OBJECT_STORE) is None:
        note += " disk-objectstore is not installed: `pip install -e '.[bench]'`."
    files: Row = {
        "what": f"files and folders of {count:,} states, `store_many`",
        "value": bench.entries,
        "target": f"≤ {FILES}",
        "met": bench.entries <= FILES,
    }
    return [
        Table("packs", "States of 1 kB in packs", rows, note),
        Table("packs-files", "Files in the tree", [files]),
    ]


class _Bench:
    """States, and the ways to store and load them. `entries` counts the files and folders of the last bulk round."""

    def __init__(self, options: Options, states: Sequence[Any]) -> None:
        self.options = options
        self.states = states
        self.entries = 0

    def bulk_rows(self) -> list[Row]:
        """Compare `store_many` with as many pickle files; with fewer if each waits for the disk."""
        synced = self.states[: self.options.pick(5, 500, 2000)]
        rounds = self.options.round_count(3)
        plain = self._in_turns(partial(self._many, durable=False), partial(_plain, self.states, durable=False), rounds)
        durable = self._in_turns(partial(self._many, durable=True), partial(_plain, synced, durable=True), rounds)
        count = len(self.states)
        return [
            _row("store_many, without waiting for the disk", count, plain, PICKLE_FILE, 0.3),
            _row("store_many, waiting for the disk", count, durable, SYNCED_FILE, 0.05),
        ]

    def single_rows(self) -> list[Row]:
        """Compare one state at a time with one pickle file."""
        states, synced = self.states[:2000], self.states[: self.options.pick(5, 200, 500)]
        rounds = self.options.round_count(9)
        plain = self._in_turns(
            partial(_one_by_one, states, durable=False), partial(_plain, states, durable=False), rounds
        )
        durable = self._in_turns(
            partial(_one_by_one, synced, durable=True), partial(_plain, synced, durable=True), rounds
        )
        return [
            _row("store one, without waiting for the disk", len(states), plain, PICKLE_FILE, 0.6),
            _row("store one, waiting for the disk", len(synced), durable, SYNCED_FILE, 0.8),
        ]

    def peer_rows(self) -> list[Row]:
        """Compare adding in bulk, and loading at random, with disk-objectstore."""
        if importlib.util.find_spec(OBJECT_STORE) is None:
            return []
        count, rounds = len(self.states), self.options.round_count(3)
        adding = self._in_turns(partial(self._many, durable=True), self._add, rounds)
        chosen = random.Random(count).sample(range(count), min(count, 2000))
        with measure.emptied(self.options.folder / "packs") as folder, _container(folder / "objects") as container:
            references = self._references(folder / "tree")
            keys = container.add_objects_to_pack([pickle.dumps(state, 5) for state in self.states])
            loading = _compared(
                lambda: self._load(folder / "tree", [references[number] for number in chosen]),
                lambda: _get(folder / "objects", [keys[number] for number in chosen]),
                self.options.round_count(9),
            )
        return [
            _row("store_many compared with disk-objectstore", count, adding, PEER, 1.0),
            _row("load at random compared with disk-objectstore", len(chosen), loading, PEER, 1.0),
        ]

    def load_row(self) -> Row:
        """Compare loading by reference, with the pack open, with `pickle.load` of a file."""
        few = _Bench(self.options, self.states[:2000])
        with measure.emptied(self.options.folder / "packs") as folder:
            references = few._references(folder / "tree")
            _plain(few.states, folder, durable=False)
            found = _compared(
                lambda: few._load(folder / "tree", references),
                lambda: _plain_load(folder, len(references)),
                self.options.round_count(9),
            )
        return _row("load by reference", len(references), found, PICKLE_FILE, 1.5)

    def _in_turns(self, ours: Callable[[Path], float], theirs: Callable[[Path], float], rounds: int) -> Sides:
        """Measure both sides alternately, each time in a new folder."""

        def in_new_folder(action: Callable[[Path], float]) -> float:
            with measure.emptied(self.options.folder / "packs") as folder:
                return action(folder)

        return _compared(partial(in_new_folder, ours), partial(in_new_folder, theirs), rounds)

    def _many(self, folder: Path, *, durable: bool) -> float:
        """Store all states with `store_many`."""
        with _layer(folder, durable=durable) as layer:
            taken = measure.seconds(lambda: layer.store_many([ana.Ref(state) for state in self.states]))
        self.entries = sum(1 for _ in folder.rglob("*"))
        return taken / len(self.states)

    def _add(self, folder: Path) -> float:
        """Add all states to disk-objectstore."""
        with _container(folder / "objects") as container:
            taken = measure.seconds(
                lambda: container.add_objects_to_pack([pickle.dumps(state, 5) for state in self.states])
            )
        return taken / len(self.states)

    def _references(self, tree: Path) -> list[bytes]:
        """Store all states; return their references, which say where in the pack each lies."""
        with _layer(tree, durable=False) as layer:
            refs = [ana.Ref(state) for state in self.states]
            layer.store_many(refs)
            return [pickle.dumps(ref) for ref in refs]

    def _load(self, tree: Path, references: Sequence[bytes]) -> float:
        """Load by reference, with the packs open and nothing else."""
        with _layer(tree, durable=False):
            _use(references[0])
            _use(references[-1])
            return measure.seconds(lambda: _use_all(references)) / len(references)


def _compared(ours: Callable[[], float], theirs: Callable[[], float], rounds: int) -> Sides:
    found = measure.in_turns({"ours": ours, "theirs": theirs}, rounds)
    return found["ours"], found["theirs"]


@contextmanager
def _layer(tree: Path, *, durable: bool) -> Iterator[ana.DataLayer]:
    """Use a layer of its own, which has no live objects."""
    gc.collect()
    with ana.using_dl(pickle_dir=tree, pack_bytes=PACK_BYTES, durable=durable, keep_bytes=0) as layer:
        yield layer


def _one_by_one(states: Sequence[Any], folder: Path, *, durable: bool) -> float:
    with _layer(folder, durable=durable):
        ana.Ref(None).make_uuid()  # begins the pack
        return measure.seconds(lambda: [ana.Ref(state).make_uuid() for state in states]) / len(states)


def _use(reference: bytes) -> None:
    loaded: Any = pickle.loads(reference).value
    del loaded


def _use_all(references: Sequence[bytes]) -> None:
    for reference in references:
        _use(reference)


def _plain(states: Sequence[Any], folder: Path, *, durable: bool) -> float:
    def store() -> None:
        for number, state in enumerate(states):
            with open(folder / f"{number}.p", "wb") as file:
                pickle.dump(state, file, protocol=5)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())

    return measure.seconds(store) / len(states)


def _plain_load(folder: Path, count: int) -> float:
    def load() -> None:
        for number in range(count):
            with open(folder / f"{number}.p", "rb") as file:
                loaded = pickle.load(file)
            del loaded

    return measure.seconds(load) / count


@contextmanager
def _container(folder: Path) -> Iterator[Any]:
    """Open a container of disk-objectstore; make it if it does not exist."""
    with importlib.import_module(OBJECT_STORE).Container(folder) as container:
        if not container.is_initialised:
            container.init_container()
        yield container


def _get(folder: Path, keys: Sequence[str]) -> float:
    with _container(folder) as container:
        pickle.loads(container.get_object_content(keys[0]))
        taken = measure.seconds(lambda: [pickle.loads(container.get_object_content(key)) for key in keys])
    return taken / len(keys)


def _row(what: str, count: int, found: Sides, other: str, target: float) -> Row:
    ours, theirs = found
    ratio = measure.ratio(ours, theirs)
    return {
        "what": what,
        "states": count,
        "ANA µs": median(ours) * 1e6,
        "other µs": median(theirs) * 1e6,
        "other": other,
        "rounds": len(ours),
        "ratio": ratio,
        "target": f"≤ {target:g}",
        "met": ratio <= target,
    }
