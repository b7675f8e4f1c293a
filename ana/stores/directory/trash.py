"""Take files out of a store: move them to the trash first, delete them much later; a reader brings them back.

The order of the steps makes this safe beside writers, readers, kills and other collections, with or without locks:
`docs/collecting.md` has the argument. A file in the trash stays in its folder, under a name derived from its own; its
time of last change says when it was moved there.
"""

import errno
import os
import stat
from contextlib import suppress
from typing import NamedTuple

from ana.fs import atomic, files

__all__ = [
    "bring_back",
    "delete",
    "discard",
    "forget",
    "hide",
    "is_back",
    "recover",
    "remove_empty_folder",
    "trash_path",
    "unhide",
]

MOVED, DELETED, GONE, BUSY, YOUNG, BACK = "moved", "deleted", "gone", "busy", "young", "back"


class _Seen(NamedTuple):
    """What the server, not a client's cache, says about a file."""

    modified: float
    identity: tuple[int, int]
    links: int
    is_file: bool


def trash_path(path: str) -> str:
    """Return the name that a file has in the trash."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{files.TRASH}{name}"


def discard(path: str, before: float) -> str:
    """Move a file last changed before `before` (s since 1970) into the trash, and set its time of change to now.

    Returns "moved"; "gone" if the file is missing; "young" if it was written or brought back meanwhile; "busy" if the
    trash holds an earlier file of this name, which is not overwritten. If it raises
    StoreError, nothing was moved.
    """
    trash = trash_path(path)
    with files.reported(path):
        if files.stat(trash) is not None:
            return BUSY
        judged = _ask_server(path)
        if judged is None:
            return GONE
        if judged.modified >= before or not judged.is_file:
            return YOUNG
        # Before the move: a kill in between leaves a state that stays longer, not a state that is deleted at once.
        os.utime(path, follow_symlinks=False)
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return GONE
        moved = _ask_server(trash)
        if moved is not None and moved.identity != judged.identity:
            # Another file was published under this name since we looked.
            bring_back(path)
            return YOUNG
    return MOVED


def bring_back(path: str) -> bool:
    """Restore the name of a file in the trash, and make the file young; return False if it is not in the trash.

    If another file has the name by now, that file is left alone, and the result is True. Raises StoreError if this
    process may not write there.
    """
    trash = trash_path(path)
    with files.reported(path):
        try:
            os.link(trash, path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except FileExistsError:
            return True
        except OSError as error:
            if not atomic.has_no_links(error):
                raise
            return _bring_back_by_rename(trash, path)
        # A later collection removes the name in the trash: by the time we did, it might belong to another file.
        _touch(path)
    return True


def forget(path: str, identity: tuple[int, int]) -> None:
    """Remove the name in the trash of a file that was set aside as damaged, so that no reader brings it back."""
    trash = trash_path(path)
    with files.reported(trash):
        seen = _ask_server(trash)
        if seen is not None and seen.identity == identity:
            os.unlink(trash)


def delete(path: str, before: float) -> str:
    """Delete the file in the trash for `path` if it was moved there before `before` (s since 1970).

    Returns "deleted"; "back" if another process brought it back (or deleted it) first: then spare what it refers to;
    "young" if it was moved there again meanwhile. Raises StoreError.
    """
    trash = trash_path(path)
    with files.reported(trash):
        seen = _ask_server(trash)
        if seen is None:
            return BACK
        if seen.modified >= before:
            return YOUNG
        doomed = _doomed_path(path)
        try:
            # From here on, no reader finds it; any reader that brings it back has done so by now.
            os.rename(trash, doomed)
        except FileNotFoundError:
            return BACK
        return _finish(path, doomed, before)


def hide(path: str, before: float) -> str | None:
    """Rename a file in the trash so that nobody can bring it back, as `delete` does first; return its new path.

    Returns None if it was brought back, or moved to the trash again, meanwhile. Then, or if another file has to stay,
    `unhide` what was hidden; otherwise `recover` deletes it. Raises StoreError.
    """
    with files.reported(path):
        trash = trash_path(path)
        seen = _ask_server(trash)
        if seen is None or seen.modified >= before or files.stat(path) is not None:
            return None
        doomed = _doomed_path(path)
        try:
            os.rename(trash, doomed)
        except FileNotFoundError:
            return None
    return doomed


def is_back(path: str, doomed: str) -> bool:
    """Return whether a hidden file was brought back before it was hidden. Raises StoreError."""
    with files.reported(doomed):
        files.revalidate([os.path.dirname(path)])
        seen = _ask_server(doomed)
        return seen is None or files.stat(path) is not None or (seen.links > 1 and _has_another_name(path))


def unhide(path: str, doomed: str) -> None:
    """Put a hidden file back into the trash, unless it has its own name again. Raises StoreError."""
    with files.reported(doomed), suppress(FileNotFoundError):
        if files.stat(path) is None:
            _put_back_into_trash(path, doomed)
        else:
            os.unlink(doomed)


def recover(path: str, doomed: str, before: float) -> str:
    """Finish a killed collection's deletion of `doomed`, which was once `path`. Returns as `delete` does."""
    with files.reported(doomed):
        return _finish(path, doomed, before)


