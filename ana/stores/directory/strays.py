"""Files in a tree that are not states: temporary files, and files that do not belong there."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from ana.errors import ANAError, StoreError
from ana.format import address
from ana.fs import files
from ana.stores.directory.config import CONFIG
from ana.stores.directory.naming import PACKS, is_pack, is_shard
from ana.stores.directory.tree import Tree
from ana.stores.directory.walking import Folder

__all__ = ["Stray", "remove_temporary", "strays"]

_PACKS = f"{PACKS}/"
_OWN = {(CONFIG, "file"), (".ana", "folder"), (PACKS, "folder")}


class Stray(NamedTuple):
    """An entry of a tree that is not a state; its name is relative to the tree."""

    name: str
    temporary: bool
    age_seconds: float


def strays(tree: Tree, now: float, unreadable: dict[str, ANAError]) -> Iterator[Stray]:
    """Yield the temporary files in the tree, and the entries that do not belong there.

    `now` is in s since 1970, by the server's clock; `unreadable` is as for `Tree.walk`.
    """
    for folder in (*_own(tree), *tree.walk(unreadable=unreadable)):
        for entry in folder.entries:
            name = f"{folder.name}{entry.name}"
            if entry.kind == "file" and entry.name.startswith(files.TEMPORARY):
                found = files.stat(f"{tree.root}/{name}")
                if found is not None:
                    yield Stray(name, temporary=True, age_seconds=now - found.modified)
            elif not _belongs(entry, folder):
                yield Stray(name, temporary=False, age_seconds=0.0)


def remove_temporary(tree: Tree, name: str) -> None:
    """Remove a temporary file, given its name from `strays`. Raises StoreError, ValueError for any other file."""
    if not name.rpartition("/")[2].startswith(files.TEMPORARY):
        msg = f"{name!r} is not a temporary file"
        raise ValueError(msg)
    files.remove(f"{tree.root}/{name}")


def _own(tree: Tree) -> list[Folder]:
    """List the temporary files in those of the tree's own folders that exist, and all in the folder of the packs."""
    found = []
    for name in (".ana/", ".ana/roots/", _PACKS):
        with suppress(StoreError):
            entries = files.list_folder(f"{tree.root}/{name}")
            if name != _PACKS:
                entries = [entry for entry in entries if entry.name.startswith(files.TEMPORARY)]
            found.append(Folder(name, innermost=False, entries=entries))
    return found


def _belongs(entry: files.Entry, folder: Folder) -> bool:
    """Return whether an entry is where it belongs: states in innermost folders, the tree's own files in the root."""
    gone = entry.kind == "file" and entry.name.startswith(files.GONE)
    if folder.name == _PACKS:
        return gone or is_pack(entry)
    if is_shard(entry) and not folder.innermost:
        return True
    if entry.kind == "file" and folder.innermost:
        return gone or address.is_file_name(entry.name.removeprefix(files.TRASH))
    return not folder.name and (entry.name, entry.kind) in _OWN
