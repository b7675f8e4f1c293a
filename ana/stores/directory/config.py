"""`ana.json`: what a tree says of itself, read and written. `docs/format.md` describes its fields."""

import json
from typing import Any, NamedTuple

from ana.errors import StoreError, UnsupportedFormatError
from ana.fs import atomic, files, json_files
from ana.fs.ownership import Trust
from ana.fs.permissions import Access

__all__ = ["CONFIG", "FORMAT", "LEVELS", "Config", "amend", "fields_of", "of_fields", "publish", "read"]

CONFIG = "ana.json"
FORMAT = 1
LEVELS = 2
_LIMIT_BYTES = 64 << 10
_AMEND_TRIES = 5
_DAMAGED = (
    "it is damaged (empty, or cut short), as a full disk or a crash may leave it; get it from a backup or, if there is "
    "none, remove it: the next use of the store writes it anew"
)


class Config(NamedTuple):
    """What `ana.json` records: the format's version, the folder levels, the store's id, its kind."""

    format: int
    levels: int
    id: str
    keyed: bool = False
    """Nothing counts in this tree that its key has not signed."""
    roots: bool = False
    """There have been roots: where their folder is missing, it was lost."""
    fingerprint: str = ""
    """Of the key; "" where an older version made the tree."""


def of_fields(fields: Any) -> Config:
    """Return what the fields of an `ana.json` say. Raises whatever nonsense in them leads to."""
    return Config(
        int(fields["format"]),
        int(fields.get("levels", 0)),
        str(fields.get("id", "")),
        fields.get("keyed") is True,
        fields.get("roots") is True,
        str(fields.get("key", "")),
    )


def fields_of(said: Config) -> dict[str, object]:
    """Return the fields that `of_fields` makes this of."""
    fields: dict[str, object] = {"format": said.format, "levels": said.levels, "id": said.id}
    marks = {"keyed": said.keyed, "key": said.fingerprint, "roots": said.roots}
    return fields | {name: value for name, value in marks.items() if value}


def read(root: str, trust: Trust) -> Config | None:
    """Return what a tree's `ana.json` says; None if there is none.

    Raises UnsupportedFormatError for a newer tree, and for a damaged file; UntrustedStoreError, StoreError.
    """
    return _read(root, trust)[0]


def _read(root: str, trust: Trust) -> tuple[Config | None, dict[str, Any]]:
    """Return what `ana.json` says, and its fields, also those that this version does not know."""
    path = f"{root}/{CONFIG}"
    data = files.read_whole(path, _LIMIT_BYTES, trust.check_file)
    if data is None:
        return None, {}
    try:
        fields = json_files.parse(data)
        config = of_fields(fields)
    except (ValueError, KeyError, TypeError):
        raise UnsupportedFormatError(path, "an unreadable kind", FORMAT, _DAMAGED) from None
    if config.format != FORMAT:
        raise UnsupportedFormatError(path, config.format, FORMAT)
    if not 0 <= config.levels <= 8:  # noqa: PLR2004 - a content digest has no more digits to spare
        raise UnsupportedFormatError(path, f"{config.format} with {config.levels} folder levels", FORMAT)
    return config, fields


def publish(root: str, fields: dict[str, object], access: Access, *, replace: bool = False) -> None:
    """Write a tree's `ana.json`, unless another process was first, or in the place of what is there."""
    data = json.dumps(fields).encode() + b"\n"
    # Durable in any case: without it, the states of others would be lost with it.
    atomic.publish_data(root, CONFIG, data, access, replace=replace)


def amend(root: str, fields: dict[str, object], access: Access, trust: Trust) -> Config:
    """Have `ana.json` say something more, or something else; return what it says then.

    Raises StoreError, UntrustedStoreError, UnsupportedFormatError.
    """
    for _ in range(_AMEND_TRIES):
        config, before = _read(root, trust)
        if config is None or {**before, **fields} == before:
            break
        # Read again after it was written: of two writers at once, one may have undone what the other wrote.
        publish(root, {**before, **fields}, access, replace=True)
    else:
        config = read(root, trust)
    if config is None:
        path = f"{root}/{CONFIG}"
        raise StoreError(path, 2, "it was removed while the store was in use")
    return config
