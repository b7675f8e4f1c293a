"""The known damage of a store: the result of the last verification, saved for `stats` and the report."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from ana.errors import ANAError
from ana.maintenance import saved
from ana.maintenance.common import Problem, StoreOrPath, open_store
from ana.stores.directory.scan import Survey

__all__ = ["LISTED", "Verification", "last_verification", "note"]

FILE = ".ana/verified.json"
LISTED = 100
"""How many problems are saved."""


@dataclass(frozen=True)
class Verification:
    """What was found when a store was verified last. Times in s since 1970, by the verifying host's clock."""

    taken: float
    """When the last verification began."""
    states: int
    """The number of states in the store."""
    checked: int
    """How many of them it read."""
    size_bytes: int
    """The size of the files that it read."""
    whole_taken: float | None = None
    """When the last one began that read all states; None if there was none."""
    problems: list[Problem] = field(default_factory=list)
    """The first 100 problems that were not repaired, those that earlier runs found and that persist included."""
    n_problems: int = 0
    """The number of all problems."""


def last_verification(pickle_dir: StoreOrPath) -> Verification | None:
    """Return what the last `verify` of a store found; None if none was saved. Raises as `open_store`."""
    return saved.load(open_store(pickle_dir).home, FILE, Verification)


def note(survey: Survey, found: Verification, *, whole: bool) -> None:
    """Save what a verification found. One of some states keeps what earlier ones found damaged, and is so still.

    Without write access, nothing is saved.
    """
    problems, whole_taken = found.problems, found.taken if whole else None
    if not whole:
        last = last_verification(survey.store)
        if last is not None:
            known = {(wrong.uuid, wrong.name) for wrong in problems}
            problems = problems + [
                wrong for wrong in last.problems if (wrong.uuid, wrong.name) not in known and _persists(survey, wrong)
            ]
            whole_taken = last.whole_taken
    saved.save(survey.store, FILE, _bounded(found, problems, whole_taken))


def _bounded(found: Verification, problems: Sequence[Problem], whole_taken: float | None) -> Verification:
    return Verification(
        found.taken, found.states, found.checked, found.size_bytes, whole_taken, list(problems[:LISTED]), len(problems)
    )


def _persists(survey: Survey, wrong: Problem) -> bool:
    if not wrong.uuid:
        # A place in a pack, which stays damaged as long as the pack is there; or a folder or a pack that cannot be
        # read, which each verification finds anew.
        pack = wrong.name.rpartition(":")[0]
        return any(one.relative == pack for one in survey.packed.files)
    try:
        is_there = survey.is_there(wrong.uuid)
        return not is_there if wrong.kind == "missing" else is_there and not survey.store.is_whole(wrong.uuid)
    except ANAError:
        return True
