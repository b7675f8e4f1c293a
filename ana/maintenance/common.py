"""What all maintenance has in common: opening a store, its lock, saying how far it is."""

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
    "write_file",
]

AHEAD_SECONDS = 3600.0
"""A file whose time of change lies further ahead has got it from a clock that was wrong."""
LOCK_SECONDS = 10.0
"""How long another maintenance of the same store is waited for."""

Path = str | os.PathLike[str]
StoreOrPath = Path | DirectoryStore
"""A store's folder, or the store if it is open already."""


class Progress(NamedTuple):
    """How far a task is: its name, states done, states in all if known, and bytes read or written."""

    what: str
    done: int
    total: int | None = None
    size_bytes: int = 0


OnProgress = Callable[[Progress], object]
"""Called for each state; has to be quick."""


class Work(TypedDict, total=False):
    """Options of everything that takes long and may wait for other maintenance of the store."""

    on_progress: OnProgress
    """Called for each state; default: nothing is called. Has to be quick."""
    lock_seconds: float
    """How long to wait for the maintenance lock, in s; default: `LOCK_SECONDS`."""


@dataclass(frozen=True)
class Problem:
    """A state that something is wrong with, the file (relative to the store) where it is known, and what is wrong."""

    uuid: str
    name: str
    kind: str
    """`damaged`, `missing`, or `failed`: the filesystem said no, or a newer ana wrote it; its data may be right."""
    reason: str


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
    """Put a small file in a place; who reads it sees the old or the new one, whole.

    What is there and is no file (a pipe, a device) is written to, and where a link leads. Raises StoreError,
    UntrustedStoreError for a link that somebody may have planted, ValueError for a place in a store.
    """
    place = outside(path)
    if files.stat(os.path.dirname(place)) is None:
        raise StoreError(place, 2, "its folder is not there")
    atomic.put_out(place, data)


def outside(path: Path) -> str:
    """Return where a path for output leads. Raises as `access.follow`, and ValueError for a place in a store."""
    place = permissions.follow(absolute(path))
    above = os.path.dirname(place)
    while True:
        with suppress(StoreError):
            if files.stat(os.path.join(above, CONFIG)) is not None:
                msg = f"{place} lies in the store {above}, where only ana writes: give a path outside of it"
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
    """Return the time by the clock of the filesystem's server, in s since 1970.

    By this host's where nothing can be written, and nothing needs to be. Raises StoreError.
    """
    try:
        # Looking changes nothing that is there.
        return probes.server_now(store.home, f"{store.home}/{CONFIG}" if writable else "")
    except StoreError:
        if writable:
            raise
        return host_now()


def host_now() -> float:
    """Return the time by this host's clock, in s since 1970: who only looks writes nothing, and so asks no server."""
    return files.now_ns() / 1e9


def date(seconds: float, pattern: str) -> str:
    """Write a time, in s since 1970; what no calendar has (a broken file server, a bad restore) as seconds."""
    from datetime import UTC, datetime  # noqa: PLC0415 - most commands write none

    try:
        return datetime.fromtimestamp(seconds, UTC).strftime(pattern)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.0f} s after 1970"


def problem(error: ANAError, uuid: str = "", name: str = "") -> Problem:
    """Return an error as a part of a result."""
    if isinstance(error, CorruptedStateError):
        return Problem(uuid or error.uuid, name, "damaged", error.reason)
    if isinstance(error, StateNotFoundError):
        return Problem(uuid or error.uuid, name, "missing", "no such state")
    return Problem(uuid, name, "failed", str(error))


def unlisted(folders: Mapping[str, ANAError]) -> list[Problem]:
    """Return the folders that could not be listed as parts of a result."""
    return [problem(error, name=name) for name, error in sorted(folders.items())]
