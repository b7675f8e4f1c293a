"""Whose turn it is: of a node's processes that want the same thing done, one does it and the others find it done.

By flock(2) on a file on a local disk, where it is reliable; it dies with its holder. Still a lock here only
saves work: whoever waits too long takes the file away from its holder (who may be stopped), and goes on.
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
"""Files that a forked child has no use for: with them it would hold the locks of its parent's threads."""


class NodeLock(Generic[Result]):
    """Context manager: waits until the thing is done (`found`), or it is this process's turn (`held`), or too long.

    `ready` returns what others have done, or None. The wait is `seconds` for each holder of the lock, and twice that
    in all. Raises what `ready` raises; never for the lock's sake. Between threads as between processes.
    """

    def __init__(self, path: str, ready: Callable[[], Result | None], seconds: float) -> None:
        self.found: Result | None = None
        self.waited = False
        self._path = path
        self._ready = ready
        self._seconds = seconds
        # An object of its own closes itself, whatever a signal handler raises and wherever.
        self._file: io.FileIO | None = None

    @property
    def held(self) -> bool:
        """Whether it is this process's turn."""
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
                _log.info("no turn by %s: %s", self._path, str(error))
                return
            # Also when it is our turn: it may have been done since we looked last.
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
        """Ask for the lock once; return which file it is that another one holds."""
        file = io.FileIO(self._path, "a")
        watch(file)
        try:
            mine = _identity(os.fstat(file.fileno()))
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder takes the file away: what we have must be what the next one will ask for.
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
        """Take the file away from a holder who is stopped, or slower than anyone should be."""
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
                # First, so that whoever gets the lock next finds that it is not the path's any more.
                if _identity(os.stat(self._path, follow_symlinks=False)) == _identity(os.fstat(file.fileno())):
                    os.unlink(self._path)
        finally:
            unlock(file)
            self._file = None


def watch(file: io.FileIO) -> None:
    """Have a file closed in a forked child."""
    _watched[id(file)] = file


def unlock(file: io.FileIO) -> None:
    """Unlock and close a file."""
    try:
        # Not by closing alone: a child that was forked meanwhile has it open, too.
        fcntl.flock(file, fcntl.LOCK_UN)
    except OSError:
        pass
    finally:
        file.close()


def is_free(path: str) -> bool:
    """Say whether nobody holds the lock of a file: who made it has ended. False where that cannot be told."""
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
