"""Opens a store in a folder, as options or the environment say."""

import os
from collections.abc import Callable, Sequence

from ana import settings
from ana.fs import paths
from ana.fs.ownership import UNMAPPED, Trust
from ana.stores.base import Store
from ana.stores.directory import keyring
from ana.stores.directory.store import DirectoryStore

__all__ = ["folder", "node_cache", "store", "trust"]


def store(options: settings.Options) -> Store:
    """Open the folder that a layer's options name. Options that are not given come from the environment.

    Raises TypeError, ValueError and ANAError for invalid values, and what opening raises.
    """
    ring = None if options.key is None else keyring.from_option(options.key)
    trusted = keyring.Trusted(trust(options.shared, options.trusted_uids), ring)
    with_cache = node_cache(options.node_cache, options.node_cache_bytes)
    opened = folder(
        options.pickle_dir or "",
        durable=options.durable is not False,
        level=options.level,
        trusted=trusted,
    )
    if options.pack_bytes is not None:
        opened.packs.pack_bytes = options.pack_bytes
    return with_cache(opened)


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
    where = said if said == "auto" else paths.absolute(said)
    verify = settings.NODE_CACHE_VERIFY.value()

    def with_cache(store: Store) -> Store:
        cacheable = store.as_cacheable()
        return store if cacheable is None else TieredStore(cacheable, where, limit, verify=verify)

    return with_cache
