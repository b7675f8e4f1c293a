"""Finds the staged states that this node has for a store: in `ANA_STAGED`, or in its node cache."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

from ana.errors import ANAError
from ana.format import address
from ana.fs import files
from ana.fs.files import Check
from ana.layers import path_map
from ana.stores import staged
from ana.stores.base import CacheableStore
from ana.stores.directory import keyring
from ana.stores.directory.config import CONFIG
from ana.stores.directory.store import DirectoryStore
from ana.stores.node_cache import node_folder
from ana.stores.staged import StagedFile, StagedStore, tell_unused

__all__ = ["OpenStore", "cache_folder", "in_front", "why_unused"]

_used: set[str] = set()
"""The path that `ANA_STAGED` names, once a store of this process uses the file: for other stores it need not be."""


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
    folder = cache_folder(home, place) if place else None
    cached = [] if folder is None else folder.paths()
    # Not within the store: cures name the file, and change nothing in the store.
    check = trusted.owners.check_file
    found = [file for path in (*staged.named(), *cached) if (file := _open(path, check)) is not None]

    def usable(wanted: Callable[[StagedFile], bool]) -> list[StagedFile]:
        return [file for file in found if wanted(file) and _has_key(file, home, trusted.ring)]

    mine = usable(lambda file: _is_of(file, home))
    if mine and not _others(found, mine):
        return StagedStore(home, mine, partial(open_store, create=False))
    if not found or files.stat(f"{home}/{CONFIG}") is None:
        return None
    opened = open_store(create=False)
    mine = usable(lambda file: _is_of(file, home, opened.config.id))
    for file in _others(found, mine):
        if not _is_of(file, home, opened.config.id):
            tell_unused(file.path, _of_another(file, home))
    return StagedStore(home, mine, lambda: opened) if mine else opened


def why_unused(store: DirectoryStore, check: Check) -> str:
    """Return why the file that `ANA_STAGED` names is not used for a store; "" if it is used, or none is named."""
    for path in staged.named():
        try:
            file = StagedFile.open(path, check)
            file.find_key(store.home, None)
        except ANAError as error:
            return str(error)
        if not _is_of(file, store.home, store.config.id):
            return _of_another(file, store.home)
    return ""


def cache_folder(home: str, place: str, limit_bytes: int | None = None) -> node_folder.NodeFolder | None:
    """Return the folder of a node cache for the staged states of the store at `home`; None if there is no cache."""
    base = node_folder.choose(place)
    return None if base is None else node_folder.NodeFolder(base, f"staged-{address.short_digest(home)}", limit_bytes)


def _open(path: str, check: Check) -> StagedFile | None:
    try:
        return StagedFile.open(path, check)
    except ANAError as error:
        tell_unused(path, str(error))
        return None


def _has_key(file: StagedFile, home: str, ring: keyring.KeyRing | None) -> bool:
    try:
        file.find_key(home, ring)
    except ANAError as error:
        tell_unused(file.path, str(error))
        return False
    return True


def _is_of(file: StagedFile, home: str, store_id: str = "") -> bool:
    """Return whether a file is of the store at `home`, by its path or its id."""
    return home in (file.home, _here(file.home)) or file.config.id == store_id != ""


def _others(found: list[StagedFile], mine: list[StagedFile]) -> list[StagedFile]:
    """Return the file that `ANA_STAGED` names, if it is not one of `mine`, nor was of another store of this process."""
    named = staged.named()
    _used.update(file.path for file in mine if file.path in named)
    return [file for file in found if file.path in named and file.path not in _used]


def _of_another(file: StagedFile, home: str) -> str:
    return f"{file.path} holds states of the store {file.home}, not of {home}"


def _here(home: str) -> str:
    try:
        return path_map.here(home)
    except ANAError:
        # An invalid variable is reported where it is needed.
        return home
