"""Stores: key to record bytes. A store knows nothing of pickle or of objects."""

from collections.abc import Callable, Sequence
from typing import Protocol

from ana.errors import StoreError
from ana.format import record
from ana.runtime.counters import Counters

__all__ = ["CopyableState", "ReplacedError", "Store", "StoredState"]


class ReplacedError(StoreError):
    """The store was purged, or another has taken its place: what was believed to be there has to be looked up.

    It is open from then on: once more, and it works.
    """


class StoredState(Protocol):
    """A state that was found: its verified header, and its content on demand."""

    @property
    def header(self) -> record.Header:
        """What the record says of itself."""

    @property
    def where(self) -> str:
        """Where it lies, for messages."""

    @property
    def may_be_lost(self) -> bool:
        """Whether it should be on a disk, and may not be yet: to be looked at again before it is relied on."""

    def segments(self) -> list[bytes | memoryview]:
        """Read, verify and decompress the content. Raises CorruptedStateError, StoreError, StateNotFoundError."""

    def verify(self) -> None:
        """Read all of the content and check its digests. Raises as `segments` does."""

    def release(self) -> None:
        """Let go of what is held open; `segments` still works."""


class CopyableState(StoredState, Protocol):
    """A state that can also be had a piece at a time."""

    def copy(self, offsets: Sequence[int], put: Callable[[int, memoryview | bytes], None]) -> None:
        """Read, verify and decompress it, and put each segment at its offset; some of it perhaps twice, after an error.

        `put` is called on several threads; what it raises passes through. Raises as `segments` does.
        """


class Store(Protocol):
    """What the layer needs of a store. All methods are safe to call from many threads and processes."""

    @property
    def home(self) -> str:
        """Where another process finds this store: what its references carry."""

    @property
    def process_local(self) -> bool:
        """Whether this process alone sees what is stored: then its own classes need not travel."""

    @property
    def counters(self) -> Counters:
        """What has been done with it: the store notes what it stores, finds, loads and waits for."""

    def has(self, key: str) -> bool:
        """Say, after one look-up, whether there is a state under `key`."""

    def is_whole(self, key: str) -> bool:
        """Say whether there is a state under `key` whose every byte is right; all of it is read."""

    def get(self, key: str, *, wait: bool = True) -> StoredState:
        """Find a state. Raises StateNotFoundError, CorruptedStateError, UnsupportedFormatError, StoreError.

        `wait` allows pausing for a state that another host may have written a moment ago.
        """

    def put(self, key: str, state: record.Content, children: tuple[str, ...], *, repair: bool) -> bool:
        """Store a state unless there is one under `key`; say whether it was written.

        What is there is believed after one look-up, unless `repair`: then all of it is read and
        verified, and what is damaged is set aside and written again. Raises StoreError.
        """
