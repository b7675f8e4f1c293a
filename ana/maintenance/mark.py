"""Marking: find all states that given ones refer to, through their headers. Nothing is unpickled."""

from collections.abc import Iterator, Mapping

from ana.errors import ANAError
from ana.format.record import Header
from ana.maintenance.common import OnProgress, Problem, Progress, problem
from ana.stores.directory.scan import File, Survey, trash_name

__all__ = ["Marking"]


Answer = tuple[Header, File, bool] | ANAError | None


class Marking:
    """Follows references. States are named by their files, which follow from their keys."""

    def __init__(self, survey: Survey, on_progress: OnProgress, what: str, beside: "Marking | None" = None) -> None:
        """`beside`: another marking, whose marked states count as marked here, too."""
        self.survey = survey
        self.marked: dict[str, int] = {}
        """The states that were reached and exist, with the size of their files in bytes."""
        self.in_trash: set[str] = set()
        """Those of `marked` that are in the trash."""
        self.children: dict[str, tuple[str, ...]] = {}
        """The names of the states that each state refers to."""
        self.missing: dict[str, str] = {}
        """States that are referred to and do not exist, with what refers to them."""
        self.unreadable: list[Problem] = []
        """States that were reached but cannot be read, so that what they refer to is unknown."""
        self.bytes = 0
        self._on_progress = on_progress
        self._what = what
        self.ahead: dict[str, Answer] = beside.ahead if beside is not None else {}
        """Headers that were read ahead."""
        self._beside = beside

    def mark(self, names: Mapping[str, str]) -> None:
        """Mark states and all that they refer to. `names`: each state with what refers to it, for messages."""
        wanted = {name: by for name, by in names.items() if not self._is_known(name)}
        while wanted:
            found: dict[str, str] = {}
            for name, answer in self._answers(list(wanted)):
                if isinstance(answer, ANAError):
                    # It stays. What it refers to is unknown.
                    self.marked[name] = 0
                    self.unreadable.append(problem(answer, name=name))
                elif answer is None:
                    self.missing[name] = wanted[name]
                else:
                    found |= dict.fromkeys(self._note(name, *answer), name)
            wanted = {name: by for name, by in found.items() if not self._is_known(name)}

    def take_over(self, other: "Marking") -> None:
        """Add what another marking has marked."""
        self.marked |= other.marked
        self.in_trash |= other.in_trash
        self.children |= other.children
        self.missing |= other.missing
        self.unreadable += other.unreadable
        self.bytes += other.bytes

    def _is_known(self, name: str) -> bool:
        beside = self._beside
        return name in self.marked or name in self.missing or (beside is not None and name in beside.marked)

    def read_ahead(self, names: list[str]) -> None:
        """Read the headers of states that will be needed one at a time: many at once on a network filesystem."""
        self.ahead.clear()
        self.ahead.update(self.survey.each([name for name in names if not self._is_known(name)], self.look_into))

    def _answers(self, names: list[str]) -> Iterator[tuple[str, "Answer"]]:
        if len(names) == 1 and names[0] in self.ahead:
            yield names[0], self.ahead.pop(names[0])
        else:
            yield from self.survey.each(names, self.look_into)

    def look_into(self, name: str) -> tuple[Header, File, bool] | None:
        """Return a state's header and file, and whether it was in the trash; None if it is nowhere."""
        for _ in range(2):
            for place, trashed in ((name, False), (trash_name(name), True)):
                found = self.survey.header(place)
                if found is not None:
                    return *found, trashed
            # A reader may have brought it back between the two look-ups.
        return None

    def _note(self, name: str, header: Header, file: File, trashed: bool) -> tuple[str, ...]:  # noqa: FBT001 - a part of an answer
        self.marked[name] = file.size_bytes
        self.bytes += file.size_bytes
        if trashed:
            self.in_trash.add(name)
        self.children[name] = tuple(map(self.survey.name_of, header.children))
        self._on_progress(Progress(self._what, len(self.marked)))
        return self.children[name]
