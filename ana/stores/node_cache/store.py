"""The node cache: a store in front of a tree, through which all processes of a node share large states.

Each node fetches, verifies and decompresses a state once, into a file on its own disk that all processes map read-only.
`docs/node-cache.md` says what it promises and what it trusts.
"""

import logging
import time
from functools import cached_property

from ana.errors import CorruptedStateError
from ana.format import address, record
from ana.format.parts import ABSENT
from ana.fs import node_lock
from ana.stores.base import CacheableStore, CopyableState, Store, StoredState
from ana.stores.node_cache import entries, node_folder
from ana.stores.tier import Tier

__all__ = ["LEAST_BYTES", "TieredStore"]

LEAST_BYTES = 256 << 10
"""Only states of at least this raw size are cached."""
WAIT_SECONDS = 10.0
SLOW_BYTES_PER_SECOND = 50e6
"""If another process fetches more slowly than this, this process takes over."""

_log = logging.getLogger("ana.tiers")


class TieredStore(Tier):
    """A tree with a node-local tier in front of it.

    Where the tier cannot be had (no local disk, a full or foreign one) it is as if there were none. Safe
    between threads and processes; survives fork.
    """

    def __init__(self, store: CacheableStore, place: str, limit_bytes: int | None = None, *, verify: bool) -> None:
        """Put a cache in the folder `place` in front of a store. Nothing is created yet.

        Args:
            store: The tree.
            place: A path, or "auto" for the node's own choice.
            limit_bytes: See `NodeFolder`.
            verify: Hash an entry's content each time it is mapped.
        """
        super().__init__(store.home, store.counters)
        self._store = store
        self._place = place
        self._limit_bytes = limit_bytes
        self._verify = verify

    @property
    def store(self) -> CacheableStore:
        """The tree."""
        return self._store

    def as_scratch(self) -> Store:
        """Return the tree's, behind the same cache."""
        scratch = self.store.as_scratch().as_cacheable()
        if scratch is None:
            return self
        return TieredStore(scratch, self._place, self._limit_bytes, verify=self._verify)

    def get(self, key: str, *, wait: bool = True) -> StoredState:
        """Find a state: in the cache or the tree under a content address, in the tree under any other key."""
        cached = self._tier.find(key) if address.is_content_uuid(key) and self._tier is not None else None
        if cached is not None:
            return _Cached(self, key, cached)
        found = self.store.get(key, wait=wait)
        if found.header.own_bytes < LEAST_BYTES or self._tier is None:
            return found
        return _Uncached(self, key, found)

    @cached_property
    def _tier(self) -> "_Tier | None":
        base, boot = node_folder.choose(self._place), node_folder.boot_id()
        if base is None or boot is None:
            return None
        name = address.file_name(self.store.cache_name).removesuffix(address.SUFFIX)
        folder = node_folder.NodeFolder(base, name, self._limit_bytes)
        return _Tier(folder, entries.Origin(boot, name), verify=self._verify)

    def fetch(self, key: str, found: CopyableState) -> list[bytes | memoryview]:
        """Return a state's segments: mapped if the cache has or takes them, otherwise read from the tree."""
        began = time.perf_counter()
        cached = None if self._tier is None else self._tier.obtain(key, found)
        if cached is None:
            return found.segments()
        found.release()
        if not cached.is_new:
            # What made the entry has counted itself.
            self.counters.note_from_tier(key, cached.header.own_bytes, began)
        return cached.segments()

    def holds(self, key: str) -> bool:
        """Return whether the cache has a valid entry of a state."""
        return self._tier is not None and self._tier.find(key) is not None

    def fetch_ahead(self, key: str) -> bool:
        """Have the cache hold a large state under a content address; return whether it does."""
        if self._tier is None or not address.is_content_uuid(key):
            return False
        if self.holds(key):
            return True
        found = self.store.get(key)
        try:
            return found.header.own_bytes >= LEAST_BYTES and self._tier.obtain(key, found) is not None
        finally:
            found.release()


class _Mapped:
    """An entry that this process has mapped. Its segments are read-only views that keep the mapping alive.

    `bytes` objects are an exception: they are copies.
    """

    def __init__(self, entry: entries.Entry, memory: memoryview, where: str, *, is_new: bool = False) -> None:
        self.header = entry.header
        self.where = where
        self.is_new = is_new
        places = zip(entry.offsets, entry.header.own_segments, strict=True)
        self._views = [memory[offset : offset + size] for offset, size in places]

    def is_right(self) -> bool:
        """Hash the whole content, and return whether the digest matches the record's."""
        try:
            record.verify_segments(self.header, self._views, self.where)
        except CorruptedStateError:
            return False
        return True

    def segments(self) -> list[bytes | memoryview]:
        """Return the pickle stream and the buffers, as a record's."""
        bytes_segments = set(self.header.bytes_segments)
        found = [bytes(view) if number in bytes_segments else view for number, view in enumerate(self._views)]
        for part in self.header.parts:
            found[part.segment] = ABSENT
        return found


