"""Probes what a filesystem supports: hard links, fsync, locks, clocks, space. Leaves nothing behind."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from typing import NamedTuple

from ana.errors import StoreError
from ana.fs import atomic, files
from ana.fs.permissions import open_regular

__all__ = ["Clock", "Space", "clock", "excludes", "fsync_seconds", "hard_links", "quota", "server_now", "space"]

_PATIENCE_SECONDS = 10.0
_TRIES = 5
_HOLDER = """
import fcntl, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT, 0o666)
fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("held", flush=True)
sys.stdin.read()
"""
_ASKER = """
import errno, fcntl, os, sys
try:
    descriptor = os.open(sys.argv[1], os.O_RDWR)
except FileNotFoundError:
    sys.exit("absent")
try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError as error:
    print(errno.errorcode.get(error.errno, error.errno))
else:
    print("got it")
"""


class Clock(NamedTuple):
    """The server's clock minus this host's, and the possible error, both in s."""

    difference_seconds: float
    error_seconds: float


class Space(NamedTuple):
    """A filesystem's total and free bytes and inodes; None if inodes are not counted."""

    total_bytes: int
    free_bytes: int
    total_inodes: int | None
    free_inodes: int | None


def hard_links(folder: str) -> bool:
    """Return whether hard links work in the folder. Raises StoreError if no file can be created."""
    probe = files.temporary_name(folder)
    with files.reported(probe):
        try:
            os.close(open_regular(probe))
            try:
                os.link(probe, f"{probe}-2", follow_symlinks=False)
            except OSError as error:
                if atomic.has_no_links(error):
                    return False
                raise
            return True
        finally:
            for name in (probe, f"{probe}-2"):
                with suppress(OSError):
                    os.unlink(name)


def fsync_seconds(folder: str) -> float:
    """Return the seconds that fsync of a small file takes, as a median. Raises StoreError."""
    probe = files.temporary_name(folder)
    took = []
    with files.reported(probe):
        try:
            descriptor = open_regular(probe)
            try:
                for _ in range(_TRIES):
                    os.write(descriptor, b"x" * 4096)
                    begin = time.perf_counter()
                    os.fsync(descriptor)
                    took.append(time.perf_counter() - begin)
            finally:
                os.close(descriptor)
        finally:
            with suppress(OSError):
                os.unlink(probe)
    return sorted(took)[_TRIES // 2]


def clock(folder: str) -> Clock:
    """Compare the clock of the filesystem's server with this host's. Raises StoreError."""
    before = time.time()
    there = server_now(folder)
    after = time.time()
    # File times have a resolution of up to 10 ms.
    return Clock(there - (before + after) / 2, (after - before) / 2 + 0.01)


def server_now(folder: str, existing: str = "") -> float:
    """Return the time in s since 1970 by the clock of the filesystem's server, which may differ from this host's.

    `existing` is a file whose time may be set instead of creating a new file, which also works on a full disk. Raises
    StoreError.
    """
    if existing:
        with suppress(StoreError, OSError):
            return _touched(existing)
    probe = files.temporary_name(folder)
    with files.reported(probe):
        try:
            descriptor = open_regular(probe)
            try:
                os.write(descriptor, b"\n")
                os.fsync(descriptor)
                return os.fstat(descriptor).st_mtime
            finally:
                os.close(descriptor)
        finally:
            with suppress(OSError):
                os.unlink(probe)


def _touched(path: str) -> float:
    """Set a file's time to the server's current time, which needs no space, and return it."""
    descriptor = os.open(path, files.READ)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)


def space(folder: str) -> Space:
    """Return a filesystem's space and inodes. Raises StoreError."""
    with files.reported(folder):
        found = os.statvfs(folder)
    inodes = (found.f_files, found.f_favail) if found.f_files else (None, None)
    return Space(found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize, *inodes)


def quota(folder: str) -> str:
    """Return the output of the system's `quota` command for this user and filesystem, or ""."""
    program = shutil.which("quota")
    if program is None:
        return ""
    try:
        done = subprocess.run(  # noqa: S603 - the system's own program, with the path of a store
            [program, "-w", "-p", "-f", folder],
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = done.stdout.strip().splitlines()
    return lines[-1].strip() if len(lines) > 1 else ""


def excludes(folder: str, other: str) -> str:
    """Test whether a lock held in `folder` excludes a process in `other`, the same folder perhaps by another mount.

    Returns "" if it does, otherwise the problem. Raises StoreError if no file can be created.
    """
    probe = files.temporary_name(folder)
    name = os.path.basename(probe)
    with files.reported(probe):
        os.close(open_regular(probe))
    try:
        return _ask(probe, f"{other}/{name}")
    except OSError as error:
        return f"cannot start a second process for the test: {error.strerror}"
    finally:
        with suppress(OSError):
            os.unlink(probe)


def _ask(mine: str, theirs: str) -> str:
    """Hold a lock in one process, and try it in another: some systems' locks exclude only other processes."""
    holder = subprocess.Popen(  # noqa: S603 - this interpreter
        [sys.executable, "-I", "-c", _HOLDER, mine],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            if holder.stdout is None or holder.stdout.readline() != "held\n":
                words = (holder.stderr.read() if holder.stderr is not None else "").strip().splitlines()
                return f"cannot lock: {words[-1] if words else 'no answer'}"
            asked = subprocess.run(  # noqa: S603 - this interpreter
                [sys.executable, "-I", "-c", _ASKER, theirs],
                capture_output=True,
                text=True,
                check=False,
                timeout=_PATIENCE_SECONDS,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            return "the lock server does not answer"
        finally:
            holder.kill()
    said = asked.stdout.strip()
    if asked.stderr.strip() == "absent":
        return "a file created here is not visible in the other folder"
    if said == "got it":
        return "it does not exclude the other process"
    return "" if said in {"EAGAIN", "EACCES", "EWOULDBLOCK"} else f"the other process got {said or 'no answer'}"
