"""How much a store holds: counts from listings; sizes from headers, or from the last summary."""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import chain

from ana.errors import ANAError
from ana.format.parts import CLASS_NAME as PART_CLASS
from ana.format.record import Brief, Header
from ana.fs import atomic, files, json_files
from ana.fs.users import user_name
from ana.maintenance import saved
from ana.maintenance.common import (
    REF_CLASS,
    OnProgress,
    Problem,
    Progress,
    StoreOrPath,
    host_now,
    now,
    open_store,
    problem,
    unlisted,
    value_text,
)
from ana.stores.directory.scan import Contents, File, Survey, trash_name
from ana.stores.directory.store import DirectoryStore

__all__ = ["Group", "Large", "Moment", "StoreStats", "StoreSummary", "history", "moment_of", "stats"]

SUMMARY = ".ana/summary.json"
HISTORY = ".ana/history.jsonl"
AT_ONCE_STATES = 1000
"""A store with at most so many states is counted without being asked to: that takes a tenth of a second."""
CLASSES = 50
"""How many classes, and how many users, a summary lists. All others form one group."""
LARGEST = 10
"""How many of the largest states a summary lists."""
_DAY_SECONDS = 86400.0
_AGES = ((1, "under 1 d"), (7, "1 to 7 d"), (30, "7 to 30 d"), (90, "30 to 90 d"), (365, "90 to 365 d"))
_SIZES = (
    (4096, "up to 4 KiB"),
    (1 << 16, "to 64 KiB"),
    (1 << 20, "to 1 MiB"),
    (1 << 24, "to 16 MiB"),
    (1 << 28, "to 256 MiB"),
)


@dataclass(frozen=True)
class Group:
    """States with a class, age or size in common."""

    name: str
    """The class, age, size or user."""
    states: int
    """The number of these states."""
    raw_bytes: int
    """Their size before compression."""
    stored_bytes: int
    """The size of their files, and of their records in packs."""


@dataclass(frozen=True)
class Large:
    """One of the largest states."""

    uuid: str
    """The state's UUID."""
    value: str
    """Its class and what its writer said about its value; of a Ref only that, as in `ndarray (1000, 1000) float64`."""
    raw_bytes: int
    """Its size before compression."""
    stored_bytes: int
    """The size of its file, or of its record in a pack."""


@dataclass(frozen=True)
class StoreSummary:
    """Sums over the headers of all states. Sizes in bytes, times in s since 1970."""

    taken: float
    """When they were counted."""
    states: int
    """The number of states."""
    raw_bytes: int
    """Their size before compression."""
    stored_bytes: int
    """The size of all states' files, and of their records in packs."""
    trash_bytes: int
    """The size of the trash."""
    references: int = 0
    """The number of references between states."""
    shared_raw_bytes: int = 0
    """The raw bytes saved by sharing: what would be stored in addition if each reference held a copy."""
    by_class: list[Group] = field(default_factory=list)
    """The states of each class."""
    by_age: list[Group] = field(default_factory=list)
    """By the time since they were stored."""
    by_size: list[Group] = field(default_factory=list)
    """By the size before compression."""
    parts: int = 0
    """Large buffers that are states of their own."""
    holders: int = 0
    """States that hold parts."""
    by_user: list[Group] = field(default_factory=list)
    """By the owners of files and packs: their names on this host, or as in `uid 1001`."""
    largest: list[Large] = field(default_factory=list)
    """The states with the largest files or records, the largest first."""


@dataclass(frozen=True)
class Moment:
    """A store's totals at one time (s since 1970). Each exact count saves one."""

    taken: float
    """When they were counted."""
    states: int
    """The number of states."""
    inodes: int
    """The number of files and folders."""
    raw_bytes: int
    """The states' size before compression."""
    stored_bytes: int
    """The size of their files, and of their records in packs."""


