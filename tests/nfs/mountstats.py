"""Counts an NFS mount's round trips: the per-operation counters in /proc/self/mountstats.

A round trip is one call to the server and its reply (an NFSv4 compound is one). The figure doesn't depend on
how busy the machine is, so a test can hold it against a budget.
"""

import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

MOUNTSTATS = Path("/proc/self/mountstats")
SETTLE_SECONDS = 0.03
LONGEST_SETTLE_SECONDS = 5.0


def filesystem(mount: str | Path) -> str:
    """Return a mount's type as the kernel names it: `nfs` is NFSv3, `nfs4` any NFSv4."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        return next(line.split()[2] for line in mounts if line.split()[1] == str(mount))


def mount_point(path: Path) -> Path:
    """Return the mount point above a path."""
    return next(parent for parent in (path, *path.parents) if parent.is_mount())


def read_counters(mount: str | Path) -> Counter[str]:
    """How often each operation was sent on a mount since it was mounted. ValueError if it is no NFS mount."""
    counters: Counter[str] = Counter()
    inside = operations = False
    for line in MOUNTSTATS.read_text().splitlines():
        words = line.split()
        if words[:1] == ["device"]:
            inside, operations = words[4] == str(mount) and words[7].startswith("nfs"), False
        elif inside and words[:2] == ["per-op", "statistics"]:
            operations = True
        elif inside and operations and len(words) > 1 and words[0].endswith(":"):
            counters[words[0][:-1]] = int(words[1])
    if not counters:
        message = f"{mount} is not mounted by NFS"
        raise ValueError(message)
    return counters


def settled_counters(mount: str | Path) -> Counter[str]:
    """Read the counters once they rest: close and unlink go on for a moment after the call has returned."""
    deadline = time.monotonic() + LONGEST_SETTLE_SECONDS
    before = read_counters(mount)
    while time.monotonic() < deadline:
        time.sleep(SETTLE_SECONDS)
        after = read_counters(mount)
        if after == before:
            break
        before = after
    return before


class RoundTrips:
    """Counts the round trips of a block: `with RoundTrips(mount) as trips: ...`, then `trips.total`."""

    def __init__(self, mount: str | Path) -> None:
        self._mount = mount
        self._before: Counter[str] = Counter()
        self.operations: Counter[str] = Counter()

    def __enter__(self) -> Self:
        """Start to count."""
        self._before = settled_counters(self._mount)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop, and keep what was sent."""
        self.operations = settled_counters(self._mount) - self._before

    @property
    def total(self) -> int:
        """How many round trips the block cost."""
        return self.operations.total()

    def __str__(self) -> str:
        """Name the operations, as in `6: ACCESS CLOSE LINK OPEN REMOVE WRITE`."""
        names = [name if count == 1 else f"{count}x{name}" for name, count in sorted(self.operations.items())]
        return f"{self.total}: {' '.join(names)}"
