"""The contract of all stores: records under keys. Stores do not know about pickle or objects.

A layer asks its store what it can do, and does not guess from a type or a path. `docs/writing-a-store.md` shows how to
write a store; `ana.testing.StoreContract` checks it.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError
from ana.format import record
from ana.runtime import threads
from ana.runtime.counters import Counters

__all__ = ["CacheableStore", "CopyableState", "Done", "Keeper", "Put", "ReplacedError", "Store", "StoredState"]


class ReplacedError(StoreError):
    """The store was purged, or another store has taken its place, so known states may be gone.

    The new store is open by then, so retry the call.
    """


class StoredState(Protocol):
    """A state that was found: a verified header, and content that is read on demand."""

    @property
    def header(self) -> record.Header:
        """The record's verified header."""

    @property
    def where(self) -> str:
        """Where the state is stored, for messages."""

    @property
    def may_be_lost(self) -> bool:
        """Whether the state should be on a disk but may not be yet. If so, look it up again before relying on it."""

    def segments(self) -> list[bytes | memoryview]:
        """Read, verify and decompress the content.

        Returns:
            The pickle stream, then each out-of-band buffer. One that is a part is a released memoryview, which nobody
            can use: `ana.stores.parts.segments` gets all of them.

        Raises:
            CorruptedStateError: The content is damaged.
            StateNotFoundError: The state has been removed meanwhile.
            StoreError: The content cannot be read.

        """

    def verify(self) -> None:
        """Read all of the content and check its digests. Raises the same errors as `segments`."""

    def release(self) -> None:
        """Close what is open; `segments` still works."""


class CopyableState(StoredState, Protocol):
    """A state that can also be read a piece at a time."""

    def copy(self, offsets: Sequence[int], put: Callable[[int, memoryview | bytes], None]) -> None:
        """Read, verify and decompress the content, and put each segment at its offset.

        After an error, some parts may be put twice. Raises the same errors as `segments`, and whatever `put` raises.

        Args:
            offsets: Where to put each segment, in bytes.
            put: Called with an offset and the bytes to put there, on several threads at once.

        """


class Put(NamedTuple):
    """The arguments of `Store.put`."""

    key: str
    state: record.Content
    children: tuple[str, ...]
    repair: bool


class Done(Protocol):
    """Told what became of one of many puts: its number, and what `Store.put` returned or raised."""

    def __call__(self, number: int, *, written: bool = False, error: Exception | None = None) -> None:
        """Note the result."""


