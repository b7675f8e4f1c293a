"""The function that pickles of the original ANA (2014 to 2019) name. It never moves, and its arguments never change."""

from typing import Any

from ana import reference
from ana.errors import ANAError

__all__ = ["D"]


def D(uuid: str | None, child_cls: type, state: Any) -> Any:  # noqa: N802 - the name in those pickles
    """Return the object of a class with a UUID, with a state, or with both, as the original ANA pickled it.

    Args:
        uuid: The object's UUID, or None. Without a state, the object is loaded as `ana.reference.load` does.
        child_cls: The object's class.
        state: The object's state, or None. With a state the result is a copy, or the live object with the UUID, if any
            (SimpleDataLayer).

    Raises:
        ANAError: Both are None.
    """
    if state is None:
        if uuid is None:
            msg = "a pickle of the original ANA has neither a UUID nor a state: its _ana_getstate() returned None"
            raise ANAError(msg)
        return reference.load(child_cls, uuid)
    made = reference.new(child_cls, uuid)
    reference.fill(made, (state,))
    return made
