"""Roots: names under which states are kept from collection."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from ana import units
from ana.errors import ANAError, StateNotFoundError
from ana.format import address
from ana.maintenance.common import Problem, StoreOrPath, host_now, open_store, problem, unlisted
from ana.maintenance.mark import Marking
from ana.maintenance.names import states_of
from ana.stores.directory import roots as roots_of
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["Extended", "Kept", "RootInfo", "extend", "forget", "keep", "root_names", "roots"]


@dataclass(frozen=True)
class Kept:
    """The result of `keep`."""

    name: str
    """The root's name."""
    uuids: list[str]
    """The states that this call added."""
    problems: list[Problem]
    """States that they refer to that are missing or damaged, and so cannot be kept."""
    until: float | None = None
    """When the root ends, by the server's clock, in s since 1970; None if it does not end."""


@dataclass(frozen=True)
class Extended:
    """The result of `extend`."""

    name: str
    """The root's name."""
    until: float | None
    """When the root ends now, by the server's clock, in s since 1970; None if it does not end."""
    problems: list[Problem]
    """States of it that are missing or damaged, and so cannot be kept."""


@dataclass(frozen=True)
class RootInfo:
    """A named root. Times are Unix timestamps; `since` is by the writer's clock, `until` by the server's."""

    name: str
    """The root's name."""
    uuids: list[str]
    """The states that were kept under it."""
    since: float
    """When the first state was kept under the name."""
    by: str
    """The host and process that last added states."""
    missing: list[str]
    """The UUIDs whose states no longer exist, or cannot be looked up."""
    until: float | None = None
    """When it ends, unless it is extended or added to; None if it does not end."""
    ended: bool = False
    """Whether it has ended, by this host's clock: a collection may take what no other root keeps."""
    states: int = 0
    """How many states it keeps, with all that they refer to."""
    size_bytes: int = 0
    """The size of these in files and packs. States that several roots keep count for each."""
    processes: list[str] = field(default_factory=list)
    """The processes that keep, or kept, what they store under it (`keeping`)."""


def keep(pickle_dir: StoreOrPath, name: str, uuids: list[str], *, ttl: float | str | None = None) -> Kept:
    """Keep states, and all that they refer to, from every collection. Needs no lock.

    Args:
        pickle_dir: The store.
        name: The root's name, of 1 to 200 characters. The states are added to those that it keeps already.
        uuids: The states: UUIDs, unique prefixes of UUIDs, or names of other roots.
        ttl: How long to keep them, in s, or as in "14d". A root has one end, the latest that it was given: adding to
            it extends it, and a root without an end keeps for ever all that is added. Default: no end.

    Returns:
        What was added, and which states below it are missing or damaged.

    Raises:
        ValueError: The name is empty or too long, or `ttl` is invalid. After this and the next three errors, nothing
            is kept.
        StateNotFoundError: One of `uuids` does not exist.
        AmbiguousPrefixError: One of `uuids` is the prefix of several.
        CorruptedStateError: The header of one of them is damaged.
        StoreError: The system refused.
    """
    address.check_key(name)
    ttl_seconds = math.inf if ttl is None else units.ttl_seconds(ttl)
    store = open_store(pickle_dir)
    keys = states_of(store, uuids)
    problems = roots_of.keep(store, name, keys, ttl_seconds)
    end = roots_of.ends(roots_of.read(store, {}, name=name))
    return Kept(name, keys, [problem(wrong) for wrong in problems], _finite(end.get(name, math.inf)))


def extend(pickle_dir: StoreOrPath, name: str, *, ttl: float | str | None = None) -> Extended:
    """Extend a root: its time to live starts anew, even if it has ended and its states are in the trash.

    Args:
        pickle_dir: The store.
        name: The root's name.
        ttl: How long to keep it from now, in s, or as in "14d". A shorter time than its own has no effect. Default:
            its own.

    Raises:
        ValueError: `ttl` is invalid.
        StateNotFoundError: There is no root of that name; or it ended, and a collection has removed it.
        StoreError: The system refused.
        UntrustedStoreError: A root cannot be read.
    """
    ttl_seconds = None if ttl is None else units.ttl_seconds(ttl)
    store = open_store(pickle_dir)
    found, problems = roots_of.extend(store, name, ttl_seconds)
    if not found:
        raise _no_such(store, name)
    return Extended(name, _finite(roots_of.ends(found)[name]), [problem(wrong) for wrong in problems])


def forget(pickle_dir: StoreOrPath, name: str) -> int:
    """Remove a root. Its states stay in the store until a collection takes them.

    Args:
        pickle_dir: The store.
        name: The root's name.

    Returns:
        The number of entries that the root had.

    Raises:
        StateNotFoundError: There is no root of that name.
        StoreError: The system refused.
    """
    store = open_store(pickle_dir)
    gone = roots_of.forget(store, name)
    if not gone:
        raise _no_such(store, name)
    return gone


def roots(pickle_dir: StoreOrPath, *, problems: list[Problem] | None = None) -> list[RootInfo]:
    """Return all roots, sorted by name. The header of each state that they keep is read.

    Args:
        pickle_dir: The store.
        problems: A list. Roots that cannot be read are added to it. Default: the first error is raised.

    Raises:
        StoreError: The system refused, or a root cannot be read.
        UntrustedStoreError: Others may have planted files in the store.
    """
    store = open_store(pickle_dir)
    survey = Survey(store)
    return [_info(survey, entries) for _, entries in sorted(_by_name(store, problems).items())]


def root_names(pickle_dir: StoreOrPath, *, problems: list[Problem] | None = None) -> list[str]:
    """Return the names of all roots, sorted. Reads no state.

    Args:
        pickle_dir: The store.
        problems: A list. Roots that cannot be read are added to it. Default: the first error is raised.

    Raises:
        StoreError: The system refused, or a root cannot be read.
        UntrustedStoreError: Others may have planted files in the store.
    """
    return sorted(_by_name(open_store(pickle_dir), problems))


def _by_name(store: DirectoryStore, problems: list[Problem] | None) -> dict[str, list[roots_of.Root]]:
    unreadable: dict[str, ANAError] | None = None if problems is None else {}
    by_name: dict[str, list[roots_of.Root]] = {}
    for root in roots_of.read(store, unreadable):
        by_name.setdefault(root.name, []).append(root)
    if problems is not None and unreadable:
        problems += unlisted(unreadable)
    return by_name


def _info(survey: Survey, entries: Sequence[roots_of.Root]) -> RootInfo:
    name = entries[0].name
    uuids = sorted({uuid for entry in entries for uuid in entry.uuids})
    names = {survey.name_of(uuid): uuid for uuid in uuids}
    marking = Marking(survey, lambda _: None, "")
    marking.mark(dict.fromkeys(names, ""))
    lost = {*marking.missing, *(wrong.name for wrong in marking.unreadable if wrong.kind == "failed")}
    until = roots_of.ends(entries)[name]
    return RootInfo(
        name,
        uuids,
        min(entry.since for entry in entries),
        max(entries, key=lambda entry: entry.since).by,
        [uuid for state, uuid in names.items() if state in lost],
        _finite(until),
        until < host_now(),
        len(marking),
        marking.bytes,
        sorted(entry.by for entry in entries if entry.grows),
    )


def _finite(until: float) -> float | None:
    return None if until == math.inf else until


def _no_such(store: DirectoryStore, name: str) -> StateNotFoundError:
    return StateNotFoundError(name, f"{store.home}/{roots_of.FOLDER}", "see `ana roots`", what="root")
