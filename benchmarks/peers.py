"""The same states in other tools, with the same guarantees; and which tools notice a flipped byte."""

import gc
import importlib.util
import math
import multiprocessing
import os
import pickle
import shelve
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import ana
from benchmarks import measure
from benchmarks.measure import median
from benchmarks.options import Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import WORKLOADS, Workload

__all__ = ["PEERS", "run"]

ROUNDS = {"dict": 9, "floats": 9, "noise": 7, "integers": 5}
MAP_BYTES = 4 << 30
"""LMDB needs its maximum size in advance."""
FLIP_SECONDS = 60
NOTICED, WRONG, HARMLESS, CRASHED = "noticed", "came back wrong", "without effect", "crashed the process"


class Peer(ABC):
    """One way to keep states in a folder. `durable` asks it to wait for the disk."""

    name: ClassVar[str]
    needs: ClassVar[str] = ""
    can_wait: ClassVar[bool] = False

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self.folder = folder
        self.durable = durable
        self.open()

    def open(self) -> None:  # noqa: B027 - with a file per state there is nothing to open
        """Open the store as a new process would."""

    def close(self) -> None:  # noqa: B027 - the same
        """Close the store."""

    @abstractmethod
    def put(self, number: int, state: Any) -> Any:
        """Store a state; returns what `get` needs."""

    @abstractmethod
    def get(self, key: Any) -> Any:
        """Load a state."""

    def reference(self, _key: Any) -> object | None:
        """Return what a program would send to another process; None if the tool has no reference."""
        return None


class PickleFile(Peer):
    """pickle.dump into a file of its own."""

    name = "pickle file"
    can_wait = True

    def put(self, number: int, state: Any) -> Path:
        path = self.folder / f"{number}.p"
        with open(path, "wb") as file:
            pickle.dump(state, file, protocol=5)
            if self.durable:
                file.flush()
                os.fsync(file.fileno())
        return path

    def get(self, key: Path) -> Any:
        with open(key, "rb") as file:
            return pickle.load(file)


class Ana(Peer):
    """ANA itself, a Ref for each state."""

    name = "ANA"
    can_wait = True

    def open(self) -> None:
        ana.set_dl(pickle_dir=self.folder, keep_bytes=0, durable=self.durable)

    def close(self) -> None:
        ana.set_dl()

    def put(self, number: int, state: Any) -> str:  # noqa: ARG002 - the content decides the key
        return ana.Ref(state).make_uuid()

    def get(self, key: str) -> Any:
        return ana.Ref.ana_load(key).value

    def reference(self, key: str) -> object:
        return ana.Ref.ana_load(key)


class OriginalAna(Peer):
    """The original ANA: a file named by a UUID, rewritten in place."""

    name = "original ANA"

    def put(self, number: int, state: Any) -> Path:
        path = self.folder / f"{number:032x}.p"
        with open(path, "wb") as file:
            pickle.dump(state, file, protocol=pickle.HIGHEST_PROTOCOL)
        return path

    def get(self, key: Path) -> Any:
        with open(key, "rb") as file:
            return pickle.load(file)

    def reference(self, key: Path) -> object:
        return ana.Ref, key.stem


class Joblib(Peer):
    """joblib.dump and joblib.load."""

    name = "joblib"
    needs = "joblib"

    def open(self) -> None:
        self.joblib: Any = importlib.import_module("joblib")

    def put(self, number: int, state: Any) -> Path:
        path = self.folder / f"{number}.joblib"
        self.joblib.dump(state, path)
        return path

    def get(self, key: Path) -> Any:
        return self.joblib.load(key)

    def reference(self, _key: Path) -> object:
        memory = self.joblib.Memory(self.folder / "memory", verbose=0)
        return memory.cache(math.sqrt).call_and_shelve(2.0)


class DiskCache(Peer):
    """diskcache: SQLite, with files beside it for large values."""

    name = "diskcache"
    needs = "diskcache"
    can_wait = True

    def open(self) -> None:
        # No eviction: it must keep everything.
        self.cache: Any = importlib.import_module("diskcache").Cache(
            str(self.folder), eviction_policy="none", sqlite_synchronous=2 if self.durable else 0
        )

    def close(self) -> None:
        self.cache.close()

    def put(self, number: int, state: Any) -> int:
        self.cache[number] = state
        return number

    def get(self, key: int) -> Any:
        return self.cache[key]


