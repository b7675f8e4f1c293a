"""System calls on a store's files: look up, read, list, remove. Independent of their content.

System errors become `StoreError` with the path and a cure. This module and `ana.fs.atomic` handle the pitfalls of NFS
(cached misses, stale handles): see `docs/reliability.md`. Safe to use from many threads and processes.
"""

import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from stat import S_ISREG
from typing import NamedTuple, Self

from ana.errors import StoreError, UntrustedStoreError

__all__ = [
    "Entry",
    "Opened",
    "Status",
    "list_folder",
    "open_file",
    "open_whole",
    "read_start",
    "read_whole",
    "remove",
    "reported",
    "revalidate",
    "stat",
    "status_of",
    "touch",
]

TEMPORARY = ".tmp-"
BAD = ".bad-"
TRASH = ".trash-"
GONE = ".gone-"
"""Prefixes of names in a shard folder that are not states: being written, damaged, collected, being deleted."""
IOV_MAX = 1024
"""Linux's limit of buffers per pwritev or preadv."""
STALE_TRIES = 3
HEAD_BYTES = 16 << 10
"""How much of a large file is read when it is opened: enough for the header of a state of 1.3 GB."""

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""Flags to open a file that anyone may have put there: no link is followed, and a FIFO does not block."""
READ_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags to open a folder; no link is followed."""

_FORBIDDEN = (
    "check owner and mode (ls -ld); a group shares a store that `ana init --shared` or shared=True made (mode 2770)"
)
_HINTS = {
    errno.ENOSPC: "the filesystem is full: free space or inodes there (df -h, df -i), or use another pickle_dir",
    errno.EDQUOT: "your quota is used up (quota -s): free space or inodes there, or use another pickle_dir",
    errno.EROFS: "it is mounted read-only here: loading works, storing does not; store from where it is writable",
    errno.EACCES: _FORBIDDEN,
    errno.EPERM: _FORBIDDEN,
    errno.EIO: "the disk or the file server failed; the data was not checked: try again, then ask its administrator",
    errno.EMFILE: "this process has too many open files (ulimit -n)",
    errno.ENFILE: "this host has too many open files",
    errno.ENOTDIR: "a store is a folder, but this (or a part of its path) is not",
    errno.ENOENT: "the folder does not exist: check the path, and that its filesystem is mounted on this host",
    errno.ESTALE: "the file server keeps replacing it: try again",
    errno.ENAMETOOLONG: "the path is too long for this filesystem: use a shorter pickle_dir",
}

_FOREIGN = {
    errno.ELOOP: "it is, or its path contains, a symbolic link; a store must not contain links",
    errno.ENXIO: "it is not a regular file",
}

_host = os.uname().nodename[:64]


class Status(NamedTuple):
    """The result of one stat: size in bytes, modification time in s since 1970, (device, inode)."""

    size_bytes: int
    modified: float
    identity: tuple[int, int]
    stat: os.stat_result
    """The complete result of stat."""

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return S_ISREG(self.stat.st_mode)


class Entry(NamedTuple):
    """A name in a folder, and its kind: folder, file, symlink or special."""

    name: str
    kind: str


Check = Callable[[str, os.stat_result], None]
"""Raises if a file is not to be trusted."""


class reported:  # noqa: N801 - used as a function; a generator would cost more than the calls that it guards
    """Context manager that turns system errors on `path` into StoreError."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path: str = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, StoreError | BrokenPipeError):
            return
        code = error.errno or errno.EIO
        if code in _FOREIGN:
            raise UntrustedStoreError(self.path, _FOREIGN[code]) from error
        raise StoreError(self.path, code, _HINTS.get(code, "")) from error


def stat(path: str, *, follow: bool = False) -> Status | None:
    """Return a file's status, or None if it does not exist. One round trip on NFS. Raises StoreError."""
    with reported(path):
        try:
            found = os.stat(path, follow_symlinks=follow)
        except FileNotFoundError:
            return None
    return Status(found.st_size, found.st_mtime, (found.st_dev, found.st_ino), found)


