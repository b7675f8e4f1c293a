"""What writers left behind when they were killed."""

from contextlib import nullcontext
from dataclasses import dataclass, field

from ana.errors import ANAError
from ana.maintenance.common import AHEAD_SECONDS, LOCK_SECONDS, StoreOrPath, locked, now, open_store
from ana.stores.directory.strays import Stray, remove_temporary, strays
from ana.stores.directory.tree import Tree

__all__ = ["LEFTOVER_SECONDS", "Swept", "sweep"]

LEFTOVER_SECONDS = 48 * 3600.0
"""No writer takes longer: what is older was left by one that died."""


@dataclass(frozen=True)
class Swept:
    """What a sweep found: paths, each relative to the store."""

    removed: list[str] = field(default_factory=list)
    """Temporary files that were too old to be in use."""
    kept: list[str] = field(default_factory=list)
    """Temporary files that may be in use."""
    skipped: list[str] = field(default_factory=list)
    """What is no business of a store: foreign files and folders, symlinks, `.nfs...`, `.bad-...`."""
    failed: dict[str, str] = field(default_factory=dict)
    """Temporary files that could not be removed, and folders that could not be listed, and why."""


def sweep(
    pickle_dir: StoreOrPath,
    *,
    older_than_seconds: float = LEFTOVER_SECONDS,
    dry_run: bool = False,
    lock_seconds: float = LOCK_SECONDS,
) -> Swept:
    """Remove the temporary files of writers that were killed; `dry_run` only says which.

    Their age is taken by the clock of the filesystem's server. Nothing else is touched; what is not the store's is
    reported. Safe beside running jobs and other sweeps. Raises StoreError, UntrustedStoreError,
    UnsupportedFormatError where there is no store, LockTimeoutError where other maintenance runs for longer than
    `lock_seconds`, and ValueError for a negative age.
    """
    if older_than_seconds < 0:
        msg = f"older_than_seconds ({older_than_seconds}) is not negative"
        raise ValueError(msg)
    store = open_store(pickle_dir)
    found = Swept()
    with nullcontext() if dry_run else locked(store, lock_seconds):
        right_now = now(store, writable=not dry_run)
        unreadable: dict[str, ANAError] = {}
        for stray in sorted(strays(store.tree, right_now, unreadable), key=lambda stray: stray.name):
            if not stray.temporary:
                found.skipped.append(stray.name)
            elif stray.age_seconds < -AHEAD_SECONDS:
                found.failed[stray.name] = f"its time of change lies ahead of the server's clock: touch {stray.name}"
            elif stray.age_seconds < older_than_seconds:
                found.kept.append(stray.name)
            else:
                _remove(store.tree, stray, found, dry_run=dry_run)
        found.failed.update({name: str(error) for name, error in unreadable.items()})
    return found


def _remove(tree: Tree, stray: Stray, found: Swept, *, dry_run: bool) -> None:
    try:
        if not dry_run:
            remove_temporary(tree, stray.name)
    except ANAError as error:
        found.failed[stray.name] = str(error)
    else:
        found.removed.append(stray.name)
