"""Roots: names under which states, and all that they refer to, are kept from collection. Small files, written once.

`docs/format.md` describes them. Each `keep` writes its own file, so concurrent calls lose nothing and need no lock.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError, UntrustedStoreError
from ana.format import address
from ana.fs import atomic, files, json_files
from ana.stores.directory.graph import postorder

if TYPE_CHECKING:
    from ana.stores.directory.store import DirectoryStore

__all__ = ["FOLDER", "Root", "check_there", "forget", "keep", "note_roots", "read", "revive"]

FOLDER = ".ana/roots"
LIMIT_BYTES = 256 << 20
_SUFFIX = ".json"


class Root(NamedTuple):
    """One file of a root: the root's name, the UUIDs it keeps, when (s since 1970) and by whom it was written."""

    name: str
    uuids: tuple[str, ...]
    since: float
    by: str


Problem = StateNotFoundError | CorruptedStateError


def keep(store: "DirectoryStore", name: str, keys: Sequence[str]) -> list[Problem]:
    """Keep states, and all that they refer to, under a name, in addition to what the name keeps already.

    On return, all of them are in the store and safe from collections that begin later, except those with a returned
    problem. Raises ValueError for an invalid name, StateNotFoundError or CorruptedStateError for one of `keys`,
    StoreError; then nothing is kept.
    """
    address.check_key(name)
    for key in keys:
        # This also brings it back from the trash.
        store.get(key).release()
    uuids = sorted(set(keys))
    path = _path(name, uuids)
    fields = {"name": name, "uuids": uuids, "since": files.now_ns() / 1e9, "by": files.process_name()}
    data = json.dumps(fields).encode() + b"\n"
    folder, last = store.tree.own_folder(FOLDER), path.rpartition("/")[2]
    for damaged in (False, True):
        written = atomic.publish_data(folder, last, data, store.tree.access, replace=damaged)
        if written or _keeps(store, f"{folder}/{last}"):
            break
    note_roots(store)
    # Last, because a collection that has not seen the root may have moved some of them to the trash meanwhile.
    return revive(store, uuids)


def note_roots(store: "DirectoryStore") -> None:
    """Note in `ana.json` that the store has roots, so that a copy without its dot files shows that they are lost."""
    if not store.config.roots:
        # A process without write access to the root folder cannot note it.
        with suppress(StoreError):
            store.tree.amend(roots=True)


def check_there(store: "DirectoryStore") -> None:
    """Raise UntrustedStoreError if the store had roots but their folder is gone."""
    if store.config.roots and not store.tree.check_own(FOLDER):
        reason = "states were kept in this store, but the folder of its roots is gone"
        cure = "copy .ana, too (cp -a), or keep the needed states again"
        where = f"{store.home}/{FOLDER}"
        raise UntrustedStoreError(where, f"{reason}, as in a copy without its dot files: {cure}")


def forget(store: "DirectoryStore", name: str) -> int:
    """Remove all files of the root `name`; return their number.

    Raises StoreError, and UntrustedStoreError if no file of that name is found, but some files cannot be read.
    """
    unreadable: dict[str, ANAError] = {}
    found = [path for path, root in _files(store, unreadable) if root.name == name]
    for path in found:
        files.remove(path)
    if unreadable and not found:
        raise next(iter(unreadable.values()))
    return len(found)


def read(store: "DirectoryStore", unreadable: dict[str, ANAError] | None = None) -> list[Root]:
    """Return all roots. Raises UntrustedStoreError if one cannot be read, because what it keeps is unknown.

    A caller that removes nothing can pass `unreadable`, which then collects errors by the file's name in the store.
    """
    return [root for _, root in _files(store, unreadable)]


def revive(store: "DirectoryStore", keys: list[str]) -> list[Problem]:
    """Bring states, and all that they refer to, back from the trash; return an error for each lost or damaged one."""
    problems: list[Problem] = []

    def children_of(key: str) -> tuple[str, ...]:
        try:
            found = store.get(key)
        except (StateNotFoundError, CorruptedStateError) as error:
            problems.append(error)
            return ()
        found.release()
        return found.header.children

    for _ in postorder(keys, children_of):
        pass
    return problems


def _path(name: str, uuids: list[str]) -> str:
    # Named by its content, so that keeping the same states again finds the file.
    digest = address.short_digest("\n".join(uuids))
    return f"{FOLDER}/{address.file_name(name).removesuffix(address.SUFFIX)}.{digest}{_SUFFIX}"


def _files(store: "DirectoryStore", unreadable: dict[str, ANAError] | None = None) -> list[tuple[str, Root]]:
    folder = f"{store.home}/{FOLDER}"
    files.revalidate([folder])
    try:
        # Anyone who can write there can remove roots, and what to keep is unknown.
        entries = files.list_folder(folder) if store.tree.check_own(FOLDER) else []
    except StoreError as error:
        if files.is_missing(error):
            return []
        raise
    found = []
    for entry in sorted(entries):
        if not entry.name.startswith(".") and entry.name.endswith(_SUFFIX):
            try:
                root = _read(store, f"{folder}/{entry.name}")
            except (StoreError, UntrustedStoreError) as error:
                if unreadable is None:
                    raise
                unreadable[f"{FOLDER}/{entry.name}"] = error
                continue
            if root is not None:
                found.append((f"{folder}/{entry.name}", root))
    return found


def _keeps(store: "DirectoryStore", path: str) -> bool:
    """Return whether a root's file exists and is whole: a full disk or a crash may have left it empty."""
    data = files.read_whole(path, LIMIT_BYTES, store.tree.trust.check_file)
    try:
        return data is not None and _parse(path, data) is not None
    except UntrustedStoreError:
        return False


def _read(store: "DirectoryStore", path: str) -> Root | None:
    # None: it was forgotten after the folder was listed.
    data = files.read_whole(path, LIMIT_BYTES, store.tree.trust.check_file)
    return None if data is None else _parse(path, data)


def _parse(path: str, data: bytes) -> Root:
    try:
        fields = json_files.parse(data)
        root = Root(
            str(fields["name"]),
            tuple(address.check_key(key) for key in fields["uuids"]),
            float(fields["since"]),
            str(fields["by"]),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = f"it is not a root ({error})"
    else:
        if path.endswith("/" + _path(root.name, list(root.uuids))):
            return root
        reason = "its content does not match its name"
    cure = "keep the same states under its name again, which repairs it, or remove it"
    text = f"{reason}, so what to keep is unknown: {cure}"
    raise UntrustedStoreError(path, text)
