"""Finds what a scratch filesystem will purge next, by root. Looks at times, and changes none."""

import math
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from ana.errors import ANAError
from ana.format import address
from ana.fs import files, mounts
from ana.maintenance.common import OnProgress, Problem, Progress, StoreOrPath, host_now, open_store, unlisted
from ana.maintenance.mark import Marking
from ana.stores.directory import roots
from ana.stores.directory.naming import PACKS
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["TIMES", "Expiring", "Expiry", "Purge", "expiring"]

TIMES = ("atime", "mtime", "ctime")
WITHIN_SECONDS = 7 * 86400.0
_LEAVES_TIMES = "lustre"
"""A network filesystem on which the node, not a server, notes reads, as on local filesystems."""
_UNTOLD = (
    "roots are not told apart: headers would have to be read, and on this filesystem (%s) a server may count that as a "
    "use of the file, which delays a purge by atime"
)
_UNREAD = (
    "what no root needs is not told, because some roots or states cannot be read: run this as their owner, who can "
    "read them without a trace, or with --read (the first: %s)"
)
_BATCH = 1024


class Purge(NamedTuple):
    """The rule of a purge."""

    by: str
    """Which time of a file counts: "atime", "mtime" or "ctime"."""
    age_seconds: float
    """The age at which files go, in s."""


class _File(NamedTuple):
    goes: float
    size_bytes: int


@dataclass
class Expiry:
    """When the files that hold a root's states go. Times in s since 1970."""

    name: str
    """The root's name; "" for files that no root needs."""
    files: int = 0
    """Files of states, packs, and the root's own files."""
    size_bytes: int = 0
    """The size of these files."""
    first_goes: float | None = None
    """When the purge may take the first of them: from then on the root is incomplete."""
    last_goes: float | None = None
    """When it may take the last of them."""
    due: int = 0
    """How many files it may take already."""
    soon: int = 0
    """How many files it may take within the given time, including those that are due."""
    soon_bytes: int = 0
    """The size of these."""


@dataclass
class Expiring:
    """What a purge takes next."""

    by: str
    """The time that the purge goes by: `atime`, `mtime` or `ctime`."""
    age_seconds: float
    """The age at which the purge takes a file."""
    within_seconds: float
    """How far ahead `soon` looks."""
    now: float
    """This host's clock, in s since 1970."""
    files: Expiry
    """All files of states and packs."""
    roots: list[Expiry] = field(default_factory=list)
    """The files of each root, sorted by when the root loses its first one; then what no root needs, if all roots and
    headers could be read. A file that several roots need counts for each."""
    untold: str = ""
    """What is missing in `roots`, and why; "" if nothing is."""
    problems: list[Problem] = field(default_factory=list)
    """What could not be listed or read. What a state that cannot be read refers to is missing in `roots`."""


def expiring(
    pickle_dir: StoreOrPath,
    purge: Purge,
    *,
    within_seconds: float = WITHIN_SECONDS,
    read: bool = False,
    on_progress: OnProgress = lambda _: None,
) -> Expiring:
    """Return what a purge takes next, by root. Needs no lock, and changes no time of any file of a state.

    To tell roots apart, headers are read. A purge by `mtime` or `ctime` does not notice that. For one by `atime`, files
    are opened with `O_NOATIME`, which only their owner may use. On filesystems whose server notes reads, `stat` is the
    only call, and roots are not told apart.

    Args:
        pickle_dir: The store.
        purge: The filesystem's rule.
        within_seconds: How far to look ahead, in s.
        read: Read headers even where that may count as a use of the file.
        on_progress: Called for each batch of files.

    Raises:
        ValueError: The rule or `within_seconds` is invalid.
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: The folder is not a store.

    """
    if purge.by not in TIMES or not (0 < purge.age_seconds < math.inf and 0 <= within_seconds < math.inf):
        msg = f"a purge goes by {', '.join(TIMES)} and an age above 0 s, not {purge}, {within_seconds} s ahead"
        raise ValueError(msg)
    store = open_store(pickle_dir)
    looking = _Looking(store, purge, within_seconds, on_progress)
    looking.look()
    mount = mounts.mount_of(store.home)
    kind = "" if mount is None else mount.kind
    if purge.by != "atime" or read or kind == _LEAVES_TIMES or mounts.is_local(store.home):
        with files.leaving_times() if purge.by == "atime" and not read else nullcontext():
            looking.tell_roots()
    else:
        looking.done.untold = _UNTOLD % (kind or "an unknown filesystem")
    return looking.done


