"""Objects as plain literals for JSON, as `to_literal` of the original ANA returned them."""

import pickle
from typing import Any

from ana.format import address

__all__ = ["to_literal"]

_ATOMS = (int, str, float, bool, type(None))


def to_literal(obj: Any, known: set[str] | None = None, objects: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return {"objects": {uuid: {"class": ..., "object": ...}}, "value": {"ana_uuid": ...}} for a Storable.

    Every Storable inside gets a UUID. If its UUID is in `known`, the literal only names it; otherwise it is added to
    `known` and `objects`. Tuples and sets become lists.
    """
    known = set() if known is None else known
    objects = {} if objects is None else objects
    return {"objects": objects, "value": _name(obj, known, objects)}


def _name(obj: Any, known: set[str], objects: dict[str, Any]) -> dict[str, str]:
    uuid = _uuid_of(obj)
    if uuid not in known:
        known.add(uuid)
        objects[uuid] = _described(obj, obj._ana_getliteral(), known, objects)
    return {"ana_uuid": uuid}


def _uuid_of(obj: Any) -> str:
    """Return an object's UUID; an object that cannot be pickled (it holds a lock, say) gets a random one."""
    try:
        uuid: str = obj.make_uuid()
    except (pickle.PicklingError, TypeError, AttributeError):
        uuid = obj.make_uuid(address.random_uuid())
    return uuid


def _literal(value: Any, known: set[str], objects: dict[str, Any]) -> Any:
    if type(value) in _ATOMS:
        return value
    if hasattr(value, "_ana_getliteral"):
        return _name(value, known, objects)
    if isinstance(value, dict):
        return {_literal(key, known, objects): _literal(item, known, objects) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_literal(item, known, objects) for item in value]
    return _described(value, _plain_state(value), known, objects)


def _described(obj: Any, state: Any, known: set[str], objects: dict[str, Any]) -> dict[str, Any]:
    return {"class": type(obj).__name__, "object": _literal(state, known, objects)}


def _plain_state(value: Any) -> Any:
    state = value.__getstate__()
    if isinstance(state, tuple):
        attributes, slots = state
        return {**(attributes or {}), **slots}
    return state
