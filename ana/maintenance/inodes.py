"""How many inodes a store takes, and how many of them packs would save: estimated from a few of its folders."""

import errno
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from ana.errors import StoreError
from ana.fs import files
from ana.stores.directory.naming import is_shard
from ana.stores.directory.store import DirectoryStore

__all__ = ["SMALL_BYTES", "Inodes", "estimate"]

SMALL_BYTES = 64_000
"""A state whose file is smaller than this may go into a pack."""
FOLDERS = 8
FILES = 8
"""How many folders of a level, and files of a folder, are looked at."""

Item = TypeVar("Item")


class Inodes(NamedTuple):
    """What is in a store: states with files of their own, those of them that are small, folders, and packs."""

    states: int
    small: int
    folders: int
    packs: int


def estimate(store: DirectoryStore) -> Inodes:
    """Estimate a store's inodes. Lists at most 73 folders, since UUIDs spread evenly. Raises StoreError."""
    try:
        packs = len(store.packs.names())
    except StoreError:
        packs = 0
    names: Sequence[str] = [""]
    folders, scale = 0, 1.0
    for _ in range(store.config.levels):
        found = [name for one in names for name in _shards(store, one)]
        folders += round(scale * len(found))
        if not found:
            return Inodes(0, 0, folders, packs)
        names = _some(found, FOLDERS)
        scale *= len(found) / len(names)
    states = small = seen = 0
    for name in names:
        entries = [entry.name for entry in _entries(store, name) if entry.kind == "file"]
        states += len(entries)
        looked = [files.stat(f"{store.home}/{name}{entry}") for entry in _some(entries, FILES)]
        seen += len(looked)
        small += sum(one is not None and one.size_bytes <= SMALL_BYTES for one in looked)
    return Inodes(round(scale * states), round(scale * states * small / max(1, seen)), folders, packs)


def _shards(store: DirectoryStore, name: str) -> list[str]:
    return [f"{name}{entry.name}/" for entry in _entries(store, name) if is_shard(entry)]


def _entries(store: DirectoryStore, name: str) -> list[files.Entry]:
    try:
        return files.list_folder(f"{store.home}/{name}")
    except StoreError as error:
        # Another user's folder may be closed to this one: then those count that can be listed.
        if files.is_missing(error) or error.errno == errno.EACCES:
            return []
        raise


def _some(items: Sequence[Item], most: int) -> Sequence[Item]:
    """Return some of the items, from the whole range."""
    step = max(1, -(-len(items) // most))
    return items[::step]
