"""Reads every byte, finds damaged and missing states, and repairs them from another store."""

import random
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from typing import Unpack

from ana.errors import ANAError, CorruptedStateError, StoreError
from ana.format import address
from ana.maintenance import verification
from ana.maintenance.common import (
    LOCK_SECONDS,
    OnProgress,
    Problem,
    Progress,
    StoreOrPath,
    Work,
    host_now,
    locked,
    open_store,
    problem,
    unlisted,
)
from ana.maintenance.pack_verifying import PackReading, Result, has_whole_copy
from ana.runtime import threads
from ana.stores.directory import ingest, repack
from ana.stores.directory.graph import postorder
from ana.stores.directory.pack_survey import PackFile
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

__all__ = ["Verified", "verify"]

WINDOW = 256


@dataclass(frozen=True)
class Verified:
    """The result of `verify`: `checked` of `states` states were read, whose files have `size_bytes` bytes."""

    states: int
    """The number of states in the store."""
    checked: int
    """How many of them were read."""
    size_bytes: int
    """The size of their files."""
    problems: list[Problem] = field(default_factory=list)
    """States that are damaged, missing (another one refers to them) or unreadable, and were not repaired."""
    repaired: list[str] = field(default_factory=list)
    """UUIDs of damaged and missing states that were copied from the other store."""
    set_aside: list[str] = field(default_factory=list)
    """The `.bad-…` files that damaged files, and packs with damage, were renamed to, relative to the store."""


def verify(
    pickle_dir: StoreOrPath,
    *,
    sample: float = 1.0,
    older_than_seconds: float | None = None,
    repair_from: StoreOrPath | None = None,
    set_aside: bool = False,
    **work: Unpack[Work],
) -> Verified:
    """Read states, check every digest, and check that the states they refer to exist.

    Verifying alone changes no state and needs no lock. `repair_from` and `set_aside` hold the maintenance lock. If this
    process may write to the store, the result is saved in `.ana/verified.json`, for `last_verification`.

    Args:
        pickle_dir: The store.
        sample: Share of the states to read, more than 0 and at most 1. They are chosen at random.
        older_than_seconds: Read only states that were stored longer ago.
        repair_from: Another store, which is only read. Damaged files are set aside; damaged and missing states are
            copied from it.
        set_aside: Rename damaged files to `.bad-…`, so that programs that have the objects store them again. What is
            whole in a pack with damage is copied to a new pack first.
        **work: `on_progress` and `lock_seconds`, see `Work`.

    Returns:
        How much was read, and the problems found.

    Raises:
        StoreError: A store does not exist, or the system refused.
        UntrustedStoreError: A folder is not a store.
        UnsupportedFormatError: A newer version made a store.
        LockTimeoutError: Other maintenance holds the lock.
        ValueError: `sample` is out of range.
    """
    if not 0 < sample <= 1:
        msg = f"sample ({sample}) must be more than 0 and at most 1"
        raise ValueError(msg)
    store = open_store(pickle_dir)
    source = None if repair_from is None else open_store(repair_from)
    lock_seconds = work.get("lock_seconds", LOCK_SECONDS)
    began = host_now()
    with locked(store, lock_seconds) if set_aside or source is not None else nullcontext():
        reading = _Reading(store, work.get("on_progress", lambda _: None))
        reading.choose(sample, older_than_seconds)
        reading.read()
        if set_aside or source is not None:
            reading.repair(source, set_aside=set_aside)
    found = verification.Verification(
        began, reading.states, reading.checked, reading.size_bytes, problems=reading.problems
    )
    verification.note(reading.survey, found, whole=sample == 1 and older_than_seconds is None)
    return Verified(
        reading.states, reading.checked, reading.size_bytes, reading.problems, reading.repaired, reading.aside
    )


