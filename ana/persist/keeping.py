"""Knows which roots keep what this process stores: those of `keeping` blocks in this process or in its parent.

A root has a keeper in each process, which notes what the process stores. The process of the block also gives signs of
life while the block runs. A root is kept in the store that the block is about; other stores are not touched.
"""

import logging
import math
import os
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from ana.errors import ANAError
from ana.stores.base import Keeper, Store

__all__ = [
    "Heartbeat",
    "Told",
    "block",
    "drop",
    "find_inherited",
    "new_keeper",
    "note",
    "told",
    "told_of",
    "within",
]

Told = tuple[str, float]
"""A root's name and its time to live in s, as other processes are told. Blocks of one name may differ in the latter."""

BEAT_SECONDS = 600.0
"""How often a block gives a sign of life, unless its time to live needs more."""
BEATS = 4
"""The least number of signs of life within a time to live."""
MOST_IDLE = 8
"""How many keepers a worker keeps for its next tasks."""

_log = logging.getLogger("ana.keeping")

watch: bool = True
"""Whether `note` has anything to do. Checked by callers, because most processes keep nothing."""


_active: dict[str, Counter[Told]] = {}
"""The roots that keep what this process stores, by the home of their store, and for how many blocks each."""
_keepers: OrderedDict[tuple[str, Told], Keeper] = OrderedDict()
"""The keepers by home and root; the most recently used last."""
_all_keepers: "weakref.WeakSet[Keeper]" = weakref.WeakSet()
_generation = 0
"""How many forks lie between the program and this process."""
_lock = threading.RLock()
_inherited: Callable[[], Iterable[tuple[str, str, float]]] | None = None
"""Returns home, name and time to live of the roots that this process was started under; None once it was asked."""


def find_inherited(find: Callable[[], Iterable[tuple[str, str, float]]]) -> None:
    """Have the first `note` in this process, and in each forked child, ask for the roots that it was started under."""
    global _find  # noqa: PLW0603 - set once, by the module that knows
    _find = find
    _ask_again()


def _find() -> Iterable[tuple[str, str, float]]:
    return ()


def _ask_again() -> None:
    global _inherited, watch
    _inherited, watch = _find, True


def note(store: Store, key: str) -> None:
    """Keep a state that this process has stored, or found where it would have stored it. Raises StoreError."""
    if _inherited is not None:
        _ask()
    here = _active.get(store.home)
    if here:
        for root in tuple(here):
            _keeper(store, root).note(key)


def told_of(home: str) -> list[Told]:
    """Return the roots that keep what this process stores in a store."""
    if _inherited is not None:
        _ask()
    return list(_active.get(home, ()))


def told() -> list[tuple[str, str, float]]:
    """Return home, name and time to live of all such roots."""
    if _inherited is not None:
        _ask()
    return [(home, *one) for home in tuple(_active) for one in told_of(home)]


@contextmanager
def block(store: Store, name: str, ttl_seconds: float) -> Iterator[None]:
    """Keep what this process stores in a block, and give signs of life meanwhile, if anything collects there.

    Raises StoreError.
    """
    if not store.supports_roots:
        yield
        return
    root = (name, ttl_seconds)
    beat = Heartbeat(_keeper(store, root), name, ttl_seconds)
    try:
        with within(store, [root]):
            yield
    finally:
        beat.stop()
        drop(store.home, root)


@contextmanager
def within(store: Store, roots: Sequence[Told]) -> Iterator[None]:
    """Keep what this process stores in a block under roots of other processes, which give the signs of life."""
    with ExitStack() as stack:
        for root in roots:
            _begin(store.home, root)
            stack.callback(_end, store.home, root)
        yield


def _begin(home: str, root: Told) -> None:
    global watch  # noqa: PLW0603 - of this process
    with _lock:
        _active.setdefault(home, Counter())[root] += 1
        watch = True


def _end(home: str, root: Told) -> None:
    global watch  # noqa: PLW0603 - of this process
    with _lock:
        here = _active.get(home, Counter())
        here[root] -= 1
        if here[root] <= 0:
            del here[root]
        if not here:
            _active.pop(home, None)
        watch = bool(_active) or _inherited is not None


def drop(home: str, root: Told) -> None:
    """Close this process's keeper of a root that has no block here any more."""
    with _lock:
        if root in _active.get(home, ()):
            return
        keeper = _keepers.pop((home, root), None)
    if keeper is not None:
        keeper.close()


def new_keeper(store: Store, name: str, ttl_seconds: float) -> Keeper:
    """Return what keeps states under a name; a forked child may use it, too."""
    keeper = store.keeper(name, ttl_seconds)
    _all_keepers.add(keeper)
    return keeper


def _keeper(store: Store, root: Told) -> Keeper:
    mine = store.home, root
    with _lock:
        keeper = _keepers.get(mine)
        if keeper is None:
            keeper = _keepers[mine] = new_keeper(store, *root)
        _keepers.move_to_end(mine)
        idle = [key for key in _keepers if key[1] not in _active.get(key[0], ()) and key != mine]
        old = [_keepers.pop(key) for key in idle[:-MOST_IDLE]]
    for one in old:
        one.close()
    return keeper


def _ask() -> None:
    """Adopt the roots that this process was started under, for as long as it runs."""
    global _inherited, watch  # noqa: PLW0603 - of this process
    with _lock:
        for home, name, ttl_seconds in () if _inherited is None else _inherited():
            # A forked child has those of its parent already.
            if (name, ttl_seconds) not in _active.get(home, ()):
                _begin(home, (name, ttl_seconds))
        # Last: another thread that finds it set waits here until all are adopted.
        _inherited = None
        watch = bool(_active)


class Heartbeat:
    """Gives signs of life until it is stopped, in a thread of its own, which does not keep the process alive.

    Attributes:
        keeper: What it gives them to.
        stopped: Set to stop it.

    """

    def __init__(self, keeper: Keeper, name: str, ttl_seconds: float) -> None:
        """Give the first sign of life, and begin. Raises StoreError."""
        keeper.renew()
        self.keeper = keeper
        self.stopped: threading.Event = threading.Event()
        self._generation = _generation
        self._thread: threading.Thread | None = None
        if ttl_seconds < math.inf:
            seconds = min(BEAT_SECONDS, ttl_seconds / BEATS)
            arguments = (keeper, name, self.stopped, seconds)
            self._thread = threading.Thread(target=_beat, args=arguments, name="ana-keeping", daemon=True)
            self._thread.start()

    @property
    def is_own(self) -> bool:
        """Whether this process has begun it, not a parent that it was forked from."""
        return self._generation == _generation

    def stop(self) -> None:
        """Stop, wait for the end of a sign of life that is under way, and give the last one."""
        self.stopped.set()
        thread, self._thread = self._thread, None
        if thread is not None and self.is_own:
            thread.join()
        self.keeper.close()


def _beat(keeper: Keeper, name: str, stopped: threading.Event, seconds: float) -> None:
    while not stopped.wait(seconds):
        try:
            keeper.renew()
        except ANAError as error:
            said = "no sign of life of the root %r: it ends unless a later one succeeds: %s"
            _log.warning(said, name, error, extra={"event": "not extended"})


def _after_fork() -> None:
    global _generation, _lock  # noqa: PLW0603 - one per process, replaced after fork
    _generation += 1
    _lock = threading.RLock()
    for keeper in list(_all_keepers):
        keeper.after_fork()
    _ask_again()


os.register_at_fork(after_in_child=_after_fork)
