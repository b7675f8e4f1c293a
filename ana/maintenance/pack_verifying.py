"""Verifies packs record by record. A damaged record is a problem only if no other copy of its state is whole."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import NamedTuple

from ana.errors import ANAError, StateNotFoundError
from ana.format import pack
from ana.format.pack import Spot
from ana.format.record import Header
from ana.maintenance.common import Problem, problem
from ana.maintenance.sweep import LEFTOVER_SECONDS
from ana.runtime import threads
from ana.stores.directory import repack
from ana.stores.directory.pack_survey import PackFile, number_of_name
from ana.stores.directory.scan import Survey

__all__ = ["PackReading", "Result", "has_whole_copy"]

WINDOW = 256


class Result(NamedTuple):
    """What became of a record: its header and size, or a problem; none of them if another copy is whole."""

    header: Header | None
    size_bytes: int
    problem: Problem | None


class PackReading:
    """One pass over the packs of a store."""

    def __init__(self, survey: Survey, right_now: float) -> None:
        self.damaged: dict[str, PackFile] = {}
        """The packs with damaged records, by the names that the problems with them begin with."""
        self._survey = survey
        self._right_now = right_now
        self._at_once = threads.available()

    def packs(self, before: float | None) -> list[PackFile]:
        """Return the packs outside of the trash that were last changed before a time, if one is given."""
        found = [one for one in self._survey.packed.files if not one.trashed]
        return [one for one in found if before is None or one.modified < before]

    def read(self, one: PackFile, choose: Callable[[], bool]) -> Iterator[Result]:
        """Read and verify those records of a pack for which `choose` says so."""
        chosen = (item for item in one.table.items() if choose())
        try:
            yield from self._read(one, self._survey.packed.records(one, chosen))
            hidden = self._survey.packed.lost(one, self._right_now)
        except ANAError as error:
            yield Result(None, 0, problem(error, name=one.relative))
            return
        if hidden:
            reason = f"it is damaged at byte {one.table.end:,}, with {len(hidden):,} states behind that"
            yield self._wrong(one, Problem("", f"{one.relative}:{one.table.end}", "damaged", reason))

    def may_be_set_aside(self, one: PackFile) -> bool:
        """Return whether no writer may still append to a pack."""
        return one.table.sealed or one.modified < self._right_now - LEFTOVER_SECONDS

    def _read(self, one: PackFile, records: Iterator[tuple[int, Spot, memoryview | None]]) -> Iterator[Result]:
        while batch := list(islice(records, WINDOW)):
            results: dict[int, Result] = {}

            def check(at: int, batch: list[tuple[int, Spot, memoryview | None]] = batch) -> None:
                number, spot, data = batch[at]
                if data is not None:
                    results[at] = self._checked(one, number, spot, data)  # noqa: B023 - threads end with the batch

            threads.run(check, range(len(batch)), self._at_once)
            yield from results.values()

    def _checked(self, one: PackFile, number: int, spot: Spot, data: memoryview) -> Result:
        key = pack.key_of_number(number)
        try:
            return Result(repack.check(self._survey.store, key, data, one.where(spot)), spot.size, None)
        except ANAError as error:
            if has_whole_copy(self._survey, key, besides=one):
                return Result(None, 0, None)
            return self._wrong(one, problem(error, key, f"{one.relative}:{spot.offset}"))

    def _wrong(self, one: PackFile, wrong: Problem) -> Result:
        if wrong.kind == "damaged":
            self.damaged[one.relative] = one
        return Result(None, 0, wrong)


def has_whole_copy(survey: Survey, key: str, besides: PackFile | None) -> bool:
    """Return whether a state is whole in a pack other than `besides`, or in a file of its own. Nothing is changed."""
    for one, spot in survey.packed.find(number_of_name(survey.name_of(key)), trashed=False):
        if one is not besides and _is_whole(partial(_check_in_pack, survey, one, key, spot)):
            return True
    return besides is not None and _is_whole(partial(_check_in_file, survey, key))


def _check_in_pack(survey: Survey, one: PackFile, key: str, spot: Spot) -> None:
    data = survey.packed.read(one, spot)
    if data is None:
        raise StateNotFoundError(key, one.path)
    repack.check(survey.store, key, memoryview(data), one.where(spot))


def _check_in_file(survey: Survey, key: str) -> None:
    if survey.header_of_file(survey.name_of(key), whole=True) is None:
        raise StateNotFoundError(key, survey.root)


def _is_whole(check: Callable[[], object]) -> bool:
    try:
        check()
    except ANAError:
        return False
    return True
