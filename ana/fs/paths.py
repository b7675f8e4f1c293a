"""What a user's path means: from the root on, with a home folder for `~`."""

import errno
import os

from ana.errors import StoreError

__all__ = ["absolute", "home", "resolved"]


def absolute(path: str | os.PathLike[str] | bytes) -> str:
    """Return a path from the root on, with a user's home in place of `~` or `~user`.

    Raises ValueError for what is empty or holds NUL, StoreError where there is no such home, or the working folder is
    gone: never is a folder named "~".
    """
    said = os.fsdecode(path)
    if not said or "\0" in said:
        msg = f"{said!r:.100} is no path: it is empty, or holds NUL"
        raise ValueError(msg)
    if said.startswith("~"):
        user, slash, rest = said[1:].partition("/")
        said = f"{home(user)}{slash}{rest}"
    try:
        return os.path.abspath(said)
    except OSError as error:
        hint = "the working folder of this process is gone: change to one that is there, or give a path from / on"
        raise StoreError(said, error.errno or errno.ENOENT, hint) from error


def resolved(path: str) -> str:
    """Return where an absolute path leads, through all symbolic links: for files that a user names."""
    return os.path.realpath(path)


def home(user: str = "") -> str:
    """Return a user's home folder; without a name, one's own: HOME, else what the system says. Raises StoreError."""
    found = "" if user else os.environ.get("HOME", "")
    if not found:
        import pwd  # noqa: PLC0415 - only where HOME does not say it

        try:
            found = pwd.getpwnam(user).pw_dir if user else pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            found = ""
    # POSIX wants it absolute; what is relative would be another folder for each program.
    if found.startswith("/"):
        return found.rstrip("/")
    why = f"there is no user {user!r}" if user else f"HOME is not set, and user {os.getuid()} has no entry in passwd"
    if found:
        why = f"{found!r} is no path from / on"
    said = f"~{user}"
    raise StoreError(said, errno.ENOENT, f"{why}: set HOME, or give a path from / on")
