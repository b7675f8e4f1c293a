"""What pickles of the original ANA (2014 to 2019) name. It never moves, and never changes its arguments."""

from typing import Any

from ana import reference
from ana.errors import ANAError

__all__ = ["D"]


def D(uuid: str | None, child_cls: type, state: Any) -> Any:  # noqa: N802 - so it is called in those pickles
    """Return the object of a class with a UUID, with a state, or with both, as the original ANA pickled it.

    With a UUID alone, the live one, or loaded from a store, as `ana.reference.load`. With a state alone, an
    ordinary copy. With both (SimpleDataLayer) the live object, if any. Raises ANAError where both are None.
    """
    if state is None:
        if uuid is None:
            msg = "a pickle of the original ANA holds neither a UUID nor a state: its _ana_getstate() returned None"
            raise ANAError(msg)
        return reference.load(child_cls, uuid)
    made = reference.new(child_cls, uuid)
    reference.fill(made, (state,))
    return made
