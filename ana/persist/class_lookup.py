"""Which class an object is searched by, and which class it is made of, when its state is loaded."""

from ana.errors import StateLoadError
from ana.objects import ghost, restricted
from ana.objects.class_names import MAIN, came_by_value, class_name, find_class, newest, why_missing
from ana.persist import inflight

__all__ = ["inside", "to_find", "to_make"]


def to_find(layer: inflight.Source, cls: type, key: str) -> type:
    """Return `cls`, or the latest definition of the live object's class if that is a subclass of `cls`.

    If a class was redefined (a notebook cell, `importlib.reload`), the latest definition counts. Raises StateLoadError
    if the live object is of an unrelated class.
    """
    other = layer.live.get(key)
    if layer.live.displaced is None and (other is None or type(other) is cls):
        return cls
    live = layer.live.find(key, cls)
    other = other if live is None else live
    if other is None:
        return cls
    kind = ghost.loaded_class(other)
    latest = cls if kind is cls else newest(kind)
    if latest is not kind and issubclass(latest, cls):
        return latest
    if live is not None or class_name(kind) == class_name(cls):
        return cls
    reason = f"it is a {class_name(kind)}, not a {class_name(cls)}: {_right_call(class_name(kind), key)}"
    raise StateLoadError(key, class_name(kind), layer.store.home, reason)


def inside(layer: inflight.Source, cls: type, key: str) -> type:
    """Return the script's class that a reference inside a state means. States hold such classes by value.

    In a process that runs the script it is the script's own class, in a notebook the latest. Among objects whose
    classes came by value, as in dask workers, it is the class that came.
    """
    latest = newest(cls)
    if latest is cls:
        return cls
    load = inflight.session().unpickling
    parent = object if load is None else ghost.loaded_class(load.obj)
    if parent.__module__ in MAIN:
        return latest if newest(parent) is parent else cls
    return cls if came_by_value(cls) and layer.live.find(key, latest) is None else latest


def to_make(cls: type, stored: str, load: inflight.Load) -> type:
    """Return the class to make: `cls`, or the subclass of it that the header names. Raises StateLoadError."""
    if stored == "" and not hasattr(cls, "_ana_setstate"):
        msg = f"it is a bare state, not an object: get_dl().load_state({load.key!r}) gives it"
        raise load.error(msg)
    if stored in ("", class_name(cls)):
        return cls
    allows = restricted.allows(load.layer.allowed_globals)
    found = find_class(stored, cls, allows)
    if found is not None and issubclass(found, cls):
        return found
    if found is None and stored.rpartition(":")[2] == cls.__qualname__:
        # The class has moved to another module.
        return cls
    if found is not None:
        msg = f"it is a {stored}, not a {class_name(cls)}: {_right_call(stored, load.key)}"
    else:
        module, _, path = stored.partition(":")
        if module in MAIN:
            why = f"it belongs to a script or notebook: {_right_call(stored, load.key)}"
        elif allows is not None and not allows(module, path):
            why = f"its module is {module}, which allowed= does not include"
        else:
            why = f"{why_missing(stored)}: make {module} importable here, in the version that stored the state"
        msg = f"its class is not found here: {why}"
    raise load.error(msg)


def _right_call(stored: str, key: str) -> str:
    """Return the call that loads an object of a class."""
    module, _, name = stored.rpartition(":")
    if module == "__main__":
        return f"where the script defines {name}, call {name}.ana_load({key!r})"
    return f"call ana.load({key!r}), or {module}.{name}.ana_load({key!r})"
