"""Records as files in a sharded tree on a shared filesystem. `docs/format.md` draws the tree."""

import logging
import math
import time
import weakref
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import NamedTuple, TypeVar

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError
from ana.format import address, chunks, pack, record
from ana.fs import atomic, files, locks, mounts
from ana.runtime.counters import Counters
from ana.stores.base import CacheableStore, Done, Put, ReplacedError, Store
from ana.stores.directory import keyring, roots, signing, together, trash
from ana.stores.directory.config import PACKED_FORMAT, Config
from ana.stores.directory.finder import Finder
from ana.stores.directory.packs import Packs
from ana.stores.directory.place import Place
from ana.stores.directory.root_journal import RootJournal
from ana.stores.directory.stored_file import StoredFile
from ana.stores.directory.tree import Tree
from ana.stores.tier import Tier

__all__ = ["DirectoryStore"]

FRESH_SECONDS = 60.0
"""A younger file may not be on the disk yet, if its writer did not wait for the disk."""
TRIES = 50
"""How often to retry when the name is taken as we publish, but free or damaged when we look."""
LARGE_BYTES = 1 << 20
"""A state of at least this raw size is worth a look into the trash before it is written, and goes into no pack."""
LOCKED_BYTES = 32 << 20
"""Writers of the same state wait for each other if its raw size is at least this: a lock takes 0.1 ms and more."""
LOCKED_BYTES_REMOTE = 4 << 20
"""The same on a network, where a lock takes eight round trips, and all writers share one line to the server."""
LOCK_SECONDS = 10.0
SLOW_BYTES_PER_SECOND = 50e6
"""If another writer is slower than this, we write the state too."""

_log = logging.getLogger("ana.stores")

Result = TypeVar("Result")


