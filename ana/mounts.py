"""Which kind of filesystem a path lies on; asked of the kernel once per filesystem."""

import os
from typing import NamedTuple

__all__ = ["Mount", "filesystem", "is_local", "is_network", "mount_of", "type_of"]

_NETWORK = frozenset(
    [
        "nfs",
        "nfs4",
        "lustre",
        "gpfs",
        "beegfs",
        "cifs",
        "smb3",
        "smbfs",
        "ceph",
        "9p",
        "afs",
        "panfs",
        "pvfs2",
        "orangefs",
        "wekafs",
        "glusterfs",
    ]
)
_LOCAL = frozenset(
    [
        "ext2",
        "ext3",
        "ext4",
        "xfs",
        "btrfs",
        "zfs",
        "f2fs",
        "jfs",
        "reiserfs",
        "bcachefs",
        "tmpfs",
        "ramfs",
        "overlay",
    ]
)


class Mount(NamedTuple):
    """Where a filesystem is mounted, its type as the kernel names it, what is mounted, and with which options."""

    point: str
    kind: str
    source: str
    options: str


_types: dict[int, str] = {}


def is_network(path: str) -> bool:
    """Say whether `path` lies on a network filesystem, where another host's file may show up late."""
    kind = filesystem(path)
    return kind in _NETWORK or kind.startswith(("fuse.", "nfs"))


def is_local(path: str) -> bool:
    """Say whether `path` lies on a filesystem that is known to be this host's own disk or memory."""
    return filesystem(path) in _LOCAL


def filesystem(path: str) -> str:
    """Return the type of the filesystem of an existing `path` as the kernel names it ("ext4", "nfs4"), or ""."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return ""
    return type_of(device, path)


def type_of(device: int, path: str) -> str:
    """Return the same for a path whose device (st_dev) is known already."""
    found = _types.get(device)
    if found is None:
        found = _types[device] = _mounted_type(device, path)
    return found


def mount_of(path: str) -> Mount | None:
    """Return the mount that an existing `path` lies on, from /proc/self/mountinfo (proc(5)); None if there is none."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return None
    return _find(device, path)


def _mounted_type(device: int, path: str) -> str:
    found = _find(device, path)
    return "" if found is None else found.kind


def _find(device: int, path: str) -> Mount | None:
    """Find a filesystem by its device, the innermost mount that `path` lies below first; else by the path alone."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    best: tuple[tuple[bool, int], Mount] | None = None
    for line in _lines():
        fields = line.split(" ")
        at = fields.index("-")
        mount = Mount(_plain(fields[4]), fields[at + 1], _plain(fields[at + 2]), f"{fields[5]},{fields[at + 3]}")
        below = f"{real}/".startswith(f"{mount.point.rstrip('/')}/")
        same = fields[2] == wanted
        if not below and not same:
            continue
        rank = same, len(mount.point) if below else -1
        if best is None or rank >= best[0]:
            best = rank, mount
    return None if best is None else best[1]


def _plain(text: str) -> str:
    return text.replace("\\040", " ")


def _lines() -> list[str]:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            return mounts.read().splitlines()
    except OSError:
        return []