class Store(ABC):
    """Records under keys: the base class of all stores.

    All methods are safe to call from many threads and processes. A key is any string of 1 to 200 characters. The first
    writer of a key wins; a state never changes afterwards. There is no `delete` and no `keys`, because a layer neither
    removes nor lists states. Anything else that removes states (an expiry, `ana gc`) may do so at any moment.

    The properties below say what a store can do; a subclass overrides them as properties or class attributes.
    Most stores derive from `RecordStore`, which turns states into bytes and back.

    Attributes:
        home: Where another process finds the store; references carry it. Either an absolute path, or a scheme, a
            colon and an address that the scheme's registered function (`ana.stores.register`) can open.
        counters: What this process has done with the store, which notes what it stores, finds, loads and waits for.

    """

    def __init__(self, home: str) -> None:
        self.home = home
        self.counters: Counters = Counters(home)

    @property
    def process_local(self) -> bool:
        """Whether only this process sees what is stored (default: no); then classes need not be pickled by value."""
        return False

    @property
    def durable(self) -> bool:
        """Whether a state survives a power cut once `put` has returned (default: no).

        Each put then waits for a disk, so a layer stores many states on several threads at once.
        """
        return False

    @property
    def high_latency(self) -> bool:
        """Whether each call waits for a server (default: no).

        A layer that loads or stores many states then makes many calls at once, and looks up states ahead of their use.
        """
        return False

    @property
    def gathers(self) -> bool:
        """Whether `put_many` is faster than one `put` after the other (default: if each waits)."""
        return self.durable or self.high_latency

    @property
    def supports_roots(self) -> bool:
        """Whether states are subject to collection and `keep` protects them (default: no)."""
        return False

    @property
    def keeps_records(self) -> bool:
        """Whether it keeps the records that `ana.format.record` makes of states (default: no).

        A layer then puts large buffers as states of their own, before the state that holds them.
        """
        return False

    def as_cacheable(self) -> "CacheableStore | None":
        """Return a store that a node cache can be put in front of; None (the default) if a cache makes no sense."""
        return None

    def as_scratch(self) -> "Store":
        """Return this store for states that can be made again: not durable, small ones together.

        Default: the store itself.
        """
        return self

    def is_same(self, other: "Store") -> bool:
        """Return whether another store is this one, perhaps under another home, without accessing them if possible."""
        return self.home == other.home

    def hint(self, key: str) -> str:  # noqa: ARG002 - for stores that have places
        """Return where a state lies, in at most 160 ASCII characters, for references to it; "" (the default) for none.

        Must not access the store.
        """
        return ""

    def note_hint(self, key: str, said: str) -> None:  # noqa: B027 - optional
        """Remember where a state lies, as a reference says: it may be old or wrong, and never decides. Never raises.

        Args:
            key: The state's key.
            said: What `hint` returned, perhaps in another process.
        """

    @abstractmethod
    def has(self, key: str) -> bool:
        """Return whether the state exists, after one look-up.

        Raises:
            StoreError: The store cannot be reached.

        """

    @abstractmethod
    def get(self, key: str, *, wait: bool = True) -> StoredState:
        """Find a state and verify its header.

        Args:
            key: The state's UUID.
            wait: Whether to wait for a state that another host may have just written.

        Raises:
            StateNotFoundError: The state does not exist.
            CorruptedStateError: The record is damaged or belongs to another key.
            UnsupportedFormatError: A newer ana wrote the record.
            StoreError: The store cannot be reached or read.

        """

    @abstractmethod
    def put(self, key: str, state: record.Content, children: tuple[str, ...], *, repair: bool) -> bool:
        """Store a state unless it exists, and return whether it was written.

        Readers see a whole state or none; a put that fails leaves nothing behind.

        Args:
            key: The state's UUID.
            state: Its content. Its memory may be reused once this returns, so a store must not keep the views.
            children: The keys that the state refers to. They are in the store already, and become part of the record.
            repair: Read and verify an existing state, and replace it if it is damaged. Otherwise, an
                existing state is trusted after one look-up.

        Raises:
            StoreError: The state could not be written.
            ReplacedError: Another store has taken this one's place; the next call uses the new store.
            UnsupportedFormatError: With `repair`, if a newer ana wrote the existing state, which is kept.

        """

    def put_many(self, puts: "Sequence[Put]", done: "Done") -> None:
        """Store states that do not refer to each other, many at a time if each `put` would wait.

        Args:
            puts: What to put.
            done: Called once for each, perhaps in another thread.

        """

        def one(number: int) -> None:
            put = puts[number]
            try:
                written = self.put(put.key, put.state, put.children, repair=put.repair)
            except Exception as error:  # noqa: BLE001 - told to the caller
                done(number, error=error)
            else:
                done(number, written=written)

        threads.run(one, range(len(puts)), threads.WAITING if self.durable or self.high_latency else 1)

    def is_whole(self, key: str) -> bool:
        """Return whether the state exists and is undamaged, with its parts; reads all of it."""
        try:
            found = self.get(key)
            found.verify()
        except (StateNotFoundError, CorruptedStateError):
            return False
        return all(self.is_whole(part.key) for part in found.header.parts)

    def keep(self, name: str, keys: Sequence[str], *, ttl_seconds: float = math.inf) -> Sequence[ANAError]:  # noqa: ARG002 - for stores with roots
        """Keep states, and all that they refer to, under a name.

        Only for stores with `supports_roots`.

        Args:
            name: The name, which goes on keeping what it keeps already.
            keys: The states; none only gives the name a sign of life.
            ttl_seconds: How long after the last call for this name to keep them, in s. All that a name keeps ends
                together, with its latest end.

        Returns:
            An error for each state that `keys` refer to and that cannot be kept.

        Raises:
            StateNotFoundError: One of `keys` does not exist.
            CorruptedStateError: One of `keys` is damaged.
            StoreError: The states cannot be kept.

        """
        raise StoreError(self.home, 0, f"it has no roots: {name!r} cannot keep {len(keys)} states")

    def keeper(self, name: str, ttl_seconds: float = math.inf) -> "Keeper":
        """Return an object that keeps states under a name, one after the other. Only for stores with `supports_roots`.

        Args:
            name: As `keep` takes it.
            ttl_seconds: As `keep` takes it.

        """
        return Keeper(self, name, ttl_seconds)

    def forget(self, name: str) -> None:
        """Undo what `keep` has done under a name. Only for stores with `supports_roots`.

        Raises:
            StoreError: The name's roots cannot be removed.

        """
        raise StoreError(self.home, 0, f"it has no roots: {name!r} keeps nothing")


class Keeper:
    """Keeps states under a name, one after the other, for as long as a process runs. Safe between threads.

    This one calls `Store.keep` for each. A store can return a faster one from `Store.keeper`.
    """

    def __init__(self, store: Store, name: str, ttl_seconds: float) -> None:
        """Take the arguments of `Store.keeper`."""
        self._keep = partial(store.keep, name, ttl_seconds=ttl_seconds)

    def note(self, key: str) -> None:
        """Keep a state that exists. Raises StoreError."""
        self._keep([key])

    def renew(self) -> None:
        """Give a sign of life: the time to live starts anew. Raises StoreError."""
        self._keep([])

    def close(self) -> None:
        """Close what is open, after a last sign of life. `note` may be called again."""

    def after_fork(self) -> None:
        """In a forked child: leave what is open to the parent, and renew locks."""


class CacheableStore(Store):
    """A store that a node cache can be put in front of, so that large states are fetched once per node."""

    @property
    @abstractmethod
    def cache_name(self) -> str:
        """The name of this store in a node's cache, the same under every home of the store."""

    @abstractmethod
    def get(self, key: str, *, wait: bool = True) -> CopyableState:
        """Find a state, as `Store.get` does; it can be read a piece at a time."""

    def as_cacheable(self) -> "CacheableStore":
        """Return the store itself."""
        return self
