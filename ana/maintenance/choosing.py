"""The states that an operation is about: some, and all that they refer to, children first."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ana.errors import ANAError
from ana.maintenance.common import Problem, problem
from ana.stores.directory.graph import postorder
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["Chosen", "choose"]


class Chosen(NamedTuple):
    """States, and all that they refer to."""

    survey: Survey
    uuids: list[str]
    """The states that were requested."""
    states: list[str]
    """They and all that they refer to, children first."""
    sizes: dict[str, int]
    """The size of each record, in bytes."""
    children: dict[str, tuple[str, ...]]
    """What each state refers to."""

    def only(self, keys: list[str]) -> "Chosen":
        """Return the same, but with only some of the states."""
        return Chosen(self.survey, self.uuids, keys, self.sizes, self.children)


def choose(store: DirectoryStore, keys: Sequence[str], problems: list[Problem] | None = None) -> Chosen:
    """Find all that states refer to.

    Args:
        store: The store.
        keys: The states, which exist.
        problems: Gets the states that are missing, damaged or cannot be read, which then have no size. Default: the
            first error is raised.

    Raises:
        StateNotFoundError: A state does not exist.
        CorruptedStateError: A state's header is damaged.
        StoreError: The system refused.

    """
    sizes: dict[str, int] = {}
    known: dict[str, tuple[str, ...]] = {}

    def look_at(key: str) -> tuple[str, ...]:
        found = store.get(key)
        found.release()
        sizes[key] = found.header.header_bytes + found.header.stored_bytes
        return found.header.children

    def children_of(key: str) -> tuple[str, ...]:
        if key not in known:
            try:
                known[key] = look_at(key)
            except ANAError as error:
                if problems is None:
                    raise
                problems.append(problem(error, key))
                known[key] = ()
        return known[key]

    survey = Survey(store)
    known |= _all_children(survey, keys, look_at)
    return Chosen(survey, list(keys), list(postorder(keys, children_of)), sizes, known)


def _all_children(
    survey: Survey, keys: Iterable[str], children_of: Callable[[str], tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """Return the children of states and of all below them, looked up many at once. Failures are left out."""
    known: dict[str, tuple[str, ...]] = {}
    level = list(keys)
    while level:
        looked = survey.each(level, children_of)
        known |= {key: found for key, found in looked if not isinstance(found, ANAError)}
        below = dict.fromkeys(child for key in level for child in known.get(key, ()))
        level = [child for child in below if child not in known]
    return known
