"""What was stored, loaded and spared: of one store in this process, and summed over the processes of a job.

Not imported with the rest: dataclasses take longer to import than all of ana.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from ana.errors import ANAError
from ana.fs import files, json_files, paths
from ana.layers import stats_file
from ana.runtime.counters import Counters

__all__ = ["Stats", "Summary", "stats_of", "summarize"]

LIMIT_BYTES = 4 << 20
"""A process that uses a thousand stores writes less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """What processes did with a store. All sizes are in bytes; "raw" means before compression.

    Of one process since its start, or since it was forked. Stats can be added.
    """

    stored: int = 0
    """States that were written."""
    stored_raw_bytes: int = 0
    """How large they are."""
    stored_file_bytes: int = 0
    """How large their files are: what was written."""
    found: int = 0
    """States that were to be written, and were there already."""
    found_raw_bytes: int = 0
    """How large they are: what need not be written."""
    from_memory: int = 0
    """References that were answered by an object which is alive in the process."""
    from_memory_raw_bytes: int = 0
    """How large their states are: what need not be read. Without objects whose state was never seen here."""
    from_tier: int = 0
    """States that were loaded from the node-local tier."""
    from_tier_raw_bytes: int = 0
    """How large they are: what need not be read from the store."""
    from_store: int = 0
    """States that were loaded from the store itself."""
    from_store_raw_bytes: int = 0
    """How large they are."""
    from_store_file_bytes: int = 0
    """How large their files are: what was read, without what was read again."""
    damaged: int = 0
    """How often a state's bytes were wrong, also when they were read again."""
    waits: int = 0
    """How often it waited: for another writer of the same state, or for a file that is late to show up."""
    wait_seconds: float = 0.0
    """How long that took, in s."""
    retries: int = 0
    """How often a file was looked for or read again: it was not there, was replaced meanwhile, or its bytes wrong."""
    lock_timeouts: int = 0
    """How often it went on without a lock, having waited as long as it cares to."""

    @property
    def moved_bytes(self) -> int:
        """What went to the store or came from it."""
        return self.stored_file_bytes + self.from_store_file_bytes

    @property
    def spared_bytes(self) -> int:
        """What need not go there or come from there: raw bytes found there, alive in memory, or in the tier."""
        return self.found_raw_bytes + self.from_memory_raw_bytes + self.from_tier_raw_bytes

    def __add__(self, other: "Stats") -> "Stats":
        return Stats(**{name: getattr(self, name) + getattr(other, name) for name in _NAMES})

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Self:
        """Return the Stats of numbers by name; names that this version does not know are passed over.

        Raises ValueError or TypeError for what is no number.
        """
        return cls(**{each.name: _number(values.get(each.name, 0), each.type) for each in fields(cls)})


_NAMES = tuple(each.name for each in fields(Stats))


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The sums of the files that processes wrote at their ends, as `ANA_STATS` asked them to."""

    folder: str
    """Where the files are."""
    processes: int = 0
    """How many processes have written one."""
    unfinished: int = 0
    """How many of them were killed, or run still: some of what they did last is not counted."""
    unreadable: int = 0
    """How many files are no such files, whole."""
    hosts: tuple[str, ...] = ()
    """Where they ran."""
    jobs: tuple[str, ...] = ()
    """The batch system's jobs that they belong to, as "SLURM_JOB_ID=17"."""
    versions: tuple[str, ...] = ()
    """Their versions of ana."""
    started: float = 0.0
    """When the first began, in s since 1970, by its host's clock; 0 where there is none."""
    ended: float = 0.0
    """When the last wrote its file."""
    stores: Mapping[str, Stats] = field(default_factory=dict)
    """What they did, by the store's home; all stores in memory are called "memory"."""

    @property
    def total(self) -> Stats:
        """What they did with all stores."""
        return sum(self.stores.values(), Stats())


def stats_of(counters: Counters) -> Stats:
    """Return what a store's counters have counted so far. Each number is exact; they are read one after the other."""
    return Stats.read(counters.values())


def summarize(folder: str | os.PathLike[str]) -> Summary:
    """Sum up the files that processes have written into a folder; what is not theirs is passed over.

    Raises StoreError where the folder cannot be read. Safe while processes go on writing.
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
    """What one process has written."""

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
        msg = f"{path} is of format {written['format']!r}"
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
        msg = f"{value!r} is no number"
        raise TypeError(msg)
    return float(value) if kind is float else int(value)


def _distinct(words: Any) -> tuple[str, ...]:
    return tuple(sorted(set(words)))
