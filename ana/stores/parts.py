"""Parts: large buffers that are states of their own. Puts them before the state that holds them, and gets them with it.

Stores know nothing of this: a part is a state under the address of its content, and a child of its holders.
`docs/sweeps.md` says what parts are for.
"""

import weakref
from collections.abc import Sequence
from contextlib import suppress

from ana.errors import ANAError, CorruptedStateError, StateChangedError, StateNotFoundError
from ana.format import parts, record
from ana.format.parts import Part
from ana.runtime import threads
from ana.stores.base import Put, Store, StoredState

__all__ = ["Shared", "error_of", "put", "put_all", "segments", "with_parts"]


def with_parts(store: Store, one: Put, part_bytes: int, *, look: bool = False) -> tuple[Put, list[Put]]:
    """Return the put of a state whose large buffers are parts, and the puts of the parts, which come first.

    Nothing is hashed or copied. If the store has the state already, its parts are those that it has there.

    Args:
        store: Where the state is to be put.
        one: What is to be put.
        part_bytes: The least size of a part, at least `record.LARGE_BYTES`; 0: none.
        look: Look for a stored state with parts, even if this one would have none.
    """
    numbers: Sequence[int] = ()
    if store.keeps_records and len(one.state.sizes) > 1:
        numbers = parts.of_size(one.state.sizes, part_bytes)
    if (numbers or look) and not one.repair:
        stored = _stored(store, one)
        numbers = numbers if stored is None else stored
    if not numbers:
        return one, []
    made = [one.state.part(number) for number in numbers]
    puts = {part.key: Put(part.key, content, (), one.repair) for part, content in made}
    holder = Put(one.key, one.state.with_parts(numbers), (*one.children, *puts), one.repair)
    return holder, list(puts.values())


def put_all(store: Store, puts: Sequence[Put]) -> dict[str, Exception]:
    """Put parts, each once, many at a time if that is faster. Return what was raised, by key."""
    unique = list({put.key: put for put in puts}.values())
    errors: dict[str, Exception] = {}

    def done(number: int, *, written: bool = False, error: Exception | None = None) -> None:  # noqa: ARG001 - either is fine
        if error is not None:
            errors[unique[number].key] = error

    if unique:
        store.put_many(unique, done)
    return errors


def error_of(holder: Put, errors: dict[str, Exception]) -> Exception | None:
    """Return the error of the first part that could not be put, as an error of its holder; None if all were put."""
    error = next((errors[key] for key in holder.children if key in errors), None) if errors else None
    if isinstance(error, StateChangedError):
        return StateChangedError(holder.key, holder.state.class_name, error.what)
    return error


def put(store: Store, one: Put, part_bytes: int) -> bool:
    """Put a state after its parts. Raises and returns as `Store.put`."""
    holder, first = with_parts(store, one, part_bytes)
    error = error_of(holder, put_all(store, first))
    if error is not None:
        raise error
    return store.put(holder.key, holder.state, holder.children, repair=holder.repair)


def segments(store: Store, found: StoredState, shared: "Shared | None" = None) -> list[bytes | memoryview]:
    """Return all segments of a state that was found: its own, then those that are parts, many at a time.

    Args:
        store: Where the state was found.
        found: The state.
        shared: The parts that this process holds already.

    Raises:
        StateNotFoundError: The state, or one of its parts, does not exist. The error is the state's.
        CorruptedStateError: The state, or one of its parts, is damaged. The error is the state's.
        StoreError: The store cannot be reached or read.
    """
    content = found.segments()
    holder = found.header
    if not holder.parts:
        return content

    def fetch(part: Part) -> None:
        content[part.segment] = _content(store, holder, part, shared)

    # They may have been prefetched.
    absent = [part for part in holder.parts if content[part.segment] is parts.ABSENT]
    threads.run(fetch, absent, threads.WAITING if store.high_latency else 1)
    return content


class Shared:
    """The read-only contents of parts that objects of this process hold, weakly by key. Safe between threads."""

    def __init__(self, *, all_parts: bool) -> None:
        """`all_parts`: share all parts, read-only. Otherwise only those that are mapped read-only anyway."""
        self.all_parts = all_parts
        self._views: weakref.WeakValueDictionary[str, memoryview] = weakref.WeakValueDictionary()

    def get(self, key: str) -> memoryview | None:
        """Return the content of a part that is in use."""
        return self._views.get(key)

    def add(self, key: str, content: bytes | memoryview) -> bytes | memoryview:
        """Return a content that was loaded, or the one that another thread has loaded meanwhile. `bytes` stay alone."""
        if isinstance(content, bytes) or not (self.all_parts or content.readonly):
            return content
        # The array that is made of the view keeps it alive.
        return self._views.setdefault(key, content.toreadonly())


def _content(store: Store, holder: record.Header, part: Part, shared: Shared | None) -> bytes | memoryview:
    content: bytes | memoryview | None = None if shared is None else shared.get(part.key)
    if content is not None:
        return content
    try:
        content = _whole(store, part)
    except StateNotFoundError as error:
        hint = f"its part {part.key!r} ({part.size:,} bytes) is missing; store the object again (ana_store)"
        raise StateNotFoundError(holder.key, error.store, hint) from error
    except CorruptedStateError as error:
        reason = f"its part {part.key!r} ({part.size:,} bytes) is damaged: {error.reason}"
        raise CorruptedStateError(holder.key, error.path, reason) from error
    return content if shared is None else shared.add(part.key, content)


def _whole(store: Store, part: Part) -> bytes | memoryview:
    found = store.get(part.key)
    if found.header.content != part.digest or found.header.class_name != parts.CLASS_NAME:
        raise CorruptedStateError(part.key, found.where, "it has other content than the state that holds it says")
    return found.segments()[0]


def _stored(store: Store, one: Put) -> list[int] | None:
    """Return which segments are parts in the record that the store has under a state's key; None if it has none.

    A state with other content, under an explicit UUID, stays: nothing of this one will be needed.
    """
    with suppress(ANAError):
        if store.has(one.key):
            found = store.get(one.key, wait=False)
            found.release()
            is_same = found.header.content == one.state.digest
            return [part.segment for part in found.header.parts] if is_same else []
    return None