class _Reading:
    """One pass over a store."""

    def __init__(self, store: DirectoryStore, on_progress: OnProgress) -> None:
        self.store = store
        self.survey = Survey(store)
        self.on_progress = on_progress
        self.names = set(self.survey.loose())
        right_now = host_now()
        self.packs = PackReading(self.survey, right_now)
        self.states = self.survey.count(self.names)
        self.chosen: list[str] = []
        self.in_packs: list[PackFile] = []
        self._sampled: Callable[[], bool] = lambda: True
        self._expected = 0
        self.checked = 0
        self.size_bytes = 0
        self.problems: list[Problem] = unlisted(self.survey.unreadable)
        self.repaired: list[str] = []
        self.aside: list[str] = []
        self._children: set[str] = set()
        self._saved: set[str] = set()
        self._lock = threading.Lock()

    def choose(self, sample: float, older_than_seconds: float | None) -> None:
        """Choose the states to read."""
        names: Iterable[str] = sorted(self.names)
        if sample < 1:
            chance = random.Random()  # noqa: S311 - a sample, not a secret
            self._sampled = lambda: chance.random() < sample
            names = (name for name in names if self._sampled())
        before = None if older_than_seconds is None else host_now() - older_than_seconds
        if before is not None:
            names = self._older(names, before)
        self.chosen = list(names)
        self.in_packs = self.packs.packs(before)
        self._expected = len(self.chosen) + round(sample * sum(len(one.table) for one in self.in_packs))

    def read(self) -> None:
        """Read the chosen states, then check that the states they refer to exist."""
        at_once = max(threads.available(), threads.WAITING if self.store.high_latency else 1)
        iterator = iter(self.chosen)
        # In batches, so that an interruption takes effect soon.
        while batch := list(islice(iterator, WINDOW)):
            threads.run(self._check, batch, at_once)
        for one in self.in_packs:
            for result in self.packs.read(one, self._sampled):
                self._note(result)
        for key in sorted(self._children):
            # The listing came first: states stored since then are not in it.
            name = self.survey.name_of(key)
            if name not in self.names:
                self._look_for(key, name)
        self.problems.sort(key=lambda wrong: (wrong.kind, wrong.uuid))

    def _note(self, result: Result) -> None:
        header, size_bytes, wrong = result
        self.checked += 1
        self.size_bytes += size_bytes
        if wrong is not None:
            self.problems.append(wrong)
        if header is not None:
            self._children.update(header.children)
        self.on_progress(Progress("verifying", self.checked, max(self.checked, self._expected), self.size_bytes))

    def repair(self, source: DirectoryStore | None, *, set_aside: bool) -> None:
        """Set damaged files aside, and copy damaged and missing states from another store, children first."""
        left = []
        for wrong in self.problems:
            try:
                if wrong.kind == "failed" or not self._is_repaired(wrong, source, set_aside=set_aside):
                    left.append(wrong)
            except ANAError as error:
                left += [wrong, problem(error, wrong.uuid, wrong.name)]
        self.problems = left
        self.store.packs.seal()

    def _is_repaired(self, wrong: Problem, source: DirectoryStore | None, *, set_aside: bool) -> bool:
        key = wrong.uuid
        better = source is not None and key != "" and source.is_whole(key)
        if wrong.kind == "damaged" and self._is_out_of_the_way(wrong, movable=better or set_aside):
            return True
        if source is None or not better:
            return False

        def children_of(key: str) -> list[str]:
            state = source.get(key)
            state.release()
            return [child for child in state.header.children if not self.store.has(child)]

        for missing in postorder([key], children_of):
            if ingest.copy(source, self.store, missing):
                self.repaired.append(missing)
        return True

    def _is_out_of_the_way(self, wrong: Problem, *, movable: bool) -> bool:
        """Set a damaged file or pack aside, if it may be; return whether nothing is missing by that."""
        packed = self.packs.damaged.get(wrong.name.rpartition(":")[0])
        is_copy = packed is None and not (wrong.uuid and self.survey.name_of(wrong.uuid) == wrong.name)
        if not (is_copy or movable):
            return False
        # Another process may have repaired it since.
        if not is_copy and wrong.uuid and self.store.is_whole(wrong.uuid):
            return True
        if packed is not None:
            self._put_pack_aside(packed)
            # What lay behind damage has other places now.
            return not wrong.uuid
        # A copy under another name (by a sync tool, or in a folder that was moved): the state itself may be intact.
        self._put_aside(wrong.name)
        return False

    def _put_aside(self, name: str) -> None:
        aside = ingest.set_aside(self.store, f"{self.store.home}/{name}")
        if aside is not None:
            self.aside.append(aside.removeprefix(f"{self.store.home}/"))

    def _put_pack_aside(self, one: PackFile) -> None:
        if one.name in self._saved:
            return
        if not self.packs.may_be_set_aside(one):
            reason = "its writer may still append to it: set it aside once it has not changed for 48 hours"
            raise StoreError(one.path, 0, reason)
        self._saved.add(one.name)
        aside = repack.set_aside(self.survey.packed, one)
        if aside is not None:
            self.aside.append(aside.removeprefix(f"{self.store.home}/"))

    def _check(self, name: str) -> None:
        try:
            found = self.survey.header_of_file(name, whole=True)
            if found is None:
                return
            header, file = found
        except ANAError as error:
            key = address.key_of_name(name.rpartition("/")[2]) or (
                error.uuid if isinstance(error, CorruptedStateError) else ""
            )
            if key and has_whole_copy(self.survey, key, besides=None):
                return
            wrong = problem(error, key, name)
            with self._lock:
                # A state deleted between listing and reading is a problem only if another one refers to it.
                if wrong.kind != "missing":
                    self.problems.append(wrong)
                    self.checked += 1
            return
        with self._lock:
            self._children.update(header.children)
            self.checked += 1
            self.size_bytes += file.size_bytes
            self.on_progress(Progress("verifying", self.checked, self._expected, self.size_bytes))

    def _older(self, names: Iterable[str], before: float) -> Iterator[str]:
        for name, found in self.survey.each(names, self.survey.stat):
            if isinstance(found, ANAError) or (found is not None and found.modified < before):
                yield name

    def _look_for(self, key: str, name: str) -> None:
        try:
            if not self.survey.is_there(key):
                self.problems.append(Problem(key, name, "missing", "a state refers to it"))
        except ANAError as error:
            self.problems.append(problem(error, key, name))
