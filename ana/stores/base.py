"""The contract of all stores: records under keys. A store knows nothing of pickle or of objects.

A layer asks its store what it can do, and guesses nothing from a type or a path. `docs/writing-a-store.md` shows how to
write a store; `ana.testing.StoreContract` checks one.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError
from ana.format import record
from ana.runtime.counters import Counters

__all__ = ["CacheableStore", "CopyableState", "ReplacedError", "Store", "StoredState"]


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


class Store(ABC):
    """Records under keys, and what a layer may ask of them.

    All methods are safe to call from many threads and processes. A key is any string of 1 to 200 characters. The first
    writer of a key wins; a state never changes afterwards. There is no `delete` and no `keys`: a layer removes nothing
    and lists nothing. Whatever else removes states (an expiry, `ana gc`) may do so at any moment.

    What a store can do it says by the properties below, which a subclass overrides as properties or class attributes.
    Most stores derive from `RecordStore`, which turns states into bytes and back.

    Attributes:
        home: Where another process finds the store: references carry it. An absolute path, or a scheme, a colon
            and what the function that is registered for the scheme (`ana.stores.register`) makes a store of.
        counters: What this process has done with it. The store notes what it stores, finds, loads and waits for.

    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.counters = Counters(home)

    @property
    def process_local(self) -> bool:
        """Whether this process alone sees what is stored (default: no): then its own classes need not travel."""
        return False

    @property
    def durable(self) -> bool:
        """Whether `put` returns only when the state survives a power cut (default: no).

        Each put then waits for a disk, so a layer that stores many states puts them on several threads at once.
        """
        return False

    @property
    def high_latency(self) -> bool:
        """Whether each call waits for a server (default: no).

        A layer that loads or stores many states then makes many calls at once, and finds states before they are used.
        """
        return False

    @property
    def supports_roots(self) -> bool:
        """Whether states are collected, so that they have to be kept (`keep`) to stay (default: no)."""
        return False

    def as_cacheable(self) -> "CacheableStore | None":
        """Return what a node cache can be put in front of; None (the default) where one makes no sense."""
        return None

    def is_same(self, other: "Store") -> bool:
        """Return whether another store is this very one, perhaps by another home. Touches neither if it can."""
        return self.home == other.home

    @abstractmethod
    def has(self, key: str) -> bool:
        """Return whether there is a state under `key`, after one look-up. Raises StoreError."""

    @abstractmethod
    def get(self, key: str, *, wait: bool = True) -> StoredState:
        """Find a state and verify its header.

        Args:
            key: The state's UUID.
            wait: Allow waiting for a state that another host may have written a moment ago.

        Raises:
            StateNotFoundError: There is no such state.
            CorruptedStateError: What is there is no record of this key, or damaged.
            UnsupportedFormatError: A newer ana wrote it.
            StoreError: The store cannot be reached or read.

        """

    @abstractmethod
    def put(self, key: str, state: record.Content, children: tuple[str, ...], *, repair: bool) -> bool:
        """Store a state unless there is one under `key`, and return whether it was written.

        A reader sees all of a state or nothing; a put that fails leaves nothing.

        Args:
            key: The state's UUID.
            state: Its content.
            children: The keys that it refers to, which are in the store already; they become part of the record.
            repair: Read and verify what is there, and replace it if it is damaged. Otherwise what is there is
                believed after one look-up.

        Raises:
            StoreError: The state could not be written.
            ReplacedError: Another store has taken this one's place; the next call uses it.
            UnsupportedFormatError: With `repair`: what is there was written by a newer ana, and stays.

        """

    def is_whole(self, key: str) -> bool:
        """Return whether there is a state under `key` whose every byte is right; all of it is read."""
        try:
            self.get(key).verify()
        except (StateNotFoundError, CorruptedStateError):
            return False
        return True

    def keep(self, name: str, keys: Sequence[str]) -> Sequence[ANAError]:
        """Keep states, and all that they refer to, under a name; return what is wrong with those that cannot be kept.

        Only for stores that say `supports_roots`. Raises StateNotFoundError, CorruptedStateError for one of `keys`,
        StoreError.
        """
        raise StoreError(self.home, 0, f"it has no roots: {name!r} cannot keep {len(keys)} states")


class CacheableStore(Store):
    """A store that a node cache can be put in front of: large states are then fetched once per node."""

    @property
    @abstractmethod
    def cache_name(self) -> str:
        """What this store's states are filed under on a node: the same by whichever home it is reached."""

    @abstractmethod
    def get(self, key: str, *, wait: bool = True) -> CopyableState:
        """Find a state, as `Store.get`, which can be had a piece at a time."""

    def as_cacheable(self) -> "CacheableStore":
        """Return the store itself."""
        return self
