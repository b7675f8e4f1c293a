"""Roots: names for states that no collection may take, with all that they refer to. Small files, written once.

`docs/format.md` says what is in them. Each `keep` leaves a file of its own: two at once lose nothing, and need no lock.
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
    """One file of a root: the root's name, what it keeps, when (s since 1970) and by whom it was written."""

    name: str
    uuids: tuple[str, ...]
    since: float
    by: str


Problem = StateNotFoundError | CorruptedStateError


def keep(store: "DirectoryStore", name: str, keys: Sequence[str]) -> list[Problem]:
    """Keep states, and all that they refer to, under a name, in addition to what it keeps already.

    When it returns, all of it is in the store but what it returns, and a collection that begins later spares it. Raises
    ValueError for a name that is no key, StateNotFoundError and CorruptedStateError for one of `keys`, StoreError;
    nothing is kept then.
    """
    address.check_key(name)
    for key in keys:
        # Also brings it back from the trash.
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
    # Only now: a collection that has not seen the root may have moved some of it away meanwhile.
    return revive(store, uuids)


def note_roots(store: "DirectoryStore") -> None:
    """Have the store remember that it has roots: a copy without its dot files has lost them then, and shows it."""
    if not store.config.roots:
        # Who may not write to the store's own folder cannot say so.
        with suppress(StoreError):
            store.tree.amend(roots=True)


def check_there(store: "DirectoryStore") -> None:
    """Raise UntrustedStoreError where there have been roots, and their folder is gone."""
    if store.config.roots and not store.tree.check_own(FOLDER):
        reason = "states were kept in this store, and the folder of its roots is gone"
        cure = "copy .ana, too (cp -a), or keep what is needed anew"
        where = f"{store.home}/{FOLDER}"
        raise UntrustedStoreError(where, f"{reason}, as in a copy without its dot files: {cure}")


def forget(store: "DirectoryStore", name: str) -> int:
    """Let go of all that is kept under a name; return how many files that were. Raises StoreError.

    UntrustedStoreError where there is none of that name, and others cannot be read.
    """
    unreadable: dict[str, ANAError] = {}
    found = [path for path, root in _files(store, unreadable) if root.name == name]
    for path in found:
        files.remove(path)
    if unreadable and not found:
        raise next(iter(unreadable.values()))
    return len(found)


def read(store: "DirectoryStore", unreadable: dict[str, ANAError] | None = None) -> list[Root]:
    """Return all roots. Raises UntrustedStoreError for one that cannot be read: then it is not known what to keep.

    For who only looks, `unreadable` gets it instead: the file's name in the store, and why.
    """
    return [root for _, root in _files(store, unreadable)]


def revive(store: "DirectoryStore", keys: list[str]) -> list[Problem]:
    """Bring states and all that they refer to back from the trash; return what is missing or damaged."""
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
    # By what is in it: who keeps the same again finds it there.
    digest = address.short_digest("\n".join(uuids))
    return f"{FOLDER}/{address.file_name(name).removesuffix(address.SUFFIX)}.{digest}{_SUFFIX}"


def _files(store: "DirectoryStore", unreadable: dict[str, ANAError] | None = None) -> list[tuple[str, Root]]:
    folder = f"{store.home}/{FOLDER}"
    files.revalidate([folder])
    try:
        # Who can write there can take roots away: then nobody knows what is to be kept.
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
    """Return whether a root's file is there and whole: a full disk or a crash may have left it empty."""
    data = files.read_whole(path, LIMIT_BYTES, store.tree.trust.check_file)
    try:
        return data is not None and _parse(path, data) is not None
    except UntrustedStoreError:
        return False


def _read(store: "DirectoryStore", path: str) -> Root | None:
    # None: forgotten since it was listed.
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
        reason = f"it is no root that can be read ({error})"
    else:
        if path.endswith("/" + _path(root.name, list(root.uuids))):
            return root
        reason = "what it holds is not what its name says"
    cure = "keep the same states under its name again, which mends it, or remove it"
    text = f"{reason}, so that nobody knows what is to be kept: {cure}"
    raise UntrustedStoreError(path, text)
