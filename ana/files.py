"""Every system call on a store's files: publish, read, look up, list. Knows nothing of what they hold.

Errors of the system become `StoreError` with the path and a cure. What NFS does to the unwary is met
here, see `docs/reliability.md`: remembered misses, stale handles, lost replies, errors at close.
Safe to use from many threads and processes; nothing here keeps state but the host's name and the
filesystem types that were looked up.
"""

import errno
import logging
import os
import random
import socket
import stat
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, Self

from ana.errors import StoreError, UntrustedStoreError

__all__ = ["Entry", "Opened", "Status", "is_network", "look", "make_folder", "open_file", "publish", "set_aside"]

TEMPORARY = ".tmp-"
BAD = ".bad-"
TRASH = ".trash-"
IOV_MAX = 1024
"""Linux's limit of buffers in one gathering write or scattering read."""
STALE_TRIES = 3

_NETWORK = frozenset(
    [
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "9p",
        "afs",
        "panfs",
        "pvfs2",
        "orangefs",
        "wekafs",
        "glusterfs",
    ]
)
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
_HINTS = {
    errno.ENOSPC: "the filesystem is full: free space or inodes there (df -h, df -i), or use another pickle_dir",
    errno.EDQUOT: "your quota is used up (quota -s): free space or inodes there, or use another pickle_dir",
    errno.EROFS: "it is mounted read-only here: loading works, storing does not; store from where it is writable",
    errno.EACCES: "check owner and mode (ls -ld), and that your group may write to a shared store",
    errno.EPERM: "check owner and mode (ls -ld), and that your group may write to a shared store",
    errno.EIO: "the disk or the file server has a fault; nothing is known of the data: try again, then ask its admin",
    errno.EMFILE: "this process has too many open files (ulimit -n)",
    errno.ENFILE: "this host has too many open files",
    errno.ENOTDIR: "a store is a folder, and this (or a part of its path) is not",
    errno.ENOENT: "the folder is not there: check the path, and that its filesystem is mounted on this host",
    errno.ESTALE: "the file server keeps replacing it: try again",
    errno.ENAMETOOLONG: "the path is too long for this filesystem: use a shorter pickle_dir",
}

_FOREIGN = {
    errno.ELOOP: "it is (or lies behind) a symbolic link, and a store holds none",
    errno.ENXIO: "it is not a regular file",
}

_random = random.SystemRandom()
_host = socket.gethostname()
_types: dict[int, str] = {}
_noted: set[str] = set()
_log = logging.getLogger("ana.files")


class Status(NamedTuple):
    """What one look-up tells of a file: size in bytes, time of last change in s since 1970, device and inode."""

    size_bytes: int
    modified: float
    is_file: bool
    identity: tuple[int, int]


class Entry(NamedTuple):
    """A name in a folder, and whether it is itself a folder, a regular file, or something else."""

    name: str
    kind: str


