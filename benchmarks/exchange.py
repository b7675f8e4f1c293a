"""Objects that pass between the tasks of a process pool, as in task suites: each task takes one, and may return one."""

import importlib
import importlib.util
import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from itertools import count
from typing import Any, NamedTuple, Protocol

import numpy as np

import ana
from ana.demo.workers import PipeMeter, pool
from benchmarks import measure
from benchmarks.options import Options
from benchmarks.results import Result, Row, Table, machine
from benchmarks.workloads import size_text

__all__ = ["exchange", "run", "share"]

SIZES = (1000, 10_000, 100_000, 1_000_000, 10_000_000)
TINY_SIZES = (300_000,)
TOTAL_BYTES = 100_000_000
MOST_TASKS = 1000
RATIO = "ana.Executor's time / the best other's"
UNDER_WAY = 2
"""How many tasks per worker are in flight at a time."""


class Way(Protocol):
    """How an object gets from one process to another."""

    def send(self, obj: Any) -> Any:
        """Return what is sent in its place."""

    def take(self, sent: Any) -> Any:
        """Return the object."""


class _ByValue:
    def send(self, obj: Any) -> Any:
        return obj

    def take(self, sent: Any) -> Any:
        return sent


class _PickleFile:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.numbers = count()
        os.makedirs(folder, exist_ok=True)

    def send(self, obj: Any) -> Any:
        path = f"{self.folder}/{os.getpid()}-{next(self.numbers)}"
        with open(path, "wb") as file:
            pickle.dump(obj, file, protocol=5)
        return path

    def take(self, sent: Any) -> Any:
        with open(sent, "rb") as file:
            return pickle.load(file)


class _ProxyStore:
    def __init__(self, folder: str) -> None:
        connector = importlib.import_module("proxystore.connectors.file").FileConnector(folder)
        proxystore = importlib.import_module("proxystore.store")
        self.store = proxystore.get_store("exchange") or proxystore.Store("exchange", connector, register=True)

    def send(self, obj: Any) -> Any:
        return self.store.proxy(obj)

    def take(self, sent: Any) -> Any:
        return np.asarray(sent)


class _ANA:
    def __init__(self, folder: str, *, durable: bool = True) -> None:
        ana.set_dl(pickle_dir=folder, durable=durable)

    def send(self, obj: Any) -> Any:
        return ana.Ref(obj)

    def take(self, sent: Any) -> Any:
        return sent.value


BY_VALUE, PICKLE_FILE, PROXYSTORE, ANA, ANA_FAST, EXECUTOR = (
    "by value",
    "pickle file",
    "ProxyStore file",
    "ANA",
    "ANA, durable=False",
    "ana.Executor",
)
NAMES = (BY_VALUE, PICKLE_FILE, PROXYSTORE, ANA, ANA_FAST, EXECUTOR)
OTHERS = (BY_VALUE, PICKLE_FILE, PROXYSTORE)


@cache
def _way(name: str, folder: str) -> Way:
    """Return this process's instance of a way."""
    if name in {BY_VALUE, EXECUTOR}:
        return _ByValue()
    if name == PICKLE_FILE:
        return _PickleFile(folder)
    if name == PROXYSTORE:
        return _ProxyStore(folder)
    return _ANA(folder, durable=name == ANA)


class Place(NamedTuple):
    """A way, and the folder of its files."""

    name: str
    folder: str

    @property
    def way(self) -> Way:
        """The way itself."""
        return _way(*self)


def _objects(size_bytes: int) -> Iterator[Any]:
    """Make distinct arrays that do not compress, quickly."""
    noise = np.frombuffer(os.urandom(size_bytes), "u1").copy()
    for number in count(1):
        noise[:8] = np.frombuffer((number << 24 | os.getpid()).to_bytes(8, "little"), "u1")
        yield noise.copy()


_made: dict[int, Iterator[Any]] = {}


def exchange(place: Place, sent: Any) -> Any:
    """Take an object, and return another one of its size: the task."""
    found = place.way.take(sent)
    size = len(found)
    return place.way.send(next(_made.setdefault(size, _objects(size))))


def share(place: Place, sent: Any) -> int:
    """Take the object that all tasks share, and return a number."""
    return int(place.way.take(sent)[-1])