@dataclass(frozen=True)
class StoreStats:
    """What a store holds."""

    states: int
    """States outside of the trash."""
    trash: int
    """States in the trash."""
    damaged: int
    """Damaged files that were set aside."""
    temporaries: int
    """Temporary files of writers."""
    foreign: int
    """Files that are not ANA's."""
    folders: int
    """Shard folders."""
    inodes: int
    """Files and folders together."""
    summary: StoreSummary | None
    """Sizes: current if `exact`, else from the last exact count; None if there was none."""
    summary_age_seconds: float
    """How long ago `summary` was counted."""
    exact: bool
    """Whether `summary` was counted now."""
    packs: int = 0
    """Packs outside of the trash: files of many small states."""
    packed: int = 0
    """States in packs."""
    packs_bytes: int = 0
    """The size of the packs."""
    problems: list[Problem] = field(default_factory=list)
    """Folders and packs that cannot be read and, in an exact count, states whose header cannot be read."""

    @property
    def ratio(self) -> float | None:
        """The compression ratio: raw bytes divided by stored bytes. None if unknown."""
        summary = self.summary
        return summary.raw_bytes / summary.stored_bytes if summary is not None and summary.stored_bytes else None


def stats(pickle_dir: StoreOrPath, *, exact: bool = False, on_progress: OnProgress = lambda _: None) -> StoreStats:
    """Count what a store holds. Each folder is listed once.

    Args:
        pickle_dir: The store.
        exact: Also read each state's header, for the sizes. If this process may write to the store, the sums are saved
            in `.ana/summary.json` and as a line in `.ana/history.jsonl`. A store that was never counted so, and has at
            most 1,000 states, is always counted exactly, but its sums are not saved.
        on_progress: Called for each state.

    Raises:
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: The folder is not a store.
        UnsupportedFormatError: A newer version made the store.
    """
    store = open_store(pickle_dir)
    survey = Survey(store)
    right_now = now(store, writable=False) if exact else host_now()
    contents = survey.contents()
    problems = unlisted(survey.unreadable)
    summary = None if exact else saved.load(survey.root, SUMMARY, StoreSummary)
    at_once = summary is None and survey.count(contents.states) <= AT_ONCE_STATES
    if exact or at_once:
        summary = _count(survey, contents, right_now, problems, on_progress)
    if exact and summary is not None and not survey.unreadable:
        _leave(store, summary, _inodes(contents))
    packs = [one for one in survey.packed.files if not one.trashed]
    in_trash = sum(len(one.table) for one in survey.packed.files if one.trashed)
    return StoreStats(
        states=survey.count(contents.states),
        trash=len(contents.trash) + len(contents.gone) + in_trash,
        damaged=len(contents.bad),
        temporaries=len(contents.temporary),
        foreign=len(contents.foreign),
        folders=len(contents.folders),
        inodes=_inodes(contents),
        summary=summary,
        summary_age_seconds=0.0 if summary is None else max(0.0, right_now - summary.taken),
        exact=exact or at_once,
        packs=len(packs),
        packed=survey.packed.count(),
        packs_bytes=sum(one.size_bytes for one in packs),
        problems=problems,
    )


def history(pickle_dir: StoreOrPath) -> list[Moment]:
    """Return the totals of earlier exact counts, oldest first. Raises as `open_store`."""
    store = open_store(pickle_dir)
    try:
        data = files.read_whole(f"{store.home}/{HISTORY}", saved.LIMIT_BYTES) or b""
    except ANAError:
        # Others may have put something else there.
        return []
    found = []
    for line in data.splitlines():
        try:
            found.append(saved.made(Moment, json_files.parse(line)))
        except (ValueError, TypeError):
            continue
    return sorted(found, key=lambda moment: moment.taken)


class _Groups:
    """Sums of states by name."""

    def __init__(self) -> None:
        self.sums: dict[str, list[int]] = {}

    def add(self, name: str, header: Header | Brief, file: File) -> None:
        sums = self.sums.setdefault(name, [0, 0, 0])
        sums[0] += 1
        sums[1] += header.own_bytes
        sums[2] += file.size_bytes

    def largest(self) -> list[Group]:
        """Return the groups with the most bytes, and one for the rest."""
        ordered = sorted((Group(name, *sums) for name, sums in self.sums.items()), key=lambda g: -g.stored_bytes)
        rest = ordered[CLASSES:]
        if not rest:
            return ordered
        sums = (sum(g.states for g in rest), sum(g.raw_bytes for g in rest), sum(g.stored_bytes for g in rest))
        return [*ordered[:CLASSES], Group("(others)", *sums)]

    def in_order(self, names: list[str]) -> list[Group]:
        return [Group(name, *self.sums.get(name, (0, 0, 0))) for name in names]


