"""Removes the states that a user names, unless something needs them."""

import math
from collections.abc import Collection, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Unpack

from ana.errors import ANAError
from ana.maintenance.common import LOCK_SECONDS, StoreOrPath, Work, host_now, locked, open_store
from ana.maintenance.names import find_in
from ana.maintenance.pack_collecting import is_finished
from ana.maintenance.referrers import Referrers
from ana.stores.directory import repack, roots, trash
from ana.stores.directory.pack_survey import PackFile, number_of_name
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["InUseError", "Removed", "remove"]

_NAMED = 3
"""How many states and users of each a message names."""


class InUseError(ANAError):
    """States cannot be removed, because they are needed. Nothing was removed.

    Attributes:
        used_by: What needs each of them, by UUID: the UUIDs of states, and "the root NAME".
    """

    def __init__(self, used_by: dict[str, list[str]]) -> None:
        said = [f"{uuid} by {_some(users)}" for uuid, users in list(used_by.items())[:_NAMED]]
        more = len(used_by) - len(said)
        super().__init__(
            f"nothing was removed, because they are needed: {'; '.join(said)}{f'; and {more:,} more' if more else ''}. "
            "Remove these, too, or forget the root"
        )
        self.used_by = used_by


def _some(users: list[str]) -> str:
    more = len(users) - _NAMED
    return f"{', '.join(users[:_NAMED])}{f' and {more:,} more' if more > 0 else ''}"


@dataclass
class Removed:
    """What `remove` did or, in a dry run, would do."""

    uuids: list[str]
    """The states that were moved to the trash."""
    size_bytes: int = 0
    """The size of the states that were removed."""
    failed: dict[str, str] = field(default_factory=dict)
    """UUIDs of states that could not be moved, with the reason."""
    dry_run: bool = False
    """Whether nothing was changed."""


def remove(pickle_dir: StoreOrPath, uuids: Iterable[str], *, dry_run: bool = False, **work: Unpack[Work]) -> Removed:
    """Move states to the trash, whatever their age. A collection deletes them a grace period later.

    Until then, a read restores a state, and so does storing something that refers to it. What the states refer to
    stays until a collection takes it. Reads the headers of all states.

    Args:
        pickle_dir: The store.
        uuids: The states. Unique prefixes are enough.
        dry_run: Only report what would be done.
        **work: `on_progress` and `lock_seconds`, see `Work`.

    Raises:
        StateNotFoundError: One does not exist. After this and the next three errors, nothing was moved.
        AmbiguousPrefixError: One is the prefix of several.
        InUseError: Another state refers to one, or a root names it.
        ANAError: A state, a folder or a root cannot be read: it may need one of them.
        StoreError: The system refused.
        LockTimeoutError: Other maintenance holds the lock.
    """
    store = open_store(pickle_dir)
    keys = list(dict.fromkeys(find_in(store, uuid) for uuid in uuids))
    with nullcontext() if dry_run else locked(store, work.get("lock_seconds", LOCK_SECONDS)):
        survey = Survey(store)
        _check_needless(store, keys, Referrers(survey, work.get("on_progress", lambda _: None)))
        done = Removed([], dry_run=dry_run)
        sizes = _sizes(survey, keys)
        done.uuids = list(sizes)
        if not dry_run:
            _move(store, survey, done)
        done.size_bytes = sum(sizes[key] for key in done.uuids)
        return done


def _check_needless(store: DirectoryStore, keys: Collection[str], referrers: Referrers) -> None:
    if referrers.problems:
        wrong = referrers.problems[0]
        msg = (
            f"nothing was removed: {wrong.name or wrong.uuid} cannot be read, so what it refers to is unknown "
            f"({wrong.reason}): see ana verify"
        )
        raise ANAError(msg)
    used_by: dict[str, list[str]] = {}
    named: dict[str, list[str]] = {}
    for root in roots.lasting(roots.read(store), host_now()):
        for key in root.uuids:
            named.setdefault(key, []).append(f"the root {root.name}")
    for key in keys:
        users = [*dict.fromkeys(named.get(key, ())), *sorted({*referrers.of(key)}.difference(keys))]
        if users:
            used_by[key] = users
    if used_by:
        raise InUseError(used_by)


def _sizes(survey: Survey, keys: Iterable[str]) -> dict[str, int]:
    """Return the size in bytes of each state that is not in the trash already."""
    found = {key: survey.stat(survey.name_of(key)) for key in keys}
    return {key: entry.size_bytes for key, entry in found.items() if entry is not None}


def _move(store: DirectoryStore, survey: Survey, done: Removed) -> None:
    """Move what was noted: files as they are, packs once their other states are in a new pack."""
    names = {survey.name_of(key): key for key in done.uuids}
    numbers = {number_of_name(name): key for name, key in names.items()}
    for one in survey.packed.files:
        mine = [] if one.trashed else [numbers[number] for number, _ in one.table.items() if number in numbers]
        if mine:
            try:
                _rewrite(store, survey, one, numbers)
            except ANAError as error:
                done.failed.update(dict.fromkeys(mine, str(error)))
    for name, key in names.items():
        try:
            trash.discard(f"{store.home}/{name}", math.inf)
        except ANAError as error:
            done.failed[key] = str(error)
    done.uuids = [key for key in done.uuids if key not in done.failed]


def _rewrite(store: DirectoryStore, survey: Survey, one: PackFile, removed: Collection[int]) -> None:
    """Write a pack without some of its states. Raises ANAError if that cannot be done now."""
    if not is_finished(one, host_now()):
        msg = f"a process may still be adding to its pack {one.name}: try again when that has ended, or in two days"
        raise ANAError(msg)
    rest = [item for item in one.table.items() if item[0] not in removed]
    repack.write(store, repack.whole(survey.packed, one, rest), one.modified)
    if trash.discard(one.path, math.inf) not in {trash.MOVED, trash.GONE}:
        msg = f"its pack {one.name} could not be moved to the trash, which has a pack of that name: run ana gc first"
        raise ANAError(msg)