class _Looking:
    """One look at the files of a store."""

    def __init__(self, store: DirectoryStore, purge: Purge, within_seconds: float, on_progress: OnProgress) -> None:
        self.done = Expiring(purge.by, purge.age_seconds, within_seconds, host_now(), Expiry(""))
        self._store = store
        self._survey = Survey(store)
        self._purge = purge
        self._on_progress = on_progress
        self._files: dict[str, _File] = {}
        self._own: dict[str, _File] = {}
        """The files of roots."""

    def look(self) -> None:
        """Look at the files of all states and packs, without opening one."""
        for number, (name, found) in enumerate(self._survey.each(self._names(), self._stat), 1):
            if isinstance(found, ANAError):
                self.done.problems += unlisted({name: found})
            elif found is not None:
                self._files[name] = found
            if not number % _BATCH:
                self._on_progress(Progress("looking", number))
        self.done.files = self._expiry("", self._files)
        self.done.problems += unlisted(self._survey.unreadable)

    def _names(self) -> Iterator[str]:
        for folder in self._store.tree.walk(unreadable=self._survey.unreadable):
            if folder.innermost:
                for entry in folder.entries:
                    if entry.kind == "file" and address.is_file_name(entry.name):
                        yield f"{folder.name}{entry.name}"
        yield from (f"{PACKS}/{name}" for name, trashed in self._store.packs.names().items() if not trashed)

    def _stat(self, name: str) -> _File | None:
        found = files.stat(f"{self._store.home}/{name}")
        if found is None:
            return None
        return _File(getattr(found.stat, f"st_{self._purge.by}") + self._purge.age_seconds, found.size_bytes)

    def tell_roots(self) -> None:
        """Follow each root to the files that it needs."""
        unreadable: dict[str, ANAError] = {}
        kept: dict[str, set[str]] = {}
        for root in roots.read(self._store, unreadable):
            kept.setdefault(root.name, set()).update(root.uuids)
        self.done.problems += unlisted(unreadable)
        needed: set[str] = set()
        for name, uuids in kept.items():
            names = self._needed(uuids)
            needed |= names
            self.done.roots.append(self._expiry(name, {*names, *self._own_files(name)}))
        self.done.roots.sort(key=lambda each: (math.inf if each.first_goes is None else each.first_goes, each.name))
        if self.done.problems:
            self.done.untold = _UNREAD % self.done.problems[0].reason
        else:
            self.done.roots.append(self._expiry("", self._files.keys() - needed))

    def _needed(self, uuids: Iterable[str]) -> set[str]:
        """Return the names of the files that hold states, and all that they refer to."""
        marking = Marking(self._survey, self._on_progress, "following")
        marking.mark([self._survey.name_of(uuid) for uuid in uuids])
        self.done.problems += marking.unreadable
        packs = (self._survey.packed.first(number) for number in marking.packed)
        return {*marking.marked, *(f"{PACKS}/{found[0].name}" for found in packs if found is not None)}

    def _own_files(self, name: str) -> list[str]:
        """Return the names of a root's own files; their times are noted."""
        prefix = roots.file_prefix(name)
        found = []
        for entry in files.list_folder(f"{self._store.home}/{roots.FOLDER}"):
            own = f"{roots.FOLDER}/{entry.name}"
            status = self._stat(own) if entry.name.startswith(prefix) else None
            if status is not None:
                self._own[own] = status
                found.append(own)
        return found

    def _expiry(self, name: str, names: Iterable[str]) -> Expiry:
        found = [file for each in names if (file := self._files.get(each) or self._own.get(each)) is not None]
        soon = [file for file in found if file.goes <= self.done.now + self.done.within_seconds]
        return Expiry(
            name,
            len(found),
            sum(file.size_bytes for file in found),
            min((file.goes for file in found), default=None),
            max((file.goes for file in found), default=None),
            sum(file.goes <= self.done.now for file in found),
            len(soon),
            sum(file.size_bytes for file in soon),
        )
