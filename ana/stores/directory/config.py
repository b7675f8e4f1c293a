"""Reads and writes `ana.json`, which describes a tree. `docs/format.md` lists its fields."""

import json
from typing import Any, NamedTuple

from ana.errors import StoreError, UnsupportedFormatError
from ana.fs import atomic, files, json_files
from ana.fs.ownership import Trust
from ana.fs.permissions import Access

__all__ = [
    "CONFIG",
    "FORMAT",
    "LEVELS",
    "PACKED_FORMAT",
    "Config",
    "amend",
    "fields_of",
    "of_fields",
    "publish",
    "read",
]

CONFIG = "ana.json"
FORMAT = 1
PACKED_FORMAT = 2
"""The format of a store with packs. Older versions refuse it: they would collect what packed states refer to."""
LEVELS = 2
_LIMIT_BYTES = 64 << 10
_AMEND_TRIES = 5
_DAMAGED = (
    "it is damaged (empty, or cut short), perhaps by a full disk or a crash: restore it from a backup or, if there is "
    "none, remove it; the next use of the store writes it again"
)


class Config(NamedTuple):
    """The fields of `ana.json`: the format version, the number of folder levels, the store's id, and marks."""

    format: int
    levels: int
    id: str
    keyed: bool = False
    """The store has a key; only records signed with it are accepted."""
    roots: bool = False
    """Roots were kept here; if their folder is missing, it was lost."""
    fingerprint: str = ""
    """The key's fingerprint; "" if an older version created the tree."""
    pack_bytes: int = 0
    """States of at most this raw size go into packs; 0: none do."""
    ttl_seconds: float = 0.0
    """How long states that no root keeps should stay; 0: nothing is said."""


def of_fields(fields: Any) -> Config:
    """Return the config in the fields of an `ana.json`. Raises ValueError, KeyError, TypeError for invalid fields."""
    return Config(
        int(fields["format"]),
        int(fields.get("levels", 0)),
        str(fields.get("id", "")),
        fields.get("keyed") is True,
        fields.get("roots") is True,
        str(fields.get("key", "")),
        int(fields.get("pack_bytes", 0)),
        float(fields.get("ttl", 0)),
    )


def fields_of(said: Config) -> dict[str, object]:
    """Return the fields of `ana.json` for a config: the inverse of `of_fields`."""
    fields: dict[str, object] = {"format": said.format, "levels": said.levels, "id": said.id}
    marks = {
        "keyed": said.keyed,
        "key": said.fingerprint,
        "roots": said.roots,
        "pack_bytes": said.pack_bytes,
        "ttl": said.ttl_seconds,
    }
    return fields | {name: value for name, value in marks.items() if value}


def read(root: str, trust: Trust) -> Config | None:
    """Return the config in a tree's `ana.json`; None if the file is missing.

    Raises UnsupportedFormatError (a newer tree, or a damaged file), UntrustedStoreError, StoreError.
    """
    return _read(root, trust)[0]


def _read(root: str, trust: Trust) -> tuple[Config | None, dict[str, Any]]:
    """Return the config and all fields of `ana.json`, including fields unknown to this version."""
    path = f"{root}/{CONFIG}"
    data = files.read_whole(path, _LIMIT_BYTES, trust.check_file)
    if data is None:
        return None, {}
    try:
        fields = json_files.parse(data)
        config = of_fields(fields)
    except (ValueError, KeyError, TypeError):
        raise UnsupportedFormatError(path, "an unreadable kind", FORMAT, _DAMAGED) from None
    if config.format not in (FORMAT, PACKED_FORMAT):
        raise UnsupportedFormatError(path, config.format, PACKED_FORMAT)
    if not 0 <= config.levels <= 8:  # noqa: PLR2004 - a content digest has no more digits to spare
        raise UnsupportedFormatError(path, f"{config.format} with {config.levels} folder levels", FORMAT)
    return config, fields


def publish(root: str, fields: dict[str, object], access: Access, *, replace: bool = False) -> None:
    """Write a tree's `ana.json` unless it exists; with `replace`, overwrite it."""
    data = json.dumps(fields).encode() + b"\n"
    # Always durable: if it were lost, the states of all users would be lost with it.
    atomic.publish_data(root, CONFIG, data, access, replace=replace)


def amend(root: str, fields: dict[str, object], access: Access, trust: Trust) -> Config:
    """Add or change fields of `ana.json`; return the new config.

    Raises StoreError, UntrustedStoreError, UnsupportedFormatError.
    """
    for _ in range(_AMEND_TRIES):
        config, before = _read(root, trust)
        if config is None or {**before, **fields} == before:
            break
        # The next round reads it again, because a concurrent writer may have overwritten our fields.
        publish(root, {**before, **fields}, access, replace=True)
    else:
        config = read(root, trust)
    if config is None:
        path = f"{root}/{CONFIG}"
        raise StoreError(path, 2, "it was removed while the store was in use")
    return config
