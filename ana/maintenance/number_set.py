"""A set of 128-bit numbers: 20 bytes for each, where a `set` of `int` takes 110, and twice that while it grows."""

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator

__all__ = ["NumberSet"]

_Bucket = tuple["array[int]", "array[int]"]
"""The first 64 bits of each number, sorted, and the other 64."""

_LOW = (1 << 64) - 1
_BUCKET_SHIFT = 128 - 10
"""A bucket holds the numbers that share their first 10 bits: 10,000 of 10 million, so that inserting moves little."""


class NumberSet:
    """Numbers in sorted buckets. They can be added, and not removed. Addresses, which are digests, fill them evenly."""

    def __init__(self) -> None:
        self._buckets: defaultdict[int, _Bucket] = defaultdict(_empty)
        self._count = 0

    def add(self, number: int) -> bool:
        """Add a number; return whether it is new."""
        bucket = self._buckets[number >> _BUCKET_SHIFT]
        at = _search(bucket, number)
        if at >= 0:
            return False
        highs, lows = bucket
        highs.insert(~at, number >> 64)
        lows.insert(~at, number & _LOW)
        self._count += 1
        return True

    def update(self, numbers: Iterable[int]) -> None:
        """Add numbers."""
        for number in numbers:
            self.add(number)

    def __contains__(self, number: int) -> bool:
        bucket = self._buckets.get(number >> _BUCKET_SHIFT)
        return bucket is not None and _search(bucket, number) >= 0

    def __iter__(self) -> Iterator[int]:
        for highs, lows in self._buckets.values():
            yield from (high << 64 | low for high, low in zip(highs, lows, strict=True))

    def __len__(self) -> int:
        return self._count


def _search(bucket: "_Bucket", number: int) -> int:
    """Return where a number is in a bucket; if it is not there, `~at`, where `at` is where it belongs."""
    highs, lows = bucket
    high, low = number >> 64, number & _LOW
    at = bisect_left(highs, high)
    while at < len(highs) and highs[at] == high:
        if lows[at] == low:
            return at
        at += 1
    return ~at


def _empty() -> "_Bucket":
    return array("Q"), array("Q")
