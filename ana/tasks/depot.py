"""Where large buffers wait for the tasks that take them: one store, opened for states that can be made again.

A buffer is stored as a part (`docs/sweeps.md`), under the address of its content. So it is stored once however often it
is sent, and is the same state as the part of an object that holds it.
"""

import errno
import math
import os
import pickle
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence

from ana.errors import ANAError, StoreError
from ana.format import address, parts, record
from ana.fs import temporary
from ana.layers import current, kinds, path_map, resolve
from ana.layers.layer import KEEP_BYTES, RECHECK_SECONDS, DataLayer
from ana.objects import identity
from ana.persist import keeping
from ana.runtime import threads
from ana.stores.base import ReplacedError, Store

__all__ = ["Depot", "Part", "of_home"]

Part = tuple[str, str, bool]
"""A stored buffer: its UUID, the hint where it lies, and whether it is a `bytes` object."""

Buffer = bytes | memoryview

MOST_NOTED = 1 << 14
"""Of how many buffers a process remembers that they are stored."""


class _Held:
    """A loaded buffer. The keeper holds it, and the depot finds it while it does."""

    __slots__ = ("__weakref__", "data")

    def __init__(self, data: Buffer) -> None:
        self.data = data


class _Gate:
    """Lets one thread load a buffer, while others that want the same one wait."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()


class Depot:
    """Stores and loads buffers. Safe to use from many threads; survives fork.

    Attributes:
        store: The store.
        layer: A layer over the store, for results that stay in it. Made when it is needed.
        on_stored: Called with the UUID of each buffer that is in the store now.

    """

    def __init__(self, store: Store, keep_bytes: int = KEEP_BYTES, *, durable: bool = False) -> None:
        """Use a store: as it is if `durable`, otherwise without waiting for the disk, and with small states in packs.

        Args:
            store: The store.
            keep_bytes: How many bytes of loaded buffers to keep for the next task.
            durable: Whether a buffer is safe on the disk before it counts as stored.

        """
        self.store: Store = store if durable else store.as_scratch()
        self._live = identity.LiveObjects(keep_bytes)
        weakref.finalize(self, self._live.forget_kept)
        self.on_stored: Callable[[str], object] = str
        self._stored: OrderedDict[str, float] = OrderedDict()
        self._gates: weakref.WeakValueDictionary[str, _Gate] = weakref.WeakValueDictionary()
        self._layer: DataLayer | None = None
        self._lock = threading.Lock()
        _all.add(self)

    @property
    def layer(self) -> DataLayer:
        """A layer over the store."""
        with self._lock:
            if self._layer is None:
                self._layer = DataLayer(keep_bytes=self._live.keep_bytes)
                self._layer.store = self.store
            return self._layer

    def put(self, view: memoryview, *, is_bytes: bool) -> Part:
        """Store a buffer unless it is stored already.

        Raises:
            StoreError: It could not be written.
            StateChangedError: Another thread changed it meanwhile.

        """
        with record.Scratch() as scratch:
            return self._put(view, is_bytes, scratch)

    def _put(self, view: memoryview, is_bytes: bool, scratch: record.Scratch) -> Part:  # noqa: FBT001 - from put
        content = record.content(parts.CLASS_NAME, [view], None, (0,) if is_bytes else (), scratch)
        key = address.content_uuid(content.digest)
        if time.monotonic() - self._stored.get(key, -math.inf) >= RECHECK_SECONDS:
            try:
                self.store.put(key, content, (), repair=False)
            except ReplacedError:
                # The store was purged: nothing counts as stored any more.
                self._stored.clear()
                self.store.put(key, content, (), repair=False)
            self._note(key)
        if keeping.watch:
            keeping.note(self.store, key)
        self.on_stored(key)
        return key, self.store.hint(key), is_bytes

    def _note(self, key: str) -> None:
        with self._lock:
            self._stored[key] = time.monotonic()
            self._stored.move_to_end(key)
            while len(self._stored) > MOST_NOTED:
                self._stored.popitem(last=False)

    def put_all(self, buffers: Sequence[tuple[memoryview, bool]]) -> tuple[Part, ...]:
        """Store buffers, given with whether each is a `bytes` object. Raises as `put`."""
        if len(buffers) == 1:
            return (self.put(buffers[0][0], is_bytes=buffers[0][1]),)
        found: list[Part] = [("", "", False)] * len(buffers)

        def one(number: int) -> None:
            view, is_bytes = buffers[number]
            found[number] = self.put(view, is_bytes=is_bytes)

        self._each(one, len(buffers))
        return tuple(found)

    def shared(self, wanted: Sequence[Part]) -> list[Buffer]:
        """Return buffers that all tasks of this process share, read-only.

        Raises:
            StateNotFoundError: One is not in the store.
            CorruptedStateError: One is damaged.
            StoreError: The store cannot be read.

        """
        return self._all_of(wanted, self._shared)

    def private(self, wanted: Sequence[Part]) -> list[Buffer]:
        """Return buffers in memory of the caller's own, writable but for `bytes` objects. Raises as `shared`."""
        return self._all_of(wanted, self._private)

    def _all_of(self, wanted: Sequence[Part], get: Callable[[Part], Buffer]) -> list[Buffer]:
        if len(wanted) == 1:
            return [get(wanted[0])]
        found: list[Buffer] = [b""] * len(wanted)

        def one(number: int) -> None:
            found[number] = get(wanted[number])

        self._each(one, len(wanted))
        return found

    def _each(self, work: Callable[[int], None], count: int) -> None:
        threads.run(work, range(count), threads.WAITING if self.store.high_latency else 1)

    def _shared(self, part: Part) -> Buffer:
        key = part[0]
        held = self._live.get(key)
        if held is None:
            with self._lock:
                gate = self._gates.setdefault(key, _Gate())
            with gate.lock:
                held = self._live.get(key)
                if held is None:
                    data = self._read(part)
                    held = _Held(data if isinstance(data, bytes) else data.toreadonly())
                    self._live.table[key] = held
                    self._live.keep(key, held, len(data))
        return held.data

    def _private(self, part: Part) -> Buffer:
        data = self._read(part)
        # A node cache maps its files read-only.
        return memoryview(bytearray(data)) if isinstance(data, memoryview) and data.readonly else data

    def _read(self, part: Part) -> Buffer:
        key, hint, is_bytes = part
        if hint:
            self.store.note_hint(key, hint)
        (data,) = self.store.get(key).segments()
        if is_bytes:
            return bytes(data)
        # Its `obj` then exposes these bytes only: some classes read that.
        return memoryview(pickle.PickleBuffer(data))

    def renew_locks(self) -> None:
        """Replace the locks, in a forked child: another thread of the parent may have held them."""
        self._lock = threading.Lock()
        self._gates = weakref.WeakValueDictionary()


