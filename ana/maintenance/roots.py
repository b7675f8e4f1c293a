"""Roots: names under which states are kept from collection."""

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
    """The result of `keep`."""

    name: str
    uuids: list[str]
    """The states that this call added."""
    problems: list[Problem]
    """States that they refer to that are missing or damaged, and so cannot be kept."""


@dataclass(frozen=True)
class RootInfo:
    """A named root. Times are Unix timestamps by the writers' clocks."""

    name: str
    uuids: list[str]
    since: float
    """When the first state was kept under the name."""
    by: str
    """The host and process that last added states."""
    missing: list[str]
    """The UUIDs whose states no longer exist, or cannot be looked up."""


def keep(pickle_dir: StoreOrPath, name: str, uuids: list[str]) -> Kept:
    """Keep states, and all that they refer to, from every collection. Needs no lock.

    Args:
        pickle_dir: The store.
        name: The root's name, of 1 to 200 characters. The states are added to those that it keeps already.
        uuids: The states. Unique prefixes are enough.

    Returns:
        What was added, and which states below it are missing or damaged.

    Raises:
        ValueError: The name is empty or too long. After this and the next three errors, nothing is kept.
        StateNotFoundError: One of `uuids` does not exist.
        AmbiguousPrefixError: One of `uuids` is the prefix of several.
        CorruptedStateError: The header of one of them is damaged.
        StoreError: The system refused.
    """
    address.check_key(name)
    store = open_store(pickle_dir)
    keys = [find_in(store, uuid) for uuid in uuids]
    problems = roots_of.keep(store, name, keys)
    return Kept(name, keys, [problem(wrong) for wrong in problems])


def forget(pickle_dir: StoreOrPath, name: str) -> int:
    """Remove a root. Its states stay in the store until a collection takes them.

    Returns:
        The number of entries that the root had.

    Raises:
        StateNotFoundError: There is no root of that name.
        StoreError: The system refused.
    """
    store = open_store(pickle_dir)
    gone = roots_of.forget(store, name)
    if not gone:
        raise StateNotFoundError(name, f"{store.home}/{roots_of.FOLDER}", "there is no root of that name")
    return gone


def roots(pickle_dir: StoreOrPath, *, problems: list[Problem] | None = None) -> list[RootInfo]:
    """Return all roots, sorted by name. Each of their states is looked up.

    Args:
        pickle_dir: The store.
        problems: A list. Roots that cannot be read are added to it. Default: the first error is raised.

    Raises:
        StoreError: The system refused, or a root cannot be read.
        UntrustedStoreError: Others may have planted files in the store.
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
