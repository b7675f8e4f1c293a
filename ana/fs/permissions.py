"""Who may read and write what is made in a store: the mode, the group and the owner that the store's folder has."""

import errno
import os
import stat
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from ana.errors import StoreError, UntrustedStoreError
from ana.fs import files

__all__ = [
    "FILE_BITS",
    "FREE",
    "Access",
    "adjust",
    "follow",
    "open_regular",
    "open_special",
    "refuse_special",
    "settle",
    "settle_folder",
]

FILE_BITS = 0o666
"""What files get of a mode."""
_LINKS = 40
"""So many links are followed, as by the kernel."""


class Access(NamedTuple):
    """What folders that are made get, and files, those less the right to execute."""

    mode: int = 0o777
    group: int = -1
    """-1: the one that the system gives."""
    owner: int = -1
    shared: bool = False
    """The group may write: what the umask takes away is given back to it."""

    @classmethod
    def of(cls, mode: int, found: os.stat_result) -> "Access":
        """Return what is made in a store whose folder is this one gets, with a mode that may be believed."""
        # Where the folder does not hand its group down by itself, each file and folder is given it.
        by_hand = mode & stat.S_IRWXG and not mode & stat.S_ISGID
        # What root makes in a user's store is that user's, who could not read it else.
        by_root = os.geteuid() == 0 and found.st_uid != 0
        return cls(
            mode,
            found.st_gid if by_hand or by_root else -1,
            found.st_uid if by_root else -1,
            bool(mode & stat.S_IWGRP),
        )


FREE = Access()
"""As the umask has it: for what lies in no store."""


def settle(descriptor: int, found: os.stat_result, access: Access, mode: int) -> None:
    """Give what was just made the owner, group and mode that it should have. What is somebody else's stays as it is."""
    if access.group not in (-1, found.st_gid) or access.owner not in (-1, found.st_uid):
        # Only to a group that one is in.
        with suppress(PermissionError):
            os.chown(descriptor, access.owner, access.group)
    if access.shared and mode & ~found.st_mode:
        # Where modes are the mount's they cannot be changed: who reads looks at what they are.
        with suppress(PermissionError):
            os.chmod(descriptor, mode)


def settle_folder(path: str, access: Access) -> None:
    """Settle a folder that was just made. Raises OSError."""
    if access.shared or access.group != -1 or access.owner != -1:
        descriptor = os.open(path, files.READ_FOLDER)
        try:
            settle(descriptor, os.fstat(descriptor), access, access.mode)
        finally:
            os.close(descriptor)


def adjust(path: str, found: os.stat_result, access: Access) -> os.stat_result:
    """Take away what a folder of this user's grants beyond what it should, and settle it; return what it is then.

    Raises StoreError.
    """
    mode = stat.S_IMODE(found.st_mode)
    too_little = access.shared and access.mode & ~mode
    another = access.group not in (-1, found.st_gid) or access.owner not in (-1, found.st_uid)
    right = not (mode & ~access.mode or too_little or another)
    if right or found.st_uid != os.geteuid() or not stat.S_ISDIR(found.st_mode):
        return found
    with files.reported(path):
        if mode & ~access.mode:
            with suppress(PermissionError):
                os.chmod(path, mode & access.mode)
        settle_folder(path, access)
        return os.stat(path, follow_symlinks=False)


def open_regular(path: str, access: Access = FREE, flags: int = os.O_WRONLY) -> int:
    """Open a file in a store for writing, made where it is missing; return its descriptor.

    Never through a link, and never a pipe or a device: those wait, or write into something else. Raises OSError,
    UntrustedStoreError.
    """
    refuse_special(path, files.status_of(path))
    descriptor = os.open(
        path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, access.mode & FILE_BITS
    )
    try:
        found = os.fstat(descriptor)
        refuse_special(path, found)
        settle(descriptor, found, access, access.mode & FILE_BITS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def refuse_special(path: str, found: os.stat_result | None) -> None:
    """Refuse to write into, or to replace, what is there and no regular file. Raises UntrustedStoreError."""
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise UntrustedStoreError(path, "it is not a regular file, so nothing is written to it: look who put it there")


def follow(path: str) -> str:
    """Return where a path leads that a user has named for output, outside of any store.

    Raises UntrustedStoreError for a link, a pipe or a device that somebody may have planted: in a folder that everybody
    may write to, and neither this user's nor the folder's owner's. StoreError.
    """
    for _ in range(_LINKS):
        with files.reported(path):
            path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        found = None if _own_descriptor(path) is not None else files.status_of(path)
        if found is None or stat.S_ISREG(found.st_mode):
            return path
        folder = files.status_of(os.path.dirname(path))
        if folder is not None and folder.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), folder.st_uid):
            reason = f"it is user {found.st_uid}'s, in a folder that everybody may write to: give another path"
            raise UntrustedStoreError(path, reason)
        if not stat.S_ISLNK(found.st_mode):
            return path
        with files.reported(path):
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise StoreError(path, errno.ELOOP, "give another path")


def open_special(path: str) -> BinaryIO | None:
    """Open a pipe, a device or one of this process's own descriptors for writing; None where a file is to be made.

    `path`: as from `follow`. Waits for a pipe's reader, as `>` does. Raises StoreError.
    """
    number = _own_descriptor(path)
    with files.reported(path):
        if number is not None:
            return open(os.dup(number), "wb")
        found = files.status_of(path)
        if found is None or stat.S_ISREG(found.st_mode):
            return None
        return open(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC), "wb")


def _own_descriptor(path: str) -> int | None:
    """Return the number where a path names one of this process's own descriptors, as /dev/stdout does."""
    folder, _, name = path.rpartition("/")
    own = os.path.realpath("/proc/self/fd")
    return int(name) if name.isdigit() and folder == own else None