class reported:  # noqa: N801 - used as a function; a generator would cost more than the calls that it guards
    """Context manager: turn the system's errors on `path` into StoreError."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, OSError) or isinstance(error, StoreError):
            return
        code = error.errno or errno.EIO
        if code in _FOREIGN:
            raise UntrustedStoreError(self.path, _FOREIGN[code]) from error
        raise StoreError(self.path, code, _HINTS.get(code, "")) from error


def look(path: str) -> Status | None:
    """Look a file up, once; None if there is none. One round trip on NFS. Raises StoreError."""
    with reported(path):
        try:
            found = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return None
    return Status(found.st_size, found.st_mtime, stat.S_ISREG(found.st_mode), (found.st_dev, found.st_ino))


class Opened:
    """A regular file that is open for reading. Not to be shared between threads while it is being closed."""

    def __init__(self, path: str, descriptor: int, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._descriptor = descriptor

    def read(self, offset: int, targets: Sequence[memoryview]) -> None:
        """Fill the targets from `offset` on. A file that ends too early is reported as EIO by size checks before."""
        pending = [target for target in targets if len(target)]
        with reported(self.path):
            while pending:
                got = os.preadv(self._descriptor, pending[:IOV_MAX], offset)
                if got == 0:
                    # Truncated since it was opened: as if it had never been whole.
                    raise OSError(errno.ESTALE, "file became shorter")
                offset += got
                pending = _advance(pending, got)

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            # Nothing was written: an error here says nothing about what was read.
            with suppress(OSError):
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def open_file(path: str) -> Opened | None:
    """Open a regular file for reading, or return None if there is none.

    Never follows a symlink and never waits (a FIFO in its place is refused, not opened for ever).
    Raises StoreError, UntrustedStoreError.
    """
    with reported(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            found = os.fstat(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
    opened = Opened(path, descriptor, found.st_size)
    if not stat.S_ISREG(found.st_mode):
        opened.close()
        raise UntrustedStoreError(path, "it is not a regular file")
    return opened


def read_whole(path: str, limit_bytes: int) -> bytes | None:
    """Return the content of a small file, or None if there is none. Raises StoreError, also if it is larger."""
    opened = open_file(path)
    if opened is None:
        return None
    with opened:
        if opened.size_bytes > limit_bytes:
            raise StoreError(path, errno.EFBIG, f"expected at most {limit_bytes} bytes")
        data = bytearray(opened.size_bytes)
        opened.read(0, [memoryview(data)])
    return bytes(data)


def look_anew(folders: Sequence[str], pause_seconds: float = 0.0) -> None:
    """Make an NFS client look again: for up to a minute it remembers that a name was not there, or what it was.

    Opening a folder revalidates it (stat does not on NFSv3). The innermost will do where it is known; else the
    miss may be one of the folders above, outermost first. After a pause the innermost one is listed, too: NFSv3
    tells by its mtime whether a folder has changed, and what was linked in the same tick of the server's clock
    as the last look would stay unseen. A listing replaces all that the client remembers of the names.
    """
    if pause_seconds:
        time.sleep(pause_seconds)
    if not _touch_folder(folders[-1]):
        for folder in folders:
            if not _touch_folder(folder):
                break
    if pause_seconds:
        _list_innermost(folders)


def jitter(seconds: float) -> float:
    """Return a time of half to one and a half of `seconds`."""
    return seconds * (0.5 + _random.random())


def _list_innermost(folders: Sequence[str]) -> None:
    for folder in reversed(folders):
        try:
            os.listdir(folder)
        except OSError:
            continue
        return


def _touch_folder(folder: str) -> bool:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    os.close(descriptor)
    return True


def publish(
    folder: str,
    name: str,
    parts: Sequence[memoryview | bytes],
    *,
    durable: bool,
    make_folders: Callable[[], None],
) -> bool:
    """Make a file of `parts` appear under `name`, whole or not at all; False if there is one already.

    Written under a temporary name, (durable: fsynced,) checked, then linked: link is
    first-writer-wins on every filesystem, and needs no lock. `make_folders` is called when the
    folder turns out not to be there. Raises StoreError; no temporary file is left then.
    """
    path = f"{folder}/{name}"
    # Unique by host, pid and chance: then O_EXCL is not needed, which costs two round trips on NFSv4.
    temporary = _temporary_name(folder)
    with reported(path):
        # The file may be there before its descriptor is: a signal handler may raise in between.
        try:
            descriptor = _create(temporary, make_folders)
            identity = _write(descriptor, temporary, parts, durable=durable)
            fresh = _link(temporary, path, identity)
        finally:
            # Also gone when the rename had to do; a lost reply on NFS says ENOENT, and yet it was done.
            try:  # noqa: SIM105 - suppress() runs Python code, in which a signal handler may raise
                os.unlink(temporary)
            except OSError:
                pass
        if durable:
            _sync_folder(folder, identity[0])
    return fresh


def sync_file(path: str) -> bool:
    """Bring a file's bytes and its name to the disk, as someone else wrote it a moment ago; False if it is gone."""
    with reported(path):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_folder(os.path.dirname(path))
    return True


def sync_folder(folder: str) -> None:
    """Bring a folder's names to the disk; skipped on NFS, whose server has done it before it answered."""
    _sync_folder(folder, os.stat(folder).st_dev)


def _sync_folder(folder: str, device: int) -> None:
    # By the device of a file in it: stat of a folder that has just changed is a round trip on NFSv4.
    if _type_of(device, folder).startswith("nfs"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: str, *, durable: bool) -> None:
    """Make one folder (its parent must be there) with the umask's mode; nothing if it is there already."""
    with reported(path):
        try:
            os.mkdir(path)
        except FileExistsError:
            return
        if durable:
            sync_folder(os.path.dirname(path))


def make_folders(path: str) -> None:
    """Make a folder and what is missing above it. Raises StoreError."""
    with reported(path):
        os.makedirs(path, exist_ok=True)


def set_aside(path: str, identity: tuple[int, int]) -> str | None:
    """Rename a damaged file so that its name is free; it is kept. None if it is gone already.

    `identity` is that of the file that was found damaged: where another writer has put a whole file there in
    the meantime, that one gets its name back.
    """
    folder, name = os.path.split(path)
    aside = f"{folder}/{BAD}{_random.getrandbits(32):08x}-{name}"
    with reported(path):
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return None
        found = os.stat(aside, follow_symlinks=False)
        if (found.st_dev, found.st_ino) == identity:
            return aside
        if _link(aside, path, identity):
            os.unlink(aside)
    return None


def remove(path: str) -> None:
    """Remove a file; nothing if it is gone already. Raises StoreError."""
    with reported(path), suppress(FileNotFoundError):
        os.unlink(path)


