"""References among a task's arguments become their values inside the task."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from ana.storable import Ref

__all__ = ["call", "unwrap"]

Result = TypeVar("Result")


def unwrap(function: Callable[..., Result], /) -> Callable[..., Result]:
    """Make a function take references: each `ana.Ref` among its arguments becomes its value before it runs.

    For the tasks of engines that have no Executor, such as Ray, joblib, submitit or ranks of MPI. The value is loaded
    inside the task, once per process, so that an error is the task's own. Refs inside of other arguments stay as they
    are. The function can still be called with plain values, and in other processes.

    Args:
        function: A function or method; as a decorator, `@ana.unwrap` goes below an engine's own (`@ray.remote`).

    Returns:
        The function that takes Refs.

    Raises:
        TypeError: `function` is not callable.

    Example:
        ```python
        @ana.unwrap
        def simulate(mesh, pressure): ...


        joblib.Parallel()(joblib.delayed(simulate)(ana.Ref(mesh), p) for p in pressures)
        ```

    """
    given: object = function
    if not callable(given):
        msg = f"unwrap takes a function, not {given!r:.100}"
        raise TypeError(msg)

    @functools.wraps(function)
    def unwrapped(*arguments: Any, **named: Any) -> Result:
        return call(function, arguments, named)

    return unwrapped


def call(function: Callable[..., Result], arguments: Iterable[Any], named: Mapping[str, Any]) -> Result:
    """Call a function with the values of the Refs among its arguments. Raises what `Ref.value` does."""
    return function(*map(_value_of, arguments), **{name: _value_of(given) for name, given in named.items()})


def _value_of(given: Any) -> Any:
    return given.value if isinstance(given, Ref) else given
