"""A folder on a node's own disk. Its files are made once, mapped by all processes, and removed to make room.

If an operation fails (a full disk, a folder that is gone or not ours), there is no cached file, and nothing is raised.
This module does not know what the files contain. Safe between threads and processes, and after fork.
"""

import fcntl
import io
import logging
import mmap
import os
import stat
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from ana.fs import files, mounts, node_lock

__all__ = ["LOCK", "NodeFolder", "OpenedEntry", "Put", "boot_id", "choose"]

LOCK = ".lock-"
AUTO = "auto"
_PLACES = ("SLURM_TMPDIR", "LOCAL_SCRATCH", "TMPDIR")
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_SPARE_SHARE = 20
"""A twentieth of the disk stays free, whatever the limit."""
_REFUSED_SECONDS = 60.0
"""After a disk error, no file is made for this long."""
_SURVEY_SECONDS = 10.0
_SURVEY_SHARE = 64
"""A process checks again after this time, or after it has used this fraction of the space that it found."""
_LEFT_SECONDS = 60.0
"""A temporary or lock file of this age that nobody holds was left by a killed process."""

_log = logging.getLogger("ana.nodefolder")
_mapped: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()
"""The current mappings, if each takes a file descriptor."""

Put = Callable[[int, memoryview | bytes], None]
"""Writes bytes at an offset of the new file; may be called from several threads."""


class _RefusedError(Exception):
    """The disk failed to take a file. Attribute: `reason`."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Refusals:
    """Context manager that marks errors of this disk, to tell them from errors of the tree that is read."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise _RefusedError(error) from error


