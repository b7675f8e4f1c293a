"""Results that are saved in a store for later commands: small JSON files under `.ana`, from any writer."""

import json
from dataclasses import asdict, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from ana.errors import ANAError
from ana.fs import atomic, files, json_files
from ana.stores.directory.store import DirectoryStore

__all__ = ["LIMIT_BYTES", "load", "made", "save"]

LIMIT_BYTES = 16 << 20

Made = TypeVar("Made")


def save(store: DirectoryStore, name: str, result: Any) -> bool:
    """Save a dataclass as `name`; return whether that was possible. Without write access, nothing is saved."""
    try:
        store.tree.own_folder(".ana")
        atomic.replace(f"{store.home}/{name}", json.dumps(asdict(result)).encode(), access=store.tree.access)
    except ANAError:
        return False
    return True


def load(root: str, name: str, kind: type[Made]) -> Made | None:
    """Return what was saved as `name`; None if there is nothing, or it is invalid."""
    try:
        return made(kind, json_files.parse(files.read_whole(f"{root}/{name}", LIMIT_BYTES) or b""))
    except (ValueError, TypeError, ANAError):
        return None


def made(kind: type[Made], written: Any) -> Made:
    """Return a dataclass from its written fields. Raises TypeError for values of a wrong type, and missing ones."""
    if not isinstance(written, dict):
        raise _wrong(kind.__name__, written)
    known: Any = kind
    # Other versions write fewer fields, or more.
    return kind(
        **{each.name: _value(each, each.type, written[each.name]) for each in fields(known) if each.name in written}
    )


def _value(field: Any, wanted: Any, value: Any) -> Any:
    if get_origin(wanted) is list and isinstance(value, list):
        return [_value(field, get_args(wanted)[0], item) for item in value]
    if is_dataclass(wanted) and isinstance(wanted, type):
        return made(wanted, value)
    if isinstance(wanted, UnionType):
        return None if value is None else _value(field, get_args(wanted)[0], value)
    accepted = (int, float) if wanted in (int, float) else get_origin(wanted) or wanted
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise _wrong(field.name, value)
    return value


def _wrong(name: str, value: Any) -> TypeError:
    return TypeError(f"{name} is {value!r:.50}")
