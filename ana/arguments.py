"""Checks arguments, and says in one way what is wrong with one: its name, the allowed values, and what was given."""

import operator
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["at_least_one", "checked", "reason", "true_or_false"]

Value = TypeVar("Value")


def checked(name: str, check: Callable[[Any], Value], values: str, given: object) -> Value:
    """Return an argument as `check` converts it.

    Args:
        name: The argument's name.
        check: Raises TypeError or ValueError, with or without a reason.
        values: The allowed values, in words.
        given: The argument.

    Raises:
        TypeError: It is of a wrong type.
        ValueError: Its value is not allowed.

    """
    try:
        return check(given)
    except (TypeError, ValueError) as error:
        msg = f"{name} must be {values}, not {given!r:.100}{reason(error)}"
        raise (TypeError if isinstance(error, TypeError) else ValueError)(msg) from None


def at_least_one(name: str, given: object) -> int:
    """Return a number of things, at least 1. Raises as `checked`."""
    return checked(name, _positive, "a whole number, at least 1", given)


def true_or_false(given: object) -> bool:
    """Return a truth value. Raises TypeError for a string: "no" would be true."""
    if isinstance(given, str):
        raise TypeError
    return bool(given)


def reason(error: Exception) -> str:
    """Return what an error of a check adds to the message."""
    return f": {error}" if error.args else ""


def _positive(given: Any) -> int:
    if isinstance(given, bool):
        raise TypeError
    try:
        # NumPy's integers, too.
        found = operator.index(given)
    except TypeError:
        raise TypeError from None
    if found < 1:
        raise ValueError
    return found