def of_home(home: str, keep_bytes: int, *, durable: bool, made_on: str) -> Depot:
    """Return this process's depot over the store at a home that another process named.

    A process that has no layer yet adopts the store for what its tasks store themselves, unless the store is a
    temporary one.

    Args:
        home: The store's home, as the other process calls it.
        keep_bytes: As `Depot` takes it, for a depot that is made here.
        durable: As `Depot` takes it.
        made_on: The host of a temporary store; "" for any other store.

    Raises:
        ANAError: The store cannot be opened here.

    """
    found = _by_home.get((home, durable))
    if found is None:
        with _opening:
            found = _by_home.get((home, durable))
            if found is None:
                store = _temporary_store(home, made_on) if made_on else _store_at(home)
                found = _by_home[home, durable] = Depot(store, keep_bytes, durable=durable)
                while len(_by_home) > MOST_OPEN:
                    _by_home.popitem(last=False)
    return found


def _temporary_store(home: str, made_on: str) -> Store:
    try:
        return kinds.open_home(home)
    except StoreError as error:
        if temporary.host() == made_on:
            raise
        hint = (
            f"it is a temporary folder of the host {made_on}, because the program has chosen none that all workers "
            "see: call ana.set_dl(pickle_dir=...) before ana.Executor"
        )
        raise StoreError(home, error.errno or 0, hint) from None


def _store_at(home: str) -> Store:
    """Return the store at a home; if it cannot be opened, that of the folder that this process was told to use."""
    try:
        layer = resolve.layer_at(path_map.here(home))
    except (ANAError, ValueError) as error:
        layer = current.get_dl()
        if layer.store.process_local:
            if isinstance(error, StoreError) and error.errno == errno.ENOENT:
                cure = "mount its filesystem here, or set ANA_PATH_MAP or ANA_PICKLE_DIR for the workers"
                raise StoreError(error.path, error.errno, f"{error.hint}: {cure}") from None
            raise
    return layer.store


MOST_OPEN = 8
"""How many depots a worker keeps."""
_by_home: OrderedDict[tuple[str, bool], Depot] = OrderedDict()
_opening = threading.Lock()
_all: "weakref.WeakSet[Depot]" = weakref.WeakSet()


def _after_fork() -> None:
    global _opening  # noqa: PLW0603 - one per process, replaced after fork
    _opening = threading.Lock()
    for one in list(_all):
        one.renew_locks()


os.register_at_fork(after_in_child=_after_fork)
