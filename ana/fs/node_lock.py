"""A lock between a node's processes: one does a piece of work, and the others wait and find it done.

Uses flock(2) on a local disk, where it is reliable and ends with its holder. The lock only saves work: a process that
waits too long removes the file from under its holder (which may be stopped), and continues.
"""

import fcntl
import io
import logging
import os
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, Self, TypeVar

from ana.fs import files

__all__ = ["NodeLock", "is_free", "unlock", "watch"]

Result = TypeVar("Result")

_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.05
_log = logging.getLogger("ana.turns")
_watched: "weakref.WeakValueDictionary[int, io.FileIO]" = weakref.WeakValueDictionary()
"""Files to close in a forked child, which would otherwise hold the locks of its parent's threads."""


class NodeLock(Generic[Result]):
    """Context manager that waits until the work is done (`found`), this process holds the lock (`held`), or time is up.

    `ready` returns the result of the work, or None. The wait is `seconds` for each holder of the lock, and twice that
    in all. Raises what `ready` raises, and nothing because of the lock. Works between threads, too.
    """

    def __init__(self, path: str, ready: Callable[[], Result | None], seconds: float) -> None:
        self.found: Result | None = None
        self.waited: bool = False
        self._path = path
        self._ready = ready
        self._seconds = seconds
        # A FileIO object closes itself, wherever a signal handler raises.
        self._file: io.FileIO | None = None

    @property
    def held(self) -> bool:
        """Whether this process holds the lock."""
        return self._file is not None

    def __enter__(self) -> Self:
        try:
            self._wait()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def _wait(self) -> None:
        begin = since = time.monotonic()
        holder: tuple[int, int] | None = None
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                met = self._try()
            except OSError as error:
                _log.info("no lock %s: %s", self._path, str(error))
                return
            # Also after acquiring the lock: the work may have been done since the last look.
            self.found = self._ready()
            if self.held or self.found is not None:
                return
            self.waited = True
            now = time.monotonic()
            if met != holder:
                holder, since = met, now
            elif holder is not None and now - since > self._seconds:
                self._break(holder)
            if now - begin > 2 * self._seconds:
                return
            time.sleep(files.jitter(pause))
            pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)

    def _try(self) -> tuple[int, int] | None:
        """Try the lock once; return the identity of the file if another process holds it."""
        file = io.FileIO(self._path, "a")
        watch(file)
        try:
            mine = _identity(os.fstat(file.fileno()))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder unlinks the file: ours must be the one that the next process will open.
            if _identity(os.stat(self._path, follow_symlinks=False)) == mine:
                self._file = file
        except BlockingIOError:
            return mine
        except FileNotFoundError:
            return None
        finally:
            if self._file is not file:
                unlock(file)
        return None

    def _break(self, holder: tuple[int, int]) -> None:
        """Remove the file from under a holder that is stopped or too slow."""
        with suppress(OSError):
            if _identity(os.stat(self._path, follow_symlinks=False)) == holder:
                os.unlink(self._path)
                _log.warning("%s was held for more than %g s: going on without its holder", self._path, self._seconds)

    def _release(self) -> None:
        file = self._file
        if file is None:
            return
        try:
            with suppress(OSError):
                # Unlink before unlocking, so that the next holder notices that its file has no name.
                if _identity(os.stat(self._path, follow_symlinks=False)) == _identity(os.fstat(file.fileno())):
                    os.unlink(self._path)
        finally:
            unlock(file)
            self._file = None


def watch(file: io.FileIO) -> None:
    """Close a file in forked children."""
    _watched[id(file)] = file


def unlock(file: io.FileIO) -> None:
    """Unlock and close a file."""
    try:
        # Closing alone does not unlock: a child forked in the meantime has the file open, too.
        fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:
        pass
    finally:
        file.close()


def is_free(path: str) -> bool:
    """Return whether nobody holds a file's lock, because its maker has ended. False if that is unknown."""
    try:
        descriptor = os.open(path, files.READ)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _close_in_child() -> None:
    """Close without unlocking: the lock is the parent's."""
    for file in list(_watched.values()):
        with suppress(OSError):
            file.close()


os.register_at_fork(after_in_child=_close_in_child)
