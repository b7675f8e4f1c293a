"""Removes what killed writers left behind."""

from contextlib import nullcontext
from dataclasses import dataclass, field

from ana.errors import ANAError
from ana.maintenance.common import AHEAD_SECONDS, LOCK_SECONDS, StoreOrPath, locked, now, open_store
from ana.stores.directory.strays import Stray, remove_temporary, strays
from ana.stores.directory.tree import Tree

__all__ = ["LEFTOVER_SECONDS", "Swept", "sweep"]

LEFTOVER_SECONDS = 48 * 3600.0
"""No write takes longer. An older temporary file was left by a killed writer."""


@dataclass(frozen=True)
class Swept:
    """The result of a sweep. Paths are relative to the store."""

    removed: list[str] = field(default_factory=list)
    """Temporary files that were removed, or would be in a dry run."""
    kept: list[str] = field(default_factory=list)
    """Temporary files that may be in use."""
    skipped: list[str] = field(default_factory=list)
    """Files and folders that are not ANA's, symlinks, `.nfs...` and `.bad-...`."""
    failed: dict[str, str] = field(default_factory=dict)
    """Temporary files that could not be removed and folders that could not be listed, with the reason."""


def sweep(
    pickle_dir: StoreOrPath,
    *,
    older_than_seconds: float = LEFTOVER_SECONDS,
    dry_run: bool = False,
    lock_seconds: float = LOCK_SECONDS,
) -> Swept:
    """Remove temporary files that killed writers left behind. Safe while jobs and other sweeps run.

    Args:
        pickle_dir: The store.
        older_than_seconds: How old a file has to be, by the file server's clock.
        dry_run: Only report what would be removed.
        lock_seconds: How long to wait for the maintenance lock.

    Returns:
        What was removed, and what was not.

    Raises:
        StoreError: The store does not exist, or the system refused.
        UntrustedStoreError: The folder is not a store.
        UnsupportedFormatError: A newer version made the store.
        LockTimeoutError: Other maintenance holds the lock.
        ValueError: The age is negative.
    """
    if older_than_seconds < 0:
        msg = f"older_than_seconds ({older_than_seconds}) must not be negative"
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
                found.failed[stray.name] = f"its modification time is ahead of the server's clock: touch {stray.name}"
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
