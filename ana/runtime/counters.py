"""Counters of what this process does with its stores, and their log messages.

Counting is `counter += 1` on a slot, which is exact between threads without a lock. CPython (3.10 and later, with its
GIL) switches threads, runs signal handlers and collects garbage only at calls and backward jumps. There is neither
between reading and writing a slot, if the added value is a name or an attribute. So never write
`counters.x += f()`. A forked child starts at zero.
"""

import logging
import os
import time
import weakref
from collections.abc import Callable
from typing import Protocol

__all__ = ["NAMES", "Counters", "on_event", "snapshot"]

IN_MEMORY = "memory"
"""All stores in memory are reported under this name: their own names mean nothing to another process."""

OTHERS = "other stores"
MOST_PAST = 256
"""Counts of this many closed stores are kept by home; those of older ones are added up under `OTHERS`."""

_log = logging.getLogger("ana.stores")

NAMES = (
    "stored",
    "stored_raw_bytes",
    "stored_file_bytes",
    "found",
    "found_raw_bytes",
    "from_memory",
    "from_memory_raw_bytes",
    "from_tier",
    "from_tier_raw_bytes",
    "from_store",
    "from_store_raw_bytes",
    "from_store_file_bytes",
    "damaged",
    "waits",
    "wait_seconds",
    "retries",
    "lock_timeouts",
)
"""The counters; `ana.layers.statistics.Stats` describes each."""


_alive: "dict[int, weakref.ref[Counters]]" = {}
_past: dict[str, dict[str, float]] = {}
"""The counts of counters that no longer exist, by home."""
_listener: Callable[[], object] | None = None


def _add(
    totals: dict[str, dict[str, float]], counters: "Counters", names: tuple[str, ...] = NAMES, memory: str = IN_MEMORY
) -> None:
    home = memory if counters.home.startswith(f"{memory}:") else counters.home
    own = totals.setdefault(home, dict.fromkeys(names, 0))
    for name in names:
        # Read first, so that the addition is exact between threads: see above.
        value: float = getattr(counters, name)
        own[name] += value


def _retire(
    counters: "Counters",
    # Passed as defaults: at interpreter shutdown the module's names are gone.
    alive: "dict[int, weakref.ref[Counters]]" = _alive,
    past: dict[str, dict[str, float]] = _past,
    add: "Callable[[dict[str, dict[str, float]], Counters], None]" = _add,
    most: int = MOST_PAST,
    others: str = OTHERS,
) -> None:
    alive.pop(id(counters), None)
    add(past, counters)
    # The sum moves to the end each time, so it is never the oldest for long.
    while len(past) > most:
        oldest = past.pop(next(iter(past)))
        sums = past.pop(others, None)
        past[others] = oldest if sums is None else {name: value + oldest[name] for name, value in sums.items()}


class Sized(Protocol):
    """The size of a live object's state."""

    raw_bytes: int


class Counters:
    """The counters of one store in this process. Exact between threads: see the module."""

    __slots__ = ("__weakref__", "home", *NAMES)

    stored: int
    stored_raw_bytes: int
    stored_file_bytes: int
    found: int
    found_raw_bytes: int
    from_memory: int
    from_memory_raw_bytes: int
    from_tier: int
    from_tier_raw_bytes: int
    from_store: int
    from_store_raw_bytes: int
    from_store_file_bytes: int
    damaged: int
    waits: int
    wait_seconds: float
    retries: int
    lock_timeouts: int

    def __init__(self, home: str) -> None:
        """Start at zero. When the object is gone, its counts stay part of `snapshot`."""
        self.home = home
        self.reset()
        _alive[id(self)] = weakref.ref(self)

    def __del__(self, retire: "Callable[[Counters], None]" = _retire) -> None:
        retire(self)

    def reset(self) -> None:
        """Start again at zero."""
        for name in NAMES:
            setattr(self, name, 0)

    def values(self) -> dict[str, float]:
        """Return all counts by name."""
        return {name: getattr(self, name) for name in NAMES}

    def note_stored(self, key: str, raw_bytes: int, file_bytes: int, began: float) -> None:
        """Count a state that was written. `began` is when the write started (time.perf_counter, s)."""
        self.stored += 1
        self.stored_raw_bytes += raw_bytes
        self.stored_file_bytes += file_bytes
        self._tell("stored", key, raw_bytes, file_bytes, began)

    def note_found(self, key: str, raw_bytes: int, began: float) -> None:
        """Count a state that did not have to be written, because it exists."""
        self.found += 1
        self.found_raw_bytes += raw_bytes
        self._tell("found", key, raw_bytes, 0, began)

    def note_loaded(self, key: str, raw_bytes: int, file_bytes: int, began: float) -> None:
        """Count a state that was read from the store itself."""
        self.from_store += 1
        self.from_store_raw_bytes += raw_bytes
        self.from_store_file_bytes += file_bytes
        self._tell("loaded", key, raw_bytes, file_bytes, began)

    def note_live(self, mark: Sized | None) -> None:
        """Count a reference that a live object answered. Not logged: it takes only a microsecond."""
        self.from_memory += 1
        if mark is not None:
            self.from_memory_raw_bytes += mark.raw_bytes

    def note_from_tier(self, key: str, raw_bytes: int, began: float) -> None:
        """Count a state that was on the node: staged, or in its cache. What the cache fetches counts for the store."""
        self.from_tier += 1
        self.from_tier_raw_bytes += raw_bytes
        self._tell("loaded from the tier", key, raw_bytes, 0, began)

    def note_damaged(self, key: str, where: str, reason: str) -> None:
        """Count a state whose bytes are wrong, also when read a second time."""
        self.damaged += 1
        fields = {"event": "damaged", "uuid": key, "store": self.home, "path": where, "reason": reason}
        _log.warning("state %r in %s is damaged: %s", key, where, reason, extra=fields)

    def note_wait(self, seconds: float) -> None:
        """Count a wait for another writer's lock or for a late file."""
        self.waits += 1
        self.wait_seconds += seconds

    def _tell(self, event: str, key: str, raw_bytes: int, file_bytes: int, began: float) -> None:
        if _log.isEnabledFor(logging.DEBUG):
            seconds = time.perf_counter() - began
            sizes = {"raw_bytes": raw_bytes, "file_bytes": file_bytes, "seconds": seconds}
            fields = {"event": event, "uuid": key, "store": self.home, **sizes}
            _log.debug("%s %r, %d bytes, in %.3g s: %s", event, key, raw_bytes, seconds, self.home, extra=fields)
        if _listener is not None:
            _listener()


def on_event(listener: Callable[[], object] | None) -> None:
    """Call `listener` after each state that is stored, found or loaded, in the thread that did it."""
    global _listener  # noqa: PLW0603 - one per process
    _listener = listener


def snapshot() -> dict[str, dict[str, float]]:
    """Return all counts of this process by home and name, including those of closed stores."""
    found = {home: dict(values) for home, values in list(_past.items())}
    for reference in list(_alive.values()):
        counters = reference()
        if counters is not None:
            _add(found, counters)
    return found


def _after_fork() -> None:
    """Start at zero in a forked child: the parent reports its own counts."""
    _past.clear()
    for reference in list(_alive.values()):
        counters = reference()
        if counters is not None:
            counters.reset()


os.register_at_fork(after_in_child=_after_fork)
