"""Sizes and durations as people write them: one rule for options, environment variables and commands.

A size is a number of bytes: `2000000000`, `2G` (2 x 10^9) or `2GiB` (2 x 2^30). The units are k, M, G, T, P and Ki, Mi,
Gi, Ti, Pi, in either case, with or without a B. A duration is a number of seconds, or has a unit: `90s`, `45m`, `12h`,
`14d`, `8w`, `1y`. What is printed follows the same rule.
"""

import re

__all__ = ["age", "duration", "seconds", "size", "size_bytes", "three_digits", "ttl_seconds"]

_LETTERS = "kmgtp"
_BYTES = {letter: 1000**power for power, letter in enumerate(_LETTERS, 1)}
_BYTES |= {f"{letter}i": 1024**power for power, letter in enumerate(_LETTERS, 1)}
_SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
# Compiled when a text comes: that takes as long as importing a module.
_SIZE = r"([0-9]+)(\.[0-9]+)?\s*([kmgtp]i?)?b?"
_DURATION = r"([0-9]+(?:\.[0-9]+)?)\s*(s|min|m|h|d|w|y)?"


def size_bytes(given: object) -> int:
    """Return the bytes that a whole number or a text means.

    Raises:
        TypeError: It is neither.
        ValueError: The text is no size, or the number is negative.
    """
    if isinstance(given, str):
        found = _matched(_SIZE, given)
        whole, fraction, unit = found.groups()
        factor = _BYTES[unit.lower()] if unit else 1
        return int(whole) * factor + int(float(fraction or 0) * factor)
    return int(_not_negative(given, whole=True))


def seconds(given: object) -> float:
    """Return the seconds that a number or a text means. Raises as `size_bytes`."""
    if isinstance(given, str):
        number, unit = _matched(_DURATION, given).groups()
        found = float(number) * _SECONDS[(unit or "s").lower()]
        if found == float("inf"):
            raise ValueError
        return found
    try:
        return float(_not_negative(given, whole=False))
    except OverflowError as error:
        raise ValueError from error


def ttl_seconds(given: object) -> float:
    """Return the seconds of a time to live: more than 0. Raises as `size_bytes`, with a reason."""
    msg = f'ttl must be a number of seconds, or a duration such as "12h", "14d" or "8w", not {given!r:.100}'
    try:
        found = seconds(given)
    except (TypeError, ValueError) as error:
        raise type(error)(msg) from None
    if not 0 < found < float("inf"):
        raise ValueError(msg)
    return found


def _matched(pattern: str, text: str) -> re.Match[str]:
    found = re.fullmatch(pattern, text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError
    return found


def _not_negative(given: object, *, whole: bool) -> float:
    """Return a number, numpy's, too. Booleans are none."""
    if isinstance(given, bool) or not (hasattr(given, "__index__") or isinstance(given, float)):
        raise TypeError
    number = given if isinstance(given, float) else given.__index__()
    if whole and isinstance(number, float) and not number.is_integer():
        raise TypeError
    if not number >= 0:
        raise ValueError
    return number


def size(size_bytes: float) -> str:
    """Write a number of bytes with three digits and a decimal unit."""
    if size_bytes < 1000:  # noqa: PLR2004 - the unit
        return f"{size_bytes:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size_bytes /= 1000
        # 999.5 would be written as 1000 already.
        if size_bytes < 999.5:  # noqa: PLR2004 - see above
            return f"{three_digits(size_bytes)} {unit}"
    return f"{three_digits(size_bytes / 1000)} TB"


def age(seconds: float) -> str:
    """Write a time with its two largest digits: "45 s", "3.2 h", "12 d"."""
    if seconds < -60:  # noqa: PLR2004 - clocks differ by a little
        return "ahead"
    seconds = max(0.0, seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            value = seconds / length
            return f"{value:.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"  # noqa: PLR2004 - digits
    return f"{seconds:.0f} s"


def duration(seconds: float) -> str:
    """Write a duration that somebody has chosen, exactly if it is a whole number of a unit: "24 h", "30 d"."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds % length == 0 and seconds >= (2 * length if unit == "d" else length):
            return f"{seconds / length:.0f} {unit}"
    return age(seconds)


def three_digits(value: float) -> str:
    """Write a number with three digits, or more where it is large."""
    if value < 9.995:  # noqa: PLR2004 - would be written as 10.00
        return f"{value:,.2f}"
    return f"{value:,.1f}" if value < 99.95 else f"{value:,.0f}"  # noqa: PLR2004 - would be written as 100.0
