"""How a path that another site's reference names is called on this host: the environment's `ANA_PATH_MAP`.

`ANA_PATH_MAP=/lustre/x=/mnt/x:/gpfs/home=/home`: what a reference says is below `/lustre/x` is below `/mnt/x` here.
"""

import os
from functools import lru_cache

from ana.errors import ANAError

__all__ = ["here"]

ENVIRONMENT = "ANA_PATH_MAP"


def here(home: str) -> str:
    """Return a store's path on this host; as it is, if no pair of `ANA_PATH_MAP` is about it.

    Of pairs that fit, the one with the longest FROM counts; only whole components of paths fit. What a pair leads to
    is not mapped again. Read from the environment at each call. Raises ANAError for a map that makes no sense.
    """
    said = os.environ.get(ENVIRONMENT)
    if not said:
        return home
    for start, target in _pairs(said):
        if home == start or home.startswith(f"{start.rstrip('/')}/"):
            return _normal(f"{target}/{home[len(start) :]}")
    return home


@lru_cache(maxsize=8)
def _pairs(said: str) -> list[tuple[str, str]]:
    """Return the pairs, the longest FROM first."""
    pairs: dict[str, str] = {}
    for item in said.split(os.pathsep):
        # An empty one is what `$ANA_PATH_MAP:/a=/b` leaves where nothing was set.
        if not item:
            continue
        start, target = _pair(item, said)
        if pairs.setdefault(start, target) != target:
            raise _refused(said, f"{start} is mapped to {pairs[start]} and to {target}")
    return sorted(pairs.items(), key=lambda pair: -len(pair[0]))


def _pair(item: str, said: str) -> tuple[str, str]:
    paths = item.split("=")
    if len(paths) != 2 or not all(path.startswith("/") for path in paths):  # noqa: PLR2004 - a pair
        raise _refused(said, f"{item!r} is not FROM=TO, two absolute paths without '=' and ':' in them")
    start, target = (_normal(path) for path in paths)
    return start, target


def _normal(path: str) -> str:
    # POSIX lets two slashes in the beginning mean another thing, and normpath leaves them.
    return os.path.normpath(f"/{path.lstrip('/')}")


def _refused(said: str, reason: str) -> ANAError:
    return ANAError(
        f"the environment's {ENVIRONMENT} is FROM=TO{os.pathsep}FROM=TO..., for instance /lustre/x=/mnt/x, "
        f"not {said!r}: {reason}"
    )