def server_now(folder: str) -> float:
    """Return the time in s since 1970 by the clock of the filesystem's server, which may differ from this host's."""
    probe = _temporary_name(folder)
    with reported(probe):
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        try:
            os.write(descriptor, b"\n")
            os.fsync(descriptor)
            return os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            remove(probe)


def list_folder(path: str) -> list[Entry]:
    """List a folder. Raises StoreError."""
    with reported(path), os.scandir(path) as entries:
        return [Entry(entry.name, _kind(entry)) for entry in entries]


def is_network(path: str) -> bool:
    """Say whether `path` lies on a network filesystem, where another host's file may show up late."""
    kind = filesystem(path)
    return kind in _NETWORK or kind.startswith(("fuse.", "nfs"))


def filesystem(path: str) -> str:
    """Return the type of the filesystem of an existing `path` as the kernel names it ("ext4", "nfs4"), or ""."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return ""
    return _type_of(device, path)


def _type_of(device: int, path: str) -> str:
    found = _types.get(device)
    if found is None:
        found = _types[device] = _mounted_type(device, path)
    return found


def _temporary_name(folder: str) -> str:
    return f"{folder}/{TEMPORARY}{_host[:64]}-{os.getpid()}-{_random.getrandbits(64):016x}"


def _create(temporary: str, make_folders: Callable[[], None]) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(temporary, flags, 0o666)
    except FileNotFoundError:
        # A fresh shard folder costs its mkdir only here.
        make_folders()
        return os.open(temporary, flags, 0o666)


def _write(descriptor: int, temporary: str, parts: Sequence[memoryview | bytes], *, durable: bool) -> tuple[int, int]:
    """Write all, check, close; return the file's (st_dev, st_ino). Each step's error counts."""
    try:
        size = _write_all(descriptor, parts)
        if durable:
            # Full disks and quotas show up only here, or at close, on NFS and with delayed allocation.
            os.fsync(descriptor)
        found = os.fstat(descriptor)
        _check_size(temporary, found.st_size, size)
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
    os.close(descriptor)
    return found.st_dev, found.st_ino


def _check_size(path: str, found_bytes: int, written_bytes: int) -> None:
    if found_bytes != written_bytes:
        raise OSError(errno.EIO, f"{path} has {found_bytes} bytes, {written_bytes} were written")


def _write_all(descriptor: int, parts: Sequence[memoryview | bytes]) -> int:
    """Write all the parts, however short the system's writes are; return the number of bytes."""
    pending = [memoryview(part).cast("B") for part in parts if len(part)]
    total = sum(len(part) for part in pending)
    while pending:
        pending = _advance(pending, os.writev(descriptor, pending[:IOV_MAX]))
    return total


def _advance(pending: Sequence[memoryview], done: int) -> list[memoryview]:
    """Return what is left of `pending` after its first `done` bytes."""
    for index, view in enumerate(pending):
        if done < len(view):
            return [view[done:], *pending[index + 1 :]]
        done -= len(view)
    return []


def _link(temporary: str, path: str, identity: tuple[int, int]) -> bool:
    """Give the temporary file its name; True if the name is ours now, False if it was taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        return _is_ours(path, identity)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        return _rename(temporary, path, error)
    return True


def _is_ours(path: str, identity: tuple[int, int]) -> bool:
    """Say whether the name is our own file: the server may have linked it and its reply got lost (NFSv3)."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == identity


def _rename(temporary: str, path: str, error: OSError) -> bool:
    """Publish where hard links do not exist: the last writer of the same content wins instead of the first."""
    if look(path) is not None:
        return False
    if _link_is_refused_for_other_reasons(error, os.path.dirname(path)):
        raise error
    os.rename(temporary, path)
    kind = filesystem(os.path.dirname(path))
    if kind not in _noted:
        _noted.add(kind)
        _log.warning("no hard links on %s (%s): publishing by rename, %s", path, kind or "unknown", error.strerror)
    return True


def _link_is_refused_for_other_reasons(error: OSError, folder: str) -> bool:
    """EPERM also means an immutable or append-only folder, where rename fails as well: let it say so itself."""
    return error.errno == errno.EPERM and not os.access(folder, os.W_OK)


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "symlink"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "special"


def _mounted_type(device: int, path: str) -> str:
    """Find a filesystem's type in /proc/self/mountinfo (proc(5)), by device, else by the longest mount point."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    best, best_length = "", -1
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            lines = mounts.read().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(" ")
        kind = fields[fields.index("-") + 1]
        if fields[2] == wanted:
            return kind
        point = fields[4].replace("\\040", " ")
        if f"{real}/".startswith(f"{point.rstrip('/')}/") and len(point) > best_length:
            best, best_length = kind, len(point)
    return best


def now_ns() -> int:
    """Return this host's clock in ns since 1970."""
    return time.time_ns()


def is_stale(error: StoreError) -> bool:
    """Say whether an error means that the file was replaced while it was open: opening it again helps."""
    return error.errno == errno.ESTALE
