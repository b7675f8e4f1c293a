"""Small JSON files of a store, as anybody may have written them: what is wrong with one is one kind of error. Pure."""

import json
from typing import Any, NoReturn

__all__ = ["parse"]

_MOST_DIGITS = 19
_BOM = b"\xef\xbb\xbf"
"""What editors elsewhere begin a file with. Not by the codec "utf-8-sig", which is imported when it is first used."""


def parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object whose numbers are all finite, none of more than 19 digits, and whose keys are all different.

    Raises ValueError for anything else, also for what is nested too deep, or is not UTF-8.
    """
    try:
        found = _DECODER.decode(str(data.removeprefix(_BOM), "utf-8"))
    except RecursionError:
        msg = "it is nested too deep"
        raise ValueError(msg) from None
    if not isinstance(found, dict):
        msg = f"it is a {type(found).__name__}, no object"
        raise ValueError(msg)  # noqa: TRY004 - to callers one kind of error
    return found


def _whole(text: str) -> int:
    if len(text.lstrip("-")) > _MOST_DIGITS:
        _refuse(text)
    return int(text)


def _fraction(text: str) -> float:
    found = float(text)
    if found in (float("inf"), float("-inf")):
        _refuse(text)
    return found


def _refuse(text: str) -> NoReturn:
    msg = f"{text:.20} is no number that anybody meant"
    raise ValueError(msg)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        msg = "it says something twice"
        raise ValueError(msg)
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_fraction, parse_constant=_refuse)
