"""Counts of states stored, loaded and spared: for one store in this process, and summed over a job's processes.

Imported only on first use: importing dataclasses takes longer than importing the rest of ana.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ana import units
from ana.errors import ANAError
from ana.fs import files, json_files, paths
from ana.layers import stats_file
from ana.runtime.counters import Counters

__all__ = ["Stats", "Summary", "rows_of", "stats_of", "summarize"]

LIMIT_BYTES = 4 << 20
"""The largest file to read; a process that uses a thousand stores writes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What processes did with a store. All sizes are in bytes; "raw" means before compression.

    For one process they count from its start, or from its fork. Two Stats can be added.
    """

    stored: int = 0
    """States written."""
    stored_raw_bytes: int = 0
    """Their raw size."""
    stored_file_bytes: int = 0
    """The size of their files."""
    found: int = 0
    """States that did not have to be written, because they existed."""
    found_raw_bytes: int = 0
    """Their raw size."""
    from_memory: int = 0
    """References answered by a live object."""
    from_memory_raw_bytes: int = 0
    """The raw size of their states; 0 for a state that this process has neither pickled nor loaded."""
    from_tier: int = 0
    """States loaded from the node cache."""
    from_tier_raw_bytes: int = 0
    """Their raw size."""
    from_store: int = 0
    """States loaded from the store itself, including prefetched ones."""
    from_store_raw_bytes: int = 0
    """Their raw size."""
    from_store_file_bytes: int = 0
    """The size of their files, without repeated reads."""
    damaged: int = 0
    """States whose bytes were wrong, also when read a second time."""
    waits: int = 0
    """Waits for another writer of the same state, or for a late file."""
    wait_seconds: float = 0.0
    """The total duration of these waits, in s."""
    retries: int = 0
    """Repeated look-ups and reads: the file was missing, was replaced in the meantime, or had wrong bytes."""
    lock_timeouts: int = 0
    """Locks that were not acquired in time; the operation continued without them."""

    @property
    def moved_bytes(self) -> int:
        """Bytes written to and read from the store's files."""
        return self.stored_file_bytes + self.from_store_file_bytes

    @property
    def spared_bytes(self) -> int:
        """Raw bytes that did not have to be moved: found in the store, in live objects or in the node cache."""
        return self.found_raw_bytes + self.from_memory_raw_bytes + self.from_tier_raw_bytes

    def _repr_html_(self) -> str:
        """Return what a notebook shows."""
        from ana.objects import html_repr  # noqa: PLC0415 - in notebooks only

        return html_repr.table("ana.Stats", rows_of(self) or [("nothing stored or loaded yet",)])

    def __add__(self, other: "Stats") -> "Stats":
        return Stats(**{name: getattr(self, name) + getattr(other, name) for name in _NAMES})

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return Stats from numbers by name. Unknown names are ignored.

        Raises ValueError or TypeError if a value is not a number.
        """
        return cls(**{each.name: _number(values.get(each.name, 0), each.type) for each in fields(cls)})


_NAMES = tuple(each.name for each in fields(Stats))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The sums of the files that processes wrote because of `ANA_STATS`."""

    folder: str
    """Where the files are."""
    processes: int = 0
    """The number of processes that wrote a file."""
    unfinished: int = 0
    """How many of them were killed, or are still running: their last actions are not counted."""
    unreadable: int = 0
    """The number of files that are damaged or have another format."""
    hosts: tuple[str, ...] = ()
    """The processes' hosts."""
    jobs: tuple[str, ...] = ()
    """The processes' batch jobs, as "SLURM_JOB_ID=17"."""
    versions: tuple[str, ...] = ()
    """The processes' versions of ana."""
    started: float = 0.0
    """When the first process started, in s since 1970 by its host's clock; 0 if there is none."""
    ended: float = 0.0
    """When the last process wrote its file, in s since 1970."""
    stores: Mapping[str, Stats] = field(default_factory=dict)
    """The counts by the store's home; all stores in memory count as "memory"."""

    @property
    def total(self) -> Stats:
        """The sum over all stores."""
        return sum(self.stores.values(), Stats())


def stats_of(counters: Counters) -> Stats:
    """Return the counts of a store. Each number is exact, but they are read one after the other."""
    return Stats.read(counters.values())


def rows_of(stats: Stats) -> list[tuple[str, ...]]:
    """Return what happened, as texts: what, how often, raw size or duration, size of files. Without zeros."""
    written, read = units.size(stats.stored_file_bytes), units.size(stats.from_store_file_bytes)
    lines: list[tuple[str, int, list[str]]] = [
        ("stored", stats.stored, [units.size(stats.stored_raw_bytes), f"{written} in files"]),
        ("found in the store", stats.found, [units.size(stats.found_raw_bytes)]),
        ("from memory", stats.from_memory, [units.size(stats.from_memory_raw_bytes)]),
        ("from the node cache", stats.from_tier, [units.size(stats.from_tier_raw_bytes)]),
        ("from the store", stats.from_store, [units.size(stats.from_store_raw_bytes), f"{read} in files"]),
        ("damaged", stats.damaged, []),
        ("waits", stats.waits, [f"{stats.wait_seconds:.3g} s"]),
        ("retries", stats.retries, []),
        ("lock timeouts", stats.lock_timeouts, []),
    ]
    return [(what, f"{count:,}", *sizes) for what, count, sizes in lines if count]


def summarize(folder: str | os.PathLike[str]) -> Summary:
    """Add up the files that processes have written into a folder because of `ANA_STATS`.

    Safe while processes continue to write.

    Args:
        folder: The folder. Files of other names are ignored.

    Returns:
        The sums.

    Raises:
        StoreError: The folder cannot be read.
    """
    path = paths.absolute(folder)
    found = []
    unreadable = 0
    for entry in files.list_folder(path):
        if not stats_file.is_report(entry.name):
            continue
        try:
            found.append(_read(f"{path}/{entry.name}"))
        except (ANAError, ValueError, KeyError, TypeError, AttributeError):
            unreadable += 1
    stores: dict[str, Stats] = {}
    for report in found:
        for home, stats in report.stores.items():
            stores[home] = stores.get(home, Stats()) + stats
    return Summary(
        folder=path,
        processes=len(found),
        unfinished=sum(not report.final for report in found),
        unreadable=unreadable,
        hosts=_distinct(report.host for report in found),
        jobs=_distinct(job for report in found for job in report.jobs),
        versions=_distinct(report.version for report in found),
        started=min((report.started for report in found), default=0.0),
        ended=max((report.ended for report in found), default=0.0),
        stores=dict(sorted(stores.items())),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Report:
    """One process's file."""

    version: str
    host: str
    jobs: list[str]
    started: float
    ended: float
    final: bool
    stores: dict[str, Stats]


def _read(path: str) -> _Report:
    data = files.read_whole(path, LIMIT_BYTES)
    written = json_files.parse(data or b"")
    if written["format"] != stats_file.FORMAT:
        msg = f"{path} has format {written['format']!r}"
        raise ValueError(msg)
    return _Report(
        version=str(written["ana"]),
        host=str(written["host"]),
        jobs=[f"{name}={value}" for name, value in written["jobs"].items()],
        started=float(written["started"]),
        ended=float(written["ended"]),
        final=bool(written["final"]),
        stores={str(home): Stats.read(values) for home, values in written["stores"].items()},
    )


def _number(value: object, kind: object) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        msg = f"{value!r} is not a number"
        raise TypeError(msg)
    return float(value) if kind is float else int(value)


def _distinct(words: Any) -> tuple[str, ...]:
    return tuple(sorted(set(words)))
