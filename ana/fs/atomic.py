"""Publishes files atomically and durably, without a lock, and moves damaged files out of the way.

Correct on NFS, where locks may not work, replies get lost, and errors appear at close: see `docs/reliability.md`.
"""

import errno
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from ana.errors import StoreError
from ana.fs import files, linux_calls, mounts
from ana.fs.permissions import (
    FILE_BITS,
    FREE,
    Access,
    follow,
    open_regular,
    open_special,
    refuse_special,
    settle,
    settle_folder,
)

__all__ = [
    "Policy",
    "append",
    "has_no_links",
    "make_folder",
    "make_folders",
    "publish",
    "publish_data",
    "put_out",
    "rename",
    "replace",
    "set_aside",
    "sync_file",
    "sync_folder",
    "write_all",
]

Write = Callable[[int, Sequence[memoryview | bytes]], None]
"""Writes parts, one after the other, at an offset of the new file."""

_EARLY_BYTES = 256 << 10
"""Parts of at least this size are sent to the disk or server while the next ones are produced."""
_ASIDE_NAME_BYTES = 220
_FAULTS = frozenset(
    {
        errno.EDQUOT,
        errno.EIO,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOMEM,
        errno.ENOSPC,
        errno.ENOTCONN,
        errno.ENOTDIR,
        errno.EROFS,
        errno.ESTALE,
        errno.ETIMEDOUT,
    }
)
"""Faults of a disk, a server or a path. Any other error of link may mean that hard links are not supported."""
_noted: set[str] = set()
_log = logging.getLogger("ana.publishing")


def _never() -> bool:
    return False


def _make_nothing() -> None:
    pass


class Policy(NamedTuple):
    """How a file is published."""

    durable: bool
    """Whether to wait for the disk: fsync of the file, and of its folder."""
    access: Access = FREE
    """The file's mode and group."""
    early: Callable[[], bool] = _never
    """Returns whether to send a large part to the disk at once, because close or fsync will wait for it anyway."""


def publish(
    folder: str,
    name: str,
    fill: Callable[[Write], object],
    policy: Policy,
    *,
    make_folders: Callable[[], None] = _make_nothing,
    replace: bool = False,
) -> bool:
    """Make a file appear under `name`, whole or not at all; return False if the name is taken.

    The file is written under a temporary name, fsynced if durable, checked, and linked to its name. On every
    filesystem the first writer to link wins, so no lock is needed.

    Args:
        folder: The folder's path.
        name: The file's name in the folder.
        fill: Called with a function that puts parts at an offset of the file; may call it from several threads.
        policy: Durability, mode and group.
        make_folders: Called if the folder does not exist.
        replace: Take the name from whatever has it.

    Raises:
        StoreError: The system refused. No temporary file is left.

    """
    path = f"{folder}/{name}"
    # The name is unique (host, pid, random number): this saves O_EXCL, which costs two round trips on NFSv4.
    temporary = files.temporary_name(folder)
    with files.reported(path):
        # The file may exist before we have its descriptor: a signal handler may raise in between.
        try:
            descriptor = _create(temporary, make_folders, policy.access)
            identity = _write(descriptor, temporary, fill, policy)
            fresh = rename(temporary, path, identity) if replace else _link(temporary, path, identity)
        finally:
            # Already gone after a rename. A lost reply on NFS says ENOENT although the unlink was done.
            try:  # noqa: SIM105 - suppress() runs Python code, in which a signal handler may raise
                os.unlink(temporary)
            except OSError:
                pass
        if policy.durable:
            _sync_folder(folder, identity[0])
    return fresh


def publish_data(folder: str, name: str, data: bytes, access: Access, *, replace: bool = False) -> bool:
    """Publish a small file, durably. The folder must exist. Otherwise as `publish`."""
    return publish(folder, name, lambda write: write(0, [data]), Policy(durable=True, access=access), replace=replace)


