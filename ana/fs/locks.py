"""Locks that only save work: correctness never depends on them. A caller without a lock continues, or tries later.

On shared filesystems a lock may be unsupported (ENOSYS), refused (ENOLCK, EIO), ineffective (nolock, localflock), or
hang with its server. So it is acquired in a thread that can be abandoned, always with a timeout; on a local disk,
where nothing hangs, without the thread. A holder that dies or forks blocks nobody for longer than that.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ana.errors import LockTimeoutError, StoreError, UntrustedStoreError
from ana.fs import atomic, files, json_files
from ana.fs.permissions import FREE, Access, open_regular
from ana.runtime import threads
from ana.runtime.counters import Counters

__all__ = ["exclusive", "saving_work"]

_ASKED_TIMES = 200
"""The most attempts to acquire a lock (on average) before giving up."""

_log = logging.getLogger("ana.locks")


class _Attempt:
    """One attempt to acquire a lock, in a thread of its own; a lock acquired too late is released at once."""

    may_hang = True
    """Whether a server may never answer. If not, the thread is spared."""

    def __init__(self, path: str, timeout_seconds: float, access: Access, prepare: Callable[[], object] | None) -> None:
        self.path = path
        self.timeout_seconds = timeout_seconds
        self.access = access
        self.prepare = prepare
        self.problem = ""
        self.timed_out = False
        self.waited = False
        self.error: Exception | None = None
        self._until = 0.0
        self._answered = threading.Event()
        self._guard = threading.Lock()
        self._given_up = False
        self._lock: Any = None
        self._thread = threading.Thread(target=self._acquire, name="ana-lock", daemon=True)

    def acquire(self) -> bool:
        """Return whether the lock was acquired in time."""
        self._until = time.monotonic() + self.timeout_seconds
        if not (self.may_hang and threads.start(self._thread)):
            # Without a thread to abandon: if a lock server is away, the next operation would hang as well.
            self._acquire()
            return self._lock is not None
        # The lock's own timeout ends the wait; the extra second is for a server that does not answer at all.
        self._answered.wait(self.timeout_seconds + 1.0)
        with self._guard:
            self._given_up = self._lock is None
        if self._answered.is_set():
            self._thread.join()
        elif not self.problem:
            self.timed_out = True
            self.problem = "the lock server does not answer"
        return self._lock is not None

    def release(self) -> None:
        """Release the lock. The operating system cleans up if that fails."""
        with suppress(OSError):
            self._lock.release()

    def _acquire(self) -> None:
        try:
            lock = self._lock_file()
        except Exception as error:  # noqa: BLE001 - an import may raise anything at interpreter shutdown
            # TimeoutError is an OSError: the holder keeps the lock longer than we are willing to wait.
            self.timed_out = isinstance(error, TimeoutError)
            self.error = error
            self.problem = f"{type(error).__name__}: {error}"
        else:
            with self._guard:
                if self._given_up:
                    lock.release()
                else:
                    self._lock = lock
        finally:
            self._answered.set()

    def _lock_file(self) -> Any:
        if self.prepare is not None:
            self.prepare()
        else:
            atomic.make_folders(os.path.dirname(self.path), self.access)
        lock = _file_lock(self.path, self.access, self.timeout_seconds)
        try:
            lock.acquire(timeout=0)
        except TimeoutError:
            self.waited = True
            # What came before counts: on a busy machine the import and the folder may take seconds, and a holder is not
            # to be taken for a server that does not answer.
            lock.acquire(timeout=max(0.0, self._until - time.monotonic()))
        return lock


@contextmanager
def saving_work(
    path: str,
    timeout_seconds: float,
    counters: Counters,
    access: Access = FREE,
    prepare: Callable[[], object] | None = None,
    *,
    may_hang: bool = True,
) -> Iterator[bool]:
    """Hold the lock file `path` for a `with` block, if possible within `timeout_seconds`; yield whether it is held.

    Never raises because of the lock. Waits and timeouts are counted.

    Args:
        path: The lock file, created if missing.
        timeout_seconds: The longest wait.
        counters: The store's counters.
        access: The lock file's mode and group.
        prepare: Makes the lock file's folder.
        may_hang: Whether the filesystem's server may never answer. A local disk answers, and needs no thread.
    """
    attempt = _Attempt(path, timeout_seconds, access, prepare)
    attempt.may_hang = may_hang
    began = time.perf_counter()
    held = attempt.acquire()
    seconds = time.perf_counter() - began
    if attempt.waited or attempt.timed_out:
        counters.note_wait(seconds)
    if not held:
        _tell(attempt, counters, seconds)
    try:
        yield held
    finally:
        if held:
            attempt.release()


def _tell(attempt: _Attempt, counters: Counters, seconds: float) -> None:
    """Log that there is no lock: a warning after a timeout, otherwise INFO, as some filesystems have no locks."""
    level, event = logging.INFO, "no lock"
    if attempt.timed_out:
        counters.lock_timeouts += 1
        level, event = logging.WARNING, "lock timeout"
    fields = {"event": event, "path": attempt.path, "store": counters.home, "seconds": seconds}
    _log.log(level, "going on without the lock %s: %s", attempt.path, attempt.problem, extra=fields)


@contextmanager
def exclusive(
    path: str, timeout_seconds: float, access: Access = FREE, prepare: Callable[[], object] | None = None
) -> Iterator[bool]:
    """Hold the lock file `path` for a `with` block, with the holder's name beside it; yield whether it is held.

    If locks do not work, or no file can be written, continues without a lock.

    Raises:
        LockTimeoutError: Another process holds the lock for longer than `timeout_seconds`; the error names it.
    """
    attempt = _Attempt(path, timeout_seconds, access, prepare)
    held = attempt.acquire()
    if not held:
        if isinstance(attempt.error, TimeoutError):
            raise LockTimeoutError(path, timeout_seconds, _holder(path))
        _log.warning("going on without the lock %s: %s", path, attempt.problem)
    try:
        signed = held and _sign(path, access)
        yield held
    finally:
        if signed:
            with suppress(OSError):
                os.unlink(f"{path}.holder")
        if held:
            attempt.release()


def _sign(path: str, access: Access) -> bool:
    """Write the holder's name, for people who wait; return False if that fails."""
    host, pid, since = os.uname().nodename, os.getpid(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    try:
        atomic.replace(f"{path}.holder", json.dumps({"host": host, "pid": pid, "since": since}).encode(), access=access)
    except (StoreError, UntrustedStoreError):
        return False
    return True


def _holder(path: str) -> str:
    """Return the holder's name, if it was written."""
    try:
        fields = json_files.parse(files.read_whole(f"{path}.holder", 4096) or b"")
        return f"host {fields['host']}, pid {fields['pid']}, since {fields['since']}"
    except (ValueError, KeyError, TypeError, StoreError, UntrustedStoreError):
        return "another process"


def _file_lock(path: str, access: Access, timeout_seconds: float) -> Any:
    from filelock import FileLock  # noqa: PLC0415 - takes 40 ms, and its audit hook slows every later unpickling

    # Created here, not by filelock, so that it gets the store's mode: a group's members share it.
    os.close(open_regular(path, access, os.O_RDWR))
    # No soft locks: they survive their holder. Not thread-local: another thread releases the lock.
    # A random, long interval: with 64 writers on NFS, each poll costs the server five replies.
    poll = files.jitter(timeout_seconds / _ASKED_TIMES)
    return FileLock(path, thread_local=False, fallback_to_soft=False, poll_interval=poll)