class _Counting:
    """Sums over the headers of a store, one state at a time."""

    def __init__(self, right_now: float) -> None:
        self.right_now = right_now
        self.classes, self.ages, self.sizes, self.users = _Groups(), _Groups(), _Groups(), _Groups()
        self.stored_bytes = self.parts = self.holders = 0
        self.raw: dict[str, int] = {}
        self.referred: Counter[str] = Counter()
        self.largest: list[tuple[int, str, str, int]] = []
        """A heap, the smallest first: stored size, UUID, value, raw size."""

    def add(self, header: Header | Brief, file: File) -> None:
        """Add a state."""
        self.classes.add(_kind(header), header, file)
        self.ages.add(_step(_AGES, (self.right_now - file.modified) / _DAY_SECONDS, "over 365 d"), header, file)
        self.sizes.add(_step(_SIZES, file.size_bytes, "over 256 MiB"), header, file)
        self.users.add(user_name(file.uid), header, file)
        self.stored_bytes += file.size_bytes
        self.raw[header.key] = header.own_bytes
        self.referred.update(header.children)
        self.parts += header.class_name == PART_CLASS
        self.holders += bool(header.parts)
        if len(self.largest) < LARGEST or file.size_bytes > self.largest[0][0]:
            value = value_text(header.class_name, header.summary)
            keep = heapq.heappush if len(self.largest) < LARGEST else heapq.heappushpop
            keep(self.largest, (file.size_bytes, header.key, value, header.own_bytes))

    def summary(self, trash_bytes: int) -> StoreSummary:
        """Return the sums."""
        return StoreSummary(
            self.right_now,
            sum(group[0] for group in self.classes.sums.values()),
            sum(group[1] for group in self.classes.sums.values()),
            self.stored_bytes,
            trash_bytes,
            self.referred.total(),
            sum((count - 1) * self.raw.get(key, 0) for key, count in self.referred.items()),
            self.classes.largest(),
            self.ages.in_order([name for _, name in _AGES] + ["over 365 d"]),
            self.sizes.in_order([name for _, name in _SIZES] + ["over 256 MiB"]),
            self.parts,
            self.holders,
            self.users.largest(),
            [Large(key, value, raw, stored) for stored, key, value, raw in sorted(self.largest, reverse=True)],
        )


def _count(
    survey: Survey, contents: Contents, right_now: float, problems: list[Problem], on_progress: OnProgress
) -> StoreSummary:
    counting = _Counting(right_now)
    total = survey.count(contents.states)
    for number, (name, found) in enumerate(survey.headers(), 1):
        if isinstance(found, ANAError):
            problems.append(problem(found, name=name))
        elif found is not None:
            counting.add(*found)
        on_progress(Progress("counting", number, total, counting.stored_bytes))
    trash = sum(file.size_bytes for file in _looked(survey, chain(map(trash_name, contents.trash), contents.gone)))
    return counting.summary(trash + sum(one.size_bytes for one in survey.packed.files if one.trashed))


def _kind(header: Header | Brief) -> str:
    """Return what a state counts as: its class, and for a Ref the type of its value, if its writer named it."""
    if not header.class_name:
        return "(bare state)"
    if header.class_name != REF_CLASS or not header.summary:
        return header.class_name
    return f"{header.class_name} of {header.summary.partition(' ')[0]}"


def _step(steps: tuple[tuple[int, str], ...], value: float, last: str) -> str:
    return next((name for limit, name in steps if value <= limit), last)


def _looked(survey: Survey, names: Iterable[str]) -> Iterator[File]:
    stat: Callable[[str], File | None] = survey.stat
    for _, found in survey.each(names, stat):
        if isinstance(found, File):
            yield found


def _inodes(contents: Contents) -> int:
    return sum(len(names) for names in contents)


def moment_of(counted: StoreStats) -> Moment | None:
    """Return the totals of an exact count; None if it is not exact."""
    summary = counted.summary
    if summary is None or not counted.exact:
        return None
    return Moment(summary.taken, summary.states, counted.inodes, summary.raw_bytes, summary.stored_bytes)


def _leave(store: DirectoryStore, summary: StoreSummary, inodes: int) -> None:
    """Save the sums for later calls of `stats`. Without write access, nothing is saved."""
    moment = Moment(summary.taken, summary.states, inodes, summary.raw_bytes, summary.stored_bytes)
    if saved.save(store, SUMMARY, summary):
        with suppress(ANAError):
            # The leading newline ends a line that a full disk cut short.
            line = b"\n" + json.dumps(asdict(moment)).encode() + b"\n"
            atomic.append(f"{store.home}/{HISTORY}", line, store.tree.access)
