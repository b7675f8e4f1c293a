"""A folder on a node's own disk: files that are made once, mapped by all processes, and removed when room is needed.

Everything here may fail (a full disk, a folder that is gone or not ours): then there is no cached file, and
nothing is raised. What the files hold is not known here. Safe between threads and processes, and after fork.
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
"""A twentieth of the disk is left to others, whatever the bound."""
_REFUSED_SECONDS = 60.0
"""After the disk has refused a file, so long no other is tried."""
_SURVEY_SECONDS = 10.0
_SURVEY_SHARE = 64
"""For so long, and for this part of the room that was found, a process makes files without looking again."""
_LEFT_SECONDS = 60.0
"""A temporary or lock file that old, and that nobody holds, was left by someone who was killed."""

_log = logging.getLogger("ana.nodefolder")
_mapped: "weakref.WeakSet[mmap.mmap]" = weakref.WeakSet()
"""What is mapped now, where each mapping takes a file descriptor."""

Put = Callable[[int, memoryview | bytes], None]
"""Puts bytes at an offset of the file that is being made; may be called on several threads."""


class _RefusedError(Exception):
    """The disk did not take what was to be written to it; and its reason."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


class _Refusals:
    """Context manager: tells the errors of this disk from those of what is read to be put there."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise _RefusedError(error) from error


class OpenedEntry:
    """A file of ours, opened. Owns the descriptor; `size_bytes` is its size."""

    _descriptor = -1

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size_bytes = 0

    def read(self, size: int) -> bytes:
        """Return its first bytes; fewer, where it is shorter or cannot be read."""
        try:
            return os.pread(self._descriptor, size, 0)
        except OSError:
            return b""

    def map(self) -> memoryview | None:
        """Map it read-only, and note that it was used; None where that is not possible."""
        try:
            found = _map(self._descriptor, self.size_bytes)
        except (OSError, ValueError) as error:
            _log.info("not mapped: %s", str(error))
            return None
        with suppress(OSError):
            # Not where the folder was mounted read-only since.
            os.utime(self._descriptor)
        return found

    def close(self) -> None:
        """Close the file; what was mapped stays."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


class NodeFolder:
    """One user's files of one store, at BASE/ana-UID/STORE."""

    def __init__(self, base: str, store: str, limit_bytes: int | None) -> None:
        """`limit_bytes` bounds all that the user has at that place, of all stores; None: half of what is free."""
        self._base = base
        self._user = f"{base}/ana-{os.geteuid()}"
        self.path = f"{self._user}/{store}"
        self._limit_bytes = limit_bytes
        self._refused_until = 0.0
        self._survey_until = 0.0
        self._allowance_bytes = 0
        self._warned = False

    def open(self, name: str) -> OpenedEntry | None:
        """Open a file for reading, if it is there, and it and its folders are this user's alone."""
        path = f"{self.path}/{name}"
        # Small states, which are never there, do not pay for an exception.
        if not os.access(path, os.F_OK):
            return None
        try:
            descriptor = os.open(path, files.READ)
        except OSError:
            return None
        # One owner from here on: a signal handler may raise anywhere, and what is closed twice may be another's file.
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

    def prepare(self, size_bytes: int) -> bool:
        """Make the folders and room for a file of that size, removing what was not used for longest; False if not."""
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

    def make(self, name: str, size_bytes: int, fill: Callable[[Put], object]) -> memoryview | None:
        """Make a file by what `fill` puts into it, and map it; None where the disk does not take it.

        It has its name only when it is complete, whatever had that name before. What `fill` raises passes through.
        """
        temporary = files.temporary_name(self.path)
        opened: list[io.FileIO] = []
        # The file may be there before it is known: a signal handler may raise in between.
        try:
            with _Refusals():
                opened.append(_create(temporary))
                # At once, so that others who make room count it.
                os.ftruncate(opened[0].fileno(), size_bytes)
            fill(_writer(opened[0].fileno()))
            return self._publish(opened[0].fileno(), temporary, name, size_bytes)
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
            # Not to be written to by anybody's mistake: mapped memory would change.
            os.fchmod(descriptor, 0o400)
            os.rename(temporary, f"{self.path}/{name}")
        except OSError as error:
            # Removed under us: what is mapped is good nevertheless.
            self._note(error)
        return mapped

    def _is_ours(self) -> bool:
        """Say whether the folders are this user's, no symlinks, and closed to everybody else."""
        for folder in (self._user, self.path):
            found = os.lstat(folder)
            if not (stat.S_ISDIR(found.st_mode) and _is_private(found)):
                self._note(f"{folder} is not a folder of this user's alone (mode 0700)")
                return False
        return True

    def _has_allowance(self, size_bytes: int) -> bool:
        """Say whether the last look found so much room that none is needed: a look takes longer with each file."""
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
            # Who has it mapped keeps what is mapped.
            with suppress(FileNotFoundError):
                os.unlink(entry.path)
            excess -= entry.size_bytes
            _log.debug("removed %s to make room", entry.path)
        free_bytes, spare_bytes = _free(self.path)
        return size_bytes + spare_bytes <= free_bytes

    def _survey(self) -> tuple[list["_Entry"], int]:
        """Return the files that may be removed, and the size of all; remove what killed processes left."""
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
        """Leave a disk alone for a while that has refused something; that the folder was removed is no reason."""
        self._note(error)
        if not isinstance(error, FileNotFoundError):
            self._refused_until = time.monotonic() + _REFUSED_SECONDS

    def _note(self, problem: object) -> None:
        # As text: a log record that keeps an error keeps all that its frames hold, such as what is mapped.
        level = logging.INFO if self._warned else logging.WARNING
        _log.log(level, "not cached in %s: %s", self.path, str(problem))
        self._warned = True


