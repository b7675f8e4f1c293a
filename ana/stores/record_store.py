"""Stores that keep each record as bytes: what is left for a kind of store to do is to read and write them."""

import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError
from ana.format import chunks, record
from ana.runtime.counters import Counters
from ana.stores.base import Store

__all__ = ["RecordStore", "StoredRecord"]


class StoredRecord:
    """A record that is in memory, whole."""

    def __init__(self, data: bytes, key: str, where: str, counters: Counters) -> None:
        self.where = where
        self._counters = counters
        self.header = record.parse_header(data, len(data), key, where)
        self._data = data

    may_be_lost = False

    def segments(self) -> list[bytes | memoryview]:
        """Verify and decompress the content."""
        began = time.perf_counter()
        try:
            segments = record.decode(self.header, record.reader(self._data), self.where)
        except CorruptedStateError as error:
            self._counters.note_damaged(self.header.key, self.where, error.reason)
            raise
        self._counters.note_loaded(self.header.key, self.header.raw_bytes, len(self._data), began)
        return segments

    def verify(self) -> None:
        """Check the content's digests."""
        record.verify(self.header, record.reader(self._data), self.where)

    def release(self) -> None:
        """Nothing is held open."""


class RecordStore(Store):
    """Base of stores that read and write a record in one go: over a database, an object store, a mapping.

    A subclass defines `read_record` and `write_record`, and `has_record` where asking is cheaper than reading. They are
    called from many threads at once. Whatever they raise reaches the user as a StoreError with that as its cause.
    Records are verified here: a subclass hands out the bytes as they are.

    Attributes:
        level: zstd's compression level of what is written: see `DataLayer`.
        missing_hint: What StateNotFoundError says besides, as a cure.

    """

    missing_hint = ""

    def __init__(self, home: str, level: int = chunks.DEFAULT_LEVEL) -> None:
        """Begin with nothing counted.

        Args:
            home: See `Store`.
            level: zstd's compression level, -22 (fastest) to 22 (smallest); 0 stores all as it is.

        """
        super().__init__(home)
        self.level = level

    @abstractmethod
    def read_record(self, key: str) -> bytes | bytearray | memoryview:
        """Return the bytes that are stored under a key. Raises KeyError if there are none."""

    @abstractmethod
    def write_record(self, key: str, data: bytes, *, replace: bool) -> bool:
        """Store bytes under a key, all or nothing, and return whether that was done.

        Without `replace`, False where there are bytes under the key already, which stay: in one step where other
        processes write, too. With it, what is there is damaged and is replaced.
        """

    def has_record(self, key: str) -> bool:
        """Return whether there are bytes under a key; by default they are read for that."""
        try:
            self.read_record(key)
        except KeyError:
            return False
        return True

    def has(self, key: str) -> bool:
        """Return whether there are bytes under the key; they are not looked at."""
        with self._reported(key):
            return self.has_record(key)

    def get(self, key: str, *, wait: bool = True) -> StoredRecord:  # noqa: ARG002 - what is not there now is not
        """Find a state and verify its header."""
        where = f"{self.home}[{key}]"
        try:
            with self._reported(key):
                data: object = self.read_record(key)
        except KeyError:
            raise StateNotFoundError(key, self.home, self.missing_hint) from None
        if not isinstance(data, bytes | bytearray | memoryview):
            reason = f"it holds a {type(data).__name__}, not bytes"
            raise CorruptedStateError(key, where, reason)
        return StoredRecord(bytes(data), key, where, self.counters)

    def put(self, key: str, state: record.Content, children: tuple[str, ...], *, repair: bool) -> bool:
        """Store a state unless there is one (a whole one, with `repair`)."""
        began = time.perf_counter()
        there = self.has(key)
        damaged = there and repair and not self.is_whole(key)
        if there and not damaged:
            self.counters.note_found(key, state.raw_bytes, began)
            return False
        data = record.encode(key, state, children, created_ns=time.time_ns(), level=self.level)
        with self._reported(key):
            written = self.write_record(key, data, replace=damaged)
        if written:
            self.counters.note_stored(key, state.raw_bytes, len(data), began)
        else:
            self.counters.note_found(key, state.raw_bytes, began)
        return written

    @contextmanager
    def _reported(self, key: str) -> Iterator[None]:
        """Turn what a subclass raises (a network's errors, say) into StoreError; KeyError is an answer."""
        try:
            yield
        except (KeyError, ANAError, MemoryError):
            raise
        except Exception as error:
            code = (error.errno if isinstance(error, OSError) else None) or 0
            where = f"{self.home}[{key}]"
            raise StoreError(where, code, f"{type(error).__name__}: {error}") from error
