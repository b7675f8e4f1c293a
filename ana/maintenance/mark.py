"""Marking: find all states that given ones refer to, through their headers. Nothing is unpickled."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import compress, filterfalse, islice
from types import MappingProxyType

from ana.errors import ANAError
from ana.format import address, pack
from ana.format.pack import Spot
from ana.format.record import Brief, Header
from ana.maintenance.common import OnProgress, Problem, Progress, problem
from ana.maintenance.number_set import NumberSet
from ana.stores.directory.pack_survey import PackFile, number_of_name
from ana.stores.directory.scan import Answer, File, Survey
from ana.stores.directory.state_files import Marks, StateFiles

__all__ = ["Marking"]

BATCH = 1 << 12
"""How many states to mark at a time, each with all that it refers to."""


class Marking:
    """Follows references. States are named by their files, which follow from their keys."""

    def __init__(
        self,
        survey: Survey,
        on_progress: OnProgress,
        what: str,
        files: StateFiles | None = None,
        beside: "Marking | None" = None,
    ) -> None:
        """Begin with nothing marked.

        Args:
            survey: The store's files.
            on_progress: Called for each state.
            what: The name of the task, for `on_progress`.
            files: Most of the files that will be marked: they take less memory then.
            beside: Another marking, whose marked states count as marked here, too.
        """
        self.survey = survey
        self.marked: Marks = Marks(files)
        """The states with files of their own that were reached and exist."""
        self.packed: NumberSet = NumberSet()
        """The states in packs that were reached, by the numbers of their keys."""
        self.in_trash: set[str] = set()
        """Those of `marked` that are in the trash."""
        self.packs_in_trash: set[str] = set()
        """The paths of packs in the trash that states were reached in."""
        self.missing: dict[str, str] = {}
        """States that are referred to and do not exist, with what refers to them."""
        self.unreadable: list[Problem] = []
        """States that were reached but cannot be read, so that what they refer to is unknown."""
        self.bytes: int = 0
        self._on_progress = on_progress
        self._what = what
        self.ahead: dict[str, Answer] = beside.ahead if beside is not None else {}
        """Headers that were read ahead."""
        self._beside = beside

    def __len__(self) -> int:
        return len(self.marked) + len(self.packed)

    def is_marked(self, name: str) -> bool:
        """Return whether a state was reached."""
        return name in self.marked or self.is_packed(name)

    def is_packed(self, name: str) -> bool:
        """Return whether a state was reached in a pack."""
        return len(self.packed) > 0 and number_of_name(name) in self.packed

    def unmarked(self) -> Iterator[str]:
        """Yield those of `files` that were not reached."""
        return (name for name in self.marked.absent() if not self.is_packed(name))

    def mark(self, names: Iterable[str], by: Mapping[str, str] = MappingProxyType({})) -> None:
        """Mark states and all that they refer to. `by`: what refers to them, for messages."""
        iterator = filterfalse(self._is_known, names)
        while batch := list(islice(iterator, BATCH)):
            self._follow({name: by.get(name, "") for name in batch})

    def _follow(self, wanted: dict[str, str]) -> None:
        while wanted:
            found: dict[str, str] = {}
            for name, answer in self._answers(wanted):
                below = self._take(name, answer, wanted.get(name, ""))
                if below:
                    found |= dict.fromkeys(below, name)
            wanted = {name: by for name, by in found.items() if not self._is_known(name)}

    def mark_packs(self, packs: Sequence[PackFile]) -> int:
        """Mark all states in packs, and all that they refer to. A pack is read from end to end.

        Returns how many of the states in the packs were not marked before.
        """
        # All are marked before any is read, so that `wanted` stays small. A record in several packs is read once.
        new = [bytes(self._is_new(number) for number, _ in one.table.items()) for one in packs]
        wanted: dict[str, str] = {}
        for one, flags in zip(packs, new, strict=True):
            spots = list(compress(one.table.items(), flags))
            try:
                for name, children in self._below(one, spots):
                    wanted |= dict.fromkeys((child for child in children if not self._is_known(child)), name)
            except ANAError as error:
                self.unreadable.append(problem(error, name=one.relative))
            if one.trashed:
                self.packs_in_trash.add(one.path)
        self._follow(wanted)
        return sum(map(sum, new))

    def _is_new(self, number: int) -> bool:
        """Mark a state in a pack; return whether it was not marked before."""
        beside = self._beside
        return not (beside is not None and number in beside.packed) and self.packed.add(number)

    def _below(self, one: PackFile, spots: Collection[tuple[int, Spot]]) -> Iterator[tuple[str, Iterable[str]]]:
        """Yield the states of a pack that refer to others which are not marked yet, and those others."""
        left = []
        for key, spot, brief in self.survey.packed.briefs(one, spots):
            if not isinstance(brief, Brief):
                left.append(self.survey.name_of(key))
                continue
            self.bytes += spot.size
            below = [child for child in brief.children if not self._is_known_key(child)]
            if below:
                yield self.survey.name_of(key), map(self.survey.name_of, below)
        self._on_progress(Progress(self._what, len(self)))
        # They may be whole elsewhere.
        for name, answer in self.survey.each(left, self.survey.look_into):
            yield name, self._take(name, answer, "")

    def _is_known_key(self, key: str) -> bool:
        return address.is_content_uuid(key) and self._is_known_number(pack.number_of(key))

    def take_over(self, other: "Marking") -> None:
        """Add what another marking has marked."""
        self.marked.update(other.marked)
        self.packed.update(other.packed)
        self.in_trash |= other.in_trash
        self.packs_in_trash |= other.packs_in_trash
        self.missing |= other.missing
        self.unreadable += other.unreadable
        self.bytes += other.bytes

    def _is_known(self, name: str) -> bool:
        beside = self._beside
        return (
            name in self.marked
            or name in self.missing
            or (beside is not None and name in beside.marked)
            or self.is_packed(name)
            or (beside is not None and beside.is_packed(name))
        )

    def _is_known_number(self, number: int) -> bool:
        beside = self._beside
        return number in self.packed or (beside is not None and number in beside.packed)

    def read_ahead(self, names: list[str]) -> None:
        """Read the headers of states that will be needed one at a time: many at once."""
        self.ahead.clear()
        self.ahead.update(self.survey.find([name for name in names if not self._is_known(name)]))

    def _answers(self, names: Collection[str]) -> Iterator[tuple[str, Answer]]:
        (first,) = names if len(names) == 1 else ("",)
        if first in self.ahead:
            yield first, self.ahead.pop(first)
        else:
            yield from self.survey.find(names)

    def _take(self, name: str, answer: Answer, by: str) -> tuple[str, ...]:
        """Note what was found of a state; return what it refers to."""
        if isinstance(answer, ANAError):
            # It stays. What it refers to is unknown.
            self.marked.add(name)
            self.unreadable.append(problem(answer, name=name))
        elif answer is None:
            self.missing[name] = by
        else:
            return self._note(name, *answer)
        return ()

    def _note(self, name: str, header: Header | Brief, file: File, trashed: bool) -> tuple[str, ...]:  # noqa: FBT001 - a part of an answer
        if file.pack:
            number = number_of_name(name)
            self.packed.add(number)
            if trashed:
                self.packs_in_trash.update(one.path for one, _ in self.survey.packed.find(number, trashed=True))
        else:
            self.marked.add(name)
            if trashed:
                self.in_trash.add(name)
        self.bytes += file.size_bytes
        self._on_progress(Progress(self._what, len(self)))
        return tuple(map(self.survey.name_of, header.children)) if header.children else ()
