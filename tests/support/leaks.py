"""What a test must not leave behind: a picture before, a picture after, and the difference in words."""

import contextlib
import ctypes
import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.forkserver import _forkserver
from multiprocessing.resource_tracker import _resource_tracker
from pathlib import Path
from typing import NamedTuple

ctypes.CFUNCTYPE(None)(print)
"""A first callback: from version 3.4.7 on libffi opens its own file for them, and keeps it open."""

GRACE_SECONDS = 30.0
"""How long a thread or a process that was told to end may take on a busy machine; waited for only where one is left."""
POLL_SECONDS = 0.01
TEMPORARY_PREFIX = ".tmp-"
SHARED_MEMORY = "/dev/shm/pym-"
"""What multiprocessing's barriers take their memory from: it keeps the first file for the next ones."""
VARIABLE_PREFIX = "ANA_"


class Picture(NamedTuple):
    """What this process holds at one moment."""

    files: frozenset[str]
    threads: frozenset[threading.Thread]
    children: frozenset[str]
    settings: frozenset[str]


def picture() -> Picture:
    """Look at open file descriptors, threads, child processes and process-wide settings."""
    return Picture(
        files=frozenset(_open_files()),
        threads=frozenset(threading.enumerate()),
        children=frozenset(_children()),
        settings=frozenset(_settings()),
    )


def left_since(before: Picture) -> list[str]:
    """Say what is there now and was not before, after a grace for what is on its way out."""
    if _difference(before):
        # Garbage in a cycle is no leak, but it would hold files until the collector happens to come by.
        gc.collect()
    deadline = time.monotonic() + GRACE_SECONDS
    while _may_end(left := _difference(before)) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return left


def _may_end(left: list[str]) -> bool:
    """Return whether anything but settings is left: those stay as they are."""
    return not all(line.startswith("setting:") for line in left)


def stop_forkserver() -> None:
    """Stop multiprocessing's fork server, which would hand the environment of now to every later test.

    It ends when the last copy of a pipe is closed, and any other child may have one: wait for it only
    where there is none. The resource tracker may stay: it knows nothing of the environment.
    """
    if _forkserver._forkserver_pid is not None and not any(_children()):
        _forkserver._stop()


def temporaries(folder: Path) -> list[str]:
    """List what writers left unpublished below a folder."""
    return [
        f"temporary file: {Path(parent, name)}"
        for parent, folders, files in os.walk(folder)
        for name in (*folders, *files)
        if name.startswith(TEMPORARY_PREFIX)
    ]


@contextlib.contextmanager
def settings_restored() -> Iterator[None]:
    """Start without ANA_* variables; put them, the folder and the recursion limit back as they were."""
    outside = _variables()
    folder, limit = os.getcwd(), sys.getrecursionlimit()
    _replace_variables({})
    try:
        yield
    finally:
        _replace_variables(outside)
        os.chdir(folder)
        sys.setrecursionlimit(limit)


def _difference(before: Picture) -> list[str]:
    now = picture()
    return [
        *(f"file descriptor: {file}" for file in sorted(now.files - before.files)),
        *(f"thread: {thread.name}" for thread in now.threads - before.threads),
        *(f"child process: {child}" for child in sorted(now.children - before.children)),
        *(f"setting: {setting}" for setting in sorted(now.settings - before.settings)),
    ]


def _open_files() -> Iterator[str]:
    servers = {_forkserver._forkserver_alive_fd, _resource_tracker._fd}
    for number in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is closed by now.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if target.startswith(SHARED_MEMORY):
                continue
            if int(number) not in servers:
                yield f"{number} -> {target}"


def _children() -> Iterator[str]:
    """Read each thread's children, zombies as well; not the two servers that multiprocessing starts once."""
    servers = {_forkserver._forkserver_pid, _resource_tracker._pid}
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            pids = Path(f"/proc/self/task/{thread}/children").read_text().split()
            for pid in pids:
                if int(pid) not in servers:
                    yield from _describe(pid)


def _describe(pid: str) -> Iterator[str]:
    # ProcessLookupError: it was reaped between the opening and the reading.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        name, state = Path(f"/proc/{pid}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
        zombie = " (a zombie: nobody waited for it)" if state.split()[0] == "Z" else ""
        yield f"{pid} {name}{zombie}"


def _settings() -> Iterator[str]:
    yield from (f"{name}={value}" for name, value in _variables().items())
    yield f"current folder: {os.readlink('/proc/self/cwd')}"
    yield f"recursion limit: {sys.getrecursionlimit()}"


def _variables() -> dict[str, str]:
    # By name first: the values of all are decoded for nothing, three times for each test.
    return {name: os.environ[name] for name in os.environ if name.startswith(VARIABLE_PREFIX)}


def _replace_variables(wanted: dict[str, str]) -> None:
    for name in _variables():
        del os.environ[name]
    os.environ.update(wanted)
