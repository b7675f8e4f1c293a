"""The functions that are named inside pickles: they never move, and never change their arguments.

`load` stands for an object that has a UUID. `new` and `fill` make the ordinary copy of one that has none. `Reduced` is
the state of an object whose class has hooks of pickle's, and `storage` makes the memory of a torch tensor; both are
defined further down in the house. `hashed` stands for an object with a UUID in what is pickled for a hash alone
(`joblib.hash`, `dask.tokenize`).
"""

import weakref
from typing import Any

from ana.format import address
from ana.layers import current
from ana.layers.resolve import load_reference
from ana.objects import ghost, identity
from ana.objects.reducers import storage
from ana.objects.states import Reduced

__all__ = ["Reduced", "fill", "hashed", "load", "new", "storage"]

met: "weakref.WeakValueDictionary[str, Any]" = weakref.WeakValueDictionary()
"""The objects that were hashed and are still alive."""


def load(cls: type, uuid: str, home: str | None = None) -> Any:
    """Return the object of class `cls` with this UUID: the live one, or one loaded from a store.

    `home` is where the store was when the reference was made; it is left out inside stored states. A state
    that is missing or damaged makes an object that raises the reason when it is used, not an error here
    (unless the layer says `errors="raise"`).
    """
    return load_reference(cls, uuid, home)


def new(cls: type, uuid: str | None = None) -> Any:
    """Return an empty object of class `cls`, for `fill`; with a UUID, the live one if any.

    With a UUID: from a layer that stores nothing, or in memory that this process does not see.
    """
    if uuid is None:
        return ghost.make(cls)
    layer = current.get_dl()
    found = layer.live.find(uuid, cls)
    mark = identity.mark_of(found)
    if mark is not None and mark.loader is None:
        # Not one that another thread is about to fill, or whose own state is elsewhere.
        return found
    obj = ghost.make(cls)
    if address.is_content_uuid(uuid) and not layer.store.process_local:
        # What goes into a shared store gets an address there: classes may go into it by value.
        return obj
    identity.mark(obj, uuid, given=True).defer(_empty)
    layer.live.add(uuid, obj, cls)
    return obj


def fill(obj: Any, state: tuple[Any]) -> None:
    """Give an object that `new` made its state; one that is alive already keeps its own."""
    mark = identity.mark_of(obj)
    if mark is not None and mark.loader is not _empty:
        return
    obj._ana_setstate(state[0])
    if mark is not None:
        mark.note_state_set()


def hashed(uuid: str, generation: int = 0) -> Any:  # noqa: ARG001 - a part of the hash
    """Return the object with this UUID that was hashed in this process.

    For dask, which unpickles what it hashes, to see that it can. Raises KeyError where the object is no longer
    alive, and in other processes: a hash is no reference.
    """
    return met[uuid]


def _empty() -> None:
    """Mark an object that `new` made and `fill` will fill."""