def status_of(path: str) -> os.stat_result | None:
    """Return the complete result of stat, or None if the file does not exist. Raises StoreError."""
    try:
        return os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError:
        with reported(path):
            raise


class Opened:
    """A regular file, open for reading. Do not close it while another thread reads."""

    def __init__(self, path: str, descriptor: int, size_bytes: int, status: os.stat_result, start: bytearray) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.modified: float = status.st_mtime
        self.uid: int = status.st_uid
        self.start = start
        """The file's first bytes, read by `open_file`."""
        self._descriptor = descriptor

    def read(self, offset: int, targets: Sequence[memoryview]) -> None:
        """Fill the targets from `offset` on. Callers have checked the file's size before."""
        with reported(self.path):
            _fill(self._descriptor, targets, offset)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            # Nothing was written, so an error here does not affect what was read.
            with suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if self._descriptor >= 0:
            self.close()


def open_file(path: str, start_bytes: int = 0, check: Check | None = None) -> Opened | None:
    """Open a regular file for reading, or return None if it does not exist.

    Never follows a symlink and never blocks: a FIFO is refused.

    Args:
        path: The file's path.
        start_bytes: A file of up to this size is read at once and closed. Of a larger one `HEAD_BYTES` are read.
        check: Called with the path and the result of fstat before the file is read; raises to refuse the file.

    Raises:
        StoreError: The system refused.
        UntrustedStoreError: It is not a regular file, or `check` refused it.
    """
    with reported(path):
        try:
            descriptor = os.open(path, READ)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(descriptor)
            regular = S_ISREG(found.st_mode)
            if check is not None:
                check(path, found)
            size = found.st_size if found.st_size <= start_bytes else min(start_bytes, HEAD_BYTES)
            start = _read_start(descriptor, size) if size and regular else bytearray()
        except BaseException:
            os.close(descriptor)
            raise
    opened = Opened(path, descriptor, found.st_size, found, start)
    if found.st_size <= start_bytes or not regular:
        opened.close()
    if not regular:
        raise UntrustedStoreError(path, "it is not a regular file")
    return opened


@contextmanager
def leaving_times() -> Iterator[None]:
    """Have this process open files so that reading them does not change the time of their last use (`O_NOATIME`).

    Files of other users cannot be opened meanwhile. NFS and other servers that note reads themselves ignore it.
    """
    global READ  # noqa: PLW0603 - of the process: whatever is opened meanwhile
    before = READ
    READ |= os.O_NOATIME
    try:
        yield
    finally:
        READ = before


def read_start(path: str, start_bytes: int, check: Check) -> tuple[bytes, os.stat_result] | None:
    """Return the first bytes of a regular file, and its status; None if it does not exist.

    In two thirds of the time of `open_file`, for walks over many files. Raises as `open_file`.
    """
    with reported(path):
        try:
            descriptor = os.open(path, READ)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(descriptor)
            check(path, found)
            return os.read(descriptor, start_bytes), found
        finally:
            os.close(descriptor)


def _read_start(descriptor: int, size: int) -> bytearray:
    start = bytearray(size)
    if size and os.preadv(descriptor, [start], 0) != size:
        _fill(descriptor, [memoryview(start)], 0)
    return start


def _fill(descriptor: int, targets: Sequence[memoryview], offset: int) -> None:
    """Read until all targets are full, repeating short reads."""
    left = sum(map(len, targets))
    while left:
        got = os.preadv(descriptor, targets[:IOV_MAX], offset)
        if got == 0:
            # Truncated after it was opened: treated like a replaced file.
            raise OSError(errno.ESTALE, "file became shorter")
        left -= got
        offset += got
        if left:
            targets = advance(targets, got)


def read_whole(path: str, limit_bytes: int, check: Check | None = None) -> bytes | None:
    """Return a small file's content, or None if it does not exist. Raises StoreError, also if it is larger."""
    opened = open_whole(path, limit_bytes, check)
    return None if opened is None else bytes(opened.start)


