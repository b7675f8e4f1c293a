"""From what a user or the environment says to an open store in a folder."""

import os
from collections.abc import Callable, Iterable

from ana.errors import ANAError
from ana.format import chunks
from ana.fs import paths
from ana.fs.ownership import UNMAPPED, Trust
from ana.stores.base import Store
from ana.stores.directory import keyring
from ana.stores.directory.store import DirectoryStore

__all__ = ["folder", "node_cache", "trust"]

WAIT = "ANA_WAIT"
WAIT_SECONDS = 2.0
SHARED = "ANA_SHARED"
TRUSTED_UIDS = "ANA_TRUSTED_UIDS"
NODE_CACHE = "ANA_NODE_CACHE"
NODE_CACHE_BYTES = "ANA_NODE_CACHE_BYTES"
NODE_CACHE_VERIFY = "ANA_NODE_CACHE_VERIFY"
_UNMAPPED_WORD = "unmapped"
_YES, _NO = ("1", "yes", "true", "on"), ("", "0", "no", "false", "off")


def folder(
    pickle_dir: str | os.PathLike[str],
    *,
    durable: bool = True,
    create: bool = True,
    level: int = chunks.DEFAULT_LEVEL,
    key: object = None,
    believed: Trust | None = None,
    wait_seconds: float | None = None,
) -> DirectoryStore:
    """Open the store in a folder. Raises TypeError, ValueError and ANAError for nonsense, and what opening raises."""
    root = _absolute(pickle_dir)
    ring = None if key is None else keyring.from_option(key)
    return DirectoryStore(
        root,
        durable=durable,
        create=create,
        wait_seconds=_wait_seconds() if wait_seconds is None else wait_seconds,
        level=level,
        ring=ring,
        trust=trust() if believed is None else believed,
    )


def trust(shared: bool | None = None, trusted_uids: Iterable[int | str] | None = None) -> Trust:  # noqa: FBT001 - by name
    """Return whose files are believed, as said or, where nothing is, as the environment says.

    Raises TypeError, ValueError, and ANAError for nonsense in the environment.
    """
    uids = _uids_of_environment() if trusted_uids is None else _checked_uids(trusted_uids)
    return Trust(uids, shared=_shared_by_environment() if shared is None else bool(shared))


def node_cache(place: str | os.PathLike[str] | None = None, limit_bytes: int | None = None) -> Callable[[Store], Store]:
    """Return what puts the node-local tier that was asked for, or that the environment names, in front of a store.

    Raises TypeError, ValueError, and ANAError for nonsense in the environment.
    """
    said = os.environ.get(NODE_CACHE, "") if place is None else os.fsdecode(place)
    if limit_bytes is not None and (isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int)):
        msg = f"node_cache_bytes is a number of bytes, not {limit_bytes!r}"
        raise TypeError(msg)
    if limit_bytes is not None and limit_bytes < 1:
        msg = f"node_cache_bytes is at least 1, not {limit_bytes}"
        raise ValueError(msg)
    if not said:
        return lambda store: store
    from ana.stores.node_cache import store as tiered  # noqa: PLC0415 - only who has a node cache waits for its modules

    if limit_bytes is None:
        limit_bytes = tiered.limit(os.environ.get(NODE_CACHE_BYTES, ""), f"the environment's {NODE_CACHE_BYTES}")
    where = said if said == "auto" else paths.absolute(said)
    verify = os.environ.get(NODE_CACHE_VERIFY, "") not in ("", "0")

    def with_cache(store: Store) -> Store:
        cacheable = store.as_cacheable()
        return store if cacheable is None else tiered.TieredStore(cacheable, where, limit_bytes, verify=verify)

    return with_cache


def _absolute(pickle_dir: str | os.PathLike[str]) -> str:
    path = os.fsdecode(pickle_dir)
    if not path:
        msg = "pickle_dir is empty: give a folder's path"
        raise ValueError(msg)
    return paths.absolute(path)


def _wait_seconds() -> float:
    said = os.environ.get(WAIT, "") or WAIT_SECONDS
    try:
        return max(0.0, float(said))
    except ValueError:
        msg = f"the environment's {WAIT} is a number of seconds, not {said!r}"
        raise ANAError(msg) from None


def _checked_uids(given: Iterable[object]) -> list[int]:
    uids = []
    for uid in given:
        if uid == _UNMAPPED_WORD:
            uids.append(UNMAPPED)
            continue
        if isinstance(uid, bool) or not isinstance(uid, int):
            msg = f"trusted_uids holds users' numbers, as in [1000, 1001], not {given!r:.100}"
            raise TypeError(msg)
        if uid < 0:
            msg = f"trusted_uids holds users' numbers, and {uid} is none"
            raise ValueError(msg)
        uids.append(uid)
    return uids


def _uids_of_environment() -> list[int]:
    said = os.environ.get(TRUSTED_UIDS, "")
    words = [word for word in said.replace(",", " ").split() if word]
    if not all((word.isascii() and word.isdigit()) or word == _UNMAPPED_WORD for word in words):
        msg = f"the environment's {TRUSTED_UIDS} is users' numbers, as in 1000,1001, or {_UNMAPPED_WORD}, not {said!r}"
        raise ANAError(msg)
    return [UNMAPPED if word == _UNMAPPED_WORD else int(word) for word in words]


def _shared_by_environment() -> bool:
    said = os.environ.get(SHARED, "").lower()
    if said not in (*_YES, *_NO):
        msg = f"the environment's {SHARED} is 1 or 0, not {said!r}"
        raise ANAError(msg)
    return said in _YES