class _Entry(NamedTuple):
    """A file that may be removed; the one that was not used for longest comes first."""

    used: float
    size_bytes: int
    path: str


def choose(place: str) -> str | None:
    """Return the folder that a user's `place` means: "auto" is the first of the usual ones that is local.

    None where there is none, or the place is not known to be local: a server, or a daemon (FUSE), can take mapped files
    away, which kills the process (SIGBUS), and its locks may not hold.
    """
    if place != AUTO:
        existing = _existing(f"{place}/ana-{os.geteuid()}")
        if mounts.is_local(existing):
            return place
        # Asked anew, as `is_local` does: device numbers are used again.
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
    """Return the 16 bytes that the kernel made up when this node was booted (random(4)); None if it does not say."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))
    except (OSError, ValueError) as error:
        _log.warning("no node cache: %s: %s", _BOOT_ID, str(error))
        return None


def _existing(path: str) -> str:
    """Return the innermost part of a path that is there."""
    while path not in ("", "/") and not os.path.exists(path):
        path = os.path.dirname(path)
    return path or "/"


def _is_private(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def _free(path: str) -> tuple[int, int]:
    """Return the bytes that are free for us, and those that are to be left free."""
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize // _SPARE_SHARE


def _files_below(folder: str) -> Iterator["os.DirEntry[str]"]:
    """List the files of all stores; what vanishes meanwhile is not there."""
    with suppress(FileNotFoundError), os.scandir(folder) as stores:
        for store in stores:
            if not store.is_dir(follow_symlinks=False):
                continue
            with suppress(FileNotFoundError), os.scandir(store.path) as entries:
                yield from (entry for entry in entries if entry.is_file(follow_symlinks=False))


def _create(temporary: str) -> io.FileIO:
    # An object of its own closes itself, whatever a signal handler raises.
    file = io.FileIO(temporary, "x+")
    node_lock.watch(file)
    # Held while it is being written: a temporary file that nobody holds is a leftover.
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
"""Whether a mapping can do without a descriptor of its own."""


def _map(descriptor: int, size_bytes: int) -> memoryview:
    """Map a file read-only; all who do share its memory. Raises OSError, ValueError."""
    kind: dict[str, Any] = {"flags": mmap.MAP_SHARED, "prot": mmap.PROT_READ}
    if _UNTRACKED:
        # Not as a keyword of its own: type checkers for older versions know none of that name.
        untracked: dict[str, Any] = {**kind, "trackfd": False}
        return memoryview(mmap.mmap(descriptor, size_bytes, **untracked))
    # Each mapping keeps a descriptor open: not so many that the program has none left for itself.
    # Counted one by one: a signal handler can keep the set from forgetting one.
    count, most = sum(1 for _ in _mapped), os.sysconf("SC_OPEN_MAX")
    # -1 is no limit.
    if 0 <= most <= 4 * count:
        msg = f"{count} files are mapped already, with a descriptor each (ulimit -n)"
        raise OSError(msg)
    found = mmap.mmap(descriptor, size_bytes, **kind)
    _mapped.add(found)
    return memoryview(found)
