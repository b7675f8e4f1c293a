"""A set of 128-bit numbers: 20 bytes for each, where a `set` of `int` takes 110, and twice that while it grows."""

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator

__all__ = ["NumberSet"]

_LOW = (1 << 64) - 1
_BUCKET_SHIFT = 128 - 10
"""A bucket holds the numbers that share their first 10 bits: 10,000 of 10 million, so that inserting moves little."""


class NumberSet:
    """Numbers in sorted buckets. They can be added, and not removed. Addresses, which are digests, fill them evenly."""

    def __init__(self) -> None:
        self._buckets: defaultdict[int, tuple[array[int], array[int]]] = defaultdict(_empty)
        self._count = 0

    def add(self, number: int) -> bool:
        """Add a number; return whether it is new."""
        highs, lows = self._buckets[number >> _BUCKET_SHIFT]
        high, low = number >> 64, number & _LOW
        at = bisect_left(highs, high)
        while at < len(highs) and highs[at] == high:
            if lows[at] == low:
                return False
            at += 1
        highs.insert(at, high)
        lows.insert(at, low)
        self._count += 1
        return True

    def update(self, numbers: Iterable[int]) -> None:
        """Add numbers."""
        for number in numbers:
            self.add(number)

    def __contains__(self, number: int) -> bool:
        bucket = self._buckets.get(number >> _BUCKET_SHIFT)
        if bucket is None:
            return False
        highs, lows = bucket
        high, low = number >> 64, number & _LOW
        at = bisect_left(highs, high)
        while at < len(highs) and highs[at] == high:
            if lows[at] == low:
                return True
            at += 1
        return False

    def __iter__(self) -> Iterator[int]:
        for highs, lows in self._buckets.values():
            yield from (high << 64 | low for high, low in zip(highs, lows, strict=True))

    def __len__(self) -> int:
        return self._count


def _empty() -> "tuple[array[int], array[int]]":
    return array("Q"), array("Q")
