"""Garbage collection: to the trash, and deleted after the grace. `docs/operating.md` shows why it is safe."""

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Unpack

from ana.errors import ANAError
from ana.maintenance.common import (
    AHEAD_SECONDS,
    LOCK_SECONDS,
    OnProgress,
    Problem,
    Progress,
    StoreOrPath,
    Work,
    locked,
    now,
    open_store,
    unlisted,
)
from ana.maintenance.mark import Marking
from ana.stores.directory import roots, trash
from ana.stores.directory.graph import postorder
from ana.stores.directory.scan import File, Survey, plain_name, trash_name
from ana.stores.directory.store import DirectoryStore

__all__ = ["GRACE_SECONDS", "Collected", "Scope", "gc"]

GRACE_SECONDS = 24 * 3600.0
AHEAD = 256
"""How many headers are read ahead while states are considered one at a time."""


@dataclass(frozen=True)
class Scope:
    """Which states may be collected, of those that no root keeps and that are older than the grace.

    If several conditions are given, all must hold. What a remaining state refers to stays, too.
    """

    unreachable: bool = False
    """Any state that no root refers to."""
    older_than_seconds: float | None = None
    """States stored longer ago than this."""
    max_bytes: int | None = None
    """The oldest states, until the remaining files have at most this many bytes together."""
    max_files: int | None = None
    """The oldest states, until at most this many remain."""

    def check(self) -> None:
        """Raise ValueError if no condition is given, or a number is negative."""
        given = (self.older_than_seconds, self.max_bytes, self.max_files)
        if not self.unreachable and all(value is None for value in given):
            msg = "choose what may go: unreachable, older_than_seconds, max_bytes or max_files"
            raise ValueError(msg)
        if any(value is not None and value < 0 for value in given):
            msg = f"{self}: no value may be negative"
            raise ValueError(msg)


@dataclass
class Collected:
    """What a collection did or, in a dry run, would do. States are named by their files, relative to the store."""

    states: int = 0
    """States at the beginning, without the trash."""
    roots: int = 0
    kept: int = 0
    """States that stay because of a root, their age, or a state that refers to them."""
    trashed: list[str] = field(default_factory=list)
    """States that were moved to the trash."""
    trashed_bytes: int = 0
    deleted: list[str] = field(default_factory=list)
    """States that had been in the trash for the grace, and were deleted."""
    deleted_bytes: int = 0
    brought_back: list[str] = field(default_factory=list)
    """States that were in the trash although a state that stays refers to them."""
    waiting: int = 0
    """States that stay in the trash: too young, or others may still refer to them."""
    folders: int = 0
    """Empty shard folders that were removed."""
    failed: dict[str, str] = field(default_factory=dict)
    """What could not be moved or deleted, with the reason."""
    problems: list[Problem] = field(default_factory=list)
    """Damaged states, and missing ones that others refer to."""
    ahead: list[str] = field(default_factory=list)
    """States that stay because they were modified ahead of the server's clock: one of the two was, or is, wrong."""
    refused: bool = False
    """Nothing was collected, because states that stay, or folders, could not be read: what they refer to is unknown."""
    dry_run: bool = False


