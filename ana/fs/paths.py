"""Resolves paths that a user gives: absolute, with `~` replaced by a home folder."""

import errno
import os

from ana.errors import StoreError

__all__ = ["absolute", "home", "nearest_folder", "resolved"]


def absolute(path: str | os.PathLike[str] | bytes) -> str:
    """Return an absolute path, with `~` or `~user` replaced by the user's home folder.

    A folder named "~" is never created.

    Raises:
        ValueError: The path is empty or contains NUL.
        StoreError: There is no such home folder, or the working folder is gone.
    """
    said = os.fsdecode(path)
    if not said or "\0" in said:
        msg = f"{said!r:.100} is not a path: it is empty, or contains NUL"
        raise ValueError(msg)
    if said.startswith("~"):
        user, slash, rest = said[1:].partition("/")
        said = f"{home(user)}{slash}{rest}"
    try:
        return os.path.abspath(said)
    except OSError as error:
        hint = "the working folder of this process is gone: change to an existing folder, or give an absolute path"
        raise StoreError(said, error.errno or errno.ENOENT, hint) from error


def resolved(path: str) -> str:
    """Resolve all symbolic links in an absolute path, for files that a user names."""
    return os.path.realpath(path)


def nearest_folder(path: str) -> str:
    """Return the nearest folder that exists: an absolute path itself, or one above it."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def home(user: str = "") -> str:
    """Return a user's home folder; without a name HOME, or this user's in passwd. Raises StoreError."""
    found = "" if user else os.environ.get("HOME", "")
    if not found:
        import pwd  # noqa: PLC0415 - only without HOME

        try:
            found = pwd.getpwnam(user).pw_dir if user else pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            found = ""
    # POSIX requires an absolute path; a relative one would differ between programs.
    if found.startswith("/"):
        return found.rstrip("/")
    why = f"there is no user {user!r}" if user else f"HOME is not set, and user {os.getuid()} has no entry in passwd"
    if found:
        why = f"{found!r} is not an absolute path"
    said = f"~{user}"
    raise StoreError(said, errno.ENOENT, f"{why}: set HOME, or give an absolute path")
