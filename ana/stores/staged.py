"""Staged states: a file on this node with copies of a store's states, in front of that store.

`ana stage` writes such a file, and tasks find it by `ANA_STAGED` or in the node cache. `docs/staging.md` says how
to use it, `docs/format.md` what it looks like.
"""

import errno
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Self

from ana import settings
from ana.errors import ANAError, CorruptedStateError, StoreError, UntrustedStoreError
from ana.format import chunks, pack, record
from ana.format.pack import Spot
from ana.format.signature import Seal
from ana.fs import files, json_files, paths
from ana.fs.files import Check
from ana.runtime.counters import Counters
from ana.runtime.tracebacks import users_level
from ana.stores.base import CacheableStore, CopyableState, Store
from ana.stores.directory import config, keyring, signing
from ana.stores.directory.store import DirectoryStore
from ana.stores.directory.stored_file import read_header
from ana.stores.tier import Tier

__all__ = ["CURE", "StagedFile", "StagedStore", "named", "tell_unused"]

CURE = f"Copy the store's file from ana stage to this node, or unset {settings.STAGED.name}"

SMALL_BYTES = 256 << 10
"""Records up to this size are read in one go."""
START_BYTES = 4096
"""Read first of a larger record."""
MOST_HINTS = 1 << 14
"""How many hints wait until the store behind is opened."""

_log = logging.getLogger("ana.staged")
_told: set[str] = set()


def named() -> list[str]:
    """Return the path of the file that `ANA_STAGED` names, if it names one."""
    said = settings.STAGED.value()
    return [paths.absolute(said)] if said else []


def tell_unused(path: str, reason: str, *, once: str = "") -> None:
    """Say, once in a process, that a file or a state in it is not used. What it holds comes from the store, slowly.

    Args:
        path: The file.
        reason: Why, with all paths.
        once: What is said once. Default: `reason`.

    """
    if (once or reason) in _told:
        return
    _told.add(once or reason)
    if path not in named():
        _log.warning("staged states are not used: %s", reason)
        return
    # If the user turned warnings into errors, raising here would fail the task that unpickles a reference.
    with suppress(RuntimeWarning):
        text = f"states come from the store and not from {settings.STAGED.name}: {reason}. {CURE}"
        warnings.warn(text, RuntimeWarning, stacklevel=users_level())


class StagedFile:
    """A file of staged states, open for reading. Safe between threads and after fork; its last user closes it.

    Attributes:
        path: Its path.
        home: The home of the store that it was made from.
        config: What that store's `ana.json` said.

    """

    def __init__(self, opened: files.Opened, index: pack.Index, home: str, said: config.Config) -> None:
        self.path: str = opened.path
        self.home = home
        self.config = said
        self._opened = opened
        self._index = index
        self._seal: Seal | None = None

    @classmethod
    def open(cls, path: str, check: Check) -> Self:
        """Open a file.

        Args:
            path: The file's path.
            check: Refuses files that others may have written.

        Raises:
            StoreError: There is no such file, or the system refused.
            UntrustedStoreError: Others may have written it, or it is not a whole file of `ana stage`.

        """
        opened = files.open_file(path, 0, check)
        if opened is None:
            raise StoreError(path, errno.ENOENT, "there is no such file on this node")

        def read(offset: int, size: int) -> bytearray:
            data = bytearray(size)
            opened.read(offset, [memoryview(data)])
            return data

        index = pack.index_at_end(read, opened.size_bytes)
        if index is None or index.about is None:
            raise UntrustedStoreError(path, "it is not a file of ana stage, or cut short: stage it again")
        if not len(index):
            # Nothing will be read.
            opened.close()
        try:
            fields = json_files.parse(index.about)
            return cls(opened, index, str(fields["home"]), config.of_fields(fields))
        except (ValueError, KeyError, TypeError) as error:
            raise UntrustedStoreError(path, f"another version of ana wrote it ({error}): stage it again") from None

    def find_key(self, home: str, ring: keyring.KeyRing | None) -> None:
        """Find the key to check its records with.

        Args:
            home: The path of the store that the file is used for.
            ring: The store's keys; None to look for a key file.

        Raises:
            ANAError: The key is missing, or the store has another one.

        """
        self._seal = signing.seal_of(self.config, home, ring)

    def find(self, key: str, number: int) -> "tuple[record.Header, _Record] | None":
        """Return the verified header and the record of a state, given the key's number; None if it is not there.

        Raises:
            CorruptedStateError: The record is damaged.
            UnsupportedFormatError: A newer ana wrote it.
            StoreError: It cannot be read.

        """
        spot = self._index.find(number)
        if spot is None:
            return None
        found = _Record(self._opened, spot)
        header, found.start = read_header(found, key, found.where, self._seal)
        return header, found


class _Record:
    """A record in a staged file."""

    def __init__(self, opened: files.Opened, spot: Spot) -> None:
        self.size_bytes = spot.size
        self.path = opened.path
        self.where = f"{opened.path}:{spot.offset}+{spot.size}"
        self._opened = opened
        self._offset = spot.offset
        self.start = bytearray(spot.size if spot.size <= SMALL_BYTES else START_BYTES)
        """The record's first bytes: all of a small record."""
        self.read(0, [memoryview(self.start)])

    def read(self, offset: int, targets: Sequence[memoryview]) -> None:
        """Fill the targets from an offset in the record on."""
        self._opened.read(self._offset + offset, targets)

    @property
    def is_in_memory(self) -> bool:
        """Whether `start` is all of it."""
        return len(self.start) == self.size_bytes

    def take(self) -> bytearray:
        """Return `start`, which is then another's: the next read reads the file."""
        start, self.start = self.start, bytearray()
        return start