class OpenedEntry:
    """An open file of the folder. Owns its descriptor; `size_bytes` is its size."""

    _descriptor = -1

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = 0

    def read(self, size: int) -> bytes:
        """Return its first bytes; fewer if it is shorter or cannot be read."""
        try:
            return os.pread(self._descriptor, size, 0)
        except OSError:
            return b""

    def map(self) -> memoryview | None:
        """Map the file read-only and record its use; None if that fails."""
        try:
            found = _map(self._descriptor, self.size_bytes)
        except (OSError, ValueError) as error:
            _log.info("not mapped: %s", str(error))
            return None
        with suppress(OSError):
            # Fails if the folder was remounted read-only.
            os.utime(self._descriptor)
        return found

    def close(self) -> None:
        """Close the file; its mappings stay."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class NodeFolder:
    """One user's files of one store, at BASE/ana-UID/STORE."""

    def __init__(self, base: str, store: str, limit_bytes: int | None) -> None:
        """`limit_bytes` limits all files of this user below `base`, over all stores; None: half of the free space."""
        self._base = base
        self._user = f"{base}/ana-{os.geteuid()}"
        self.path: str = f"{self._user}/{store}"
        self._limit_bytes = limit_bytes
        self._refused_until = 0.0
        self._survey_until = 0.0
        self._allowance_bytes = 0
        self._warned = False

    def open(self, name: str) -> OpenedEntry | None:
        """Open a file for reading, if it exists, and it and its folders belong to this user alone."""
        path = f"{self.path}/{name}"
        # Small states are never cached: this saves them the cost of an exception.
        if not os.access(path, os.F_OK):
            return None
        try:
            descriptor = os.open(path, files.READ)
        except OSError:
            return None
        # One owner from here on: a signal handler may raise anywhere, and closing twice could close another file.
        opened = OpenedEntry(descriptor)
        try:
            found = os.fstat(descriptor)
            if stat.S_ISREG(found.st_mode) and _is_private(found) and self._is_ours():
                opened.size_bytes = found.st_size
                return opened
        except OSError as error:
            self._note(error)
        opened.close()
        return None

    def paths(self) -> list[str]:
        """Return the paths of the files, which this counts as a use of; none if the folders are not this user's."""
        found = []
        with suppress(OSError):
            if self._is_ours():
                for entry in os.scandir(self.path):
                    if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                        found.append(entry.path)
                        os.utime(entry.path)
        return found

    def prepare(self, size_bytes: int) -> bool:
        """Make the folders, and room for such a file by removing the least recently used; False if not possible."""
        if time.monotonic() < self._refused_until:
            return False
        try:
            os.makedirs(self._base, mode=0o700, exist_ok=True)
            for folder in (self._user, self.path):
                with suppress(FileExistsError):
                    os.mkdir(folder, 0o700)
            if self._is_ours() and (self._has_allowance(size_bytes) or self._make_room(size_bytes)):
                return True
        except OSError as error:
            self._fail(error)
        return False

    def make(self, name: str, size_bytes: int, fill: Callable[[Put], int | None]) -> memoryview | None:
        """Make a file with the content that `fill` writes, and map it; None if the disk fails.

        The file gets its name when it is complete, and replaces any other. Exceptions from `fill` propagate. If `fill`
        returns a size, the file has that size in the end, and `size_bytes` was an estimate.
        """
        temporary = files.temporary_name(self.path)
        opened: list[io.FileIO] = []
        # The file may exist before we have its object: a signal handler may raise in between.
        try:
            with _Refusals():
                opened.append(_create(temporary))
                # At once, so that other processes count it when they make room.
                os.ftruncate(opened[0].fileno(), size_bytes)
            actual_bytes = fill(_writer(opened[0].fileno()))
            if actual_bytes is not None:
                with _Refusals():
                    os.ftruncate(opened[0].fileno(), actual_bytes)
            return self._publish(opened[0].fileno(), temporary, name, actual_bytes or size_bytes)
        except _RefusedError as error:
            self._fail(error.reason)
            return None
        finally:
            try:  # noqa: SIM105 - suppress() runs Python code, in which a signal handler may raise
                os.unlink(temporary)
            except OSError:
                pass
            for file in opened:
                node_lock.unlock(file)

    def _publish(self, descriptor: int, temporary: str, name: str, size_bytes: int) -> memoryview | None:
        try:
            mapped = _map(descriptor, size_bytes)
        except (OSError, ValueError) as error:
            self._note(error)
            mapped = None
        try:
            # Protects against accidental writes, which would change mapped memory.
            os.fchmod(descriptor, 0o400)
            os.rename(temporary, f"{self.path}/{name}")
        except OSError as error:
            # The folder was removed in the meantime. The mapping is valid nevertheless.
            self._note(error)
        return mapped

    def _is_ours(self) -> bool:
        """Return whether the folders belong to this user, are not symlinks, and give no rights to others."""
        for folder in (self._user, self.path):
            found = os.lstat(folder)
            if not (stat.S_ISDIR(found.st_mode) and _is_private(found)):
                self._note(f"{folder} is not a folder that only this user can access (mode 0700)")
                return False
        return True

    def _has_allowance(self, size_bytes: int) -> bool:
        """Return whether the last survey found enough room: a survey takes longer with each file."""
        if time.monotonic() > self._survey_until or size_bytes > self._allowance_bytes:
            return False
        self._allowance_bytes -= size_bytes
        return True

    def _make_room(self, size_bytes: int) -> bool:
        entries, used_bytes = self._survey()
        free_bytes, spare_bytes = _free(self.path)
        limit_bytes = (free_bytes + used_bytes) // 2 if self._limit_bytes is None else self._limit_bytes
        if size_bytes > limit_bytes:
            return False
        excess = max(used_bytes + size_bytes - limit_bytes, size_bytes + spare_bytes - free_bytes)
        self._allowance_bytes = -excess // _SURVEY_SHARE
        self._survey_until = time.monotonic() + _SURVEY_SECONDS
        if excess > sum(entry.size_bytes for entry in entries):
            return False
        for entry in sorted(entries):
            if excess <= 0:
                break
            # Processes that have the file mapped keep the mapping.
            with suppress(FileNotFoundError):
                os.unlink(entry.path)
            excess -= entry.size_bytes
            _log.debug("removed %s to make room", entry.path)
        free_bytes, spare_bytes = _free(self.path)
        return size_bytes + spare_bytes <= free_bytes

    def _survey(self) -> tuple[list["_Entry"], int]:
        """Return the removable files and the total size; remove files that killed processes left."""
        entries, total_bytes = [], 0
        for entry in _files_below(self._user):
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not entry.name.startswith("."):
                entries.append(_Entry(found.st_mtime, found.st_size, entry.path))
            elif time.time() - found.st_mtime > _LEFT_SECONDS and node_lock.is_free(entry.path):
                with suppress(FileNotFoundError):
                    os.unlink(entry.path)
                continue
            total_bytes += found.st_size
        return entries, total_bytes

    def _fail(self, error: Exception) -> None:
        """Stop using the disk for a while after an error, unless the folder was merely removed."""
        self._note(error)
        if not isinstance(error, FileNotFoundError):
            self._refused_until = time.monotonic() + _REFUSED_SECONDS

    def _note(self, problem: object) -> None:
        # As text: a log record that holds an error keeps its frames alive, and their mappings.
        level = logging.INFO if self._warned else logging.WARNING
        _log.log(level, "not cached in %s: %s", self.path, str(problem))
        self._warned = True


