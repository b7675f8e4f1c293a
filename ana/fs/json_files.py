"""Small JSON files of a store, from any writer: every problem with one is a ValueError. Pure."""

import json
from typing import Any, NoReturn

__all__ = ["parse"]

_MOST_DIGITS = 19
_BOM = b"\xef\xbb\xbf"
"""The byte order mark that some editors write. The codec "utf-8-sig" would have to be imported."""


def parse(data: bytes) -> dict[str, Any]:
    """Return a JSON object. All numbers must be finite and of at most 19 digits, and all keys different.

    Raises ValueError for anything else, also for data that is nested too deeply or is not UTF-8.
    """
    try:
        found = _DECODER.decode(str(data.removeprefix(_BOM), "utf-8"))
    except RecursionError:
        msg = "it is nested too deeply"
        raise ValueError(msg) from None
    if not isinstance(found, dict):
        msg = f"it is a {type(found).__name__}, not an object"
        raise ValueError(msg)  # noqa: TRY004 - one kind of error for callers
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
    msg = f"{text:.20} is not a plausible number"
    raise ValueError(msg)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        msg = "it has a key twice"
        raise ValueError(msg)
    return found


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_fraction, parse_constant=_refuse)