def run(options: Options) -> Result:
    """Pass objects of each size in each way, one after the other, in pools of their own."""
    sizes = options.pick(TINY_SIZES, SIZES, SIZES)
    here = [name for name in NAMES if name != PROXYSTORE or importlib.util.find_spec("proxystore") is not None]
    rows = [_row(options, what, size, here) for what in (exchange, share) for size in sizes]
    title = f"Objects between the tasks of a pool of {options.workers} processes, tasks/s"
    note = (
        "Either each task takes an array of its own and returns another one of that size, or all tasks take the same "
        f"array and return a number. {UNDER_WAY} tasks per worker are in flight at a time. The arrays do not "
        "compress. Only ANA checks what it reads, and only ANA waits for the disk by default. ANA and ProxyStore "
        "keep loaded arrays in the process. With ana.Executor, which does not wait for the disk, the tasks know "
        "nothing of ANA; the shared array is an ana.Ref. Bytes are those of the pickles in both directions, per task."
    )
    return Result("exchange", options.size, [Table("exchange", title, rows, note)], machine(options.folder))


def _row(options: Options, what: Any, size: int, names: list[str]) -> Row:
    tasks = options.tasks or options.pick(6, 200, min(MOST_TASKS, max(20, TOTAL_BYTES // size)))
    found: dict[str, list[float]] = {name: [] for name in names}
    travelled: dict[str, float] = {}
    for number in range(options.round_count(5)):
        # The first way pays for the writes that the last round left to the kernel.
        for name in names[number % len(names) :] + names[: number % len(names)]:
            with measure.emptied(options.folder / "exchange") as folder:
                seconds, sent_bytes = _measure(Place(name, str(folder / "store")), what, size, tasks, options.workers)
            found[name].append(tasks / seconds)
            travelled[name] = sent_bytes / tasks
    row: Row = {"objects": "each task its own" if what is exchange else "one for all", "size": size_text(size)}
    row |= {"tasks": tasks, **{name: measure.median(speeds) for name, speeds in found.items()}}
    # Of each round, because both met the same load on the machine.
    best = [max(speeds) for speeds in zip(*(found[name] for name in OTHERS if name in found), strict=True)]
    row[RATIO] = measure.ratio(best, found[EXECUTOR])
    return row | {f"bytes, {name}": travelled[name] for name in (BY_VALUE, ANA, EXECUTOR)}


def _measure(place: Place, what: Any, size: int, tasks: int, workers: int) -> tuple[float, int]:
    """Return how many seconds all tasks take, and how many bytes travel."""
    meter = PipeMeter()
    objects = _objects(size)
    try:
        with pool(workers) as workers_pool, _executor(place, workers_pool) as executor:
            # Imports, stores and connections are made before the clock starts.
            for future in [executor.submit(what, place, place.way.send(next(objects))) for _ in range(4 * workers)]:
                future.result()
            with meter.counting():
                begin = time.perf_counter()
                _pass_on(executor, place, what, objects, tasks, UNDER_WAY * workers)
                seconds = time.perf_counter() - begin
    finally:
        _close(place)
    return seconds, meter.sent_bytes + meter.received_bytes


def _executor(place: Place, pool_of_workers: ProcessPoolExecutor) -> AbstractContextManager[Executor]:
    if place.name != EXECUTOR:
        return nullcontext(pool_of_workers)
    ana.set_dl(pickle_dir=place.folder, durable=False)
    return ana.Executor(pool_of_workers)


def _pass_on(executor: Executor, place: Place, what: Any, objects: Iterator[Any], tasks: int, under_way: int) -> None:
    shared = _to_share(place, next(objects)) if what is share else None
    running: set[Future[Any]] = set()
    for _ in range(tasks):
        if len(running) == under_way:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
        sent = place.way.send(next(objects)) if shared is None else shared
        running.add(executor.submit(what, place, sent))
    for future in running:
        result = future.result()
        if what is exchange:
            place.way.take(result)


def _to_share(place: Place, obj: Any) -> Any:
    """Return what all tasks are sent: as a Ref, an array is not hashed for each."""
    return ana.Ref(obj) if place.name == EXECUTOR else place.way.send(obj)


def _close(place: Place) -> None:
    """Discard this process's instance of a way, so that the next round starts afresh."""
    way = place.way
    if isinstance(way, _ProxyStore):
        way.store.close()
    _way.cache_clear()
    ana.set_dl()