class _Entry(NamedTuple):
    """A removable file; the least recently used one sorts first."""

    used: float
    size_bytes: int
    path: str


def choose(place: str) -> str | None:
    """Return the folder for a user's `place`; "auto" means the first local one of the usual folders.

    None if there is none, or if the place is not known to be local: a server or a daemon (FUSE) can take mapped files
    away, which kills the process (SIGBUS), and its locks may not work.
    """
    if place != AUTO:
        existing = _existing(f"{place}/ana-{os.geteuid()}")
        if mounts.is_local(existing):
            return place
        # Read again, as `is_local` does: device numbers are reused.
        mount = mounts.mount_of(existing)
        kind = "unknown" if mount is None else mount.kind
        reason = "which is a network filesystem, FUSE, or not known to be this node's own disk or memory"
        _log.warning("no node cache in %s: it is on %s, %s", place, kind, reason)
        return None
    for name in _PLACES:
        found = os.environ.get(name, "")
        if found.startswith("/") and mounts.is_local(found) and os.access(found, os.W_OK | os.X_OK):
            return found
    _log.info("no node cache: none of %s names a writable local folder", ", ".join(f"${name}" for name in _PLACES))
    return None


def boot_id() -> bytes | None:
    """Return the kernel's 16-byte id of this boot (random(4)), or None if it is not available."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError) as error:
        _log.warning("no node cache: %s: %s", _BOOT_ID, str(error))
        return None


def _existing(path: str) -> str:
    """Return the innermost existing part of a path."""
    while path not in ("", "/") and not os.path.exists(path):
        path = os.path.dirname(path)
    return path or "/"


def _is_private(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _free(path: str) -> tuple[int, int]:
    """Return the free bytes, and the bytes that must stay free."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize // _SPARE_SHARE


def _files_below(folder: str) -> Iterator["os.DirEntry[str]"]:
    """List the files of all stores, skipping those that vanish meanwhile."""
    with suppress(FileNotFoundError), os.scandir(folder) as stores:
        for store in stores:
            if not store.is_dir(follow_symlinks=False):
                continue
            with suppress(FileNotFoundError), os.scandir(store.path) as entries:
                yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))


def _create(temporary: str) -> io.FileIO:
    # A FileIO object closes itself, whatever a signal handler raises.
    file = io.FileIO(temporary, "x+")
    node_lock.watch(file)
    # Locked while it is written: a temporary file that nobody holds is a leftover.
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return file


def _writer(descriptor: int) -> Put:
    def put(offset: int, data: memoryview | bytes) -> None:
        view = memoryview(data)
        with _Refusals():
            while view:
                done = os.pwrite(descriptor, view, offset)
                view = view[done:]
                offset += done

    return put


_UNTRACKED = bool(sys.version_info >= (3, 13))
"""Whether a mapping needs no descriptor of its own."""


def _map(descriptor: int, size_bytes: int) -> memoryview:
    """Map a file read-only, in memory shared between processes. Raises OSError, ValueError."""
    kind: dict[str, Any] = {"flags": mmap.MAP_SHARED, "prot": mmap.PROT_READ}
    if _UNTRACKED:
        # Not a literal keyword: type checkers for older versions do not know it.
        untracked: dict[str, Any] = {**kind, "trackfd": False}
        return memoryview(mmap.mmap(descriptor, size_bytes, **untracked))
    # Each mapping keeps a descriptor open. The limit leaves enough for the program itself.
    # Counted one by one: a signal handler can keep the set from discarding a dead entry.
    count, most = sum(1 for _ in _mapped), os.sysconf("SC_OPEN_MAX")
    # -1 is no limit.
    if 0 <= most <= 4 * count:
        msg = f"{count} files are already mapped, with one descriptor each (ulimit -n)"
        raise OSError(msg)
    found = mmap.mmap(descriptor, size_bytes, **kind)
    _mapped.add(found)
    return memoryview(found)
