"""Taking files out of a store: out of the way first, deleted much later, brought back by whoever still reads them.

The steps and their order are what makes it safe beside writers, readers, kills and other collections, with or without
locks: `docs/operating.md` has the argument. A file in the trash has a name that follows from its own, in the same
folder; its time of last change says since when it is there.
"""

import errno
import os
import stat
from contextlib import suppress
from typing import NamedTuple

from ana.fs import atomic, files

__all__ = ["bring_back", "delete", "discard", "forget", "recover", "remove_empty_folder", "trash_path"]

MOVED, DELETED, GONE, BUSY, YOUNG, BACK = "moved", "deleted", "gone", "busy", "young", "back"


class _Seen(NamedTuple):
    """What the server, not a client's memory, says of a file."""

    modified: float
    identity: tuple[int, int]
    links: int
    is_file: bool


def trash_path(path: str) -> str:
    """Return the name that a file has in the trash."""
    folder, _, name = path.rpartition("/")
    return f"{folder}/{files.TRASH}{name}"


def discard(path: str, before: float) -> str:
    """Move a file that was last changed before that time (s since 1970) into the trash, and note when.

    Returns "moved"; "gone" if it is not there any more; "young" if it was written or brought back meanwhile; "busy" if
    an earlier one of its name is in the trash, which is not lost for it. Raises StoreError, and nothing is moved then.
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
        # Before it is moved: a kill between the two leaves a state that stays longer, not one that goes at once.
        os.utime(path, follow_symlinks=False)
        try:
            os.rename(path, trash)
        except FileNotFoundError:
            return GONE
        moved = _ask_server(trash)
        if moved is not None and moved.identity != judged.identity:
            # Another was published under the name since we looked.
            bring_back(path)
            return YOUNG
    return MOVED


def bring_back(path: str) -> bool:
    """Give a file in the trash its name back, and make it young; False if there is none there.

    What has the name meanwhile is left alone, and True. Raises StoreError where nothing may be written.
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
        # Its name in the trash stays for a later collection to remove: it may be another file's by the time we do.
        _touch(path)
    return True


def forget(path: str, identity: tuple[int, int]) -> None:
    """Let a file that was set aside as damaged lose its name in the trash, too, so that nobody brings it back."""
    trash = trash_path(path)
    with files.reported(trash):
        seen = _ask_server(trash)
        if seen is not None and seen.identity == identity:
            os.unlink(trash)


def delete(path: str, before: float) -> str:
    """Delete what is in the trash for `path` since before that time.

    Returns "deleted"; "back" if somebody brought it back (or deleted it) first: then what it refers to is to be
    spared; "young" if it was put there again meanwhile. Raises StoreError.
    """
    folder, _, name = path.rpartition("/")
    trash = trash_path(path)
    with files.reported(trash):
        seen = _ask_server(trash)
        if seen is None:
            return BACK
        if seen.modified >= before:
            return YOUNG
        doomed = f"{folder}/{files.GONE}{os.urandom(4).hex()}-{name}"
        try:
            # From here on nobody finds it: whoever brought it back has done so before.
            os.rename(trash, doomed)
        except FileNotFoundError:
            return BACK
        return _finish(path, doomed, before)


def recover(path: str, doomed: str, before: float) -> str:
    """Go on where a collection was killed while it deleted the file `doomed` that was once `path`; as `delete`."""
    with files.reported(doomed):
        return _finish(path, doomed, before)


def remove_empty_folder(path: str, before: float) -> bool:
    """Remove a folder that is empty and was last changed before that time; say whether it is gone.

    A folder that was just made for a writer is not old. Raises StoreError.
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


def _finish(path: str, doomed: str, before: float) -> str:
    """Delete a file that nobody finds any more, unless it was brought back, or put into the trash anew, just before."""
    folder = os.path.dirname(path)
    files.revalidate([folder])
    seen = _ask_server(doomed)
    if seen is None:
        # Another collection took it for the leftover of a killed one.
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
    """Return whether a file that has several names is to be had by one of ours: a backup's, elsewhere, do not count.

    By a listing: an NFS client may go on answering that a name is not there.
    """
    ours = {os.path.basename(path), os.path.basename(trash_path(path))}
    return not ours.isdisjoint(os.listdir(os.path.dirname(path)))


def _put_back_into_trash(path: str, doomed: str) -> None:
    trash = trash_path(path)
    try:
        os.link(doomed, trash, follow_symlinks=False)
    except FileExistsError:
        # Another copy of the same state is there already, and is as young.
        pass
    except OSError as error:
        if not atomic.has_no_links(error):
            raise
        os.rename(doomed, trash)
        return
    os.unlink(doomed)


def _bring_back_by_rename(trash: str, path: str) -> bool:
    """Where hard links do not exist."""
    if files.stat(path) is not None:
        return True
    try:
        os.rename(trash, path)
    except FileNotFoundError:
        return False
    _touch(path)
    return True


def _touch(path: str) -> None:
    """Make a file young by the server's clock. Who may not is no owner: then it is as old as its stay in the trash."""
    with suppress(OSError):
        os.utime(path, follow_symlinks=False)


def _ask_server(path: str) -> _Seen | None:
    """Look a file up by opening it: an NFS client then asks the server for its attributes."""
    try:
        descriptor = os.open(path, files.READ)
    except FileNotFoundError:
        return None
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return _Seen(found.st_mtime, (found.st_dev, found.st_ino), found.st_nlink, stat.S_ISREG(found.st_mode))