class ProxyStore(Peer):
    """ProxyStore with its file connector; its own cache is off."""

    name = "ProxyStore file"
    needs = "proxystore"

    def open(self) -> None:
        connector = importlib.import_module("proxystore.connectors.file").FileConnector(str(self.folder), clear=False)
        self.store: Any = importlib.import_module("proxystore.store").Store("peer", connector, cache_size=0)

    def put(self, number: int, state: Any) -> Any:  # noqa: ARG002 - it makes its own keys
        return self.store.put(state)

    def get(self, key: Any) -> Any:
        return self.store.get(key)

    def reference(self, key: Any) -> object:
        return self.store.proxy_from_key(key)


class Shelf(Peer):
    """shelve, over the dbm of this Python."""

    name = "shelve"
    can_wait = True

    def open(self) -> None:
        self.shelf = shelve.open(str(self.folder / "shelf"), protocol=5)  # noqa: SIM115 - `close` closes it

    def close(self) -> None:
        self.shelf.close()

    def put(self, number: int, state: Any) -> str:
        self.shelf[str(number)] = state
        if self.durable:
            self.shelf.sync()
        return str(number)

    def get(self, key: str) -> Any:
        return self.shelf[key]


class Lmdb(Peer):
    """LMDB, one transaction per state; the benchmark pickles and unpickles."""

    name = "LMDB"
    needs = "lmdb"
    can_wait = True

    def open(self) -> None:
        self.environment: Any = importlib.import_module("lmdb").open(
            str(self.folder), map_size=MAP_BYTES, sync=self.durable, metasync=self.durable
        )

    def close(self) -> None:
        self.environment.close()

    def put(self, number: int, state: Any) -> bytes:
        key = b"%d" % number
        with self.environment.begin(write=True) as transaction:
            transaction.put(key, pickle.dumps(state, 5))
        return key

    def get(self, key: bytes) -> Any:
        with self.environment.begin(buffers=True) as transaction:
            return pickle.loads(transaction.get(key))


PEERS: tuple[type[Peer], ...] = (PickleFile, Ana, OriginalAna, Joblib, DiskCache, ProxyStore, Shelf, Lmdb)


def run(options: Options) -> Result:
    """Measure all peers that are installed, and name the others."""
    measure.fresh_memory()
    here = [peer for peer in PEERS if not peer.needs or importlib.util.find_spec(peer.needs) is not None]
    tables = [_times(options, here, durable=False)]
    if options.durable:
        tables.append(_times(options, [peer for peer in here if peer.can_wait], durable=True))
    tables.append(_damage(options, here))
    missing = sorted(peer.needs for peer in PEERS if peer not in here)
    if missing:
        tables[0].note += f" Not installed: {', '.join(missing)}; get them with `pip install -e '.[bench]'`."
    return Result("peers", options.size, tables, machine(options.folder))


