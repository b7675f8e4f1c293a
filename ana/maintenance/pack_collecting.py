"""Collecting packs: a pack goes as a whole once nothing in it is needed; one that is mostly dead is written anew.

`docs/collecting.md` shows why it is safe.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

from ana.errors import ANAError, CorruptedStateError
from ana.format import pack
from ana.format.pack import Spot
from ana.maintenance.collected import Collected
from ana.maintenance.common import AHEAD_SECONDS, Problem, problem
from ana.maintenance.mark import Marking
from ana.maintenance.sweep import LEFTOVER_SECONDS
from ana.stores.directory import repack, trash
from ana.stores.directory.naming import PACKS
from ana.stores.directory.pack_survey import PackFile, number_of_name
from ana.stores.directory.scan import Contents, Survey, plain_name

__all__ = ["PackCollection", "is_finished", "node_of"]


class PackCollection:
    """The part of a collection that is about packs."""

    def __init__(self, survey: Survey, done: Collected, now: float, before: float) -> None:
        """`now`: the time by the server's clock, in s since 1970; `before`: packs changed later are young."""
        self.survey = survey
        self.done = done
        self.now = now
        self.before = before
        self.listed: list[PackFile] = survey.packed.files
        done.packs = sum(not one.trashed for one in self.listed)

    def recover(self) -> None:
        """Put packs whose deletion was interrupted back into the trash if they are young, and drop needless names.

        The others stay hidden, are marked like packs in the trash, and are deleted or put back with those.
        """
        live = {one.name for one in self._live()}
        self.unhide(one for one in self.listed if one.gone and (one.name in live or one.modified >= self.before))

    # What stays

    def mark_young(self, kept: Marking, before: float) -> tuple[int, float]:
        """Mark all states in packs that were last changed at `before` or later, and all that they refer to.

        Returns how many of these packs' states were not marked before, and the least time of last change of the packs.
        """
        young = [one for one in self._live() if one.modified >= before]
        count = kept.mark_packs(young)
        self.done.ahead += [one.relative for one in self.listed if one.modified > self.now + AHEAD_SECONDS]
        for one in self._live():
            try:
                hidden = self.survey.packed.lost(one, self.now)
            except ANAError as error:
                kept.unreadable.append(problem(error, name=one.relative))
                continue
            if hidden:
                reason = f"it is damaged at byte {one.table.end:,}: what lay there may refer to anything"
                kept.unreadable.append(Problem("", one.relative, "damaged", reason))
        return count, min((one.modified for one in young), default=math.inf) if count else math.inf

    def youngest_first(self) -> Iterator[tuple[float, str]]:
        """Yield the negative time of last change, and the name, of each state in a pack, the youngest first."""
        for one in sorted(self._live(), key=lambda one: -one.modified):
            for item in one.table.items():
                yield -one.modified, self.survey.name_of(pack.key_of_number(item[0]))

    def bring_back(self, paths: Iterable[str]) -> None:
        """Bring packs back from the trash that hold states which stay."""
        for one in self._of(paths):
            try:
                if not self.done.dry_run:
                    if one.gone:
                        trash.unhide(one.own_path, one.path)
                    trash.bring_back(one.own_path)
                self.done.packs_brought_back.append(one.relative)
            except ANAError as error:
                self.done.failed[one.relative] = str(error)

    # What goes

    def drop_doubles(self, contents: Contents) -> None:
        """Delete the names in the trash of packs that were brought back."""
        live = {one.relative for one in self._live()}
        for name in sorted({plain_name(name) for name in contents.packs if plain_name(name) != name} & live):
            try:
                if not self.done.dry_run:
                    trash.delete(f"{self.survey.root}/{name}", self.before)
            except ANAError as error:
                self.done.failed[name] = str(error)

    def sort_out(self, kept: Marking) -> None:
        """Move dead packs to the trash, write mostly dead ones anew, and seal those of killed writers."""
        old = [one for one in self._live() if one.modified < self.before]
        needed = [sum(spot.size for _, spot in self._needed(one, kept)) for one in old]
        sizes = list(zip(old, needed, strict=True))
        doomed = {one.path for one, size in sizes if self._is_finished(one) and 2 * size < one.table.end}
        for one, size in sizes:
            try:
                if not size:
                    self._discard(one, self.done.packs_trashed)
                elif one.path in doomed:
                    self._rewrite(one, kept, doomed)
                else:
                    self._leave(one, size)
            except CorruptedStateError as error:
                self.done.problems.append(problem(error, error.uuid, one.relative))
            except ANAError as error:
                self.done.failed[one.relative] = str(error)

    def _needed(self, one: PackFile, kept: Marking) -> Iterator[tuple[int, Spot]]:
        return (item for item in one.table.items() if item[0] in kept.packed)

    def _is_finished(self, one: PackFile) -> bool:
        return is_finished(one, self.now)

    def _discard(self, one: PackFile, noted: list[str]) -> None:
        if self.done.dry_run or trash.discard(one.path, self.before) == trash.MOVED:
            noted.append(one.relative)
            self.done.trashed_bytes += one.size_bytes
            if self.done.dry_run:
                self.done.going[one.relative] = one.size_bytes

    def _rewrite(self, one: PackFile, kept: Marking, doomed: set[str]) -> None:
        """Copy what is needed to a new pack, unless another pack that stays has it; the old one goes to the trash."""
        if not self.done.dry_run:
            lacking = [item for item in self._needed(one, kept) if not self._is_elsewhere(item[0], doomed)]
            items = []
            for number, spot, data in self.survey.packed.records(one, lacking):
                if data is None:
                    # Another collection has taken the pack.
                    return
                repack.check(self.survey.store, pack.key_of_number(number), data, one.where(spot))
                items.append(repack.Item(number, bytes(data)))
            repack.write(self.survey.store, items, one.modified)
        self._discard(one, self.done.packs_rewritten)

    def _is_elsewhere(self, number: int, doomed: set[str]) -> bool:
        """Return whether a pack that stays has a whole copy of a record."""
        key = pack.key_of_number(number)
        for other, spot in self.survey.packed.find(number, trashed=False):
            data = None if other.path in doomed else self.survey.packed.read(other, spot)
            if data is not None:
                try:
                    repack.check(self.survey.store, key, memoryview(data), other.where(spot))
                except ANAError:
                    continue
                return True
        return False

    def _leave(self, one: PackFile, needed_bytes: int) -> None:
        self.done.dead_bytes += max(0, one.table.end - needed_bytes)
        killed = not one.table.sealed and self._is_finished(one)
        if killed and (self.done.dry_run or repack.finish(self.survey.packed, one)):
            self.done.packs_sealed.append(one.relative)

    # The trash

    def has_whole(self, name: str) -> bool:
        """Return whether a pack has a whole copy of a state."""
        number = number_of_name(name)
        return number >= 0 and self._is_elsewhere(number, set())

    def moved(self) -> list[PackFile]:
        """Return the packs that were moved to the trash, or would be."""
        names = {*self.done.packs_trashed, *self.done.packs_rewritten}
        return [one for one in self._live() if one.relative in names]

    def by_age(self, kept: Marking) -> tuple[list[PackFile], list[PackFile]]:
        """Return the packs in the trash that may be deleted, and those that wait there."""
        old: list[PackFile] = []
        waiting: list[PackFile] = []
        for one in self.listed:
            if one.trashed and one.path not in kept.packs_in_trash:
                (old if one.modified < self.before else waiting).append(one)
        return old, waiting

    def mark_others(self, staying: Marking, old: Sequence[PackFile]) -> list[PackFile]:
        """Mark all that packs hold and refer to, but for old ones in the trash; return those that nothing refers to.

        The packs are as they are listed now: one that has been brought back is marked, too.
        """
        paths = {one.path for one in old}
        files = self.survey.packed.files
        old = [one for one in files if one.path in paths]
        staying.mark_packs([one for one in files if one.path not in paths])
        while needed := [one for one in old if one.path in staying.packs_in_trash]:
            # A reader that brings one back finds all of it.
            old = [one for one in old if one.path not in staying.packs_in_trash]
            staying.mark_packs(needed)
        return old

    def children(self, one: PackFile) -> set[str]:
        """Return the names of the states that a pack's states refer to."""
        found: set[str] = set()
        try:
            for _, answer in self.survey.find_in(one, list(one.table.items())):
                if isinstance(answer, tuple):
                    found.update(map(self.survey.name_of, answer[0].children))
        except ANAError as error:
            self.done.failed[one.relative] = str(error)
        return found

    def delete(self, one: PackFile) -> str:
        """Delete a pack in the trash. Returns as `trash.delete`; "back" also after an error, which is noted."""
        try:
            answer = self._deleted(one)
        except ANAError as error:
            self.done.failed[one.relative] = str(error)
            return trash.BACK
        if answer == trash.DELETED:
            self.done.packs_deleted.append(one.relative)
            if self.done.dry_run:
                self.done.going[node_of(one)] = one.size_bytes
            self.done.deleted_bytes += one.size_bytes
        return answer

    def _deleted(self, one: PackFile) -> str:
        if self.done.dry_run:
            return trash.DELETED
        if one.gone:
            return trash.recover(one.own_path, one.path, self.before)
        return trash.delete(one.own_path, self.before)

    def hide(self, circle: Sequence[PackFile]) -> list[PackFile]:
        """Hide packs that refer to each other from readers; if one was brought back, put all back: returns []."""
        if self.done.dry_run:
            return list(circle)
        hidden: list[PackFile] = []
        whole = True
        try:
            for one in circle:
                path = one.path if one.gone else trash.hide(one.own_path, self.before)
                if path is None:
                    whole = False
                    break
                hidden.append(one.moved(path))
            whole = whole and not any(trash.is_back(one.own_path, one.path) for one in hidden)
        except ANAError as error:
            self.done.failed[circle[0].relative] = str(error)
            whole = False
        if not whole:
            self.unhide(hidden)
        return hidden if whole else []

    def unhide(self, hidden: Iterable[PackFile]) -> None:
        """Put hidden packs back into the trash."""
        for one in hidden:
            try:
                trash.unhide(one.own_path, one.path)
            except ANAError as error:
                self.done.failed[one.relative] = str(error)

    def _live(self) -> list[PackFile]:
        return [one for one in self.listed if not one.trashed]

    def _of(self, paths: Iterable[str]) -> list[PackFile]:
        wanted = set(paths)
        return [one for one in self.listed if one.path in wanted]


def is_finished(one: PackFile, now: float) -> bool:
    """Return whether nobody adds to a pack any more. `now`: s since 1970, by the server's clock."""
    return one.table.sealed or one.modified < now - LEFTOVER_SECONDS


def node_of(one: PackFile) -> str:
    """Return the name of a pack's file, relative to the store, as it is now."""
    return f"{PACKS}/{one.path.rpartition('/')[2]}"
