"""Roots: names under which states, and all that they refer to, are kept from collection.

`docs/format.md` describes their files. Each `keep` writes its own file, and each process that keeps what it stores has
one that it appends to (`root_journal`), so nothing is lost between processes, and no lock is needed. A root with a
time to live ends that long after the last change of any of its files. One file without it makes the root last.
"""

import json
import math
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from ana.errors import ANAError, CorruptedStateError, StateNotFoundError, StoreError, UntrustedStoreError
from ana.format import address
from ana.fs import atomic, files, json_files
from ana.stores.directory import trash
from ana.stores.directory.graph import postorder

if TYPE_CHECKING:
    from ana.stores.directory.store import DirectoryStore

__all__ = [
    "FOLDER",
    "Root",
    "check_there",
    "ends",
    "extend",
    "fields_of",
    "file_prefix",
    "forget",
    "keep",
    "lasting",
    "note_roots",
    "read",
    "remove_ended",
    "revive",
]

FOLDER = ".ana/roots"
LIMIT_BYTES = 256 << 20
SUFFIX = ".json"
_LISTINGS = 5
"""How often to list the folder if files vanish before they are read."""


class Root(NamedTuple):
    """One file of a root: the root's name, the UUIDs it keeps, when (s since 1970) and by whom it was written."""

    name: str
    uuids: tuple[str, ...]
    since: float
    by: str
    ttl_seconds: float = math.inf
    """How long it keeps after the last sign of life; infinite if the root does not end."""
    grows: bool = False
    """Whether a process appends to the file."""
    seen: float = 0.0
    """The last sign of life: when the file was last changed, in s since 1970 by the server's clock."""

    @property
    def until(self) -> float:
        """When the root would end if it had only this file, in s since 1970 by the server's clock."""
        return self.seen + self.ttl_seconds


Problem = StateNotFoundError | CorruptedStateError


def keep(store: "DirectoryStore", name: str, keys: Sequence[str], ttl_seconds: float = math.inf) -> list[Problem]:
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
    data = json.dumps({**fields_of(name, ttl_seconds), "uuids": uuids}).encode() + b"\n"
    folder, last = store.tree.own_folder(FOLDER), path.rpartition("/")[2]
    for replaces in (False, True):
        written = atomic.publish_data(folder, last, data, store.tree.access, replace=replaces)
        if written or _lasts_as_long(store, f"{folder}/{last}", ttl_seconds):
            break
    note_roots(store)
    # Last, because a collection that has not seen the root may have moved some of them to the trash meanwhile.
    return revive(store, uuids)


def extend(store: "DirectoryStore", name: str, ttl_seconds: float | None = None) -> tuple[list[Root], list[Problem]]:
    """Give a root a sign of life: its time to live starts anew. Brings back what it keeps from the trash.

    Args:
        store: The store.
        name: The root's name.
        ttl_seconds: How long to keep it from now on, if that is longer than its own time to live.

    Returns:
        The root's files, and an error for each lost or damaged state. No files: there is no such root, or it has
        just been removed.

    Raises:
        StoreError: The system refused.
        UntrustedStoreError: A root cannot be read.
    """
    for path, _ in _files(store, name=name):
        files.touch(path)
    found = [root for _, root in _files(store, name=name)]
    if found and ttl_seconds is not None and ends(found)[name] < math.inf:
        # A file that keeps nothing itself, but lasts that long: a root ends with the last of its files.
        keep(store, name, [], ttl_seconds)
        found = [root for _, root in _files(store, name=name)]
    return found, revive(store, sorted({uuid for root in found for uuid in root.uuids}))


def fields_of(name: str, ttl_seconds: float) -> dict[str, object]:
    """Return the fields that all files of roots begin with."""
    fields = {"name": name, "since": files.now_ns() / 1e9, "by": files.process_name()}
    return fields if ttl_seconds == math.inf else {**fields, "ttl": ttl_seconds}


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
    found = _files(store, unreadable, name=name)
    for path, _ in found:
        files.remove(path)
    if unreadable and not found:
        raise next(iter(unreadable.values()))
    return len(found)


def read(
    store: "DirectoryStore", unreadable: dict[str, ANAError] | None = None, *, name: str | None = None
) -> list[Root]:
    """Return the files of all roots, or of one.

    Raises UntrustedStoreError if one cannot be read, because what it keeps is unknown. A caller that removes nothing
    can pass `unreadable`, which then collects errors by the file's name in the store.
    """
    return [root for _, root in _files(store, unreadable, name=name)]


def ends(found: Iterable[Root]) -> dict[str, float]:
    """Return when each root ends, in s since 1970 by the server's clock: with the last of its files."""
    last: dict[str, float] = {}
    for root in found:
        last[root.name] = max(root.until, last.get(root.name, -math.inf))
    return last


def lasting(found: Sequence[Root], now: float) -> list[Root]:
    """Return the files of the roots that have not ended."""
    last = ends(found)
    return [root for root in found if last[root.name] > now]