def _times(options: Options, peers: list[type[Peer]], *, durable: bool) -> Table:
    rows: list[Row] = []
    for key, full_rounds in ROUNDS.items():
        workload = _workload(key).scaled(options.size)
        rounds = options.round_count(max(3, full_rounds // 3) if durable else full_rounds)
        rows += _workload_rows(options.folder, workload, peers, rounds, durable=durable)
    if durable:
        title = "Put and get, waiting for the disk"
        note = (
            "ANA syncs the file and its folder. The pickle file and shelve sync only the file (shelve's dbm may not "
            "even do that). diskcache syncs SQLite's log, but not the files beside it."
        )
        return Table("peers-durable", title, rows, note)
    note = (
        "Medians of rounds, per state, measured alternately. No tool waits for the disk or answers from its own "
        "memory. Ratios are medians of the rounds' ratios to the pickle file. LMDB and shelve keep everything in one "
        "file. ANA's tree is new in each round, so its times include making folders."
    )
    return Table("peers", "Put and get, without waiting for the disk", rows, note)


def _workload(key: str) -> Workload:
    full = WORKLOADS[key]
    # The size of the noise: eight peers times 128 MB would mostly measure this machine's memory.
    return full.resized(WORKLOADS["noise"].size_bytes) if key == "integers" else full


def _workload_rows(
    folder: Path, workload: Workload, peers: list[type[Peer]], rounds: int, *, durable: bool
) -> list[Row]:
    states = workload.states()
    actions = {peer.name: partial(_round, peer, folder / "peer", states, durable=durable) for peer in peers}
    found: dict[str, list[_Figures]] = {name: [] for name in actions}
    for number in range(rounds + 1):
        names = list(actions)
        names = names[number % len(names) :] + names[: number % len(names)]
        for name in names:
            figures = actions[name]()
            if number:
                found[name].append(figures)
    base = found[PickleFile.name]
    return [_row(workload, name, figures, base) for name, figures in found.items()]


class _Figures:
    """One round of one peer: seconds per state, and bytes per state."""

    def __init__(self, put: float, get: float, size_bytes: float) -> None:
        self.put = put
        self.get = get
        self.size_bytes = size_bytes


def _round(kind: type[Peer], folder: Path, states: list[Any], *, durable: bool) -> _Figures:
    with measure.emptied(folder):
        peer = kind(folder, durable=durable)
        keys: list[Any] = []
        try:
            put = measure.seconds(lambda: keys.extend(peer.put(number, state) for number, state in enumerate(states)))
        finally:
            peer.close()
        peer.open()
        try:
            get = measure.seconds(lambda: _get_all(peer, keys))
        finally:
            peer.close()
        size_bytes = measure.disk_bytes(folder)
    return _Figures(put / len(states), get / len(states), size_bytes / len(states))


def _get_all(peer: Peer, keys: list[Any]) -> None:
    for key in keys:
        loaded = peer.get(key)
        del loaded


def _row(workload: Workload, name: str, figures: list[_Figures], base: list[_Figures]) -> Row:
    put, get = [figure.put for figure in figures], [figure.get for figure in figures]
    return {
        "state": workload.name,
        "with": name,
        "put µs": median(put) * 1e6,
        "get µs": median(get) * 1e6,
        "put MB/s": workload.size_bytes / median(put) / 1e6,
        "get MB/s": workload.size_bytes / median(get) / 1e6,
        "put ratio": measure.ratio(put, [figure.put for figure in base]),
        "get ratio": measure.ratio(get, [figure.get for figure in base]),
        "bytes on disk": round(figures[-1].size_bytes),
    }


def _damage(options: Options, peers: list[type[Peer]]) -> Table:
    """Flip one bit at a time in the stored bytes, and check what is loaded."""
    workload = WORKLOADS["floats"]
    state = workload.make(0, workload.size_bytes if options.size != "tiny" else 1000)
    flips = options.pick(3, 50, 100)
    rows: list[Row] = []
    for kind in peers:
        with measure.emptied(options.folder / "damage") as folder:
            peer = kind(folder, durable=False)
            key = peer.put(0, state)
            reference = peer.reference(key)
            size = None if reference is None else len(pickle.dumps(reference))
            del reference
            peer.close()
            outcomes = [_flipped(peer, key, state, (number + 0.5) / flips) for number in range(flips)]
        row: Row = {"with": kind.name, "flips": flips}
        row |= {outcome: outcomes.count(outcome) for outcome in (NOTICED, WRONG, HARMLESS, CRASHED)}
        row["a flipped byte is noticed"] = _verdict(outcomes)
        row["reference bytes"] = size if size is not None else "up to its user"
        rows.append(row)
    note = (
        "One bit at a time is flipped, at evenly spaced offsets in the stored bytes, and a new process loads the "
        "state. A flip has no effect in bytes that the state does not use (empty pages of SQLite and LMDB). Pickle "
        "itself notices flips that hit an opcode, not those that hit a value. A reference is what a program sends to "
        "another process: for ANA and ProxyStore it includes the folder's path, for joblib it is the result of "
        "call_and_shelve."
    )
    return Table("damage", "Detection of flipped bytes, and size of references", rows, note)


def _verdict(outcomes: list[str]) -> str:
    matter = [outcome for outcome in outcomes if outcome != HARMLESS]
    if all(outcome == NOTICED for outcome in matter):
        return "always"
    return f"{matter.count(NOTICED)} of {len(matter)}"


def _flipped(peer: Peer, key: Any, state: Any, where: float) -> str:
    """Flip a bit of the largest file at a fraction of its length, return the outcome of a load, and restore the bit."""
    path = max((path for path in peer.folder.rglob("*") if path.is_file()), key=_allocated)
    offset = int(path.stat().st_size * where)
    _flip(path, offset)
    try:
        return _in_a_fork(lambda: _outcome(peer, key, state))
    finally:
        _flip(path, offset)


def _allocated(path: Path) -> tuple[int, int]:
    """Sort by blocks first: LMDB's lock file and map have their maximum length from the start."""
    status = path.stat()
    return status.st_blocks, status.st_size


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 4]))


def _outcome(peer: Peer, key: Any, state: Any) -> str:
    try:
        peer.open()
        loaded = peer.get(key)
    except Exception:  # noqa: BLE001 - any error means that it was noticed
        return NOTICED
    return HARMLESS if loaded == state else WRONG


def _in_a_fork(action: Callable[[], str]) -> str:
    """Run an action in a process of its own: unpickling damaged bytes may crash or never end."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sender.send(action()))
    gc.collect()
    process.start()
    sender.close()
    outcome = CRASHED
    deadline = time.monotonic() + FLIP_SECONDS
    with suppress(EOFError):
        if receiver.poll(max(0.0, deadline - time.monotonic())):
            outcome = receiver.recv()
    process.kill()
    process.join()
    receiver.close()
    return outcome
