"""Permissions of what is created in a store: the mode, group and owner of the store's folder."""

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
"""The bits of a mode that files get."""
_LINKS = 40
"""The most links to follow, as in the kernel."""


class Access(NamedTuple):
    """The mode, group and owner of new folders and files; files get no right to execute."""

    mode: int = 0o777
    group: int = -1
    """-1: the system's default."""
    owner: int = -1
    shared: bool = False
    """Whether the group may write, whatever the umask."""

    @classmethod
    def of(cls, mode: int, found: os.stat_result) -> "Access":
        """Return the access for new files in a store with this folder and this (trusted) mode."""
        # Without the setgid bit the folder does not pass its group on, so each file and folder is given it.
        by_hand = mode & stat.S_IRWXG and not mode & stat.S_ISGID
        # What the root user creates in a user's store must belong to that user, who could not read it otherwise.
        by_root = os.geteuid() == 0 and found.st_uid != 0
        return cls(
            mode,
            found.st_gid if by_hand or by_root else -1,
            found.st_uid if by_root else -1,
            bool(mode & stat.S_IWGRP),
        )


FREE = Access()
"""The umask's mode, for files outside any store."""


def settle(descriptor: int, found: os.stat_result, access: Access, mode: int) -> None:
    """Give a newly created file its owner, group and mode. Another user's file is left unchanged."""
    if access.group not in (-1, found.st_gid) or access.owner not in (-1, found.st_uid):
        # Fails for a group that this user is not in.
        with suppress(PermissionError):
            os.chown(descriptor, access.owner, access.group)
    if access.shared and mode & ~found.st_mode:
        # Fails if the mount sets the modes: readers check the actual mode.
        with suppress(PermissionError):
            os.chmod(descriptor, mode)


def settle_folder(path: str, access: Access) -> None:
    """Settle a newly created folder. Raises OSError."""
    if access.shared or access.group != -1 or access.owner != -1:
        descriptor = os.open(path, files.READ_FOLDER)
        try:
            settle(descriptor, os.fstat(descriptor), access, access.mode)
        finally:
            os.close(descriptor)


def adjust(path: str, found: os.stat_result, access: Access) -> os.stat_result:
    """Correct the mode, group and owner of a folder that belongs to this user; return its new status.

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
    """Open a file in a store for writing, creating it if missing; return its descriptor.

    Refuses links, pipes and devices: they block, or write into something else. Raises OSError, UntrustedStoreError.
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
    """Refuse to write to or replace anything but a regular file. Raises UntrustedStoreError."""
    if found is not None and not stat.S_ISREG(found.st_mode):
        raise UntrustedStoreError(
            path, "it is not a regular file, so nothing is written to it: find out who put it there"
        )


def follow(path: str) -> str:
    """Resolve a path that a user named for output, outside any store.

    Raises:
        UntrustedStoreError: A link, pipe or device that somebody may have planted: it is in a folder that everyone may
            write to, and belongs neither to this user nor to the folder's owner.
        StoreError: The system refused.
    """
    for _ in range(_LINKS):
        with files.reported(path):
            path = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
        found = None if _own_descriptor(path) is not None else files.status_of(path)
        if found is None or stat.S_ISREG(found.st_mode):
            return path
        folder = files.status_of(os.path.dirname(path))
        if folder is not None and folder.st_mode & stat.S_IWOTH and found.st_uid not in (os.geteuid(), folder.st_uid):
            reason = f"it belongs to user {found.st_uid}, in a folder that everyone may write to: give another path"
            raise UntrustedStoreError(path, reason)
        if not stat.S_ISLNK(found.st_mode):
            return path
        with files.reported(path):
            path = os.path.join(os.path.dirname(path), os.readlink(path))
    raise StoreError(path, errno.ELOOP, "give another path")


def open_special(path: str) -> BinaryIO | None:
    """Open a pipe, a device or one of this process's own descriptors for writing; None for a regular or missing file.

    `path` comes from `follow`. Blocks until a pipe has a reader, as `>` does. Raises StoreError.
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
    """Return the descriptor that a path such as /dev/stdout names in this process, or None."""
    folder, _, name = path.rpartition("/")
    own = os.path.realpath("/proc/self/fd")
    return int(name) if name.isdigit() and folder == own else None
