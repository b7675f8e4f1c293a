"""The type of the filesystem that a path is on, read from the kernel once per filesystem."""

import os
import re
from typing import NamedTuple

__all__ = [
    "Mount",
    "filesystem",
    "has_fixed_modes",
    "is_known_local",
    "is_local",
    "is_network",
    "mount_of",
    "type_of",
    "waits_at_close",
]

_LOCAL = frozenset(
    [
        "bcachefs",
        "btrfs",
        "erofs",
        "exfat",
        "ext2",
        "ext3",
        "ext4",
        "f2fs",
        "iso9660",
        "jfs",
        "ntfs3",
        "overlay",
        "ramfs",
        "reiserfs",
        "rootfs",
        "squashfs",
        "tmpfs",
        "vfat",
        "xfs",
        "zfs",
    ]
)
"""This host's own disks, images and memory. Any other type may depend on a server, or on a daemon (FUSE)."""
_NETWORK = frozenset(
    [
        "9p",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "glusterfs",
        "gpfs",
        "lustre",
        "nfs",
        "nfs4",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb3",
        "smbfs",
        "wekafs",
    ]
)
"""Known network filesystems."""
_MODELESS = frozenset(
    [
        "9p",
        "cifs",
        "drvfs",
        "exfat",
        "fuse.exfat",
        "fuse.gcsfuse",
        "fuse.ntfs",
        "fuse.ntfs-3g",
        "fuse.rclone",
        "fuseblk",
        "msdos",
        "ntfs",
        "ntfs3",
        "prl_fs",
        "smb3",
        "smbfs",
        "vboxsf",
        "vfat",
    ]
)
"""Modes and owners are usually set by mount options, and chmod has no effect."""
_ESCAPE = r"\\([0-7]{3})"
_UPPER = r",upperdir=([^,]*)"


class Mount(NamedTuple):
    """A mount: its mount point, the kernel's name of its type, its source and its options."""

    point: str
    kind: str
    source: str
    options: str


_types: dict[int, str] = {}


def is_network(path: str, device: int | None = None) -> bool:
    """Return whether another host's files may appear late at `path`: true unless it is known to be local.

    If the path's `device` (st_dev) is known, the path is not looked at, which may be a round trip.
    """
    return (filesystem(path) if device is None else type_of(device, path)) not in _LOCAL


def waits_at_close(path: str) -> bool:
    """Return whether `path` is on a known network filesystem, where close writes the file."""
    return filesystem(path) in _NETWORK


def has_fixed_modes(kind: str) -> bool:
    """Return whether modes on this type of filesystem are usually set by the mount, so that chmod has no effect."""
    return kind in _MODELESS


def is_local(path: str) -> bool:
    """Return whether `path` is known to be on this host's own disk or memory, so that mappings stay valid.

    Read from the kernel each time. An overlay counts as the filesystem of its upper folder, if that is visible here.
    """
    mount = mount_of(path)
    if mount is not None and mount.kind == "overlay":
        found = re.search(_UPPER, mount.options)
        mount = (mount_of(_plain(found[1])) if found else None) or mount
    return mount is not None and mount.kind in _LOCAL


def is_known_local(kind: str) -> bool:
    """Return whether this type of filesystem is this host's own, so that no server keeps its times."""
    return kind in _LOCAL


def filesystem(path: str) -> str:
    """Return the kernel's name for the filesystem type of an existing `path` ("ext4", "nfs4"), or ""."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return ""
    return type_of(device, path)


def type_of(device: int, path: str) -> str:
    """Return the same for a path whose device (st_dev) is known."""
    found = _types.get(device)
    if found is None:
        found = _types[device] = _mounted_type(device, path)
    return found


def mount_of(path: str) -> Mount | None:
    """Return the mount of an existing `path` from /proc/self/mountinfo (proc(5)), or None."""
    try:
        device = os.stat(path).st_dev
    except OSError:
        return None
    return _find(device, path)


def _mounted_type(device: int, path: str) -> str:
    kinds = {_kind(line) for line in _lines() if line.split(" ")[2] == _number(device)}
    if len(kinds) == 1:
        return kinds.pop()
    found = _find(device, path)
    return "" if found is None else found.kind


def _number(device: int) -> str:
    return f"{os.major(device)}:{os.minor(device)}"


def _kind(line: str) -> str:
    return _plain(line.partition(" - ")[2].split(" ")[0])


def _find(device: int, path: str) -> Mount | None:
    """Find a mount by device, preferring the innermost mount above `path`; otherwise by path alone."""
    wanted = _number(device)
    real = os.path.realpath(path)
    best: tuple[tuple[bool, int], Mount] | None = None
    for line in _lines():
        fields = line.split(" ")
        at = fields.index("-")
        point, kind, source = (_plain(field) for field in (fields[4], fields[at + 1], fields[at + 2]))
        mount = Mount(point, kind, source, f"{fields[5]},{fields[at + 3]}")
        below = f"{real}/".startswith(f"{mount.point.rstrip('/')}/")
        same = fields[2] == wanted
        if not below and not same:
            continue
        rank = same, len(mount.point) if below else -1
        if best is None or rank >= best[0]:
            best = rank, mount
    return None if best is None else best[1]


def _plain(field: str) -> str:
    """Decode the kernel's octal escapes: blank, tab, newline, backslash and #."""
    return re.sub(_ESCAPE, lambda found: chr(int(found[1], 8)), field)


def _lines() -> list[str]:
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:
            # Not splitlines(): a name may contain a carriage return.
            return [line for line in os.fsdecode(mounts.read()).split("\n") if " - " in line]
    except OSError:
        return []
