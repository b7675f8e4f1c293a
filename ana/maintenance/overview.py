"""All that an owner asks about a store: what it holds, who keeps it, what could go, when the disk will be full."""

from dataclasses import dataclass, field, replace

from ana import units
from ana.errors import ANAError
from ana.maintenance.collected import Scope
from ana.maintenance.collecting import GRACE_SECONDS, gc
from ana.maintenance.common import OnProgress, Problem, StoreOrPath, open_store
from ana.maintenance.growth import Growth, growth
from ana.maintenance.roots import RootInfo, roots
from ana.maintenance.stats import StoreStats, moment_of, stats
from ana.maintenance.verification import Verification, last_verification
from ana.stores.directory.store import DirectoryStore

__all__ = ["Collectable", "Overview", "overview"]


@dataclass(frozen=True)
class Collectable:
    """What `ana gc --unreachable` would free now. Sizes in bytes."""

    scope: str
    """Which states it may take, in words."""
    states: int = 0
    """States that it would move into the trash."""
    size_bytes: int = 0
    """Their size, with that of the packs that would be moved. It is free a grace period later."""
    deleted_bytes: int = 0
    """What it would delete from the trash. It is free at once."""
    young_states: int = 0
    """States that no root keeps, and that only stay because they are too young."""
    unknown: str = ""
    """Why these figures are unknown; "" if they are known."""
    missing: list[Problem] = field(default_factory=list)
    """States that do not exist, although states that stay refer to them."""


@dataclass(frozen=True)
class Overview:
    """What `overview` returns."""

    stats: StoreStats
    """The exact counts."""
    growth: Growth
    """How fast the store grows, and when the disk will be full."""
    verification: Verification | None
    """The last verification; None if none was saved."""
    roots: list[RootInfo]
    """All roots, and what they keep."""
    collectable: Collectable
    """What `gc` would free."""


def overview(pickle_dir: StoreOrPath, *, on_progress: OnProgress = lambda _: None) -> Overview:
    """Count a store exactly, and find who keeps what, what gc would free, and when the disk will be full.

    After the one walk that counts, the headers of what each root keeps are read, and a dry run of `gc` is made.

    Args:
        pickle_dir: The store.
        on_progress: Called for each state.

    Raises:
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: The folder is not a store.
        UnsupportedFormatError: A newer version made the store.
    """
    store = open_store(pickle_dir)
    counted = stats(store, exact=True, on_progress=on_progress)
    kept = roots(store, problems=counted.problems)
    return Overview(
        counted,
        growth(store, moment_of(counted)),
        last_verification(store),
        kept,
        _collectable(store, on_progress),
    )


def _collectable(store: DirectoryStore, on_progress: OnProgress) -> Collectable:
    least = max(GRACE_SECONDS, store.config.ttl_seconds)
    what = "the store's time to live" if least > GRACE_SECONDS else "the grace period"
    found = Collectable(f"states that no root keeps, older than {units.duration(least)} ({what})")
    try:
        done = gc(store, Scope(unreachable=True), dry_run=True, on_progress=on_progress)
    except (ANAError, ValueError) as error:
        return replace(found, unknown=str(error))
    missing = [wrong for wrong in done.problems if wrong.kind == "missing"]
    if done.refused:
        reason = "states that stay, or folders, cannot be read: gc collects nothing until that is mended"
        return replace(found, unknown=reason, missing=missing)
    young = done.kept_young + done.kept_by_others
    return Collectable(found.scope, len(done.trashed), done.trashed_bytes, done.deleted_bytes, young, "", missing)
