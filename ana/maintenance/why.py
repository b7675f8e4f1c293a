"""Finds why a state stays: which roots and young states lead to it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ana.errors import ANAError, StateNotFoundError
from ana.maintenance.collecting import GRACE_SECONDS
from ana.maintenance.common import OnProgress, Problem, StoreOrPath, host_now, open_store
from ana.maintenance.names import find_in
from ana.maintenance.referrers import Referrers
from ana.stores.directory import roots
from ana.stores.directory.scan import File, Survey, trash_name
from ana.stores.directory.store import DirectoryStore

__all__ = ["Reason", "Why", "why"]


@dataclass(frozen=True)
class Reason:
    """One reason why no collection takes a state."""

    kind: str
    """`root`; or `age`, if the state or one that leads to it is young."""
    root: str
    """The root's name; "" if the reason is an age."""
    until: float | None
    """When the reason ends, in s since 1970 by the server's clock; None if it does not end."""
    path: list[str]
    """The UUIDs from the state that the root names, or that is young, down to the state."""


@dataclass(frozen=True)
class Why:
    """Why a state stays. Without any reason, a collection may take it."""

    uuid: str
    """The state's UUID."""
    reasons: list[Reason]
    """What keeps it."""
    referred_by: list[str]
    """The states that refer to it. They keep it as long as they stay themselves."""
    in_trash: bool = False
    """Whether it has been collected. Reading it restores it."""
    trashed: float | None = None
    """When it went into the trash, in s since 1970 by the server's clock; None if it is not there."""
    problems: list[Problem] = field(default_factory=list)
    """States and folders that cannot be read: they may lead to it, and prevent any collection."""


def why(
    pickle_dir: StoreOrPath,
    uuid: str,
    *,
    grace_seconds: float = GRACE_SECONDS,
    on_progress: OnProgress = lambda _: None,
) -> Why:
    """Return why no collection takes a state. Reads the headers of all states, and writes nothing.

    Args:
        pickle_dir: The store.
        uuid: The state. A unique prefix is enough.
        grace_seconds: The grace period of the collections, in s.
        on_progress: Called for each state. Must be fast.

    Raises:
        StateNotFoundError: There is no such state.
        AmbiguousPrefixError: `uuid` is the prefix of several.
        StoreError: The system refused.
        UntrustedStoreError: A root cannot be read.
    """
    store = open_store(pickle_dir)
    key = find_in(store, uuid)
    survey = Survey(store)
    trashed = None
    if _stat(survey, survey.name_of(key)) is None:
        found = _stat(survey, trash_name(survey.name_of(key)))
        if found is None:
            raise StateNotFoundError(key, store.home)
        trashed = found.modified
    return _Search(store, survey, max(grace_seconds, store.config.ttl_seconds), on_progress).of(key, trashed)


class _Search:
    """The way from a state to all that leads to it."""

    def __init__(self, store: DirectoryStore, survey: Survey, young_seconds: float, on_progress: OnProgress) -> None:
        self._survey = survey
        self._young_seconds = young_seconds
        now = host_now()
        self._since = now - young_seconds
        lasting = roots.lasting(roots.read(store), now)
        self._ends = roots.ends(lasting)
        self._roots_of: dict[str, set[str]] = {}
        for root in lasting:
            for kept in root.uuids:
                self._roots_of.setdefault(kept, set()).add(root.name)
        self._referrers = Referrers(survey, on_progress)

    def of(self, key: str, trashed: float | None) -> Why:
        """Return why a state stays; `trashed`: when it went into the trash, if it is there."""
        below: dict[str, str] = {key: ""}
        by_root: dict[str, Reason] = {}
        youngest = self._since
        young: Reason | None = None
        # Breadth first, so each path is a shortest one. The list grows during the loop.
        todo = [key]
        for state in todo:
            for name in sorted(self._roots_of.get(state, ())):
                until = self._ends[name]
                finite = until if until < float("inf") else None
                by_root.setdefault(name, Reason("root", name, finite, _path(state, below)))
            found = _stat(self._survey, self._survey.name_of(state))
            if found is not None and found.modified >= youngest:
                youngest = found.modified
                young = Reason("age", "", youngest + self._young_seconds, _path(state, below))
            for parent in self._referrers.of(state):
                if parent not in below:
                    below[parent] = state
                    todo.append(parent)
        reasons = [*by_root.values(), *([young] if young is not None else ())]
        referred_by = sorted(set(self._referrers.of(key)))
        return Why(key, reasons, referred_by, trashed is not None, trashed, self._referrers.problems)


def _path(state: str, below: Mapping[str, str]) -> list[str]:
    path = []
    while state:
        path.append(state)
        state = below[state]
    return path


def _stat(survey: Survey, name: str) -> File | None:
    try:
        return survey.stat(name)
    except ANAError:
        # It is there, and its age is unknown.
        return File(name, 0, 0.0)
