"""ANA compared with pickle.dump into a file and pickle.load from it, with a warm page cache."""

import functools
import gc
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import ana
from ana.format import codec
from benchmarks import measure
from benchmarks.measure import median
from benchmarks.options import Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import WORKLOADS, Workload, size_text

__all__ = ["run"]

CHUNK_BYTES = 1 << 20
MEBIBYTE = 1 << 20
MICROSECONDS = 1e6

ROUNDS = {"dict": 15, "floats": 15, "noise": 15, "large noise": 7, "text": 7, "integers": 9}
"""How often each is measured at full size."""


@dataclass(frozen=True, slots=True)
class Target:
    """Upper limits for a workload: time as a multiple of the other side's, and bytes on disk."""

    store: float
    load: float
    disk: float | None = None


TARGETS = {
    "dict": Target(1.7, 2.0),
    "floats": Target(1.5, 1.1),
    "noise": Target(1.2, 1.0),
    "large noise": Target(1.0, 0.7),
    "text": Target(1.25, 1.2, 0.20),
    "integers": Target(1.4, 1.15, 0.25),
}
NEW_TREE = 2.5
"""The target for small states whose shard folders have to be made."""
AGAIN_GB_PER_SECOND = 3.0
REFERENCE_MICROSECONDS = 2.0
IMPORT_MILLISECONDS = 20.0
PEAK_MEBIBYTES = 64.0


def run(options: Options) -> Result:
    """Measure everything, and note which targets are met."""
    tables = [*_ratios(options), _others(options), _memory(options)]
    if options.durable:
        tables.append(_durable(options))
    return Result("plain", options.size, tables, machine(options.folder))


def _ratios(options: Options) -> list[Table]:
    measure.fresh_memory()
    times: list[Row] = []
    disk: list[Row] = []
    for key, full in WORKLOADS.items():
        bench = _Bench(full.scaled(options.size), options.folder, options.round_count(ROUNDS[key]), durable=False)
        times += _rows(bench, key)
        disk.append(_disk_row(bench, TARGETS[key].disk))
        if key == "noise":
            # Only this size differs: smaller states always get recycled memory, larger ones never.
            measure.recycled_memory()
            times += [row | {"what": f"{row['what']}, recycled memory"} for row in _rows(bench, key)]
            measure.fresh_memory()
    note = (
        "Times are medians of the rounds, per state. A ratio is the median of the rounds' ratios; the two sides were "
        "measured alternately. The pickle files are in one folder. The integers are compared with zstd level 1 on 1 "
        "MiB chunks, on all cores, from memory to memory. Large blocks are in memory that the process has not used "
        "before, as for a worker's first object, unless the table says recycled."
    )
    return [
        Table("plain", "ANA compared with a plain pickle file, without waiting for the disk", times, note),
        Table("disk", "Bytes on disk, per state", disk, "ANA's bytes include its `ana.json`."),
    ]