def gc(
    pickle_dir: StoreOrPath,
    scope: Scope,
    *,
    grace_seconds: float = GRACE_SECONDS,
    without_roots: bool = False,
    dry_run: bool = False,
    **work: Unpack[Work],
) -> Collected:
    """Move states that may go to the trash, and delete what has been there for the grace.

    These stay: states that roots name, states stored or brought back within the grace, states outside the scope, and
    all that any of them refer to. A read that misses brings a state back from the trash. Safe while jobs and other
    collections run, with or without locks. Can be killed at any moment and run again.

    Args:
        pickle_dir: The store.
        scope: Which states may go.
        grace_seconds: How long new states are safe, and how long states stay in the trash; by the file server's clock.
            Must exceed `recheck_seconds`, for which processes assume without checking that a state exists, plus the
            time they take to store what refers to it.
        without_roots: Confirm that the store has no roots, and that everything may be collected.
        dry_run: Only report what would be done.
        **work: `on_progress` and `lock_seconds`, see `Work`.

    Returns:
        What was done.

    Raises:
        ValueError: The scope is empty, a time is negative, or there are no roots for `unreachable` (see
            `without_roots`). In all these cases nothing was moved.
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: A root cannot be read, or the roots were lost with their folder.
        UnsupportedFormatError: A newer version made the store.
        LockTimeoutError: Other maintenance holds the lock.
    """
    scope.check()
    if grace_seconds < 0:
        msg = f"grace_seconds ({grace_seconds}) must not be negative"
        raise ValueError(msg)
    store = open_store(pickle_dir)
    if not without_roots:
        roots.check_there(store)
    if scope.unreachable and not without_roots and not roots.read(store):
        msg = (
            f"{store.home} has no roots, so everything would go: keep something first, or confirm that this is intended"
        )
        raise ValueError(msg)
    with nullcontext() if dry_run else locked(store, work.get("lock_seconds", LOCK_SECONDS)):
        on_progress = work.get("on_progress", lambda _: None)
        return _Collection(store, scope, grace_seconds, on_progress, dry_run=dry_run).run()