def sync_file(path: str) -> bool:
    """Sync a file that another process has just written, and its folder; return False if the file is gone."""
    with files.reported(path):
        try:
            descriptor = os.open(path, files.READ)
        except FileNotFoundError:
            return False
        try:
            os.fsync(descriptor)
        except OSError as error:
            # A read-only image (squashfs) does not support fsync, and needs none.
            if error.errno not in (errno.EINVAL, errno.EROFS):
                raise
        finally:
            os.close(descriptor)
        sync_folder(os.path.dirname(path))
    return True


def sync_folder(folder: str) -> None:
    """Sync a folder's names to the disk. Skipped on NFS, whose server syncs before it answers."""
    with files.reported(folder):
        _sync_folder(folder, os.stat(folder).st_dev)


def _sync_folder(folder: str, device: int) -> None:
    # Uses the device of a file in it: stat of a folder that just changed is a round trip on NFSv4.
    if mounts.type_of(device, folder).startswith("nfs"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network filesystems do not support fsync of folders.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(descriptor)


def make_folder(path: str, *, durable: bool, access: Access = FREE) -> None:
    """Make one folder unless it exists; its parent must exist."""
    with files.reported(path):
        try:
            os.mkdir(path, access.mode)
        except FileExistsError:
            return
        settle_folder(path, access)
        if durable:
            sync_folder(os.path.dirname(path))


def make_folders(path: str, access: Access = FREE) -> None:
    """Make a folder as `make_folder` does, and missing folders above it. Raises StoreError."""
    try:
        make_folder(path, durable=False, access=access)
    except StoreError as error:
        if error.errno != errno.ENOENT:
            raise
    else:
        return
    with files.reported(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
    make_folder(path, durable=False, access=access)


def replace(path: str, data: bytes, *, access: Access = FREE, make_folder_too: bool = False) -> None:
    """Write or replace a small file atomically: readers see the old file or the new one. Not durable.

    Raises:
        StoreError: The system refused. No temporary file is left.
        UntrustedStoreError: The name belongs to something other than a regular file.
    """
    folder = os.path.dirname(path)
    temporary = files.temporary_name(folder)
    with files.reported(path):
        try:
            refuse_special(path, files.status_of(path))
            descriptor = _create(temporary, lambda: make_folders(folder) if make_folder_too else None, access)
            policy = Policy(durable=False, access=access)
            rename(temporary, path, _write(descriptor, temporary, lambda write: write(0, [data]), policy))
        finally:
            with suppress(OSError):
                os.unlink(temporary)


def put_out(path: str, data: bytes) -> None:
    """Write data to a path that a user named, outside any store: a file, which is replaced, a pipe or a device.

    A link is followed, unless somebody may have planted it. Raises StoreError, UntrustedStoreError.
    """
    place = follow(path)
    special = open_special(place)
    if special is None:
        replace(place, data)
    else:
        with files.reported(path), special as file:
            file.write(data)


def append(path: str, line: bytes, access: Access = FREE) -> None:
    """Append a line to a file, which is created if missing. Raises StoreError, UntrustedStoreError."""
    with files.reported(path):
        descriptor = open_regular(path, access, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def set_aside(path: str, identity: tuple[int, int]) -> str | None:
    """Rename a damaged file, which frees its name; return the new path, or None if nothing was renamed.

    `identity` is the damaged file's (st_dev, st_ino). If another writer has put an intact file there in the meantime,
    that file gets its name back.
    """
    folder, name = os.path.split(path)
    # The name may already have the maximum length. Its end identifies it.
    kept = os.fsdecode(os.fsencode(name)[-_ASIDE_NAME_BYTES:])
    aside = f"{folder}/{files.BAD}{os.urandom(4).hex()}-{kept}"
    with files.reported(path):
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return None
        found = os.stat(aside, follow_symlinks=False)
        if (found.st_dev, found.st_ino) == identity:
            return aside
        if _link(aside, path, identity):
            with suppress(FileNotFoundError):
                # After a rename the file has no second name.
                os.unlink(aside)
    return None


def _create(temporary: str, make_folders: Callable[[], None], access: Access) -> int:
    mode = access.mode & FILE_BITS
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(files.STALE_TRIES):
        try:
            return os.open(temporary, flags, mode)
        except FileNotFoundError:
            # Only a new shard folder pays for its mkdir. Maintenance may remove it again while it is empty.
            make_folders()
    return os.open(temporary, flags, mode)


def _write(descriptor: int, temporary: str, fill: Callable[[Write], object], policy: Policy) -> tuple[int, int]:
    """Write everything, check, close; return the file's (st_dev, st_ino). An error in any step is raised."""
    durable, access, early = policy
    sizes: list[int] = []

    def put(offset: int, parts: Sequence[memoryview | bytes]) -> None:
        size = write_all(descriptor, offset, parts)
        # append() is atomic: threads may write at once.
        sizes.append(size)
        if size >= _EARLY_BYTES and early():
            linux_calls.start_writing_back(descriptor, offset, size)

    try:
        fill(put)
        if durable:
            # On NFS and with delayed allocation, a full disk or quota shows only here or at close.
            os.fsync(descriptor)
        found = os.fstat(descriptor)
        _check_size(temporary, found.st_size, sum(sizes))
        if access.shared or access.group != -1 or access.owner != -1:
            settle(descriptor, found, access, access.mode & FILE_BITS)
    except BaseException:
        with suppress(OSError):
            os.close(descriptor)
        raise
    os.close(descriptor)
    return found.st_dev, found.st_ino


def _check_size(path: str, found_bytes: int, written_bytes: int) -> None:
    if found_bytes != written_bytes:
        raise OSError(errno.EIO, f"{path} has {found_bytes} bytes, {written_bytes} were written")


def write_all(descriptor: int, offset: int, parts: Sequence[memoryview | bytes]) -> int:
    """Write all parts from `offset` on, repeating short writes; return the number of bytes. Raises OSError."""
    pending: Sequence[memoryview | bytes] = parts
    total = left = sum(map(len, parts))
    while left:
        done = os.pwritev(descriptor, pending[: files.IOV_MAX], offset)
        left -= done
        offset += done
        if left:
            pending = files.advance([memoryview(part) for part in pending], done)
    return total


def rename(temporary: str, path: str, identity: tuple[int, int]) -> bool:
    """Give a file, identified by (st_dev, st_ino), another name, whatever has that name. Raises OSError."""
    try:
        os.rename(temporary, path)
    except FileNotFoundError:
        # The server's reply to the first attempt may have been lost.
        if not _is_ours(path, identity):
            raise
    return True


def _link(temporary: str, path: str, identity: tuple[int, int]) -> bool:
    """Link the temporary file to its name; return False if the name was taken."""
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        return _is_ours(path, identity)
    except OSError as error:
        if not has_no_links(error):
            raise
        return _rename(temporary, path, error)
    return True


def has_no_links(error: OSError) -> bool:
    """Return whether an error of link may mean that hard links are not supported, so that rename must be used.

    Usually EPERM or EOPNOTSUPP; EXDEV from mergerfs and project quotas, EACCES from Android, EINVAL from some FUSE.
    """
    return error.errno not in _FAULTS


def _is_ours(path: str, identity: tuple[int, int]) -> bool:
    """Return whether the name is our own file: the server's reply to link may have been lost (NFSv3)."""
    try:
        found = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return (found.st_dev, found.st_ino) == identity


def _rename(temporary: str, path: str, error: OSError) -> bool:
    """Publish without hard links. The first writer wins if the filesystem supports RENAME_NOREPLACE."""
    if files.stat(path) is not None:
        return False
    if _link_is_refused_for_other_reasons(error, os.path.dirname(path)):
        raise error
    try:
        linux_calls.rename_to_new(temporary, path)
    except FileExistsError:
        return False
    kind = mounts.filesystem(os.path.dirname(path))
    if kind not in _noted:
        _noted.add(kind)
        _log.warning("no hard links on %s (%s): publishing by rename, %s", path, kind or "unknown", error.strerror)
    return True


def _link_is_refused_for_other_reasons(error: OSError, folder: str) -> bool:
    """Return whether EPERM means an immutable or append-only folder, where rename would fail, too."""
    return error.errno == errno.EPERM and not os.access(folder, os.W_OK)
