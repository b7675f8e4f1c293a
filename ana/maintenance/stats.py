"""How much a store holds: counts from listings; sizes from headers, or from the last summary."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from itertools import chain
from typing import Any, TypeVar

from ana.errors import ANAError, StoreError
from ana.format.parts import CLASS_NAME as PART_CLASS
from ana.format.record import Brief, Header
from ana.fs import atomic, files, json_files
from ana.maintenance.common import (
    OnProgress,
    Problem,
    Progress,
    StoreOrPath,
    host_now,
    now,
    open_store,
    problem,
    unlisted,
)
from ana.stores.directory.scan import Contents, File, Survey, trash_name
from ana.stores.directory.store import DirectoryStore

__all__ = ["Group", "Moment", "StoreStats", "StoreSummary", "history", "stats"]

SUMMARY = ".ana/summary.json"
HISTORY = ".ana/history.jsonl"
LIMIT_BYTES = 16 << 20
AT_ONCE_STATES = 1000
"""A store with at most so many states is counted without being asked to: that takes a tenth of a second."""
_GROUPS = ("by_class", "by_age", "by_size")
_RIGHT: dict[str, Any] = {"name": str, **dict.fromkeys(_GROUPS, list)}
"""The types of written fields that are not numbers."""
REF_CLASS = "ana.storable:Ref"
CLASSES = 50
"""How many classes a summary lists. All others form one group."""
_DAY_SECONDS = 86400.0
_AGES = ((1, "under 1 d"), (7, "1 to 7 d"), (30, "7 to 30 d"), (90, "30 to 90 d"), (365, "90 to 365 d"))
_SIZES = (
    (4096, "up to 4 KiB"),
    (1 << 16, "to 64 KiB"),
    (1 << 20, "to 1 MiB"),
    (1 << 24, "to 16 MiB"),
    (1 << 28, "to 256 MiB"),
)


Made = TypeVar("Made", "Group", "Moment", "StoreSummary")


@dataclass(frozen=True)
class Group:
    """States with a class, age or size in common."""

    name: str
    states: int
    raw_bytes: int
    stored_bytes: int
    """The size of their files, and of their records in packs."""


@dataclass(frozen=True)
class StoreSummary:
    """Sums over the headers of all states. Sizes in bytes, times in s since 1970."""

    taken: float
    states: int
    raw_bytes: int
    stored_bytes: int
    """The size of all states' files, and of their records in packs."""
    trash_bytes: int
    references: int = 0
    """The number of references between states."""
    shared_raw_bytes: int = 0
    """The raw bytes saved by sharing: what would be stored in addition if each reference held a copy."""
    by_class: list[Group] = field(default_factory=list)
    by_age: list[Group] = field(default_factory=list)
    by_size: list[Group] = field(default_factory=list)
    parts: int = 0
    """Large buffers that are states of their own."""
    holders: int = 0
    """States that hold parts."""


@dataclass(frozen=True)
class Moment:
    """A store's totals at one time (s since 1970). Each exact count saves one."""

    taken: float
    states: int
    inodes: int
    raw_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class StoreStats:
    """What a store holds."""

    states: int
    trash: int
    damaged: int
    """Damaged files that were set aside."""
    temporaries: int
    foreign: int
    """Files that are not ANA's."""
    folders: int
    inodes: int
    """Files and folders together."""
    summary: StoreSummary | None
    """Sizes: current if `exact`, else from the last exact count; None if there was none."""
    summary_age_seconds: float
    exact: bool
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
    summary = None if exact else _last(survey.root)
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
        data = files.read_whole(f"{store.home}/{HISTORY}", LIMIT_BYTES) or b""
    except StoreError:
        return []
    found = []
    for line in data.splitlines():
        try:
            found.append(_made(Moment, json_files.parse(line)))
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


def _count(
    survey: Survey, contents: Contents, right_now: float, problems: list[Problem], on_progress: OnProgress
) -> StoreSummary:
    classes, ages, sizes, everything = _Groups(), _Groups(), _Groups(), _Groups()
    raw: dict[str, int] = {}
    referred: Counter[str] = Counter()
    n_parts = n_holders = 0
    total = survey.count(contents.states)
    for number, (name, found) in enumerate(survey.headers(), 1):
        if isinstance(found, ANAError):
            problems.append(problem(found, name=name))
        elif found is not None:
            header, file = found
            classes.add(_kind(header), header, file)
            ages.add(_step(_AGES, (right_now - file.modified) / _DAY_SECONDS, "over 365 d"), header, file)
            sizes.add(_step(_SIZES, file.size_bytes, "over 256 MiB"), header, file)
            everything.add("", header, file)
            raw[header.key] = header.own_bytes
            referred.update(header.children)
            n_parts += header.class_name == PART_CLASS
            n_holders += bool(header.parts)
        on_progress(Progress("counting", number, total, everything.sums.get("", [0, 0, 0])[2]))
    trash = sum(file.size_bytes for file in _looked(survey, chain(map(trash_name, contents.trash), contents.gone)))
    trash += sum(one.size_bytes for one in survey.packed.files if one.trashed)
    states, raw_bytes, stored_bytes = everything.sums.get("", (0, 0, 0))
    return StoreSummary(
        right_now,
        states,
        raw_bytes,
        stored_bytes,
        trash,
        referred.total(),
        sum((count - 1) * raw.get(key, 0) for key, count in referred.items()),
        classes.largest(),
        ages.in_order([name for _, name in _AGES] + ["over 365 d"]),
        sizes.in_order([name for _, name in _SIZES] + ["over 256 MiB"]),
        n_parts,
        n_holders,
    )


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


def _leave(store: DirectoryStore, summary: StoreSummary, inodes: int) -> None:
    """Save the sums for later calls of `stats`. Without write access, nothing is saved."""
    moment = Moment(summary.taken, summary.states, inodes, summary.raw_bytes, summary.stored_bytes)
    try:
        store.tree.own_folder(".ana")
        access = store.tree.access
        atomic.replace(f"{store.home}/{SUMMARY}", json.dumps(asdict(summary)).encode(), access=access)
        # The leading newline ends a line that a full disk cut short.
        atomic.append(f"{store.home}/{HISTORY}", b"\n" + json.dumps(asdict(moment)).encode() + b"\n", access)
    except ANAError:
        return


def _last(root: str) -> StoreSummary | None:
    try:
        written = json_files.parse(files.read_whole(f"{root}/{SUMMARY}", LIMIT_BYTES) or b"")
        written.update({name: [_made(Group, group) for group in written[name]] for name in _GROUPS})
        return _made(StoreSummary, written)
    except (ValueError, TypeError, KeyError, AttributeError, ANAError):
        return None


def _made(kind: type[Made], written: dict[str, Any]) -> Made:
    """Return a dataclass from its written fields. Raises TypeError for values of a wrong type."""
    made = kind(**{each.name: written[each.name] for each in fields(kind) if each.name in written})
    for name, value in vars(made).items():
        right = _RIGHT.get(name, (int, float))
        if isinstance(value, bool) or not isinstance(value, right):
            msg = f"{name} is {value!r:.50}"
            raise TypeError(msg)
    return made
