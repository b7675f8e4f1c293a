"""Roots: what is kept, under which names."""

from dataclasses import dataclass

from ana.errors import ANAError, StateNotFoundError
from ana.format import address
from ana.maintenance.common import Problem, StoreOrPath, open_store, problem, unlisted
from ana.maintenance.listing import find_in
from ana.stores.directory import roots as roots_of
from ana.stores.directory.scan import Survey

__all__ = ["Kept", "RootInfo", "forget", "keep", "roots"]


@dataclass(frozen=True)
class Kept:
    """What is under a name now. `uuids`: what this call has added."""

    name: str
    uuids: list[str]
    problems: list[Problem]
    """States that they refer to and that are missing or damaged: those cannot be kept."""


@dataclass(frozen=True)
class RootInfo:
    """A named root. Times in s since 1970, by the clocks of those who wrote them."""

    name: str
    uuids: list[str]
    since: float
    """When something was first kept under the name."""
    by: str
    """The host and process that did so last."""
    missing: list[str]
    """Those of its UUIDs whose states are not in the store any more, or cannot be looked up."""


def keep(pickle_dir: StoreOrPath, name: str, uuids: list[str]) -> Kept:
    """Keep states, and all that they refer to, from all collections, in addition to what the name keeps already.

    Unique beginnings of UUIDs are enough. Needs no lock, and unpickles nothing. Raises ValueError for a name that is
    empty or longer than 200 characters, StateNotFoundError, AmbiguousPrefixError, CorruptedStateError for one of
    `uuids`, StoreError; nothing is kept then.
    """
    address.check_key(name)
    store = open_store(pickle_dir)
    keys = [find_in(store, uuid) for uuid in uuids]
    problems = roots_of.keep(store, name, keys)
    return Kept(name, keys, [problem(wrong) for wrong in problems])


def forget(pickle_dir: StoreOrPath, name: str) -> int:
    """Let go of what is kept under a name, and return how many entries that were; the states stay until a collection.

    Raises StateNotFoundError where there is no such root, StoreError.
    """
    store = open_store(pickle_dir)
    gone = roots_of.forget(store, name)
    if not gone:
        raise StateNotFoundError(name, f"{store.home}/{roots_of.FOLDER}", "there is no root of that name")
    return gone


def roots(pickle_dir: StoreOrPath, *, problems: list[Problem] | None = None) -> list[RootInfo]:
    """Return all roots by name; each of their UUIDs is looked up.

    `problems` gets those whose file cannot be read; without it, one is raised (UntrustedStoreError, StoreError).
    """
    store = open_store(pickle_dir)
    survey = Survey(store)
    by_name: dict[str, list[roots_of.Root]] = {}
    unreadable: dict[str, ANAError] | None = None if problems is None else {}
    for root in roots_of.read(store, unreadable):
        by_name.setdefault(root.name, []).append(root)
    found = []
    for name, entries in sorted(by_name.items()):
        uuids = sorted({uuid for entry in entries for uuid in entry.uuids})
        missing = [uuid for uuid in uuids if not _is_there(survey, uuid)]
        since = min(entry.since for entry in entries)
        found.append(RootInfo(name, uuids, since, max(entries, key=lambda entry: entry.since).by, missing))
    if problems is not None and unreadable:
        problems += unlisted(unreadable)
    return found


def _is_there(survey: Survey, uuid: str) -> bool:
    try:
        return survey.is_there(uuid)
    except ANAError:
        return False
