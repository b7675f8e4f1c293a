"""Which kind of filesystem a path lies on; asked of the kernel once per filesystem."""

import os

__all__ = ["filesystem", "is_local", "is_network", "type_of"]

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


def _mounted_type(device: int, path: str) -> str:
    """Find a filesystem's type in /proc/self/mountinfo (proc(5)), by device, else by the longest mount point."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    real = os.path.realpath(path)
    best, best_length = "", -1
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            lines = mounts.read().splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(" ")
        kind = fields[fields.index("-") + 1]
        if fields[2] == wanted:
            return kind
        point = fields[4].replace("\\040", " ")
        if f"{real}/".startswith(f"{point.rstrip('/')}/") and len(point) > best_length:
            best, best_length = kind, len(point)
    return best