def _durable(options: Options) -> Table:
    rows: list[Row] = []
    for key, full in WORKLOADS.items():
        rounds = options.round_count(max(3, ROUNDS[key] // 3))
        rows += _rows(_Bench(full.scaled(options.size), options.folder, rounds, durable=True), key)
    # Loading does not wait for the disk: the data was written before.
    rows = [
        {name: value for name, value in row.items() if name not in ("target", "met")}
        for row in rows
        if row["what"] != "load"
    ]
    note = "ANA also syncs the folder, so that the file's name survives a power cut. The pickle file's name may not."
    return Table("durable", "ANA's default (durable), compared with a pickle file with fsync", rows, note)


def _rows(bench: "_Bench", key: str) -> list[Row]:
    gc.collect()
    return _small(bench) if key == "dict" else _large(bench, key)


class _Bench:
    """One workload, its folder, and the ways to store and load it."""

    def __init__(self, workload: Workload, folder: Path, rounds: int, *, durable: bool) -> None:
        self.workload = workload
        self.folder = folder / "plain-round"
        self.rounds = rounds
        self.durable = durable
        self.states = workload.states()
        self.numbers = count()
        self.ana_bytes = self.plain_bytes = 0

    @contextmanager
    def round(self) -> Iterator[tuple[Path, Path]]:
        """Make the folders of a round: for ANA's tree, and for plain files."""
        with measure.emptied(self.folder / str(next(self.numbers))) as folder:
            flat = folder / "flat"
            flat.mkdir()
            yield folder / "tree", flat
        ana.set_dl()

    def open(self, tree: Path) -> None:
        """Start afresh, as another process would: no stored object is alive."""
        ana.set_dl(pickle_dir=tree, keep_bytes=0, durable=self.durable)

    def ana_store(self) -> list[str]:
        """Store all states, each as a fresh object; returns their UUIDs."""
        return [ana.Ref(state).make_uuid() for state in self.states]

    def plain_store(self, flat: Path) -> None:
        """Pickle all states, each into a file."""
        for number, state in enumerate(self.states):
            with open(flat / f"{number}.p", "wb") as file:
                pickle.dump(state, file, protocol=5)
                if self.durable:
                    file.flush()
                    os.fsync(file.fileno())

    def ana_load(self, uuids: Sequence[str]) -> None:
        """Load all states."""
        for uuid in uuids:
            loaded: Any = ana.Ref.ana_load(uuid).value
            del loaded

    def plain_load(self, flat: Path) -> None:
        """Load all pickles."""
        for number in range(len(self.states)):
            with open(flat / f"{number}.p", "rb") as file:
                loaded = pickle.load(file)
            del loaded

    def per_state(self, action: Callable[[], object]) -> float:
        """Return the seconds that an action takes for each state."""
        return measure.seconds(action) / len(self.states)

    def once(self, number: int) -> dict[str, float]:
        """Measure one round: storing into a new tree, storing into its existing folders, and loading."""
        with self.round() as (tree, flat):
            self.open(tree)
            uuids: list[str] = []
            found = measure.take_turns(
                {
                    "new tree": lambda: self.per_state(lambda: uuids.extend(self.ana_store())),
                    "plain new tree": lambda: self.per_state(lambda: self.plain_store(flat)),
                },
                number,
            )
            self.ana_bytes, self.plain_bytes = measure.disk_bytes(tree), measure.disk_bytes(flat)
            if len(self.states) > 1:
                _remove_files(tree, ".zst")
                _remove_files(flat, ".p")
                self.open(tree)
                found |= measure.take_turns(
                    {
                        "store": lambda: self.per_state(self.ana_store),
                        "plain store": lambda: self.per_state(lambda: self.plain_store(flat)),
                    },
                    number,
                )
            else:
                found |= {"store": found["new tree"], "plain store": found["plain new tree"]}
            self.open(tree)
            found |= measure.take_turns(
                {
                    "load": lambda: self.per_state(lambda: self.ana_load(uuids)),
                    "plain load": lambda: self.per_state(lambda: self.plain_load(flat)),
                },
                number,
            )
        return found

    def all_rounds(self, extra: Callable[[], dict[str, float]] = dict) -> dict[str, list[float]]:
        """Measure all rounds, after one that warms up; `extra` is measured with each."""
        found = [self.once(number) | extra() for number in range(self.rounds + 1)][1:]
        return {name: [figures[name] for figures in found] for name in found[0]}


def _remove_files(folder: Path, suffix: str) -> None:
    for inner, _, names in os.walk(folder):
        for name in names:
            if name.endswith(suffix):
                os.unlink(os.path.join(inner, name))


def _small(bench: _Bench) -> list[Row]:
    """Measure small states with new folders and with existing ones: that makes the difference."""
    found, target, name = bench.all_rounds(), TARGETS["dict"], bench.workload.name
    return [
        _row(name, "store, new tree", found, ("new tree", "plain new tree"), NEW_TREE),
        _row(name, "store, warm folders", found, ("store", "plain store"), target.store),
        _row(name, "load", found, ("load", "plain load"), target.load),
    ]


def _large(bench: _Bench, key: str) -> list[Row]:
    target, name, compared = TARGETS[key], bench.workload.name, "plain"
    extra: Callable[[], dict[str, float]] = dict
    if key == "integers" and not bench.durable:
        extra, compared = _Compression(bench.states[0]).once, "zstd"
    found = bench.all_rounds(extra)
    return [
        _row(name, "store", found, ("store", f"{compared} store"), target.store),
        _row(name, "load", found, ("load", f"{compared} load"), target.load),
    ]


def _row(name: str, what: str, found: dict[str, list[float]], pair: tuple[str, str], target: float) -> Row:
    ours, theirs = found[pair[0]], found[pair[1]]
    ratio = measure.ratio(ours, theirs)
    return {
        "state": name,
        "what": what,
        "ANA µs": median(ours) * MICROSECONDS,
        "other µs": median(theirs) * MICROSECONDS,
        "other": "zstd in memory" if pair[1].startswith("zstd") else "pickle file",
        "rounds": len(ours),
        "ratio": ratio,
        "target": f"≤ {target:g}",
        "met": ratio <= target,
    }


def _disk_row(bench: _Bench, target: float | None) -> Row:
    share = bench.ana_bytes / bench.plain_bytes
    row: Row = {
        "state": bench.workload.name,
        "pickle file bytes": bench.plain_bytes // len(bench.states),
        "ANA bytes": bench.ana_bytes // len(bench.states),
        "ANA %": share * 100,
    }
    if target is not None:
        row |= {"target": f"≤ {target:.0%}", "met": share <= target}
    return row


class _Compression:
    """The baseline for the integers: compression alone, on all cores, from memory to memory."""

    def __init__(self, array: Any) -> None:
        view = memoryview(array).cast("B")
        self.pieces = [view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES)]
        self.threads = len(os.sched_getaffinity(0))

    def once(self) -> dict[str, float]:
        """Compress and decompress once."""
        frames: list[bytes] = []
        with ThreadPoolExecutor(self.threads) as pool:
            compressing = measure.seconds(lambda: frames.extend(pool.map(_compress, self.pieces)))
            decompressing = measure.seconds(lambda: list(pool.map(_decompress, frames, map(len, self.pieces))))
        return {"zstd store": compressing, "zstd load": decompressing}


def _compress(piece: memoryview) -> bytes:
    return codec.compress(piece, 1)


def _decompress(frame: bytes, size: int) -> bytes:
    return codec.decompress(frame, size)


def _others(options: Options) -> Table:
    rows = [_again(options), *_references(options), _import(options)]
    return Table("others", "Independent of a plain pickle", rows)


def _again(options: Options) -> Row:
    """Store the integers again in other processes. Nothing is written, so this measures hashing."""
    workload = WORKLOADS["integers"].scaled(options.size)
    with measure.emptied(options.folder / "again") as folder:
        ana.set_dl(pickle_dir=folder / "tree", durable=False)
        uuid = ana.Ref(workload.make(0, workload.size_bytes)).make_uuid()
        ana.set_dl()
        answers = [
            measure.run_child("again", workload.size_bytes, folder / "tree") for _ in range(options.round_count(7))
        ]
    if any(answer["uuid"] != uuid for answer in answers):
        msg = "equal arrays have different UUIDs: nothing was stored again"
        raise AssertionError(msg)
    speed = median(workload.size_bytes / answer["seconds"] / 1e9 for answer in answers)
    return {
        "what": f"{workload.name} stored again by another process",
        "value": speed,
        "unit": "GB/s",
        "target": f"≥ {AGAIN_GB_PER_SECOND:g}",
        "met": speed >= AGAIN_GB_PER_SECOND,
    }


def _references(options: Options) -> list[Row]:
    """Pickle and unpickle a live object with a UUID."""
    calls = options.pick(100, 20_000, 50_000)
    with measure.emptied(options.folder / "references") as folder:
        ana.set_dl(pickle_dir=folder / "tree", durable=False)
        ref = ana.Ref(WORKLOADS["dict"].make(0, 0))
        ref.make_uuid()
        pickled = pickle.dumps(ref)
        found = measure.in_turns(
            {
                "pickle.dumps of an object that is stored": lambda: _each(lambda: pickle.dumps(ref), calls),
                "pickle.loads of its reference where it is alive": lambda: _each(lambda: pickle.loads(pickled), calls),
            },
            options.round_count(9),
        )
        ana.set_dl()
    return [_at_most(name, median(values), "µs", REFERENCE_MICROSECONDS) for name, values in found.items()]


def _each(action: Callable[[], object], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        action()
    return (time.perf_counter() - begin) / calls * MICROSECONDS


def _import(options: Options) -> Row:
    """Start interpreters with and without `import ana`; all modules are compiled beforehand."""
    with measure.emptied(options.folder / "compiled") as folder:
        # An installed package has compiled files, whatever this shell's environment says.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(folder)
        programs = {"ana": "import ana", "nothing": "pass"}
        for program in programs.values():
            _start(program, environment)
        found = measure.in_turns(
            {name: functools.partial(_start, program, environment) for name, program in programs.items()},
            options.round_count(21),
        )
    extra = median(mine - other for mine, other in zip(found["ana"], found["nothing"], strict=True))
    return _at_most("import ana, above the interpreter's own start", extra * 1000, "ms", IMPORT_MILLISECONDS)


def _start(program: str, environment: dict[str, str]) -> float:
    return measure.seconds(lambda: subprocess.run([sys.executable, "-c", program], check=True, env=environment))


def _at_most(name: str, value: float, unit: str, target: float) -> Row:
    return {"what": name, "value": value, "unit": unit, "target": f"≤ {target:g}", "met": value <= target}


def _memory(options: Options) -> Table:
    """Measure in new processes how much memory storing and loading take beyond the object."""
    workload = WORKLOADS["large noise"].scaled(options.size)
    rows: list[Row] = []
    for way in ("ana", "plain"):
        with measure.emptied(options.folder / "memory") as folder:
            stored = measure.run_child("memory-store", way, workload.size_bytes, folder)
            loaded = measure.run_child("memory-load", way, workload.size_bytes, folder, stored["key"])
        store, load = stored["extra_bytes"] / MEBIBYTE, loaded["extra_bytes"] / MEBIBYTE
        row: Row = {"way": "ANA" if way == "ana" else "pickle file", "store MiB": store, "load MiB": load}
        if way == "ana":
            row |= {"target": f"≤ {PEAK_MEBIBYTES:g}", "met": max(store, load) <= PEAK_MEBIBYTES}
        rows.append(row)
    size = size_text(workload.size_bytes)
    return Table("memory", f"Peak memory above an object of {size} ({workload.kind})", rows)
