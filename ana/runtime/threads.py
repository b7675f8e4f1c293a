"""Threads for one piece of work: started for it, and ended with it.

There is no pool. Starting a thread takes about 50 µs. A thread that does not exist cannot hang in a forked child,
delay interpreter shutdown, or keep a CPU that a batch system has taken away.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from ana import settings
from ana.runtime import cgroups

__all__ = ["WAITING", "GaveUp", "available", "can_start", "run", "start"]

Item = TypeVar("Item")


WAITING = 32
"""How many threads to use for work that waits for a server or a disk: they compute little, whatever the CPUs.

One number does for every network: from 16 threads on, they wait for the interpreter's lock. Measured on NFS with
states of 1 kB: if an answer takes 20 ms, `store_many` takes 55 ms a state with 4 threads, 31 with 8, 22 with 16, 19
with 32 and 22 with 64, and `load_many` 36, 18, 14, 11 and 8. If an answer takes 2 ms or less, the numbers from 16 on
differ by no more than two measurements with the same number.
"""


class GaveUp(Exception):  # noqa: N818 - another item's error is the reason
    """An item's work waited for another item's, which failed."""


def available() -> int:
    """Return how many threads can run at once: this process's CPUs, within its cgroup's quota and `ANA_THREADS`.

    The CPUs are read each time (about 2 µs), because jobs and engines bind running processes to CPUs. The quota is read
    once.

    Raises:
        ANAError: `ANA_THREADS` is not a whole number of at least 1.
    """
    count = min(len(os.sched_getaffinity(0)), cgroups.cpus())
    most = settings.THREADS.value()
    return count if most is None else min(count, most)


def start(thread: threading.Thread) -> bool:
    """Start a thread; return False if none can be started (ulimit -u, a cgroup's pids.max, shutdown)."""
    # At interpreter shutdown a new thread may never run, and `Thread.start` waits until it does.
    if sys.is_finalizing():
        return False
    try:
        thread.start()
    except (RuntimeError, MemoryError):
        return False
    return True


def can_start() -> bool:
    """Return whether a thread can be started now, for libraries that fail if they cannot start theirs."""
    thread = threading.Thread(target=int, name="ana-probe", daemon=True)
    if not start(thread):
        return False
    thread.join()
    return True


def run(
    work: Callable[[Item], object],
    items: Sequence[Item],
    threads: int,
    *,
    give_up: Callable[[], object] = lambda: None,
) -> None:
    """Call `work` with each item, on up to `threads` threads including the caller's, and return when all are done.

    Items are taken in order. After an exception no further item is started, and the exception of the earliest failed
    item is raised. If no further thread can be started, the existing ones do all the work.

    Args:
        work: called with one item; may run on any of the threads.
        items: the items, in order.
        threads: the most threads to use.
        give_up: called after an exception; it must wake threads whose work waits for another item's, to raise `GaveUp`.
    """
    if threads <= 1 or len(items) <= 1:
        for item in items:
            work(item)
        return
    _WorkerGroup(work, items, give_up).run(min(threads, len(items)))


class _WorkerGroup:
    """The threads of one `run`, and their remaining items."""

    def __init__(self, work: Callable[[Item], object], items: Sequence[Item], give_up: Callable[[], object]) -> None:
        self.give_up = give_up
        self.work: Callable[..., object] = work
        self.items = items
        # next() is atomic, so threads can share it without a lock.
        self.numbers = itertools.count()
        self.failures: dict[int, BaseException] = {}
        self.stopped = False
        # Appending is atomic, too. A thread that begins after `stopped` was set does nothing.
        self.begun: list[bool] = []
        self.ended: list[bool] = []

    def run(self, threads: int) -> None:
        others = [threading.Thread(target=self._help, name="ana-worker", daemon=True) for _ in range(threads - 1)]
        started: list[threading.Thread] = []
        try:
            self._work_with(others, started)
        except BaseException:
            # Raised by a signal handler, not by an item: no thread may start another item.
            self._stop()
            self._see_all_end(started)
            raise
        if self.failures:
            raise min(self.failures.items(), key=lambda item: (isinstance(item[1], GaveUp), item[0]))[1]

    def _work_with(self, others: list[threading.Thread], started: list[threading.Thread]) -> None:
        # Not in the `try` block itself: on Python 3.13, what a signal handler raises at the end of a loop's body may
        # miss the block that the loop is in.
        for thread in others:
            started.append(thread)
            if not start(thread):
                started.pop()
                break
        self.take_part()
        for thread in started:
            thread.join()

    def _help(self) -> None:
        self.begun.append(True)
        try:
            self.take_part()
        finally:
            self.ended.append(True)

    def _see_all_end(self, started: list[threading.Thread]) -> None:
        """Wait for running threads, whatever else signal handlers raise: the threads write into files and memory.

        join() alone is not enough: on Python 3.11 an interrupted join() considers the thread ended from then on.
        """
        try:
            self._sleep_until_all_end(started)
        except BaseException:
            self._see_all_end(started)
            raise

    def _sleep_until_all_end(self, started: list[threading.Thread]) -> None:
        while len(self.ended) < len(self.begun) or any(thread.is_alive() for thread in started):
            time.sleep(0.001)

    def take_part(self) -> None:
        for number in self.numbers:
            if self.stopped or number >= len(self.items):
                return
            try:
                self.work(self.items[number])
            except BaseException as error:  # noqa: BLE001 - raised again by `run`, in the caller's thread
                self.failures[number] = error
                self._stop()
                return

    def _stop(self) -> None:
        self.stopped = True
        self.give_up()