class StagedStore(Tier, CacheableStore):
    """A store with staged states in front of it. Safe between threads and processes; survives fork.

    The store behind is opened when it is first needed: for a state that is not staged or whose copy is damaged, or to
    store one. If it cannot be opened, that raises what opening it raises.
    """

    process_local = False
    supports_roots = True
    keeps_records = True

    def __init__(self, home: str, staged: Sequence[StagedFile], open_store: Callable[[], DirectoryStore]) -> None:
        """Take the store's home, the files, at least one, and what opens the store."""
        super().__init__(home, Counters(home))
        self._files = staged
        self._open = open_store
        self._behind: list[DirectoryStore] = []
        self._hints: dict[str, str] = {}

    @property
    def store(self) -> DirectoryStore:
        """The store behind."""
        if not self._behind:
            opened = self._open()
            opened.count_with(self.counters)
            # Other threads may have opened it, too: the first one counts.
            self._behind.append(opened)
            for key, said in self._hints.items():
                self._behind[0].note_hint(key, said)
        return self._behind[0]

    @property
    def high_latency(self) -> bool:
        """Whether the store behind is open and slow."""
        return bool(self._behind) and self.store.high_latency

    @property
    def cache_name(self) -> str:
        """As the store's."""
        return self._files[0].config.id or self.home

    def is_same(self, other: Store) -> bool:
        """Return whether another store is the one behind. Opens that only if both have the same id."""
        known = other.store if isinstance(other, Tier) and not isinstance(other, CacheableStore) else other
        if known.home == self.home:
            return True
        return isinstance(known, CacheableStore) and known.cache_name == self.cache_name and super().is_same(known)

    def as_scratch(self) -> "StagedStore":
        """Return the store's, behind the same files."""
        return StagedStore(self.home, self._files, self._open_scratch)

    def _open_scratch(self) -> DirectoryStore:
        return self.store.as_scratch()

    def hint(self, key: str) -> str:
        """Return the store's hint or, if the store is not open, the one from a reference."""
        return self.store.hint(key) if self._behind else self._hints.get(key, "")

    def note_hint(self, key: str, said: str) -> None:
        """Tell the store once it is open."""
        if self._behind:
            self.store.note_hint(key, said)
        elif len(self._hints) < MOST_HINTS:
            self._hints[key] = said

    def get(self, key: str, *, wait: bool = True) -> CopyableState:
        """Find a state: staged, or in the store."""
        number = pack.wide_number_of(key)
        for file in self._files:
            try:
                found = file.find(key, number)
            except ANAError as error:
                self.note_useless(file.path, key, error)
                continue
            if found is not None:
                return _Staged(self, *found)
        return self.store.get(key, wait=wait)

    def note_useless(self, path: str, key: str, error: ANAError) -> None:
        """Say that a state in a file cannot be used: it comes from the store. Later ones are only logged."""
        if isinstance(error, CorruptedStateError):
            self.counters.note_damaged(key, error.path, error.reason)
            # Without the error's own cure, which is for a state in a store.
            tell_unused(path, f"{error.path}: {error.reason}", once=path)
        else:
            # As text: a log record that holds an error keeps its frames alive, and the file open.
            _log.warning("a staged state is not used: %s", str(error))
            tell_unused(path, str(error), once=path)


class _Staged:
    """A staged state."""

    may_be_lost = True
    """The store was not asked, so it must be asked before a state that refers to this one is stored."""

    def __init__(self, tier: StagedStore, header: record.Header, found: _Record) -> None:
        self.header = header
        self.where = found.where
        self._tier = tier
        self._record = found

    def segments(self) -> list[bytes | memoryview]:
        """Read, verify and decompress the content."""
        began = time.perf_counter()
        try:
            segments = self._decoded()
        except (CorruptedStateError, StoreError) as error:
            return self._instead(error).segments()
        self._tier.counters.note_from_tier(self.header.key, self.header.own_bytes, began)
        return segments

    def copy(self, offsets: Sequence[int], put: record.PutBytes) -> None:
        """Read, verify and decompress a piece at a time."""
        began = time.perf_counter()
        try:
            record.copy(self.header, self._read, self.where, offsets, put)
        except (CorruptedStateError, StoreError) as error:
            self._instead(error).copy(offsets, put)
        else:
            self._tier.counters.note_from_tier(self.header.key, self.header.own_bytes, began)

    def verify(self) -> None:
        """Read all of the content and check its digests."""
        record.verify(self.header, self._read, self.where)

    def release(self) -> None:
        """Do nothing: the file is shared."""

    def _decoded(self) -> list[bytes | memoryview]:
        if self._record.is_in_memory:
            return record.decode_small(self.header, self._record.take(), self.where)
        return record.decode(self.header, self._read, self.where)

    @property
    def _read(self) -> chunks.Read:
        return record.reader(self._record.start) if self._record.is_in_memory else self._record.read

    def _instead(self, error: ANAError) -> CopyableState:
        """Return the state from the store, because this copy is damaged or cannot be read."""
        self._tier.note_useless(self._record.path, self.header.key, error)
        found = self._tier.store.get(self.header.key)
        if found.header.content != self.header.content:
            raise error
        return found
