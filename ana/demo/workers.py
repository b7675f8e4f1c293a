"""The demonstration's worker processes: their task, and a meter for the pickles that they exchange."""

import multiprocessing
import os
import select
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from multiprocessing.synchronize import Barrier
from typing import Any

from ana import settings
from ana.demo.mesh import Mesh

__all__ = ["PipeMeter", "TaskReport", "pool", "task", "uninterrupted"]

KILLING = {signal.SIGTERM, signal.SIGHUP}

_BREAKS_THE_PIPE = (3, 11, 6)
POLL_SECONDS = 0.05
START_SECONDS = 60
"""How long the workers may take to start Python and import ana."""


_first: weakref.ref[Mesh] | None = None
"""The mesh of this process's first task. A weak reference: only ana may keep it alive until the next task."""

_barrier: Barrier | None = None


@dataclass(frozen=True, slots=True)
class TaskReport:
    """One task's result and observations.

    `copies` counts the meshes made in its process so far. `same_object` says whether its mesh is the one of that
    process's first task (None in the first task). `mesh` is the object itself, if it is to be sent back.
    """

    heat: float
    pid: int
    copies: int
    same_object: bool | None
    mesh: Mesh | None


def task(mesh: Mesh, number: int, *, send_back: bool) -> TaskReport:
    """Compute something from the mesh, and report whether it is the object that this process had before."""
    global _first  # noqa: PLW0603 - the next task of this process asks for it
    same_object = None if _first is None else _first() is mesh
    _first = _first or weakref.ref(mesh)
    return TaskReport(mesh.heat(number), os.getpid(), Mesh.copies, same_object, mesh if send_back else None)


def _start_worker(barrier: Barrier) -> None:
    global _barrier  # noqa: PLW0603 - a barrier can only be handed over while a process starts
    _barrier = barrier
    # The signal mask is inherited, see `pool`. SIGINT stays blocked: Ctrl-C in a terminal goes to every process, and
    # only the parent should act on it.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, KILLING)
    # References say where the store is. This process must not store anything in the user's own store.
    os.environ.pop(settings.PICKLE_DIR.name, None)


def _meet() -> None:
    assert _barrier is not None  # noqa: S101 - the initializer ran, or the pool is broken
    _barrier.wait()


@contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start all workers, each a new interpreter; an exception in the block kills them."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(workers, timeout=START_SECONDS)
    before = set(multiprocessing.active_children())
    executor = ProcessPoolExecutor(workers, context, _start_worker, (barrier,))
    try:
        # An exception must not leave a half-started process that nobody kills.
        with uninterrupted():
            started = [executor.submit(_meet) for _ in range(workers)]
        for future in started:
            future.result()
        yield executor
    except BaseException:
        with _call_queue_read(executor):
            for child in set(multiprocessing.active_children()) - before:
                child.kill()
            executor.shutdown(cancel_futures=True)
        raise
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _call_queue_read(executor: ProcessPoolExecutor) -> Iterator[None]:
    """Read what a thread of the executor writes into the pipe that no worker reads any more.

    Newer Pythons break the pipe (gh-94777). Older ones wait for a reader forever.
    """
    descriptor = _reading_end(executor) if sys.version_info < _BREAKS_THE_PIPE else None
    if descriptor is None:
        yield
        return
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            if select.select([descriptor], [], [], POLL_SECONDS)[0] and not os.read(descriptor, 1 << 16):
                # Its last writer has closed it.
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        done.set()
        reader.join()
        os.close(descriptor)


def _reading_end(executor: ProcessPoolExecutor) -> int | None:
    """Return a descriptor of our own: the executor closes its own at a moment that nobody else knows."""
    try:
        return os.dup(executor._call_queue._reader.fileno())  # type: ignore[attr-defined]  # noqa: SLF001 - no public way
    except OSError:
        # The pool is broken, and its threads have ended.
        return None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Defer signals that end this process to the end of the block; processes started in it inherit the mask."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, *KILLING})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class PipeMeter:
    """Counts the bytes of all pickles between this process and its workers."""

    def __init__(self) -> None:
        self.sent_bytes = 0
        self.received_bytes = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count while the block runs: multiprocessing looks up these two functions for each message."""
        dumps, loads = ForkingPickler.dumps, ForkingPickler.loads

        def counted_dumps(message: object, protocol: int | None = None) -> memoryview:
            pickled: memoryview = dumps(message, protocol)
            self.sent_bytes += len(pickled)
            return pickled

        def counted_loads(pickled: bytes | memoryview) -> Any:
            self.received_bytes += len(pickled)
            return loads(pickled)

        with _replaced("dumps", counted_dumps), _replaced("loads", counted_loads):
            yield


@contextmanager
def _replaced(name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = ForkingPickler.__dict__[name]
    setattr(ForkingPickler, name, staticmethod(function))
    try:
        yield
    finally:
        setattr(ForkingPickler, name, before)
