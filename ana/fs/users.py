"""The names of users."""

import functools

__all__ = ["user_name"]


@functools.cache
def user_name(uid: int) -> str:
    """Return a user's name on this host, or the number as text if the host does not know it."""
    import pwd  # noqa: PLC0415 - few commands name users, and it may load the libraries of a directory service

    try:
        return pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        return f"uid {uid}"
