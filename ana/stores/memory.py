"""Records in any mapping from strings to bytes: a dict, or a user's redis, fsspec, zict ..."""

import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError
from ana.format import chunks, record
from ana.runtime.counters import Counters

__all__ = ["FoundInMemory", "MemoryStore"]


class FoundInMemory:
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


class MemoryStore:
    """A store over a mapping; as safe between threads and processes as the mapping's own item access."""

    def __init__(self, mapping: MutableMapping[str, Any], home: str, level: int = chunks.DEFAULT_LEVEL) -> None:
        self.mapping = mapping
        self.home = home
        self.level = level
        self.counters = Counters(home)

    @property
    def process_local(self) -> bool:
        """Whether it is an ordinary dict; another mapping may lead anywhere."""
        return type(self.mapping) is dict

    def has(self, key: str) -> bool:
        """Say whether the mapping has the key; its bytes are not looked at."""
        with self._reported(key):
            return key in self.mapping

    def get(self, key: str, *, wait: bool = True) -> FoundInMemory:  # noqa: ARG002 - a mapping answers for good
        """Find and verify a state's header."""
        try:
            with self._reported(key):
                data = self.mapping[key]
        except KeyError:
            hint = "it lives in the memory of the process that stored it; set_dl(pickle_dir=...) shares states"
            raise StateNotFoundError(key, self.home, hint) from None
        if not isinstance(data, bytes | bytearray | memoryview):
            reason = f"the mapping holds a {type(data).__name__}, not bytes"
            raise CorruptedStateError(key, f"{self.home}[{key}]", reason)
        return FoundInMemory(bytes(data), key, f"{self.home}[{key}]", self.counters)

    def is_whole(self, key: str) -> bool:
        """Verify the whole record."""
        try:
            self.get(key).verify()
        except (StateNotFoundError, CorruptedStateError):
            return False
        return True

    def put(self, key: str, state: record.Content, children: tuple[str, ...], *, repair: bool) -> bool:
        """Store a state unless the mapping has one (a whole one, where `repair`)."""
        began = time.perf_counter()
        if self.is_whole(key) if repair else self.has(key):
            self.counters.note_found(key, state.raw_bytes, began)
            return False
        data = record.encode(key, state, children, created_ns=time.time_ns(), level=self.level)
        with self._reported(key):
            self.mapping[key] = data
        self.counters.note_stored(key, state.raw_bytes, len(data), began)
        return True

    @contextmanager
    def _reported(self, key: str) -> Iterator[None]:
        """Turn what a user's mapping raises (a network's errors, say) into StoreError; KeyError is an answer."""
        try:
            yield
        except (KeyError, ANAError, MemoryError):
            raise
        except Exception as error:
            code = (error.errno if isinstance(error, OSError) else None) or 0
            where = f"{self.home}[{key}]"
            raise StoreError(where, code, f"{type(error).__name__}: {error}") from error