def open_whole(path: str, limit_bytes: int, check: Check | None = None) -> Opened | None:
    """As `read_whole`, but return the file, which is closed: its content is `start`, and its time of change known."""
    for number in range(STALE_TRIES):
        try:
            opened = open_file(path, limit_bytes, check)
            break
        except StoreError as error:
            if not is_stale(error) or number == STALE_TRIES - 1:
                raise
            # Another NFS client has just replaced it.
            revalidate([os.path.dirname(path)])
    if opened is None:
        return None
    with opened:
        if opened.size_bytes > limit_bytes:
            raise StoreError(path, errno.EFBIG, f"expected at most {limit_bytes} bytes")
    return opened


def revalidate(folders: Sequence[str], pause_seconds: float = 0.0) -> bool:
    """Make an NFS client discard its cached names; return whether the innermost folder exists.

    A client caches for up to a minute that a name did not exist, or which file it was. Opening a folder revalidates it
    (stat does not, on NFSv3). Opening the innermost folder is enough if it exists. If not, the cached miss may be one
    of the folders above, so they are opened from the outermost on. After a pause the innermost folder is also listed.
    NFSv3 detects a changed folder by its mtime, so a name linked in the same tick of the server's clock as the last
    look-up would stay invisible. A listing replaces all cached names.
    """
    if pause_seconds:
        time.sleep(pause_seconds)
    there = _touch_folder(folders[-1])
    if not there:
        for folder in folders:
            if not _touch_folder(folder):
                break
    if pause_seconds:
        _list_innermost(folders)
    return there


def jitter(seconds: float) -> float:
    """Return a random time from 0.5 to 1.5 times `seconds`."""
    # Not with `random`: importing it takes longer than a load, and forked children would all wait equally long.
    return seconds * (0.5 + int.from_bytes(os.urandom(4)) / 2**32)


def _list_innermost(folders: Sequence[str]) -> None:
    for folder in reversed(folders):
        try:
            os.listdir(folder)
        except OSError:
            continue
        return


def _touch_folder(folder: str) -> bool:
    try:
        descriptor = os.open(folder, READ_FOLDER)
    except OSError:
        return False
    with suppress(OSError):
        os.close(descriptor)
    return True


def remove(path: str) -> None:
    """Remove a file, if it exists. Raises StoreError."""
    with reported(path), suppress(FileNotFoundError):
        os.unlink(path)


def set_modified(path: str, seconds: float) -> None:
    """Set a file's time of last change, in s since 1970. Raises StoreError."""
    with reported(path):
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def touch(path: str) -> bool:
    """Set a file's time of last change to now, by the server's clock; return False if it is gone. Raises StoreError."""
    with reported(path):
        try:
            os.utime(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
    return True


def list_folder(path: str) -> list[Entry]:
    """List a folder. Raises StoreError."""
    with reported(path), os.scandir(path) as entries:
        return [Entry(entry.name, _kind(entry)) for entry in entries]


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_file(follow_symlinks=False):
        return "file"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "symlink" if entry.is_symlink() else "special"


def now_ns() -> int:
    """Return this host's clock in ns since 1970."""
    return time.time_ns()


def process_name() -> str:
    """Return this host and process as text for people."""
    return f"{_host}, pid {os.getpid()}"


def is_missing(error: StoreError) -> bool:
    """Return whether an error means that something does not exist."""
    return error.errno == errno.ENOENT


def is_stale(error: StoreError) -> bool:
    """Return whether an error means that the file was replaced while open; opening it again helps."""
    return error.errno == errno.ESTALE


def advance(pending: Sequence[memoryview], done: int) -> list[memoryview]:
    """Return the rest of `pending` after its first `done` bytes."""
    for index, view in enumerate(pending):
        if done < len(view):
            return [view[done:], *pending[index + 1 :]]
        done -= len(view)
    return []


def temporary_name(folder: str) -> str:
    """Return a path for a temporary file, unique by host, process and a random number."""
    return f"{folder}/{TEMPORARY}{_host}-{os.getpid()}-{os.urandom(8).hex()}"
