"""What lies in a tree and is no state: temporary files, and what does not belong there."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from ana.errors import ANAError, StoreError
from ana.format import address
from ana.fs import files
from ana.stores.directory.config import CONFIG
from ana.stores.directory.tree import Folder, Tree, is_shard

__all__ = ["Stray", "remove_temporary", "strays"]


class Stray(NamedTuple):
    """Something in a tree that is no state; the name is relative to the tree."""

    name: str
    temporary: bool
    age_seconds: float


def strays(tree: Tree, now: float, unreadable: dict[str, ANAError]) -> Iterator[Stray]:
    """List what is in the tree and is no state: temporary files, and what does not belong there.

    `now`: in s since 1970, by the server's clock. `unreadable`: as for `walk`.
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
    """Remove a temporary file that `strays` has named. Raises StoreError; ValueError for another file's name."""
    if not name.rpartition("/")[2].startswith(files.TEMPORARY):
        msg = f"{name!r} is no temporary file"
        raise ValueError(msg)
    files.remove(f"{tree.root}/{name}")


def _own(tree: Tree) -> list[Folder]:
    """List the tree's own folders, where they are."""
    found = []
    for name in (".ana/", ".ana/roots/"):
        with suppress(StoreError):
            entries = files.list_folder(f"{tree.root}/{name}")
            found.append(
                Folder(
                    name,
                    innermost=False,
                    entries=[entry for entry in entries if entry.name.startswith(files.TEMPORARY)],
                )
            )
    return found


def _belongs(entry: files.Entry, folder: Folder) -> bool:
    """Return whether a name is in its place: states in innermost folders, the tree's own files in the root."""
    if is_shard(entry) and not folder.innermost:
        return True
    if entry.kind == "file" and folder.innermost:
        plain = entry.name.removeprefix(files.TRASH)
        return address.is_file_name(plain) or entry.name.startswith(files.GONE)
    return not folder.name and (entry.name, entry.kind) in {(CONFIG, "file"), (".ana", "folder")}