class _Tier:
    """The entries of one store on this node."""

    def __init__(self, folder: node_folder.NodeFolder, origin: entries.Origin, *, verify: bool) -> None:
        self._folder = folder
        self._origin = origin
        self._verify = verify

    def find(self, key: str, content: bytes | None = None) -> _Mapped | None:
        """Map the valid entry of a key (with this content digest, if given), or return None."""
        name = _name(key)
        opened = self._folder.open(name)
        if opened is None:
            return None
        try:
            start = opened.read(entries.FIRST_BYTES)
            size = entries.header_size(start)
            if size > len(start):
                start = opened.read(min(size, opened.size_bytes))
            entry = entries.parse(start, opened.size_bytes, key, self._origin)
            if entry is None or content not in (None, entry.header.content):
                _log.info("the entry of %r in %s is not valid, and is not used", key, self._folder.path)
                return None
            memory = opened.map()
        finally:
            opened.close()
        if memory is None:
            return None
        return self._checked(_Mapped(entry, memory, f"{self._folder.path}/{name}"))

    def obtain(self, key: str, found: CopyableState) -> _Mapped | None:
        """Map the entry of a state in the tree. The node's first process makes it, and the others wait for it.

        Returns None if the cache does not take it, or after a timeout. Raises what reading the tree raises.
        """
        content = found.header.content
        cached = self.find(key, content)
        if cached is not None:
            return cached
        entry, head = entries.draft(found.header, self._origin)
        if not self._folder.prepare(entry.size_bytes):
            return None
        patience = WAIT_SECONDS + entry.size_bytes / SLOW_BYTES_PER_SECOND
        lock_path = f"{self._folder.path}/{node_folder.LOCK}{_name(key)}"
        with node_lock.NodeLock(lock_path, lambda: self.find(key, content), patience) as lock:
            # The previous holder may have used up the room without leaving the entry.
            if not lock.held or (lock.waited and not self._folder.prepare(entry.size_bytes)):
                return lock.found
            return lock.found or self._make(key, found, entry, head)

    def _make(self, key: str, found: CopyableState, entry: entries.Entry, head: bytes) -> _Mapped | None:
        def fill(put: node_folder.Put) -> None:
            put(0, head)
            found.copy(entry.offsets, put)

        memory = self._folder.make(_name(key), entry.size_bytes, fill)
        where = f"{self._folder.path}/{_name(key)}"
        return None if memory is None else _Mapped(entry, memory, where, is_new=True)

    def _checked(self, cached: _Mapped) -> _Mapped | None:
        if not self._verify or cached.is_right():
            return cached
        _log.warning("the content of %s does not match its digest: fetching it again", cached.where)
        return None


class _Cached:
    """A state found in the cache, under its content address."""

    may_be_lost = True
    """The tree was not asked, so it must be asked before a state that refers to this one is stored."""

    def __init__(self, tiered: TieredStore, key: str, cached: _Mapped) -> None:
        self.header = cached.header
        self.where = cached.where
        self._tiered = tiered
        self._key = key
        self._cached: _Mapped | None = cached

    def segments(self) -> list[bytes | memoryview]:
        """Return the mapped segments once; after that, or after a release, find them again."""
        cached, self._cached = self._cached, None
        if cached is None:
            return self._tiered.get(self._key).segments()
        self._tiered.counters.note_from_tier(self._key, self.header.own_bytes, time.perf_counter())
        return cached.segments()

    def verify(self) -> None:
        """Read and verify the whole state in the tree, the permanent store."""
        self._tiered.store.get(self._key).verify()

    def release(self) -> None:
        """Drop the mapping."""
        self._cached = None


class _Uncached:
    """A large state found in the tree."""

    def __init__(self, tiered: TieredStore, key: str, found: CopyableState) -> None:
        self._tiered = tiered
        self._key = key
        self._found = found

    @property
    def header(self) -> record.Header:
        """The header of the record in the tree."""
        return self._found.header

    @property
    def where(self) -> str:
        """The file in the tree."""
        return self._found.where

    @property
    def may_be_lost(self) -> bool:
        """As the tree's."""
        return self._found.may_be_lost

    def segments(self) -> list[bytes | memoryview]:
        """Cache the state, or read it."""
        return self._tiered.fetch(self._key, self._found)

    def verify(self) -> None:
        """Read and verify the whole state in the tree."""
        self._found.verify()

    def release(self) -> None:
        """Close the file."""
        self._found.release()


def _name(key: str) -> str:
    return address.file_name(key).removesuffix(address.SUFFIX)
