"""Staging: brings states, and all that they refer to, to a node before its tasks start. See `docs/staging.md`."""

import errno
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ana import settings
from ana.errors import StoreError
from ana.format import address
from ana.layers import opening, staging
from ana.maintenance.choosing import Chosen
from ana.maintenance.common import OnProgress, Path, Progress, StoreOrPath
from ana.maintenance.export import Exported, Writing, chosen_by, write_states
from ana.stores.node_cache import node_folder
from ana.stores.node_cache.store import TieredStore

__all__ = ["StagedHere", "stage_in_cache", "stage_states"]

MEMBER_BYTES = 1024 + 32
"""The most that a state takes in the file besides its record: its tar header, padding, its entry in the index."""
LEAST_BYTES = 64 << 10
"""The most that the file takes besides the states."""
_CURE = f"set {settings.NODE_CACHE_BYTES.name}, or use another folder"


@dataclass
class StagedHere:
    """What is in this node's cache."""

    path: str
    """The file with the states that are no entries of the cache."""
    uuids: list[str]
    """The states that were requested."""
    states: list[str]
    """They and all that they refer to, children first."""
    entries: int
    """How many of them are entries of the cache."""
    size_bytes: int
    """The size of the file."""


def stage_states(
    pickle_dir: StoreOrPath, uuids: Iterable[str], path: Path, *, on_progress: OnProgress = lambda _: None
) -> Exported:
    """Write states, and all that they refer to, to a file that tasks read in place of the store (`ANA_STAGED`).

    The file is like that of `export_states`, but records keep their signatures, and an index follows.

    Args:
        pickle_dir: The store.
        uuids: The states: UUIDs, unique prefixes of UUIDs, or names of roots.
        path: The new file. It must be outside of any store. Pipes and devices are written to directly.
        on_progress: Called for each state. Default: none.

    Raises:
        StateNotFoundError: A state does not exist. In every case, no file is left.
        AmbiguousPrefixError: One of `uuids` is the prefix of several.
        CorruptedStateError: A state is damaged.
        StoreError: The file exists (errno EEXIST), or the system refused.
        ValueError: `path` is in a store.
    """
    return write_states(chosen_by(pickle_dir, uuids), path, on_progress, staged=True)


def stage_in_cache(
    pickle_dir: StoreOrPath, uuids: Iterable[str], *, place: str = "", on_progress: OnProgress = lambda _: None
) -> StagedHere:
    """Put states, and all that they refer to, into this node's cache, where tasks with the same cache find them.

    Large states become entries, as if a task had loaded them. Those that are entries already are not read. The others
    go into one file. Can be interrupted and run again.

    Args:
        pickle_dir: The store.
        uuids: The states: UUIDs, unique prefixes of UUIDs, or names of roots.
        place: The folder of the cache, or "auto". Default: `ANA_NODE_CACHE`, else "auto".
        on_progress: Called for each state.

    Raises:
        StateNotFoundError: A state does not exist.
        AmbiguousPrefixError: One of `uuids` is the prefix of several.
        CorruptedStateError: A state is damaged.
        StoreError: This node has no cache or no room in it, or the system refused.

    """
    chosen = chosen_by(pickle_dir, uuids)
    store = chosen.survey.store
    place = place or settings.NODE_CACHE.value() or "auto"
    folder = staging.cache_folder(store.home, place, settings.NODE_CACHE_BYTES.value())
    cached = opening.node_cache(place)(store)
    if folder is None or not isinstance(cached, TieredStore):
        cure = f"set {settings.NODE_CACHE.name} to one on its own disk or in its memory"
        raise StoreError(place, errno.ENOENT, f"this node has no local folder for a cache: {cure}")
    left: list[str] = []
    entries: list[str] = []
    for number, key in enumerate(chosen.states, 1):
        (entries if cached.fetch_ahead(key) else left).append(key)
        on_progress(Progress("caching", number, len(chosen.states)))
    size_bytes = _write(folder, chosen.only(left), on_progress)
    path = f"{folder.path}/{_name(left)}"
    if not all(map(cached.holds, entries)):
        raise StoreError(path, errno.ENOSPC, f"some of the states were removed to make room for others: {_CURE}")
    return StagedHere(path, chosen.uuids, chosen.states, len(entries), size_bytes)


def _name(keys: list[str]) -> str:
    return address.short_digest("\n".join(sorted(keys)))


def _write(folder: node_folder.NodeFolder, chosen: Chosen, on_progress: OnProgress) -> int:
    """Write the file with these states; return its size."""
    most_bytes = LEAST_BYTES + sum(MEMBER_BYTES + chosen.sizes[key] for key in chosen.states)
    sizes: list[int] = []

    def fill(put: node_folder.Put) -> int:
        def write(offset: int, parts: Sequence[memoryview | bytes]) -> None:
            for part in parts:
                put(offset, part)
                offset += len(part)

        sizes.append(Writing(chosen, write, on_progress, staged=True).write())
        return sizes[-1]

    if not folder.prepare(most_bytes) or folder.make(_name(chosen.states), most_bytes, fill) is None:
        hint = f"there is no room for {most_bytes:,} bytes, or the disk fails: {_CURE}"
        raise StoreError(folder.path, errno.ENOSPC, hint)
    return sizes[-1]
