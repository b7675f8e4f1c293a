"""Maintenance of a store, with typed results. Nothing is unpickled. `docs/operating.md` says when to run what.

Every function is safe while jobs run, and can be interrupted at any time and run again. Functions that change a store
hold its maintenance lock. The lock saves work; correctness does not depend on it. Each function takes a store's folder
or an open store (`open_store`).
"""

from ana.format.address import MAX_KEY_CHARACTERS
from ana.maintenance.collected import Collected, Scope
from ana.maintenance.collecting import GRACE_SECONDS, gc
from ana.maintenance.common import (
    LOCK_SECONDS,
    OnProgress,
    Problem,
    Progress,
    StoreOrPath,
    Work,
    date,
    open_store,
    write_file,
)
from ana.maintenance.comparing import Difference, diff
from ana.maintenance.copying import Copied, copy_states
from ana.maintenance.doctor import Finding, Information, info
from ana.maintenance.expiring import TIMES, Expiring, Expiry, Purge, expiring
from ana.maintenance.export import Exported, export_states
from ana.maintenance.growth import Growth, growth
from ana.maintenance.import_ import Imported, import_file, import_old
from ana.maintenance.keys import Initialised, Rotated, init, new_key, rotate_key
from ana.maintenance.listing import Child, Shown, StateInfo, cat, ls, show, tree
from ana.maintenance.names import AmbiguousPrefixError, beginning, find, states_of
from ana.maintenance.overview import Collectable, Overview, overview
from ana.maintenance.packing import Packed, Unpacked, pack_states, unpack_states
from ana.maintenance.remove import InUseError, Removed, remove
from ana.maintenance.report import report
from ana.maintenance.roots import Extended, Kept, RootInfo, extend, forget, keep, root_names, roots
from ana.maintenance.staging import StagedHere, stage_in_cache, stage_states
from ana.maintenance.stats import Group, Large, Moment, StoreStats, StoreSummary, history, stats
from ana.maintenance.sweep import LEFTOVER_SECONDS, Swept, sweep
from ana.maintenance.verification import Verification, last_verification
from ana.maintenance.verify import Verified, verify
from ana.maintenance.why import Reason, Why, why
from ana.stores.directory.store import DirectoryStore

__all__ = [
    "GRACE_SECONDS",
    "LEFTOVER_SECONDS",
    "LOCK_SECONDS",
    "MAX_KEY_CHARACTERS",
    "TIMES",
    "AmbiguousPrefixError",
    "Child",
    "Collectable",
    "Collected",
    "Copied",
    "Difference",
    "DirectoryStore",
    "Expiring",
    "Expiry",
    "Exported",
    "Extended",
    "Finding",
    "Group",
    "Growth",
    "Imported",
    "InUseError",
    "Information",
    "Initialised",
    "Kept",
    "Large",
    "Moment",
    "OnProgress",
    "Overview",
    "Packed",
    "Problem",
    "Progress",
    "Purge",
    "Reason",
    "Removed",
    "RootInfo",
    "Rotated",
    "Scope",
    "Shown",
    "StagedHere",
    "StateInfo",
    "StoreOrPath",
    "StoreStats",
    "StoreSummary",
    "Swept",
    "Unpacked",
    "Verification",
    "Verified",
    "Why",
    "Work",
    "beginning",
    "cat",
    "copy_states",
    "date",
    "diff",
    "expiring",
    "export_states",
    "extend",
    "find",
    "forget",
    "gc",
    "growth",
    "history",
    "import_file",
    "import_old",
    "info",
    "init",
    "keep",
    "last_verification",
    "ls",
    "new_key",
    "open_store",
    "overview",
    "pack_states",
    "remove",
    "report",
    "root_names",
    "roots",
    "rotate_key",
    "show",
    "stage_in_cache",
    "stage_states",
    "states_of",
    "stats",
    "sweep",
    "tree",
    "unpack_states",
    "verify",
    "why",
    "write_file",
]
