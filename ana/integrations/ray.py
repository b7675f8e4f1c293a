"""Ray: classes of `__main__` are the same in tasks and in states.

    ray.init(runtime_env=ana.integrations.ray.runtime_env())

Ray has a copy of cloudpickle of its own. Each of the two gives a class of `__main__` a number by which workers know
that they have it already; with two numbers they make two classes, and `isinstance` is false where it should be true.
"""

from typing import Any

import cloudpickle.cloudpickle as plain
import ray.cloudpickle.cloudpickle as rays

__all__ = ["runtime_env", "share_classes"]

_TABLES = ("_DYNAMIC_CLASS_TRACKER_BY_CLASS", "_DYNAMIC_CLASS_TRACKER_BY_ID", "_DYNAMIC_CLASS_TRACKER_LOCK")


def runtime_env(**options: Any) -> dict[str, Any]:
    """Return a `runtime_env` whose workers share their classes, with other options of it; this process does so, too."""
    share_classes()
    return {**options, "worker_process_setup_hook": f"{__name__}.share_classes"}


def share_classes() -> None:
    """Have both cloudpickles use the same tables, here; before they meet a class of `__main__`.

    Raises AttributeError where one of them has come to keep them differently.
    """
    for name in _TABLES:
        getattr(rays, name)
        setattr(rays, name, getattr(plain, name))
