"""Shared by all maintenance: opening a store, its lock, progress, problems, output files."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple, TypedDict

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError
from ana.fs import atomic, files, locks, permissions, probes
from ana.fs.paths import absolute
from ana.layers import opening
from ana.stores.directory.config import CONFIG
from ana.stores.directory.store import DirectoryStore

__all__ = [
    "AHEAD_SECONDS",
    "LOCK_SECONDS",
    "REF_CLASS",
    "OnProgress",
    "Path",
    "Problem",
    "Progress",
    "StoreOrPath",
    "Work",
    "absolute",
    "date",
    "host_now",
    "locked",
    "now",
    "open_store",
    "outside",
    "problem",
    "unlisted",
    "value_text",
    "write_file",
]

AHEAD_SECONDS = 3600.0
"""A file modified further ahead of the server's clock than this was written by a wrong clock."""
REF_CLASS = "ana.storable:Ref"
LOCK_SECONDS = 10.0
"""How long to wait for other maintenance of the same store."""

Path = str | os.PathLike[str]
StoreOrPath = Path | DirectoryStore
"""A store's folder, or the store if it is open already."""


class Progress(NamedTuple):
    """How far a task is."""

    what: str
    """The task's name."""
    done: int
    """How many states are done."""
    total: int | None = None
    """How many states there are; None if that is not known."""
    size_bytes: int = 0
    """How many bytes were read or written."""


OnProgress = Callable[[Progress], object]
"""Called for each state. Must be fast."""


class Work(TypedDict, total=False):
    """Options of functions that may take long, and may wait for other maintenance of the store."""

    on_progress: OnProgress
    """Called for each state. Must be fast. Default: none."""
    lock_seconds: float
    """How long to wait for the maintenance lock, in s; default: `LOCK_SECONDS`."""


@dataclass(frozen=True)
class Problem:
    """A state with a problem: its UUID and its file (relative to the store), as far as known, and the reason."""

    uuid: str
    """The state's UUID; "" if unknown."""
    name: str
    """Its file, relative to the store."""
    kind: str
    """`damaged`, `missing`, or `failed` (the system refused, or a newer version wrote it: the data may be intact)."""
    reason: str
    """What is wrong."""


def open_store(pickle_dir: StoreOrPath, *, create: bool = False) -> DirectoryStore:
    """Open a store for maintenance. Every function of `ana.maintenance` accepts the result in place of the path.

    Args:
        pickle_dir: The store's folder. An open store is returned as it is.
        create: Make the store if it does not exist.

    Returns:
        The store. It holds nothing open, and is safe to share between threads.

    Raises:
        StoreError: There is no store (errno ENOENT), or the system refused.
        UntrustedStoreError: The folder is not a store, or others may have planted files in it.
        UnsupportedFormatError: A newer version of ANA made the store.

    """
    if isinstance(pickle_dir, DirectoryStore):
        return pickle_dir
    # Maintenance does not wait for what other hosts may be about to write.
    return opening.folder(absolute(pickle_dir), create=create, wait_seconds=0.0)


def write_file(path: Path, data: bytes) -> None:
    """Write a small file outside of any store. Readers see the old or the new file, never a part.

    Links are followed. Pipes and devices are written to directly.

    Args:
        path: The file. Its folder must exist.
        data: The file's content.

    Raises:
        StoreError: The folder does not exist, or the system refused.
        UntrustedStoreError: Others may have planted a link at the path.
        ValueError: `path` is in a store.
    """
    place = outside(path)
    if files.stat(os.path.dirname(place)) is None:
        raise StoreError(place, 2, "its folder does not exist")
    atomic.put_out(place, data)


def outside(path: Path) -> str:
    """Return where an output path leads. Raises as `permissions.follow`, and ValueError for a path in a store."""
    place = permissions.follow(absolute(path))
    above = os.path.dirname(place)
    while True:
        with suppress(StoreError):
            if files.stat(os.path.join(above, CONFIG)) is not None:
                msg = f"{place} is in the store {above}, where only ANA may write: choose a path outside of it"
                raise ValueError(msg)
        if above == os.path.dirname(above):
            return place
        above = os.path.dirname(above)


@contextmanager
def locked(store: DirectoryStore, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold the store's maintenance lock. Raises LockTimeoutError, which names the holder."""
    with locks.exclusive(
        f"{store.home}/.ana/locks/maintenance.lock",
        seconds,
        store.tree.access,
        lambda: store.tree.own_folder(".ana/locks"),
    ):
        yield


def now(store: DirectoryStore, *, writable: bool = True) -> float:
    """Return the time by the file server's clock, in s since 1970. Raises StoreError.

    If `writable` is false and the server's clock cannot be read, returns this host's time.
    """
    try:
        # A read-only task must not touch a file of the store.
        return probes.server_now(store.home, f"{store.home}/{CONFIG}" if writable else "")
    except StoreError:
        if writable:
            raise
        return host_now()


def host_now() -> float:
    """Return the time by this host's clock, in s since 1970. Reading the server's clock would need a write."""
    return files.now_ns() / 1e9


def date(seconds: float, pattern: str) -> str:
    """Format a time in UTC. Outside of the calendar (a broken server, a bad restore), give seconds.

    Args:
        seconds: The time, in s since 1970.
        pattern: The format, as for `strftime`.
    """
    from datetime import UTC, datetime  # noqa: PLC0415 - most commands write none

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(pattern)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"


def value_text(class_name: str, summary: str) -> str:
    """Return a state's class, and what its writer said about its value: of a Ref only that."""
    if class_name == REF_CLASS and summary:
        return summary
    said = class_name or "(bare state)"
    return f"{said} {summary}" if summary else said


def problem(error: ANAError, uuid: str = "", name: str = "") -> Problem:
    """Return an error as a Problem."""
    if isinstance(error, CorruptedStateError):
        return Problem(uuid or error.uuid, name, "damaged", error.reason)
    if isinstance(error, StateNotFoundError):
        return Problem(uuid or error.uuid, name, "missing", "no such state")
    return Problem(uuid, name, "failed", str(error))


def unlisted(folders: Mapping[str, ANAError]) -> list[Problem]:
    """Return folders that could not be listed as Problems."""
    return [problem(error, name=name) for name, error in sorted(folders.items())]
