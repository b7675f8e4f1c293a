"""The CPUs and the memory that this process may use, by its cgroups and the machine."""

import io
import math
import os
from functools import cache

__all__ = ["cpus", "memory_bytes"]

_CGROUP = "/proc/self/cgroup"
_CGROUP_ROOT = "/sys/fs/cgroup"
_UNLIMITED_BYTES = 1 << 60
"""cgroup version 1 writes "no limit" as a number close to 2^63."""


def cpus() -> int:
    """Return the CPUs that the cgroups grant, rounded up, or all of the machine's without a quota. Read once."""
    return _cpus(os.getpid())


def memory_bytes() -> int:
    """Return the bytes of memory that the cgroups grant, at most the machine's. Read once."""
    return _memory_bytes(os.getpid())


# Cached per process: a forked child can be moved to another cgroup.
@cache
def _cpus(_process: int) -> int:
    granted = [found for folder in _folders("cpu") if (found := _quota(folder)) is not None]
    return max(1, math.ceil(min(granted))) if granted else os.cpu_count() or 1


@cache
def _memory_bytes(_process: int) -> int:
    granted = [found for folder in _folders("memory") if (found := _limit_bytes(folder)) is not None]
    return min(granted, default=_machine_bytes())


def _machine_bytes() -> int:
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), _UNLIMITED_BYTES)


def _folders(controller: str) -> list[str]:
    """Return the folders of this process's cgroup and of its ancestors: each may set a limit."""
    folders = []
    for line in _lines(_CGROUP):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = f"{_CGROUP_ROOT}/{controllers}" if controllers else _CGROUP_ROOT
        parts = [part for part in path.split("/") if part and part != ".."]
        folders += ["/".join([root, *parts[:depth]]) for depth in range(len(parts), -1, -1)]
    return folders


def _quota(folder: str) -> float | None:
    """Return the CPUs that one cgroup grants, or None (version 2: `cpu.max`; version 1: `cpu.cfs_quota_us`)."""
    words = [word for line in _lines(f"{folder}/cpu.max") for word in line.split()] or [
        *_lines(f"{folder}/cpu.cfs_quota_us"),
        *_lines(f"{folder}/cpu.cfs_period_us"),
    ]
    try:
        quota, period = (float(word) for word in words)
    except ValueError:
        # "max", or nothing to read.
        return None
    return quota / period if quota > 0 and period > 0 else None


def _limit_bytes(folder: str) -> int | None:
    """Return one cgroup's memory limit, or None (version 2: `memory.max`; 1: `memory.limit_in_bytes`)."""
    lines = _lines(f"{folder}/memory.max") or _lines(f"{folder}/memory.limit_in_bytes")
    try:
        limit = int(lines[0])
    except (IndexError, ValueError):
        return None
    return limit if 0 < limit < _machine_bytes() else None


def _lines(path: str) -> list[str]:
    try:
        # At interpreter shutdown the builtin `open` is gone before the last destructors run.
        with io.open(path, encoding="utf-8") as file:  # noqa: UP020 - see above
            return file.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
