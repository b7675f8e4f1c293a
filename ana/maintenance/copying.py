"""Copies states, and all that they refer to, from one store to another, with the roots that keep them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Unpack

from ana.errors import ANAError
from ana.format import address
from ana.maintenance.choosing import choose
from ana.maintenance.common import (
    LOCK_SECONDS,
    OnProgress,
    Problem,
    Progress,
    StoreOrPath,
    Work,
    locked,
    open_store,
    problem,
)
from ana.maintenance.names import states_of
from ana.maintenance.storing import State, Storing, windows
from ana.stores.directory import ingest, roots
from ana.stores.directory.store import DirectoryStore

__all__ = ["Copied", "copy_states"]


@dataclass
class Copied:
    """What a copy did. States are named by their UUIDs."""

    to: str
    """The other store's folder."""
    uuids: list[str]
    """The states that were requested."""
    found: int = 0
    """The number of these states and of all that they refer to."""
    copied: list[str] = field(default_factory=list)
    """The states that were copied."""
    present: int = 0
    """States that the other store already had, with the same content."""
    size_bytes: int = 0
    """The size of the copied states' records."""
    roots: list[str] = field(default_factory=list)
    """The roots that now exist in the other store, too."""
    problems: list[Problem] = field(default_factory=list)
    """States that were not copied, with the reason."""


def copy_states(pickle_dir: StoreOrPath, uuids: Iterable[str], to: StoreOrPath, **work: Unpack[Work]) -> Copied:
    """Copy states, and all that they refer to, to another store, children first.

    Each state is verified in this store before it is copied, and in the other store afterwards. The copies are signed
    with the other store's key, if it has one. A root among `uuids` keeps its copied states in the other store, too, and
    its time to live starts anew there. This store is only read. An interrupted copy can be run again: what the other
    store has is not copied again.

    Args:
        pickle_dir: The store.
        uuids: The states: UUIDs, unique prefixes of UUIDs, or names of roots.
        to: The other store, which is created if needed.
        **work: `on_progress` and `lock_seconds` (of the other store), see `Work`.

    Returns:
        What was copied, and what was not.

    Raises:
        StateNotFoundError: A name stands for nothing. After this and the next two errors, nothing is copied.
        AmbiguousPrefixError: One of `uuids` is the prefix of several.
        ValueError: Both are the same store.
        StoreError: A store cannot be opened, or the system refused.
        UntrustedStoreError: A folder is not a store, or its key is not known.
        UnsupportedFormatError: A newer version made a store.
        LockTimeoutError: Other maintenance holds the other store's lock.

    """
    source = open_store(pickle_dir)
    named: dict[str, list[roots.Root]] = {}
    done = Copied("", states_of(source, uuids, named))
    chosen = choose(source, done.uuids, done.problems)
    target = open_store(to, create=True)
    if target.tree.identity == source.tree.identity:
        msg = f"{target.home} is the same store: choose another one"
        raise ValueError(msg)
    on_progress: OnProgress = work.get("on_progress", lambda _: None)
    done.to, done.found = target.home, len(chosen.states)

    def report(number: int, size_bytes: int) -> None:
        on_progress(Progress("copying", number, done.found, size_bytes))

    with locked(target, work.get("lock_seconds", LOCK_SECONDS)):
        storing = Storing(target, lambda state: _put(source, target, state.key), done.problems, report)
        there = filter(chosen.sizes.__contains__, chosen.states)
        for window in windows(State(key, "", chosen.sizes[key], chosen.children[key]) for key in there):
            storing.take(window)
        storing.finish()
        done.copied, done.present, done.size_bytes = storing.stored, storing.present, storing.size_bytes
        for name, files in named.items():
            _keep(target, name, files, done)
    return done


def _put(source: DirectoryStore, target: DirectoryStore, key: str) -> bool:
    """Copy a state; return False if the other store has it. Raises ANAError."""
    if not target.has(key):
        return ingest.copy(source, target, key)
    if not address.is_content_uuid(key) and not has_same_content(source, target, key):
        msg = "the other store has another state under this UUID, which stays"
        raise ANAError(msg)
    return False


def has_same_content(one: DirectoryStore, other: DirectoryStore, key: str) -> bool:
    """Return whether two stores have the same state under a UUID, by its header. Raises ANAError."""
    digests = []
    for store in (one, other):
        found = store.get(key)
        found.release()
        digests.append(found.header.content)
    return digests[0] == digests[1]


def _keep(target: DirectoryStore, name: str, files: list[roots.Root], done: Copied) -> None:
    """Make a root in the other store for those of its states that are there."""
    wrong = {each.uuid for each in done.problems}
    keys = sorted({key for root in files for key in root.uuids if key not in wrong})
    ttl_seconds = max(root.ttl_seconds for root in files)
    try:
        roots.keep(target, name, keys, ttl_seconds)
    except ANAError as error:
        done.problems.append(problem(error, name=name))
    else:
        done.roots.append(name)
