"""A base for stores that keep each record as bytes: a subclass only reads and writes those bytes."""

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
    """A whole record in memory."""

    def __init__(self, data: bytes, key: str, where: str, counters: Counters) -> None:
        self.where = where
        self._counters = counters
        self.header: record.Header = record.parse_header(data, len(data), key, where)
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
        self._counters.note_loaded(self.header.key, self.header.own_bytes, len(self._data), began)
        return segments

    def verify(self) -> None:
        """Check the content's digests."""
        record.verify(self.header, record.reader(self._data), self.where)

    def release(self) -> None:
        """Do nothing: no file is open."""


class RecordStore(Store):
    """Base of stores that read and write a whole record at once, in a database, an object store or a mapping.

    A subclass defines `read_record` and `write_record`, and `has_record` if asking is cheaper than reading. They are
    called from many threads at once. An exception in them reaches the user as the cause of a StoreError.
    This class verifies all records; a subclass returns the stored bytes unchanged.

    Attributes:
        level: The zstd compression level of new records: see `DataLayer`.
        missing_hint: The cure to add to the message of StateNotFoundError.

    """

    missing_hint = ""
    keeps_records = True

    def __init__(self, home: str, level: int = chunks.DEFAULT_LEVEL) -> None:
        """Create the store with its counters at zero.

        Args:
            home: See `Store`.
            level: The zstd compression level, -22 (fastest) to 22 (smallest); 0 stores everything uncompressed.

        """
        super().__init__(home)
        self.level = level

    @abstractmethod
    def read_record(self, key: str) -> bytes | bytearray | memoryview:
        """Return the bytes stored under a key.

        Raises:
            KeyError: Nothing is stored under the key.

        """

    @abstractmethod
    def write_record(self, key: str, data: bytes, *, replace: bool) -> bool:
        """Store bytes under a key, all or nothing, and return whether they were stored.

        Args:
            key: The state's UUID.
            data: The record.
            replace: Replace the bytes under the key, which are damaged. Otherwise, bytes that exist stay, and the
                result is False; if other processes write too, the check and the write must be one atomic step.

        """

    def has_record(self, key: str) -> bool:
        """Return whether bytes are stored under a key. By default, this reads them."""
        try:
            self.read_record(key)
        except KeyError:
            return False
        return True

    def has(self, key: str) -> bool:
        """Return whether bytes are stored under the key, without verifying them."""
        with self._reported(key):
            return self.has_record(key)

    def get(self, key: str, *, wait: bool = True) -> StoredRecord:  # noqa: ARG002 - waiting would not help
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
        """Store a state unless it exists (and, with `repair`, is undamaged)."""
        began = time.perf_counter()
        there = self.has(key)
        damaged = there and repair and not self.is_whole(key)
        if there and not damaged:
            self.counters.note_found(key, state.own_bytes, began)
            return False
        data = record.encode(key, state, children, record.Encoding(time.time_ns(), self.level))
        with self._reported(key):
            written = self.write_record(key, data, replace=damaged)
        if written:
            self.counters.note_stored(key, state.own_bytes, len(data), began)
        else:
            self.counters.note_found(key, state.own_bytes, began)
        return written

    @contextmanager
    def _reported(self, key: str) -> Iterator[None]:
        """Turn a subclass's exceptions, such as network errors, into StoreError. KeyError passes: no such key."""
        try:
            yield
        except (KeyError, ANAError, MemoryError):
            raise
        except Exception as error:
            code = (error.errno if isinstance(error, OSError) else None) or 0
            where = f"{self.home}[{key}]"
            raise StoreError(where, code, f"{type(error).__name__}: {error}") from error
