"""Ray: makes classes of `__main__` the same in tasks and in states.

    ray.init(runtime_env=ana.integrations.ray.runtime_env())

Ray has its own copy of cloudpickle. Each copy gives a class of `__main__` an id by which workers recognise it. With two
ids, workers make two classes, and `isinstance` is false although it should be true.
"""

from typing import Any

import cloudpickle.cloudpickle as plain
import ray.cloudpickle.cloudpickle as rays

__all__ = ["runtime_env", "share_classes"]

_HOOK = "worker_process_setup_hook"
_TABLES = ("_DYNAMIC_CLASS_TRACKER_BY_CLASS", "_DYNAMIC_CLASS_TRACKER_BY_ID", "_DYNAMIC_CLASS_TRACKER_LOCK")


def runtime_env(**options: Any) -> dict[str, Any]:
    """Return a `runtime_env` whose workers share their classes, and do the same in this process.

    Args:
        **options: Other fields of the `runtime_env`.

    Raises:
        TypeError: One of them is the hook that this function sets.
        AttributeError: This version of cloudpickle has no tables of classes.
    """
    if _HOOK in options:
        msg = f"{_HOOK} is what shares the classes: in a hook of your own, call {__name__}.share_classes()"
        raise TypeError(msg)
    share_classes()
    return {**options, _HOOK: f"{__name__}.share_classes"}


def share_classes() -> None:
    """Make both cloudpickles in this process use the same tables. Call it before they pickle a class of `__main__`.

    Raises AttributeError if a version of cloudpickle has no such tables.
    """
    for name in _TABLES:
        getattr(rays, name)
        setattr(rays, name, getattr(plain, name))