class _Collection:
    """One collection, from the roots to the empty folders."""

    def __init__(
        self, store: DirectoryStore, scope: Scope, grace_seconds: float, on_progress: OnProgress, *, dry_run: bool
    ) -> None:
        self.survey = Survey(store)
        self.root = store.home
        self.scope = scope
        self.on_progress = on_progress
        self.dry_run = dry_run
        self.done = Collected(dry_run=dry_run)
        # Before the listing: what is stored after this moment is young, whether the listing shows it or not.
        self.now = now(store, writable=not dry_run)
        self.before = self.now - grace_seconds
        found = roots.read(store)
        if found and not dry_run:
            roots.note_roots(store)
        self.done.roots = len({root.name for root in found})
        self.wanted = {self.survey.name_of(uuid): f"the root {root.name!r}" for root in found for uuid in root.uuids}
        self.contents = self.survey.contents()
        self.live = set(self.contents.states)
        self.done.states = len(self.live)
        self.kept = Marking(self.survey, on_progress, "marking")
        self.files: dict[str, File] = {}

    def run(self) -> Collected:
        """Run the collection."""
        if self._is_blind():
            return self.done
        self._recover()
        trashed = {plain_name(name) for name in self.contents.trash}
        self._mark()
        done = self.done
        done.kept = len(self.kept.marked)
        done.problems += [
            *self.kept.unreadable,
            *(Problem("", name, "missing", f"{by} refers to it") for name, by in self.kept.missing.items()),
        ]
        if self.kept.unreadable:
            done.refused = True
            return done
        for name in sorted(self.kept.in_trash):
            self._bring_back(name)
        self._drop_doubles(trashed & self.live)
        moved = self._discard(sorted(self.live - self.kept.marked.keys()))
        self._delete(trashed - self.kept.marked.keys() - self.live, moved)
        self._remove_folders()
        return done

    def _is_blind(self) -> bool:
        """Refuse if folders cannot be listed: what the states in them refer to is unknown."""
        self.done.problems += unlisted(self.survey.unreadable)
        self.done.refused = bool(self.survey.unreadable)
        return self.done.refused

    # What stays

    def _mark(self) -> None:
        self.kept.mark(self.wanted)
        for name, found in self.survey.each(self.live - self.kept.marked.keys(), self.survey.stat):
            if isinstance(found, ANAError):
                # Its age is unknown: it stays.
                self.done.failed[name] = str(found)
                self.files[name] = File(name, 0, self.now)
            elif found is not None:
                self.files[name] = found
        self._note_ahead(self.files.values())
        before = self.before
        if self.scope.older_than_seconds is not None:
            before = min(before, self.now - self.scope.older_than_seconds)
        self.kept.mark({file.name: "" for file in self.files.values() if file.modified >= before})
        if self.scope.max_bytes is not None or self.scope.max_files is not None:
            self._fill()

    def _note_ahead(self, found: Iterable[File]) -> None:
        self.done.ahead += [file.name for file in found if file.modified > self.now + AHEAD_SECONDS]

    def _fill(self) -> None:
        """Keep the youngest states, each with all that it refers to, up to the limits."""
        rest = [file for file in self.files.values() if file.name not in self.kept.marked]
        rest.sort(key=lambda file: -file.modified)
        for number, file in enumerate(rest):
            if number % AHEAD == 0:
                self.kept.read_ahead([other.name for other in rest[number : number + AHEAD]])
            if file.name in self.kept.marked:
                continue
            trial = Marking(self.survey, self.on_progress, "marking", beside=self.kept)
            trial.mark({file.name: ""})
            if not self._fits(len(self.kept.marked) + len(trial.marked), self.kept.bytes + trial.bytes):
                return
            self.kept.take_over(trial)

    def _fits(self, states: int, size_bytes: int) -> bool:
        scope = self.scope
        return (scope.max_bytes is None or size_bytes <= scope.max_bytes) and (
            scope.max_files is None or states <= scope.max_files
        )

    def _bring_back(self, name: str) -> None:
        try:
            if not self.dry_run:
                trash.bring_back(f"{self.root}/{name}")
            self.done.brought_back.append(name)
        except ANAError as error:
            # It stays in the trash, where readers find it, and is not deleted.
            self.done.failed[name] = str(error)

    # What goes

    def _drop_doubles(self, names: set[str]) -> None:
        """Delete trash copies of states that exist: stored again, or brought back by a reader that was killed."""
        for name, answer in self.survey.each(sorted(names), self._delete_one):
            if isinstance(answer, ANAError):
                self.done.failed[trash_name(name)] = str(answer)

    def _discard(self, names: list[str]) -> set[str]:
        """Move states to the trash. Return those that were moved, or would be."""
        moved = set()
        total = len(names)
        for number, (name, answer) in enumerate(self.survey.each(names, self._discard_one), 1):
            if isinstance(answer, ANAError):
                self.done.failed[name] = str(answer)
            elif answer == trash.MOVED:
                moved.add(name)
                self.done.trashed.append(name)
                self.done.trashed_bytes += self.files[name].size_bytes if name in self.files else 0
            self.on_progress(Progress("moving into the trash", number, total, self.done.trashed_bytes))
        return moved

    def _discard_one(self, name: str) -> str:
        return trash.MOVED if self.dry_run else trash.discard(f"{self.root}/{name}", self.before)

    def _delete(self, trashed: set[str], moved: set[str]) -> None:
        """Delete what has been in the trash for the grace, unless a state that can still be loaded refers to it."""
        old, waiting = self._by_age(trashed)
        if old:
            staying = self._still_needed(trashed, waiting | moved)
            if staying is None:
                # What is needed is unknown.
                waiting |= old
                old = set()
            else:
                waiting |= old & staying.marked.keys()
                old -= staying.marked.keys()
        self.done.waiting = len(waiting | moved)
        children = self._children(old)
        spared: set[str] = set()
        for level in _parents_first(old, children):
            self._delete_level([name for name in level if name not in spared], children, spared)
        self.done.waiting += len(spared & old)

    def _by_age(self, trashed: set[str]) -> tuple[set[str], set[str]]:
        old, waiting = set(), set()
        for name, found in self.survey.each(sorted(trashed), lambda name: self.survey.stat(trash_name(name))):
            if isinstance(found, File) and found.modified < self.before:
                old.add(name)
                self.files[name] = found
            elif found is not None:
                waiting.add(name)
                self._note_ahead([found] if isinstance(found, File) else [])
        return old, waiting

    def _still_needed(self, trashed: set[str], waiting: set[str]) -> Marking | None:
        """Mark what existing states refer to, in the trash or not. Return None if one of them cannot be read."""
        # Listed again: a state brought back during the first listing may have been seen in neither place.
        again = self.survey.contents()
        if self._is_blind():
            return None
        new = {*again.states, *({*map(plain_name, again.trash)} - trashed)}
        staying = Marking(self.survey, self.on_progress, "marking what waits in the trash", beside=self.kept)
        staying.mark(dict.fromkeys(new | (self.live - self.kept.marked.keys()) | waiting, ""))
        # Nobody can load anything through a damaged state, so its references do not count.
        unknown = [wrong for wrong in staying.unreadable if wrong.kind != "damaged"]
        self.done.problems += staying.unreadable
        return None if unknown else staying

    def _children(self, names: set[str]) -> dict[str, tuple[str, ...]]:
        found = Marking(self.survey, self.on_progress, "marking the trash")
        for name, answer in self.survey.each(sorted(names), found.look_into):
            if answer is not None and not isinstance(answer, ANAError):
                found.children[name] = tuple(map(self.survey.name_of, answer[0].children))
        return found.children

    def _delete_level(self, names: list[str], children: dict[str, tuple[str, ...]], spared: set[str]) -> None:
        for name, answer in self.survey.each(names, self._delete_one):
            if isinstance(answer, ANAError):
                self.done.failed[name] = str(answer)
            elif answer == trash.DELETED:
                self._note_deleted(name)
            if answer != trash.DELETED:
                # It exists again, or may: all that it refers to stays, too.
                spared.update(postorder([name], lambda name: children.get(name, ())))
            self.on_progress(Progress("deleting", len(self.done.deleted), None, self.done.deleted_bytes))

    def _delete_one(self, name: str) -> str:
        return trash.DELETED if self.dry_run else trash.delete(f"{self.root}/{name}", self.before)

    def _note_deleted(self, name: str) -> None:
        self.done.deleted.append(name)
        self.done.deleted_bytes += self.files[name].size_bytes if name in self.files else 0

    def _recover(self) -> None:
        """Finish the deletions of a killed collection."""
        if self.dry_run or not self.contents.gone:
            return
        for doomed in self.contents.gone:
            name = plain_name(doomed)
            try:
                answer = trash.recover(f"{self.root}/{name}", f"{self.root}/{doomed}", self.before)
            except ANAError as error:
                self.done.failed[doomed] = str(error)
                continue
            if answer == trash.DELETED:
                self._note_deleted(name)
        # Some are in the trash again, or were just brought back by readers.
        self.contents = self.survey.contents()
        self.live = set(self.contents.states)

    def _remove_folders(self) -> None:
        """Remove folders that have been empty for the grace. Those emptied just now are left to a later collection."""
        if self.dry_run:
            return
        used = {name.rpartition("/")[0] for names in self.contents[:-1] for name in names}
        used |= {name.rstrip("/").rpartition("/")[0] for name in self.contents.folders}
        empty = [name.rstrip("/") for name in self.contents.folders if name.rstrip("/") not in used]
        for name, answer in self.survey.each(empty, self._remove_folder):
            if isinstance(answer, ANAError):
                self.done.failed[name] = str(answer)
            elif answer:
                self.done.folders += 1

    def _remove_folder(self, name: str) -> bool:
        return trash.remove_empty_folder(f"{self.root}/{name}", self.before)


def _parents_first(names: Iterable[str], children: dict[str, tuple[str, ...]]) -> Iterator[list[str]]:
    """Yield the names in groups: parents before children, except in cycles."""
    wanted = set(names)
    order = [name for name in postorder(sorted(wanted), lambda name: children.get(name, ())) if name in wanted]
    level: dict[str, int] = {}
    for name in reversed(order):
        above = level.setdefault(name, 0)
        for child in children.get(name, ()):
            if child in wanted and child != name:
                level[child] = max(level.get(child, 0), above + 1)
    groups: dict[int, list[str]] = {}
    for name in reversed(order):
        groups.setdefault(level[name], []).append(name)
    for number in sorted(groups):
        yield groups[number]
