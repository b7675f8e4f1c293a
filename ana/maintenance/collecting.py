"""Garbage collection: to the trash, and deleted after the grace period. `docs/collecting.md` shows why it is safe."""

import heapq
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import islice
from operator import itemgetter
from typing import Unpack

from ana.errors import ANAError
from ana.maintenance.collected import Collected, Scope
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
from ana.maintenance.deleting import Deletion
from ana.maintenance.mark import Marking
from ana.maintenance.pack_collecting import PackCollection
from ana.stores.directory import roots, trash
from ana.stores.directory.pack_survey import PackFile
from ana.stores.directory.scan import File, Survey, plain_name, trash_name
from ana.stores.directory.store import DirectoryStore

__all__ = ["GRACE_SECONDS", "Collected", "Scope", "gc"]

GRACE_SECONDS = 24 * 3600.0
AHEAD = 256
"""How many headers are read ahead while states are considered one at a time."""


def gc(
    pickle_dir: StoreOrPath,
    scope: Scope = Scope(),  # noqa: B008 - frozen
    *,
    grace_seconds: float = GRACE_SECONDS,
    without_roots: bool = False,
    dry_run: bool = False,
    **work: Unpack[Work],
) -> Collected:
    """Move states that may go to the trash, and delete what has been there for the grace period.

    These stay: states that roots name, states stored or restored within the grace period, states outside the scope,
    and all that any of them refer to. A read that misses restores a state from the trash. Safe while jobs and other
    collections run, with or without locks. Can be killed at any moment and run again.

    Args:
        pickle_dir: The store.
        scope: Which states may go. Default: those that the store's own time to live lets go.
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
    if grace_seconds < 0:
        msg = f"grace_seconds ({grace_seconds}) must not be negative"
        raise ValueError(msg)
    store = open_store(pickle_dir)
    scope = scope.within(store.config.ttl_seconds)
    scope.check()
    if not without_roots:
        roots.check_there(store)
    if scope.unreachable and not (scope.is_limited or without_roots or store.config.roots or roots.read(store)):
        msg = (
            f"{store.home} has no roots, and never had any, so everything would go: keep something first, or confirm "
            "that this is intended"
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
        self.store = store
        self.survey = Survey(store)
        self.root = store.home
        self.scope = scope
        self.on_progress = on_progress
        self.dry_run = dry_run
        self.done = Collected(dry_run=dry_run)
        # Before the listing: what is stored after this moment is young, whether the listing shows it or not.
        self.now = now(store, writable=not dry_run)
        self.before = self.now - grace_seconds
        every = roots.read(store)
        found = roots.lasting(every, self.now)
        if every and not dry_run:
            roots.note_roots(store)
        self.roots = sorted(self._chosen(found))
        self.done.roots = len({root.name for root in self.roots})
        # What they keep may go to the trash, but until a grace after their end, whoever extends them finds all of it.
        self.lapsed = [] if scope.all_but else [root for root in roots.lasting(every, self.before) if root not in found]
        if scope.all_but:
            self.done.forgotten = sorted({root.name for root in every}.difference(scope.all_but))
        self._list()
        self.done.states = self.survey.count(self.contents.states)
        self.packs = PackCollection(self.survey, self.done, self.now, self.before)

    def _chosen(self, found: list[roots.Root]) -> list[roots.Root]:
        """Return the roots that keep, of those that have not ended. Raises ValueError if a chosen one is missing."""
        chosen = self.scope.all_but
        unknown = set(chosen).difference(root.name for root in found)
        if unknown:
            msg = f"there is no root {min(unknown)!r} that has not ended, so nothing is collected: see ana roots"
            raise ValueError(msg)
        return [root for root in found if not chosen or root.name in chosen]

    def _list(self) -> None:
        self.contents = self.survey.contents()
        self.kept = Marking(self.survey, self.on_progress, "marking", self.contents.states)

    def run(self) -> Collected:
        """Run the collection."""
        if self._is_blind():
            return self.done
        self._recover()
        live, trashed = self.contents.states, self.contents.trash
        self._mark()
        done = self.done
        done.kept, done.kept_bytes = len(self.kept), self.kept.bytes
        done.problems += [
            *self.kept.unreadable,
            *(Problem("", name, "missing", f"{by} refers to it") for name, by in self.kept.missing.items()),
        ]
        if self.kept.unreadable:
            done.refused = True
            return done
        if not self.dry_run:
            for name in done.forgotten:
                roots.forget(self.store, name)
        for name in sorted(self.kept.in_trash):
            self._bring_back(name)
        self.packs.bring_back(self.kept.packs_in_trash)
        doubles = {name for name in trashed if name in live or self.packs.has_whole(name)}
        self._drop_doubles(doubles)
        self.packs.drop_doubles(self.contents)
        self._discard(list(self.kept.unmarked()))
        self.packs.sort_out(self.kept)
        if not self.dry_run:
            # Before states that they name are deleted: whoever extends one gets all of it back, or an error.
            done.failed |= {name: str(error) for name, error in roots.remove_ended(self.store, self.before).items()}
        if done.trashed or done.packs_trashed or done.packs_rewritten:
            done.free_from = self.now + (self.now - self.before)
        self._delete({name for name in trashed if not (name in doubles or self.kept.is_marked(name))})
        self._remove_folders()
        return done

    def _is_blind(self) -> bool:
        """Refuse if folders cannot be listed: what the states in them refer to is unknown."""
        self.done.problems += unlisted(self.survey.unreadable)
        self.done.refused = bool(self.survey.unreadable)
        return self.done.refused

    # What stays

    def _mark(self) -> None:
        live = self.contents.states
        self._mark_roots()
        for name, found in self.survey.each(self.kept.unmarked(), self.survey.stat):
            if isinstance(found, ANAError):
                # Its age is unknown: it stays.
                self.done.failed[name] = str(found)
                live.note(name, 0, self.now)
            elif found is not None:
                live.note(name, found.size_bytes, found.modified)
        self.done.ahead += live.since(self.now + AHEAD_SECONDS)
        before = self.before
        if self.scope.older_than_seconds is not None:
            before = min(before, self.now - self.scope.older_than_seconds)
        self._mark_young(before)
        if self.scope.max_bytes is not None or self.scope.max_files is not None:
            marked = len(self.kept)
            self._fill()
            self.done.kept_within_limits = len(self.kept) - marked

    def _mark_roots(self) -> None:
        """Mark what each root keeps, one root after the other: only the number of it is remembered."""
        for root in self.roots:
            marked = len(self.kept)
            names = [self.survey.name_of(uuid) for uuid in root.uuids]
            self.kept.mark(names, dict.fromkeys(names, f"the root {root.name!r}"))
            kept = self.done.kept_by_root
            kept[root.name] = kept.get(root.name, 0) + len(self.kept) - marked

    def _mark_young(self, before: float) -> None:
        """Mark what was changed at `before` or later, and all that it refers to."""
        live, done, marked = self.contents.states, self.done, len(self.kept)
        done.young_seconds = self.now - before
        young, oldest = live.count_since(before)
        in_packs, oldest_pack = self.packs.mark_young(self.kept, before)
        self.kept.mark(live.since(before))
        # A state may lie in a file and in a pack.
        done.kept_young = min(young + in_packs, len(self.kept) - marked)
        done.kept_by_others = len(self.kept) - marked - done.kept_young
        if done.kept_young:
            done.young_until = min(oldest, oldest_pack) + done.young_seconds

    def _fill(self) -> None:
        """Keep the youngest states, each with all that it refers to, up to the limits."""
        for batch in self._batches(self._youngest_first()):
            self.kept.read_ahead(batch)
            for name in batch:
                if self.kept.is_marked(name):
                    continue
                trial = Marking(self.survey, self.on_progress, "marking", beside=self.kept)
                trial.mark([name])
                if not self._fits(len(self.kept) + len(trial), self.kept.bytes + trial.bytes):
                    return
                self.kept.take_over(trial)

    def _youngest_first(self) -> Iterator[str]:
        merged = heapq.merge(self.contents.states.youngest_first(), self.packs.youngest_first(), key=itemgetter(0))
        return (name for _, name in merged if not self.kept.is_marked(name))

    @staticmethod
    def _batches(names: Iterator[str]) -> Iterator[list[str]]:
        while batch := list(islice(names, AHEAD)):
            yield batch

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

    def _discard(self, names: list[str]) -> None:
        """Move states to the trash."""
        for number, (name, answer) in enumerate(self.survey.each(names, self._discard_one), 1):
            if isinstance(answer, ANAError):
                self.done.failed[name] = str(answer)
            elif answer == trash.MOVED:
                self.done.trashed.append(name)
                self._note_going(name, self.contents.states.size(name))
                self.done.trashed_bytes += self.contents.states.size(name)
            self.on_progress(Progress("moving into the trash", number, len(names), self.done.trashed_bytes))

    def _discard_one(self, name: str) -> str:
        return trash.MOVED if self.dry_run else trash.discard(f"{self.root}/{name}", self.before)

    def _delete(self, trashed: set[str]) -> None:
        """Delete what was in the trash for the grace period, unless a state that can still be loaded refers to it."""
        old, waiting = self._by_age(trashed)
        old_packs, waiting_packs = self.packs.by_age(self.kept)
        waiting_packs += self.packs.moved()
        if old or old_packs:
            found = self._still_needed(trashed, waiting, old_packs)
            # If what is needed is unknown, all waits.
            staying, unneeded = found or (None, [])
            waiting |= {name for name in old if staying is None or staying.is_marked(name)}
            waiting_packs += [one for one in old_packs if one.path not in {other.path for other in unneeded}]
            old -= waiting
            old_packs = unneeded
        deletion = Deletion(self.survey, self.packs, self._delete_names)
        left = deletion.run(old, old_packs)
        self.done.waiting = len(waiting) + len(self.done.trashed) + len(waiting_packs) + len(left)

    def _by_age(self, trashed: set[str]) -> tuple[set[str], set[str]]:
        files = self.contents.trash
        old, waiting = set(), set()
        for name, found in self.survey.each(sorted(trashed), lambda name: self.survey.stat(trash_name(name))):
            if isinstance(found, File):
                files.note(name, found.size_bytes, found.modified)
            if isinstance(found, File) and found.modified < self.before:
                old.add(name)
            elif found is not None:
                waiting.add(name)
        self.done.ahead += map(trash_name, files.since(self.now + AHEAD_SECONDS))
        return old, waiting

    def _still_needed(
        self, trashed: set[str], waiting: set[str], old_packs: list[PackFile]
    ) -> tuple[Marking, list[PackFile]] | None:
        """Mark what existing states refer to, in the trash or not; return also the packs that nothing refers to.

        Returns None if a state cannot be read.
        """
        # Listed again: a state brought back during the first listing may have been seen in neither place.
        again = self.survey.contents()
        if self._is_blind():
            return None
        staying = Marking(self.survey, self.on_progress, "marking what waits in the trash", again.states, self.kept)
        staying.mark(again.states)
        staying.mark(name for name in again.trash if name not in trashed)
        staying.mark(self.kept.unmarked())
        staying.mark(waiting)
        staying.mark(self.survey.name_of(uuid) for root in self.lapsed for uuid in root.uuids)
        unneeded = self.packs.mark_others(staying, old_packs)
        # Nobody can load anything through a damaged state, so its references do not count.
        unknown = [wrong for wrong in staying.unreadable if wrong.kind != "damaged"]
        self.done.problems += staying.unreadable
        return None if unknown else (staying, unneeded)

    def _delete_names(self, names: list[str]) -> list[str]:
        """Delete states in the trash; return those that were not deleted."""
        left = []
        for name, answer in self.survey.each(names, self._delete_one):
            if isinstance(answer, ANAError):
                self.done.failed[name] = str(answer)
            elif answer == trash.DELETED:
                self._note_deleted(name)
            if answer != trash.DELETED:
                left.append(name)
            self.on_progress(Progress("deleting", len(self.done.deleted), None, self.done.deleted_bytes))
        return left

    def _delete_one(self, name: str) -> str:
        return trash.DELETED if self.dry_run else trash.delete(f"{self.root}/{name}", self.before)

    def _note_going(self, name: str, size_bytes: int) -> None:
        if self.dry_run:
            self.done.going[name] = size_bytes

    def _note_deleted(self, name: str) -> None:
        self.done.deleted.append(name)
        self._note_going(trash_name(name), self.contents.trash.size(name))
        self.done.deleted_bytes += self.contents.trash.size(name)

    def _recover(self) -> None:
        """Finish the deletions of a killed collection."""
        if self.dry_run or not (self.contents.gone or self.contents.gone_packs):
            return
        self.packs.recover()
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
        self._list()
        self.packs.listed = self.survey.packed.files

    def _remove_folders(self) -> None:
        """Remove folders empty for the grace period. Those emptied just now are left to a later collection."""
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
