"""Compares the states and the roots of two stores, without reading contents."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ana.errors import ANAError
from ana.format import address
from ana.maintenance.common import OnProgress, Problem, Progress, StoreOrPath, open_store, problem, unlisted
from ana.maintenance.copying import has_same_content
from ana.stores.directory import roots
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["Difference", "diff"]


@dataclass
class Difference:
    """How a store differs from another one. States are named by their UUIDs, roots by their names."""

    other: str
    """The other store's folder."""
    both: int = 0
    """How many states both have."""
    only_here: list[str] = field(default_factory=list)
    """States that the other store lacks."""
    only_there: list[str] = field(default_factory=list)
    """States that this store lacks."""
    differing: list[str] = field(default_factory=list)
    """UUIDs that a program chose, under which the stores have different contents."""
    roots_only_here: list[str] = field(default_factory=list)
    """Roots that the other store lacks."""
    roots_only_there: list[str] = field(default_factory=list)
    """Roots that this store lacks."""
    roots_differing: list[str] = field(default_factory=list)
    """Roots that keep other states there, or have another time to live."""
    problems: list[Problem] = field(default_factory=list)
    """What could not be listed or read, in either store."""

    @property
    def lacks(self) -> bool:
        """Whether the other store lacks something that this one has, or has something else in its place."""
        return bool(self.only_here or self.differing or self.roots_only_here or self.roots_differing)


def diff(pickle_dir: StoreOrPath, other: StoreOrPath, *, on_progress: OnProgress = lambda _: None) -> Difference:
    """Compare two stores by the UUIDs of their states, and by their roots. Changes neither, and needs no lock.

    A content address stands for its content. Under other UUIDs, the digests in the headers are compared. No content is
    read: `verify` does that.

    Args:
        pickle_dir: The store.
        other: The other store.
        on_progress: Called for every 256th of the states.

    Raises:
        StoreError: A store does not exist, or the system refused.
        UntrustedStoreError: A folder is not a store, or its key is not known.
        UnsupportedFormatError: A newer version made a store.

    """
    here, there = open_store(pickle_dir), open_store(other)
    done = Difference(there.home)
    surveys = Survey(here), Survey(there)
    # One part of the keys at a time, to bound the memory. The first digits name a folder.
    parts = [f"{number:02x}" for number in range(256)] if min(here.config.levels, there.config.levels) else [""]
    for digits in parts:
        mine, theirs = (set(_keys(survey, digits)) for survey in surveys)
        done.only_here += sorted(mine - theirs)
        done.only_there += sorted(theirs - mine)
        both = mine & theirs
        done.both += len(both)
        done.differing += sorted(filter(_differs(here, there, done), both))
        on_progress(Progress("comparing", done.both + len(done.only_here)))
    _compare_roots(here, there, done)
    done.problems += [wrong for survey in surveys for wrong in unlisted(survey.unreadable)]
    return done


def _keys(survey: Survey, digits: str) -> Iterator[str]:
    for name in survey.states(digits):
        key = address.key_of_name(name.rpartition("/")[2])
        if key is None:
            # A shortened name: the key is in the header.
            found = survey.header(name)
            key = "" if found is None else found[0].key
        if key:
            yield key


def _differs(here: DirectoryStore, there: DirectoryStore, done: Difference) -> Callable[[str], bool]:
    def differs(key: str) -> bool:
        try:
            return not address.is_content_uuid(key) and not has_same_content(here, there, key)
        except ANAError as error:
            done.problems.append(problem(error, key))
            return False

    return differs


def _compare_roots(here: DirectoryStore, there: DirectoryStore, done: Difference) -> None:
    mine, theirs = (_kept(store, done.problems) for store in (here, there))
    done.roots_only_here += sorted(mine.keys() - theirs.keys())
    done.roots_only_there += sorted(theirs.keys() - mine.keys())
    done.roots_differing += sorted(name for name in mine.keys() & theirs.keys() if mine[name] != theirs[name])


def _kept(store: DirectoryStore, problems: list[Problem]) -> dict[str, tuple[float, frozenset[str]]]:
    """Return the time to live in s and the UUIDs of each root, by its name."""
    unreadable: dict[str, ANAError] = {}
    found: dict[str, tuple[float, frozenset[str]]] = {}
    for root in roots.read(store, unreadable):
        ttl_seconds, keys = found.get(root.name, (-math.inf, frozenset()))
        found[root.name] = max(ttl_seconds, root.ttl_seconds), keys | set(root.uuids)
    problems += unlisted(unreadable)
    return found
