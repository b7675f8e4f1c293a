"""Keeps what an executor has shipped from being collected while it runs, under a root that ends with it."""

import logging
import threading
import time

from ana.errors import ANAError
from ana.fs.append_file import unique_name
from ana.stores.base import Store

__all__ = ["Rooting"]

KEEP_AFTER_SECONDS = 3600.0
"""From this age on a state is kept by a root. A younger one is safe: gc leaves it alone for its grace, by default 24 h.

So a short run writes no root at all, and a long one a small file per hour.
"""

_log = logging.getLogger("ana.tasks")


class Rooting:
    """The root of one executor. Safe to use from many threads."""

    def __init__(self, store: Store) -> None:
        self.name = f"tasks of {unique_name()}"
        self._store = store
        self._keys: set[str] = set()
        self._since = 0.0
        self._has_kept = False
        self._lock = threading.Lock()

    def note(self, key: str) -> None:
        """Note that a state was stored just now. Keep those that are not young any more."""
        now = time.monotonic()
        with self._lock:
            if not self._keys:
                self._since = now
            self._keys.add(key)
            if now - self._since < KEEP_AFTER_SECONDS:
                return
            keys, self._keys = self._keys, set()
            self._has_kept = True
        self._keep(sorted(keys))

    def _keep(self, keys: list[str]) -> None:
        if not self._store.supports_roots:
            return
        try:
            problems = list(self._store.keep(self.name, keys))
        except ANAError as error:
            problems = [error]
        if problems:
            # A task that wants such a state says so, and sending it again stores it again.
            said = "%d states that tasks may need are not kept from being collected: %s"
            _log.warning(said, len(keys), problems[0], extra={"event": "not kept", "store": self._store.home})

    def end(self) -> None:
        """Let gc take all of it."""
        with self._lock:
            has_kept, self._has_kept = self._has_kept, False
            self._keys.clear()
        if has_kept and self._store.supports_roots:
            try:
                self._store.forget(self.name)
            except ANAError as error:
                said = "the root %r stays: ana forget removes it (%s)"
                _log.warning(said, self.name, error, extra={"event": "not forgotten", "store": self._store.home})
