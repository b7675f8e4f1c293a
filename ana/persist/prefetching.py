"""Prefetching: states that are about to be loaded are found and read in threads, many at the same time.

Only for stores where each call waits for a server. Whatever is unclear or fails here is left to the load itself.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self

from ana.errors import ANAError, StateNotFoundError
from ana.format import record
from ana.objects import ghost, identity
from ana.objects.class_names import find_class
from ana.objects.restricted import AllowedGlobals, allows
from ana.runtime import threads
from ana.stores import base, parts

__all__ = ["Prefetcher", "Source"]

FEW = 4
"""Up to this many states are read one at a time."""
SMALL_BYTES = 256 << 10
"""Records up to this size are in memory as soon as they are found (`stores.directory`): nothing is left to read."""
WINDOW_STATES = 512
"""How many states are prefetched at once, each with up to `SMALL_BYTES` of its file in memory."""
SAMPLE_STATES = 8
"""How many of them are tried first: if most are lazy (Refs), the rest may never be needed."""
LEVELS = 3
"""How many levels below the requested states are prefetched for all of them at once. Deeper ones go state by state."""
MOST_STATES = 2048
MOST_BYTES = 64 << 20
"""How many states, and bytes of raw state, one thread may hold prefetched."""


class Source(Protocol):
    """What prefetching needs of a layer."""

    uuid: str
    live: identity.LiveObjects
    store: base.Store
    allowed_globals: AllowedGlobals | None
    shared_parts: parts.Shared


class Prefetcher:
    """The states that one thread has prefetched, and the keys that were found to have none.

    They are kept until the thread's outermost load ends, or the outermost `with` block over the prefetcher.
    """

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], _Fetched | StateNotFoundError] = {}
        self._unread: dict[tuple[str, str], _Fetched] = {}
        self._bytes = 0
        self._users = 0

    def __enter__(self) -> Self:
        self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        self.clear_unless_in_use()

    def take(self, layer: Source, key: str, wait: bool) -> base.StoredState:  # noqa: FBT001 - called by `Session.read`
        """Return a state that was prefetched, or get it from the store. Raises as `Store.get`."""
        if not self._found:
            return layer.store.get(key, wait=wait)
        if (layer.uuid, key) in self._unread:
            # The states taken before have made room.
            self._read()
        found = self._pop(layer, key)
        if isinstance(found, _Fetched):
            return found
        if found is not None and not wait:
            raise found
        return layer.store.get(key, wait=wait)

    def drop(self, layer: Source, key: str) -> None:
        """Drop a state that is no longer needed."""
        if self._found:
            self._pop(layer, key)

    def clear_unless_in_use(self) -> None:
        """Drop everything, except within a `with` block."""
        if not self._users:
            self._found.clear()
            self._unread.clear()
            self._bytes = 0

    def fetch_children(self, layer: Source, children: Sequence[str], at: int, cls: type) -> int:
        """Find states that an object of `cls` refers to, from `at` on, if they are many and the store is far away.

        Return the position up to which that was done.
        """
        if len(children) - at <= FEW or not layer.store.high_latency:
            return len(children)
        # The window grows as the states before turn out not to be lazy.
        window = children[at : at + min(WINDOW_STATES, max(SAMPLE_STATES, 3 * at))]
        wanted = self._wanted(layer, window)
        if len(wanted) > FEW:
            self._fetch_unless_lazy(layer, wanted, cls)
        return at + len(window)

    def fetch(self, layer: Source, keys: Sequence[str], cls: type) -> None:
        """Find and read states (`WINDOW_STATES` at the most), and find what they refer to; not on a local disk."""
        if len(keys) <= 1 or not layer.store.high_latency:
            return
        self._fetch(layer, self._wanted(layer, keys), lambda _: True)
        level: Iterable[str] = keys
        for _ in range(LEVELS):
            below = [child for key in level for child in self._children_of(layer, key)]
            level = self._wanted(layer, below)[:WINDOW_STATES]
            if len(level) <= FEW:
                break
            self._fetch_unless_lazy(layer, level, cls)

    def has(self, layer: Source, key: str) -> bool:
        """Return whether a state was found."""
        return isinstance(self._found.get((layer.uuid, key)), _Fetched)

    def _children_of(self, layer: Source, key: str) -> tuple[str, ...]:
        found = self._found.get((layer.uuid, key))
        return found.header.objects if isinstance(found, _Fetched) else ()

    def _wanted(self, layer: Source, keys: Iterable[str]) -> list[str]:
        """Return the keys that are neither alive nor prefetched."""
        return [
            key for key in dict.fromkeys(keys) if (layer.uuid, key) not in self._found and _is_missing(layer.live, key)
        ]

    def _fetch_unless_lazy(self, layer: Source, keys: Sequence[str], cls: type) -> None:
        """Find states that an object of `cls` refers to. If most of a sample are lazy, find only the sample."""
        wants = _unless_lazy(layer, cls)
        sample, rest = keys[:SAMPLE_STATES], keys[SAMPLE_STATES:]
        self._fetch(layer, sample, wants)
        found = [self._found.get((layer.uuid, key)) for key in sample]
        needed = [isinstance(state, _Fetched) and wants(state.header) for state in found]
        if sum(needed) * 2 > len(sample):
            self._fetch(layer, rest, wants)

    def _fetch(self, layer: Source, keys: Sequence[str], wants_content: Callable[[record.Header], bool]) -> None:
        """Find states, and read the content of those that are wanted, as far as there is room."""
        if len(keys) + len(self._found) > MOST_STATES:
            return

        def find(key: str) -> None:
            try:
                found = layer.store.get(key, wait=False)
                # Do not keep hundreds of files open: a large state is opened again.
                found.release()
                self._found[layer.uuid, key] = _Fetched(layer, found)
            except StateNotFoundError as error:
                self._found[layer.uuid, key] = error
            except ANAError:
                return

        threads.run(find, keys, threads.WAITING)
        # Not in threads: whether the content is wanted depends on classes, whose modules may have to be imported.
        for key in keys:
            state = self._found.get((layer.uuid, key))
            if isinstance(state, _Fetched) and _is_worth_reading(state.header) and wants_content(state.header):
                self._unread[layer.uuid, key] = state
        self._read()

    def _read(self) -> None:
        """Read the wanted contents in order, as far as there is room."""
        fitting = []
        for place, state in list(self._unread.items()):
            if self._bytes + state.header.raw_bytes > MOST_BYTES:
                break
            del self._unread[place]
            state.counted = state.header.raw_bytes
            self._bytes += state.counted
            fitting.append(state)
        threads.run(_Fetched.read, fitting, threads.WAITING)

    def _pop(self, layer: Source, key: str) -> "_Fetched | StateNotFoundError | None":
        found = self._found.pop((layer.uuid, key), None)
        self._unread.pop((layer.uuid, key), None)
        if isinstance(found, _Fetched):
            self._bytes -= found.counted
        return found


def _is_worth_reading(header: record.Header) -> bool:
    """Return whether to prefetch a content: not if it is in memory already, or too large to keep."""
    is_large = header.header_bytes + header.stored_bytes > SMALL_BYTES or bool(header.parts)
    return is_large and header.raw_bytes <= MOST_BYTES


def _is_missing(live: identity.LiveObjects, key: str) -> bool:
    obj = live.get(key)
    return obj is None or ghost.is_ghost(obj)


def _unless_lazy(layer: Source, cls: type) -> Callable[[record.Header], bool]:
    """Return a function that tells from a header whether the state is loaded together with an object of `cls`."""

    def wants(header: record.Header) -> bool:
        found: Any = find_class(header.class_name, cls, allows(layer.allowed_globals))
        return found is not None and not getattr(found, "_ana_lazy", True)

    return wants


class _Fetched:
    """A prefetched state, perhaps with its content. Wraps the store's own state."""

    def __init__(self, layer: Source, found: base.StoredState) -> None:
        self.counted = 0
        self._layer = layer
        self._found = found
        self._segments: list[bytes | memoryview] | None = None

    @property
    def header(self) -> record.Header:
        return self._found.header

    @property
    def where(self) -> str:
        return self._found.where

    @property
    def may_be_lost(self) -> bool:
        return self._found.may_be_lost

    def read(self) -> None:
        """Read the content and its parts. An error will occur again when the content is asked for."""
        try:
            self._segments = parts.segments(self._layer.store, self._found, self._layer.shared_parts)
        except (ANAError, MemoryError):
            self._segments = None

    def segments(self) -> list[bytes | memoryview]:
        """Return the content: the one that was read, once; otherwise read it now."""
        segments, self._segments = self._segments, None
        return self._found.segments() if segments is None else segments

    def verify(self) -> None:
        self._found.verify()

    def release(self) -> None:
        self._found.release()
