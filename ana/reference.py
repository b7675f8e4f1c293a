"""The functions that pickles name. They never move, and their arguments never change incompatibly.

`load` stands for an object that has a UUID. `new` and `fill` make an ordinary copy of an object that has none.
`Reduced` is the state of an object whose class uses pickle's hooks, and `storage` makes the memory of a torch tensor;
both are defined in `ana.objects`. `hashed` stands for an object with a UUID in a pickle that is made only to be hashed
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
"""The hashed objects that are still alive, by UUID."""


def load(cls: type, uuid: str, home: str | None = None, hint: str = "") -> Any:
    """Return the object of class `cls` with this UUID: the live one, or one loaded from a store.

    `home` is where the store was when the reference was made, and `hint` where in that store the state lay, if it is in
    a pack. References inside stored states leave both out. If the state is missing or damaged, the object is a ghost,
    which raises the reason when it is used. Nothing is raised here, unless the layer says `errors="raise"`.
    """
    return load_reference(cls, uuid, home, hint)


def new(cls: type, uuid: str | None = None) -> Any:
    """Return an empty object of class `cls`, for `fill`. With a UUID, return the live object, if any.

    A pickle has a UUID here if its layer stores nothing, or stores in memory that this process does not see.
    """
    if uuid is None:
        return ghost.make(cls)
    layer = current.get_dl()
    found = layer.live.find(uuid, cls)
    mark = identity.mark_of(found)
    if mark is not None and mark.loader is None:
        # A ghost does not count: another thread may be about to fill it, or its state may be elsewhere.
        return found
    obj = ghost.make(cls)
    if address.is_content_uuid(uuid) and not layer.store.process_local:
        # A shared store gives the object its own address, because classes may go into it by value.
        return obj
    identity.mark(obj, uuid, given=True).defer(_empty)
    return obj


def fill(obj: Any, state: tuple[Any]) -> None:
    """Set the state of an object that `new` made. A live object keeps its own state."""
    mark = identity.mark_of(obj)
    if mark is not None and mark.loader is not _empty:
        return
    obj._ana_setstate(state[0])
    if mark is not None:
        mark.note_state_set()
        # Not before: another thread that finds it here uses it.
        live = current.get_dl().live
        first = live.find(mark.uuid, type(obj))
        if first is None or ghost.is_ghost(first):
            live.put(mark.uuid, obj)


def hashed(uuid: str, generation: int = 0) -> Any:  # noqa: ARG001 - a part of the hash
    """Return the object with this UUID that was hashed in this process.

    Dask unpickles what it hashes, to check that it can. Raises KeyError in other processes, and once the object is no
    longer alive: a hash is not a reference.
    """
    return met[uuid]


def _empty() -> None:
    """Mark an object that `new` made and that `fill` has not filled yet."""
