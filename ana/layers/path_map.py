"""How a path that another site's reference names is called on this host: the environment's `ANA_PATH_MAP`.

`ANA_PATH_MAP=/lustre/x=/mnt/x:/gpfs/home=/home`: what a reference says is below `/lustre/x` is below `/mnt/x` here.
"""

import os

from ana import settings

__all__ = ["here"]


def here(home: str) -> str:
    """Return a store's path on this host; as it is, if no pair of `ANA_PATH_MAP` is about it.

    Of pairs that fit, the one with the longest FROM counts; only whole components of paths fit. What a pair leads to
    is not mapped again. Read from the environment at each call. Raises ANAError for a map that makes no sense.
    """
    for start, target in settings.PATH_MAP.value():
        if home == start or home.startswith(f"{start.rstrip('/')}/"):
            return _normal(f"{target}/{home[len(start) :]}")
    return home


def _normal(path: str) -> str:
    # POSIX lets two slashes in the beginning mean another thing, and normpath leaves them.
    return os.path.normpath(f"/{path.lstrip('/')}")