def remove_empty_folder(path: str, before: float) -> bool:
    """Remove a folder if it is empty and was last changed before `before`; return whether it was removed.

    The time protects a folder that was just created for a writer. Raises StoreError.
    """
    with files.reported(path):
        try:
            if os.stat(path, follow_symlinks=False).st_mtime >= before:
                return False
            os.rmdir(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY}:
                return False
            raise
    return True


def _doomed_path(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return f"{folder}/{files.GONE}{os.urandom(4).hex()}-{name}"


def _finish(path: str, doomed: str, before: float) -> str:
    """Delete a file that no reader finds any more, unless it was just brought back or moved to the trash again."""
    folder = os.path.dirname(path)
    files.revalidate([folder])
    seen = _ask_server(doomed)
    if seen is None:
        # Another collection took it for the remains of a killed collection.
        return BACK
    if files.stat(path) is not None or (seen.links > 1 and _has_another_name(path)):
        os.unlink(doomed)
        return BACK
    if seen.modified >= before:
        _put_back_into_trash(path, doomed)
        return YOUNG
    with suppress(FileNotFoundError):
        os.unlink(doomed)
    return DELETED


def _has_another_name(path: str) -> bool:
    """Return whether a hard-linked file still has one of our names; a backup's names elsewhere do not count.

    Lists the folder, because an NFS client may keep answering that a name is missing.
    """
    ours = {os.path.basename(path), os.path.basename(trash_path(path))}
    return not ours.isdisjoint(os.listdir(os.path.dirname(path)))


def _put_back_into_trash(path: str, doomed: str) -> None:
    trash = trash_path(path)
    try:
        os.link(doomed, trash, follow_symlinks=False)
    except FileExistsError:
        # The trash already holds another copy of this state, just as young.
        pass
    except OSError as error:
        if not atomic.has_no_links(error):
            raise
        os.rename(doomed, trash)
        return
    os.unlink(doomed)


def _bring_back_by_rename(trash: str, path: str) -> bool:
    """Bring back by rename, for filesystems without hard links."""
    if files.stat(path) is not None:
        return True
    try:
        os.rename(trash, path)
    except FileNotFoundError:
        return False
    _touch(path)
    return True


def _touch(path: str) -> None:
    """Make a file young by the server's clock. Only its owner may; otherwise its age stays the time in the trash."""
    with suppress(OSError):
        os.utime(path, follow_symlinks=False)


def _ask_server(path: str) -> _Seen | None:
    """Look up a file by opening it, which makes an NFS client ask the server for its attributes."""
    try:
        descriptor = os.open(path, files.READ)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return _Seen(found.st_mtime, (found.st_dev, found.st_ino), found.st_nlink, stat.S_ISREG(found.st_mode))
