"""Opens a store in a folder, as options or the environment say."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from ana import settings
from ana.fs import paths
from ana.fs.ownership import UNMAPPED, Trust
from ana.stores.base import Store
from ana.stores.directory import keyring
from ana.stores.directory.store import DirectoryStore

if TYPE_CHECKING:
    from ana.layers.staging import OpenStore

__all__ = ["existing", "folder", "node_cache", "store", "trust"]


def store(options: settings.Options) -> Store:
    """Open the folder that a layer's options name. Options that are not given come from the environment.

    Raises TypeError, ValueError and ANAError for invalid values, and what opening raises.
    """
    ring = None if options.key is None else keyring.from_option(options.key)
    trusted = keyring.Trusted(trust(options.shared, options.trusted_uids), ring)
    with_cache = node_cache(options.node_cache, options.node_cache_bytes)

    def open_folder(*, create: bool) -> DirectoryStore:
        opened = folder(
            options.pickle_dir or "",
            durable=options.durable is not False,
            create=create,
            level=options.level,
            trusted=trusted,
        )
        if options.pack_bytes is not None:
            opened.packs.pack_bytes = options.pack_bytes
        return opened

    home = paths.absolute(options.pickle_dir or "")
    return with_cache(_behind_staged(home, options.node_cache, trusted, open_folder) or open_folder(create=True))


def existing(home: str) -> Store:
    """Open the existing store in a folder, as the environment says. Raises as `store`."""
    trusted = keyring.Trusted(trust())
    open_folder = partial(folder, home, trusted=trusted)
    return _behind_staged(home, None, trusted, open_folder) or open_folder(create=False)


def _behind_staged(home: str, place: str | None, trusted: keyring.Trusted, open_folder: "OpenStore") -> Store | None:
    """Return a store behind the staged states that this node has for it; None if it has none."""
    cache = settings.NODE_CACHE.value() if place is None else place
    if not (cache or settings.STAGED.value()):
        return None
    from ana.layers import staging  # noqa: PLC0415 - needed with staged states only

    return staging.in_front(home, _cache_place(cache), trusted, open_folder)


def _cache_place(said: str) -> str:
    return said if said in ("", "auto") else paths.absolute(said)


def folder(
    pickle_dir: str | os.PathLike[str],
    *,
    durable: bool = True,
    create: bool = True,
    level: int = settings.Options().level,
    trusted: keyring.Trusted | None = None,
    wait_seconds: float | None = None,
) -> DirectoryStore:
    """Open the store in a folder. Raises as `store`."""
    pack_bytes = settings.PACK_BYTES.value()
    opened = DirectoryStore(
        paths.absolute(pickle_dir),
        durable=durable,
        create=create,
        wait_seconds=settings.WAIT.value() if wait_seconds is None else wait_seconds,
        level=level,
        trusted=keyring.Trusted(trust()) if trusted is None else trusted,
    )
    if pack_bytes is not None:
        opened.packs.pack_bytes = pack_bytes
    return opened


def trust(shared: bool | None = None, trusted_uids: Sequence[int | str] | None = None) -> Trust:  # noqa: FBT001 - by name
    """Return whose files are trusted. What is not given comes from the environment.

    Raises ANAError if a variable is invalid.
    """
    said = settings.TRUSTED_UIDS.value() if trusted_uids is None else trusted_uids
    uids = [UNMAPPED if isinstance(uid, str) else uid for uid in said]
    return Trust(uids, shared=settings.SHARED.value() if shared is None else shared)


def node_cache(place: str | None = None, limit_bytes: int | None = None) -> Callable[[Store], Store]:
    """Return a function that puts a node cache in front of a store. What is not given comes from the environment.

    Without a node cache, the function returns the store unchanged. Raises ANAError if a variable is invalid.
    """
    said = settings.NODE_CACHE.value() if place is None else place
    if not said:
        return lambda store: store
    from ana.stores.node_cache.store import TieredStore  # noqa: PLC0415 - needed with a node cache only

    limit = settings.NODE_CACHE_BYTES.value() if limit_bytes is None else limit_bytes
    where = _cache_place(said)
    verify = settings.NODE_CACHE_VERIFY.value()

    def with_cache(store: Store) -> Store:
        cacheable = store.as_cacheable()
        return store if cacheable is None else TieredStore(cacheable, where, limit, verify=verify)

    return with_cache
