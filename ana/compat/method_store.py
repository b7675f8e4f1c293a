"""A store over the methods of an old program's DataLayer subclass.

Until 2019 a backend was a class with `store_state(uuid, state)` and `load_state(uuid)`. These take states, not records,
so this store converts between the two.
"""

import time
from collections.abc import Callable
from typing import Any

from ana.errors import ANAError, StateNotFoundError
from ana.format import record
from ana.objects.pickling import load
from ana.persist import saving
from ana.stores.base import Store
from ana.stores.record_store import StoredRecord

__all__ = ["MethodStore"]


class MethodStore(Store):
    """A store over two functions: `store_state(uuid, state)` and `load_state(uuid)`. As thread-safe as they are."""

    def __init__(self, home: str, store_state: Callable[[str, Any], object], load_state: Callable[[str], Any]) -> None:
        super().__init__(home)
        self._store_state = store_state
        self._load_state = load_state

    def has(self, key: str) -> bool:
        """Return whether the state loads; there is no cheaper check."""
        return self.is_whole(key)

    def is_whole(self, key: str) -> bool:
        """Return whether the state loads."""
        try:
            self._load_state(key)
        except Exception:  # noqa: BLE001 - an old program's backend may raise anything
            return False
        return True

    def get(self, key: str, *, wait: bool = True) -> StoredRecord:  # noqa: ARG002 - the backend decides how long to wait
        """Load a state. Any exception from the method means that it does not exist."""
        try:
            state = self._load_state(key)
        except ANAError:
            raise
        except Exception as error:
            raise StateNotFoundError(key, self.home, f"{type(error).__name__}: {error}") from error
        content, children = saving.serialise("", state)
        data = record.encode(key, content, children, record.Encoding(time.time_ns()))
        return StoredRecord(data, key, self.home, self.counters)

    def put(self, key: str, state: record.Content, children: tuple[str, ...], *, repair: bool) -> bool:  # noqa: ARG002 - the state names its children itself
        """Store the state with the method, unless it exists."""
        began = time.perf_counter()
        if self.has(key):
            self.counters.note_found(key, state.raw_bytes, began)
            return False
        data = record.encode(key, state)
        header = record.parse_header(data, len(data), key, self.home)
        self._store_state(key, load(record.decode(header, record.reader(data), self.home)))
        self.counters.note_stored(key, state.raw_bytes, len(data), began)
        return True
