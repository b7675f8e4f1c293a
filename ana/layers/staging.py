"""Finds the staged states that this node has for a store: in `ANA_STAGED`, or in its node cache."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from ana import settings
from ana.errors import ANAError
from ana.format import address
from ana.fs import files, paths
from ana.layers import path_map
from ana.stores.base import CacheableStore
from ana.stores.directory import keyring
from ana.stores.directory.config import CONFIG
from ana.stores.directory.store import DirectoryStore
from ana.stores.node_cache import node_folder
from ana.stores.staged import StagedFile, StagedStore, open_all

__all__ = ["OpenStore", "cache_folder", "in_front"]


class OpenStore(Protocol):
    """Opens the store in a folder; with `create`, creates it if it is missing."""

    def __call__(self, *, create: bool) -> DirectoryStore:
        """Open it."""


def in_front(home: str, place: str, trusted: keyring.Trusted, open_store: OpenStore) -> CacheableStore | None:
    """Return a store with this node's staged states in front of it; None if the node has none.

    A file that was staged under another path may be of the same store. Only to find that out is the store opened now;
    if the file is of another store, the store itself is returned.

    Args:
        home: The store's path.
        place: The folder of the node cache, "auto", or "" for none.
        trusted: Whose files and which keys to trust.
        open_store: Opens the store. Never creates it, because a store with staged states existed before.

    """
    # Not within the store: cures name the file, and change nothing in the store.
    trust = trusted.owners
    found = open_all(_named(), trust.check_file)
    folder = cache_folder(home, place) if place else None
    if folder is not None:
        found += open_all(folder.paths(), trust.check_file)

    def usable(wanted: Callable[[StagedFile], bool]) -> list[StagedFile]:
        return [file for file in found if wanted(file) and file.is_usable(home, trusted.ring)]

    mine = usable(lambda file: home in (file.home, _here(file.home)))
    if mine:
        return StagedStore(home, mine, partial(open_store, create=False))
    if not found or files.stat(f"{home}/{CONFIG}") is None:
        return None
    opened = open_store(create=False)
    others = usable(lambda file: file.config.id == opened.config.id != "")
    return StagedStore(home, others, lambda: opened) if others else opened


def cache_folder(home: str, place: str, limit_bytes: int | None = None) -> node_folder.NodeFolder | None:
    """Return the folder of a node cache for the staged states of the store at `home`; None if there is no cache."""
    base = node_folder.choose(place)
    return None if base is None else node_folder.NodeFolder(base, f"staged-{address.short_digest(home)}", limit_bytes)


def _named() -> list[str]:
    said = settings.STAGED.value()
    return [paths.absolute(said)] if said else []


def _here(home: str) -> str:
    try:
        return path_map.here(home)
    except ANAError:
        # An invalid variable is reported where it is needed.
        return home
