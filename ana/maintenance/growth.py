"""Estimates how fast a store grows, and when its disk will be full at that rate."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ana.errors import StoreError
from ana.fs import probes
from ana.maintenance.common import StoreOrPath, open_store
from ana.maintenance.stats import Moment, history

__all__ = ["Growth", "growth"]

WINDOW_DAYS = 30.0
"""The rate is that of the last month, which weekly counts describe well."""
LEAST_DAYS = 1.0
"""Counts closer together than this give no rate per day."""
_DAY_SECONDS = 86400.0


@dataclass(frozen=True)
class Growth:
    """A store's growth, and the space that is left on its filesystem."""

    free_bytes: int | None
    """What this user may still write, without regard to quotas; None if the system does not say."""
    total_bytes: int | None
    """The size of the filesystem."""
    free_inodes: int | None
    """None if the filesystem does not count inodes."""
    over_days: float = 0.0
    """The time between the two exact counts that the rates come from."""
    bytes_per_day: float | None = None
    """None if unknown: no two exact counts lie at least a day apart."""
    inodes_per_day: float | None = None
    """None if unknown."""
    full_in_days: float | None = None
    """When bytes or inodes are used up at these rates; None if unknown, or if the store does not grow."""
    full_of: str = ""
    """What is used up first: `bytes` or `inodes`."""


def growth(pickle_dir: StoreOrPath, latest: Moment | None = None) -> Growth:
    """Return how fast a store grew in the last month, by its exact counts, and when its disk will be full.

    Does not count what others write to the same filesystem, nor what waits in the trash.

    Args:
        pickle_dir: The store.
        latest: An exact count that may not be in the store's history.

    Raises:
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: The folder is not a store.
        UnsupportedFormatError: A newer version made the store.
    """
    store = open_store(pickle_dir)
    moments = history(store)
    if latest is not None and (not moments or moments[-1].taken < latest.taken):
        moments.append(latest)
    left = _left(store.home)
    first = _first(moments)
    if first is None:
        return left
    days = (moments[-1].taken - first.taken) / _DAY_SECONDS
    by_bytes = (moments[-1].stored_bytes - first.stored_bytes) / days
    by_inodes = (moments[-1].inodes - first.inodes) / days
    ends = [
        (free / rate, of)
        for free, rate, of in ((left.free_bytes, by_bytes, "bytes"), (left.free_inodes, by_inodes, "inodes"))
        if free is not None and rate > 0
    ]
    full_in_days, full_of = min(ends, default=(None, ""))
    return replace(
        left,
        over_days=days,
        bytes_per_day=by_bytes,
        inodes_per_day=by_inodes,
        full_in_days=full_in_days,
        full_of=full_of,
    )


def _left(folder: str) -> Growth:
    try:
        space = probes.space(folder)
    except StoreError:
        return Growth(None, None, None)
    return Growth(space.free_bytes, space.total_bytes, space.free_inodes)


def _first(moments: Sequence[Moment]) -> Moment | None:
    """Return the count that the last one is compared with: the oldest of the last month, or the one before."""
    if not moments:
        return None
    last = moments[-1].taken
    early = [moment for moment in moments if moment.taken <= last - LEAST_DAYS * _DAY_SECONDS]
    recent = [moment for moment in early if moment.taken >= last - WINDOW_DAYS * _DAY_SECONDS]
    return recent[0] if recent else early[-1] if early else None