def remove_ended(store: "DirectoryStore", before: float) -> dict[str, ANAError]:
    """Move the files of roots that ended before that time to the trash, and remove what was moved there before.

    Until then, `extend` brings back what they kept. A sign of life since they were read saves them. If a root cannot be
    read, nothing is moved. Returns what could not be read, moved or removed, with the reason. Raises StoreError.
    """
    failed: dict[str, ANAError] = {}
    found = _files(store, failed)
    if failed:
        return failed
    last = ends(root for _, root in found)
    for path, work in (
        *((path, _remove_old) for path in _paths(store, files.TRASH)),
        *((path, trash.discard) for path, root in found if last[root.name] < before),
    ):
        try:
            work(path, before)
        except ANAError as error:
            failed[f"{FOLDER}/{path.rpartition('/')[2]}"] = error
    return failed


def _remove_old(path: str, before: float) -> None:
    found = files.stat(path)
    if found is not None and found.modified < before:
        files.remove(path)


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


def file_prefix(name: str) -> str:
    """Return what the file names of a root begin with."""
    return f"{address.file_name(name).removesuffix(address.SUFFIX)}."


def _path(name: str, uuids: list[str]) -> str:
    # Named by its content, so that keeping the same states again finds the file.
    digest = address.short_digest("\n".join(uuids))
    return f"{FOLDER}/{file_prefix(name)}{digest}{SUFFIX}"


def _files(
    store: "DirectoryStore", unreadable: dict[str, ANAError] | None = None, *, name: str | None = None
) -> list[tuple[str, Root]]:
    """Return the path and the content of each root's file, or of those of one root."""
    prefix = "" if name is None else file_prefix(name)
    for _ in range(_LISTINGS):
        found = []
        whole = True
        for path in _paths(store, prefix):
            try:
                root = _read(store, path)
            except (StoreError, UntrustedStoreError) as error:
                if unreadable is None:
                    raise
                unreadable[f"{FOLDER}/{path.rpartition('/')[2]}"] = error
                continue
            if root is not None and name in (None, root.name):
                found.append((path, root))
            # Forgotten after the folder was listed; or it was replaced, and is there again.
            whole = whole and root is not None
        if whole:
            break
    return found


def _paths(store: "DirectoryStore", prefix: str) -> list[str]:
    folder = f"{store.home}/{FOLDER}"
    files.revalidate([folder])
    try:
        # Anyone who can write there can remove roots, and what to keep is unknown.
        entries = files.list_folder(folder) if store.tree.check_own(FOLDER) else []
    except StoreError as error:
        if files.is_missing(error):
            return []
        raise
    names = sorted(entry.name for entry in entries if entry.name.endswith(SUFFIX))
    return [f"{folder}/{name}" for name in names if name.startswith(prefix) and (prefix or name[0] != ".")]


def _lasts_as_long(store: "DirectoryStore", path: str, ttl_seconds: float) -> bool:
    """Return whether a root's file is whole and lasts at least so long; if so, give it a sign of life.

    A full disk or a crash may have left it empty.
    """
    try:
        root = _read(store, path)
    except UntrustedStoreError:
        return False
    if root is None or root.ttl_seconds < ttl_seconds:
        return False
    if root.ttl_seconds < math.inf:
        files.touch(path)
    # A collection may have removed it just now, because the root had ended.
    return files.stat(path) is not None


def _read(store: "DirectoryStore", path: str) -> Root | None:
    # None: it was forgotten after the folder was listed.
    opened = files.open_whole(path, LIMIT_BYTES, store.tree.trust.check_file)
    return None if opened is None else _parse(path, bytes(opened.start), opened.modified)


def _parse(path: str, data: bytes, seen: float) -> Root:
    try:
        head, _, lines = data.partition(b"\n")
        fields = json_files.parse(head)
        root = Root(
            str(fields["name"]),
            tuple(address.check_key(key) for key in [*fields["uuids"], *_keys(lines)]),
            float(fields["since"]),
            str(fields["by"]),
            _ttl(fields.get("ttl")),
            fields.get("grows") is True,
            seen,
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        reason = f"it is not a root ({error})"
    else:
        if _has_its_name(path, root, grown=lines != b""):
            return root
        reason = "its content does not match its name"
    cure = "keep the same states under its name again, which repairs it, or remove it"
    text = f"{reason}, so what to keep is unknown: {cure}"
    raise UntrustedStoreError(path, text)


def _keys(lines: bytes) -> list[str]:
    """Return the keys that were appended, without lines that are not whole: after a kill, or a power cut.

    NUL bytes stand for what another NFS client has not sent yet, perhaps after later bytes, or what a power cut took. A
    collection that does not see such a key harms nothing: it is a state's that is young, or that the next one restores.
    """
    found: list[str] = []
    for number, piece in enumerate(re.split(rb"\0+", lines)):
        whole = piece.rpartition(b"\n")[0]
        # Behind NUL bytes begins the end of a line.
        whole = whole.partition(b"\n")[2] if number else whole
        found += [json.loads(line) for line in whole.split(b"\n")] if whole else []
    return found


def _ttl(said: object) -> float:
    if said is None:
        return math.inf
    found = float(said) if isinstance(said, int | float) and not isinstance(said, bool) else math.nan
    if not found >= 0:
        msg = f"its ttl is {said!r:.100}"
        raise ValueError(msg)
    return found


def _has_its_name(path: str, root: Root, *, grown: bool) -> bool:
    if root.grows:
        return path.rpartition("/")[2].startswith(file_prefix(root.name))
    return not grown and path.endswith("/" + _path(root.name, list(root.uuids)))