class DirectoryStore(CacheableStore):
    """A tree of records. Safe between threads, processes and hosts; survives fork.

    It keeps packs open for reading, and one of its own for writing, which a forked child leaves to its parent.

    Attributes:
        tree: The folders and the files of the states.
        packs: The packs of small states.
        seal: What signs records; None if the store has no key.
        level: zstd's compression level, from -22 to 22. 0 does not compress.
        wait_seconds: How long to wait for a state that another host may have just written, in s.
    """

    process_local = False
    durable: bool = True
    supports_roots = True
    keeps_records = True

    def __init__(
        self,
        root: str,
        *,
        durable: bool = True,
        create: bool = True,
        wait_seconds: float = 2.0,
        level: int = chunks.DEFAULT_LEVEL,
        trusted: keyring.Trusted = keyring.DEFAULT,
    ) -> None:
        """Open a store.

        Args:
            root: The folder's absolute path.
            durable: Wait for the disk before a state counts as stored.
            create: Create the store if it does not exist.
            wait_seconds: How long to wait for a state that another host may have just written, on a network filesystem.
            level: The compression level; see `ana.format.chunks.encode`.
            trusted: Whose files and which keys to trust.

        Raises:
            StoreError: The store does not exist, or the system refused. In every case, nothing was written.
            UntrustedStoreError: The folder is not a store.
            UnsupportedFormatError: A newer version made the store.
        """
        super().__init__(root)
        self.tree: Tree = Tree(root, durable=durable, create=create, trusted=trusted)
        self._check = self.tree.trust.check_file
        self._ring = trusted.ring
        self.seal = signing.seal_of(self.tree.config, root, trusted.ring)
        self.durable = durable
        self.wait_seconds = wait_seconds
        self.level = level
        self._suspects: set[str] = set()
        # A cycle would keep the files of a store that is not used any more open until Python looks for cycles.
        check_same = partial(DirectoryStore._check_same, weakref.proxy(self))
        self.packs: Packs = Packs(self.tree, check_same, durable=durable)
        self.packs.use_seal(self.seal)
        self._finder = Finder(self.tree, self.packs, self.counters)

    @property
    def high_latency(self) -> bool:
        """Whether it is on a network filesystem; on a local disk, threads do not speed up reading."""
        return self.tree.is_remote

    @property
    def gathers(self) -> bool:
        """Whether each state waits, or small ones go into a pack together."""
        return self.durable or self.high_latency or self.packs.pack_bytes > 0

    @property
    def cache_name(self) -> str:
        """The tree's id or, if it has none, its path."""
        return self.config.id or self.home

    @cached_property
    def _waits_at_close(self) -> bool:
        return mounts.waits_at_close(self.tree.root)

    @property
    def config(self) -> Config:
        """What the tree's `ana.json` says."""
        return self.tree.config

    def is_same(self, other: Store) -> bool:
        """Return whether another store is this tree, perhaps under another path.

        The id alone does not tell: a copy or a snapshot has the same id, but may hold other states.
        """
        if isinstance(other, Tier):
            return other.is_same(self)
        if not isinstance(other, DirectoryStore) or self.config.id != other.config.id:
            return False
        return self.tree.identity == other.tree.identity is not None

    def keep(self, name: str, keys: Sequence[str], *, ttl_seconds: float = math.inf) -> list[ANAError]:
        """Keep states, and all that they refer to, under a root's name."""
        return [*roots.keep(self, name, keys, ttl_seconds)]

    def keeper(self, name: str, ttl_seconds: float = math.inf) -> RootJournal:
        """Return this process's file of a root."""
        return RootJournal(self, name, ttl_seconds)

    def forget(self, name: str) -> None:
        """Remove a root."""
        roots.forget(self, name)

    def as_scratch(self) -> "DirectoryStore":
        """Return the same tree without waits for the disk, with packs, and compressed only for networks."""
        trusted = keyring.Trusted(self.tree.trust, self._ring)
        level = self.level if self.high_latency else 0
        made = DirectoryStore(
            self.home, durable=False, create=False, wait_seconds=self.wait_seconds, level=level, trusted=trusted
        )
        made.packs.pack_bytes = LARGE_BYTES
        return made

    def count_with(self, counters: Counters) -> None:
        """Count with the counters of a store in front of this one from now on."""
        self.counters = self._finder.counters = counters

    def path(self, key: str) -> str:
        """Return the path of a key's file."""
        return self.tree.place(key).path

    def has(self, key: str) -> bool:
        """Return whether the state exists, after one look-up. A state that was found damaged is read and verified."""
        if key in self._suspects:
            return self.is_whole(key)
        if self.packs.has(key, self._settle):
            return True
        path = self.path(key)
        found = files.stat(path)
        if found is None:
            return address.is_content_uuid(key) and self.packs.refresh() and self._has_packed(key)
        self._check(path, found.stat)
        return found.size_bytes >= record.MIN_RECORD_BYTES and self._settle(path, found)

    def _has_packed(self, key: str) -> bool:
        """Return whether a pack has the state, as far as is known in memory."""
        return self.packs.has(key, self._settle)

    def note_hint(self, key: str, said: str) -> None:
        """Remember in which pack a state lies, as a reference says."""
        self.packs.note_hint(key, said)

    def hint(self, key: str) -> str:
        """Return in which pack a state lies, for references to it."""
        packs = self.packs
        return packs.hint(key) if packs.known else ""

    def is_whole(self, key: str) -> bool:
        """Return whether all of a state can be read and verified."""
        whole = super().is_whole(key)
        if whole:
            self._suspects.discard(key)
        return whole

    def get(self, key: str, *, wait: bool = True) -> StoredFile:
        """Find a state and verify its header."""
        found = self._get_packed(key) if self.packs.known else None
        if found is None:
            place = self.tree.place(key)
            found = self.watch(place, lambda: StoredFile(self, key, self.open_state(place, wait=wait)))
        if found.header.hints:
            for child, said in zip(found.header.children, found.header.hints, strict=True):
                self.packs.note_hint(child, said)
        return found

    def _get_packed(self, key: str) -> StoredFile | None:
        """Return a state from a known pack; None if none has it, or has it damaged: look again, and elsewhere."""
        opened = self.packs.open_state(key)
        try:
            return None if opened is None else StoredFile(self, key, opened)
        except CorruptedStateError as error:
            self.packs.note_wrong(key, error.path)
            return None

    def put_many(self, puts: Sequence[Put], done: Done) -> None:
        """Store states, those that go into a pack with one write and one wait for the disk."""
        others = together.put(self, puts, done)

        def tell(number: int, *, written: bool = False, error: Exception | None = None) -> None:
            done(others[number], written=written, error=error)

        super().put_many([puts[number] for number in others], tell)

    def record_for_pack(self, put: Put) -> bytes | None:
        """Return a state's record if it is to be appended to a pack, b"" if one has it already, else None."""
        if put.repair or put.key in self._suspects or not self._goes_into_pack(put.key, put.state):
            return None
        if self.packs.has(put.key, self._settle):
            return b""
        data = record.encode(put.key, put.state, put.children, self._encoding(put.children))
        return data if len(data) <= pack.MAX_RECORD_BYTES else None

    def put(self, key: str, state: record.Content, children: tuple[str, ...], *, repair: bool) -> bool:
        """Store a state unless it exists: look it up once, compress it, publish the file."""
        began = time.perf_counter()
        thorough = repair or key in self._suspects
        if self._goes_into_pack(key, state):
            file_bytes = self._put_packed(key, state, children, thorough=thorough)
        else:
            file_bytes = self._put(self.tree.place(key), state, children, thorough=thorough)
        if file_bytes:
            self.counters.note_stored(key, state.own_bytes, file_bytes, began)
            return True
        self.counters.note_found(key, state.own_bytes, began)
        return False

    def _goes_into_pack(self, key: str, state: record.Content) -> bool:
        return self.packs.takes(state.own_bytes) and state.class_name != "" and address.is_content_uuid(key)

    def _put_packed(self, key: str, state: record.Content, children: tuple[str, ...], *, thorough: bool) -> int:
        """Append a state to this process's pack, unless it is known to be stored; return its size, 0 if none is added.

        Nothing is looked up but in memory: a state that is stored twice does no harm.
        """
        damaged = self._is_damaged(key) if thorough else None
        if damaged is False or (not thorough and self._has_packed(key)):
            return 0
        if damaged and files.stat(self.path(key)) is not None:
            # Readers that know no packs yet would go on finding the damaged file.
            return self._put(self.tree.place(key), state, children, thorough=True)
        data = record.encode(key, state, children, self._encoding(children))
        if len(data) > pack.MAX_RECORD_BYTES:
            return self._put(self.tree.place(key), state, children, thorough=thorough)
        try:
            self.packs.append([(key, data)])
        except StoreError as error:
            if not self.is_there_anyway(key, error):
                raise
            return 0
        self._suspects.discard(key)
        return len(data)

    def is_there_anyway(self, key: str, error: Exception) -> bool:
        """Return whether a state that could not be written (the store is read-only, the disk full) is there already.

        Args:
            key: The state's key.
            error: Why it could not be written.
        """
        return isinstance(error, StoreError) and not isinstance(error, ReplacedError) and self.has(key)

    def _encoding(self, children: tuple[str, ...]) -> record.Encoding:
        hints = [self.packs.hint(child) for child in children] if children and self.packs.known else ()
        return record.Encoding(files.now_ns(), self.level, self.seal, hints)

    def _put(self, place: Place, state: record.Content, children: tuple[str, ...], *, thorough: bool) -> int:
        """Store a state unless it exists; return the size of the new file, 0 if none was written."""
        found = self._presence(place, check=thorough)
        if found.there:
            return 0
        # Large states and explicit UUIDs are worth a look into the trash.
        worth = state.own_bytes >= LARGE_BYTES or not address.is_content_uuid(place.key)
        if worth and found.damaged is None and self._finder.bring_back(place):
            found = self._presence(place, check=thorough)
            if found.there:
                return 0
        locked_bytes = LOCKED_BYTES_REMOTE if self.tree.is_remote else LOCKED_BYTES
        if state.own_bytes < locked_bytes and found.damaged is None:
            return self._write(place, state, children)
        # Many tasks may be storing or repairing this state now: one does, the others wait and find it.
        lock = f"{self.tree.root}/.ana/locks/{address.shard(place.key, 1)[0]}.lock"
        with locks.saving_work(
            lock,
            LOCK_SECONDS + state.own_bytes / SLOW_BYTES_PER_SECOND,
            self.counters,
            self.tree.access,
            lambda: self.tree.own_folder(".ana/locks"),
            may_hang=self.tree.is_remote,
        ):
            found = self._presence(place, check=thorough)
            if found.there:
                return 0
            self._make_room(place, found)
            return self._write(place, state, children)

    def _write(self, place: Place, state: record.Content, children: tuple[str, ...]) -> int:
        encoding = self._encoding(children)
        sizes: list[int] = []

        def fill(write: record.Write) -> None:
            sizes.append(record.write(write, place.key, state, children, encoding))

        for _ in range(TRIES):
            if self.publish(place, fill):
                return sizes[-1]
            # Another writer was first: check that what it wrote is whole.
            found = self._presence(place, check=True)
            if found.there:
                return 0
            self._make_room(place, found)
        raise StoreError(place.path, 0, "other processes keep removing it or writing it damaged: find out which")

    def watch(self, place: Place, attempt: Callable[[], Result]) -> Result:
        """Call `attempt`; retry if bytes were wrong or the file was replaced meanwhile: see `Finder.watch`.

        A state that is still wrong is remembered, so that this process does not take it for stored.

        Args:
            place: The state's place.
            attempt: Reads and verifies.
        """
        try:
            return self._finder.watch(place, attempt)
        except CorruptedStateError as error:
            self._suspects.add(place.key)
            self.counters.note_damaged(place.key, error.path, error.reason)
            raise

    def open_state(self, place: Place, *, wait: bool) -> files.Opened:
        """Open a state's file, or read its record in a pack; owner and mode are checked on the opened file.

        Args:
            place: The state's place.
            wait: Whether to wait for a state that another host may have just written.
        """
        return self._finder.open(place, wait_seconds=self.wait_seconds if wait else 0.0)

    def _presence(self, place: Place, *, check: bool) -> "_Presence":
        """Look up a state, judging by its file's size; with `check`, read and verify all of it."""
        path = place.path
        if not check and self._has_packed(place.key):
            return _PRESENT
        found = files.stat(path)
        if found is None:
            return _PRESENT if check and self._is_whole_in_pack(place.key) else _ABSENT
        self._check(path, found.stat)
        if found.size_bytes < record.MIN_RECORD_BYTES:
            return _Presence(there=False, damaged=found)
        damaged = self._is_damaged(place.key) if check else False
        if damaged:
            return _Presence(there=False, damaged=found)
        return _PRESENT if damaged is not None and self._settle(path, found) else _ABSENT

    def _is_whole_in_pack(self, key: str) -> bool:
        may_be = self.config.format >= PACKED_FORMAT and address.is_content_uuid(key)
        return may_be and self._is_damaged(key) is False

    def _make_room(self, place: Place, found: "_Presence") -> None:
        """Free the name of a damaged file by renaming the file, which is kept."""
        key, path = place.key, place.path
        if found.damaged is not None:
            self.tree.check_folders(place)
            signing.check_key(self.tree, self.seal)
            aside = atomic.set_aside(path, found.damaged.identity)
            trash.forget(path, found.damaged.identity)
            fields = {"event": "set aside", "uuid": key, "store": self.home, "path": path, "aside": aside}
            _log.warning("state %r is damaged: %s is set aside as %s", key, path, aside, extra=fields)
        self._suspects.discard(key)

    def _is_damaged(self, key: str) -> bool | None:
        """Read and verify all of a state; return None if it has vanished."""
        try:
            self.get(key, wait=False).verify()
        except CorruptedStateError:
            return True
        except StateNotFoundError:
            return None
        return False

    def publish(self, place: Place, fill: Callable[[record.Write], None]) -> bool:
        """Write a record at its place, and return whether it was written: False if the file exists.

        Args:
            place: The state's place.
            fill: Writes the record.

        Raises:
            StoreError: The system refused.
            UntrustedStoreError: Others may have planted a folder: a link would lead out of the store.
        """
        self.tree.check_folders(place)
        return atomic.publish(
            place.folder,
            place.name,
            fill,
            atomic.Policy(self.durable, self.tree.access, lambda: self.durable or self._waits_at_close),
            make_folders=lambda: self._make_folders(place),
        )

    def _make_folders(self, place: Place) -> None:
        """Create the folders of a place, after checking that the store is still the one that was opened."""
        self._check_same()
        self.tree.make_folders(place)

    def _check_same(self) -> None:
        """Check that the store is still the one that was opened. Raises ReplacedError."""
        if not self.tree.is_same():
            self.seal = signing.seal_of(self.tree.config, self.home, self._ring)
            self.packs.use_seal(self.seal)
            self.packs.forget_all()
            self._suspects.clear()
            raise ReplacedError(self.home, 0, "it was purged, or another store has taken its place: try again")

    def _settle(self, path: str, found: files.Status) -> bool:
        """Wait for the disk in case the writer did not: stored must mean durable. Return False if the file is gone."""
        return not self.may_be_lost(found.modified) or atomic.sync_file(path)

    def may_be_lost(self, written: float) -> bool:
        """Return whether a file written at that time (s since 1970) should be on the disk, but may not be yet."""
        return self.durable and files.now_ns() / 1e9 - written < FRESH_SECONDS and not self._waits_at_close


class _Presence(NamedTuple):
    """What a look-up found: the state, nothing, or a damaged file in its place."""

    there: bool
    damaged: files.Status | None = None


_PRESENT, _ABSENT = _Presence(there=True), _Presence(there=False)
