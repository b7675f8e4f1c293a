"""Keeps what an executor ships and what its tasks store, under a root that ends with the executor."""

import logging
import weakref

from ana.errors import ANAError
from ana.fs.append_file import unique_name
from ana.persist import keeping
from ana.stores.base import Store

__all__ = ["Rooting"]

TTL_SECONDS = 86400.0
"""How long the root keeps if the program is killed: a worker may be busy with its last tasks."""

_log = logging.getLogger("ana.tasks")


class Rooting:
    """The root of one executor. Safe to use from many threads."""

    def __init__(self, store: Store) -> None:
        """Begin to keep. Failures are only logged, because what is shipped is young, and can be shipped again."""
        self.name: str = f"tasks of {unique_name()}"
        self._store = store
        self._beat: keeping.Heartbeat | None = None
        if store.supports_roots:
            try:
                keeper = keeping.new_keeper(store, self.name, TTL_SECONDS)
                self._beat = keeping.Heartbeat(keeper, self.name, TTL_SECONDS)
            except ANAError as error:
                self._warn("what tasks need is not protected from collection: %s", error)
            else:
                # If nobody shuts the executor down, its root ends by itself.
                weakref.finalize(self, self._beat.stopped.set)

    def told(self) -> list[keeping.Told]:
        """Return the roots that workers keep their results under: this one, and those of `keeping` blocks."""
        return [*keeping.told_of(self._store.home), *([(self.name, TTL_SECONDS)] if self._beat is not None else ())]

    def note(self, key: str) -> None:
        """Keep a state that was shipped."""
        beat = self._beat
        if beat is not None:
            try:
                beat.keeper.note(key)
            except ANAError as error:
                self._warn(f"the state {key!r} that tasks may need is not protected from collection: %s", error)

    def end(self) -> None:
        """Let gc take all of it."""
        beat, self._beat = self._beat, None
        if beat is None:
            return
        beat.stop()
        if beat.is_own:
            # In workers that are threads of this process, too.
            keeping.drop(self._store.home, (self.name, TTL_SECONDS))
            try:
                self._store.forget(self.name)
            except ANAError as error:
                self._warn(f"the root {self.name!r} stays until it ends: %s", error)

    def _warn(self, text: str, error: ANAError) -> None:
        _log.warning(text, error, extra={"event": "not kept", "store": self._store.home})
