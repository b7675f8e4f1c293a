"""Translates the paths of another site's references to this host's, by `ANA_PATH_MAP`.

With `ANA_PATH_MAP=/lustre/x=/mnt/x:/gpfs/home=/home`, a reference's path below `/lustre/x` is below `/mnt/x` here.
"""

import os

from ana import settings

__all__ = ["here"]


def here(home: str) -> str:
    """Return a store's path on this host; unchanged if no pair of `ANA_PATH_MAP` matches.

    Pairs match whole path components; the longest FROM wins, and the result is not mapped again. The variable is read
    at each call.

    Raises:
        ANAError: The variable is malformed.
    """
    for start, target in settings.PATH_MAP.value():
        if home == start or home.startswith(f"{start.rstrip('/')}/"):
            return _normal(f"{target}/{home[len(start) :]}")
    return home


def _normal(path: str) -> str:
    # POSIX allows two leading slashes a special meaning, so normpath keeps them.
    return os.path.normpath(f"/{path.lstrip('/')}")
