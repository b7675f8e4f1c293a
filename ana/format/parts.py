"""Parts: large segments that are states of their own, so that many states can share them. Pure.

The record of a state with parts, its **holder**, has chunks for them that are not stored with it: they name the digest
of the content alone. The content digest of the holder is the same with and without parts, and the address of a part
follows from the digests of its chunks. `docs/format.md` describes both.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

from ana.format import address
from ana.format.chunks import PART, Chunk
from ana.format.segments import marked

__all__ = ["ABSENT", "CLASS_NAME", "Part", "in_table", "of_size", "part", "pieces_of"]

CLASS_NAME = "ana:part"
"""What stands for the class in the record of a part. No class has this name, and a part is never unpickled."""

ABSENT = memoryview(b"")
"""Stands for a part among the segments of its holder. It is released: whoever uses it gets a ValueError."""
ABSENT.release()


class Part(NamedTuple):
    """A segment that is a state of its own: its number, its size in bytes, its key, and its content digest."""

    segment: int
    size: int
    key: str
    digest: bytes


def part(segment: int, size: int, leaves: Sequence[bytes], *, is_bytes: bool) -> Part:
    """Return the part that a segment becomes, given the leaves of its pieces.

    A `bytes` object and an array of equal content are two parts: they are read into different memory.
    """
    sizes = marked([size], [0]) if is_bytes else [size]
    digest = address.content_digest(CLASS_NAME, sizes, leaves)
    return Part(segment, size, address.content_uuid(digest), digest)


def of_size(sizes: Sequence[int], least_bytes: int) -> list[int]:
    """Return the numbers of the segments of at least this size, without the pickle stream; 0 bytes: none."""
    if not least_bytes:
        return []
    return [number for number, size in enumerate(sizes) if size >= least_bytes and number]


def pieces_of(segment: int, sizes: Sequence[int], pieces: Sequence[tuple[int, int]]) -> range:
    """Return the numbers of the pieces that a large segment is cut into; `pieces` as in `record.plan`."""
    start = sum(sizes[:segment])
    first = bisect_left(pieces, (start, 0))
    return range(first, bisect_left(pieces, (start + sizes[segment], 0), lo=first))


def in_table(sizes: Sequence[int], bytes_segments: Sequence[int], table: Sequence[Chunk]) -> tuple[Part, ...]:
    """Return the parts in a holder's chunk table. Raises ValueError if its chunks for them are not whole segments."""
    starts = list(accumulate(sizes, initial=0))
    leaves: dict[int, list[bytes]] = {}
    sums: dict[int, int] = {}
    at = 0
    for chunk in table:
        if chunk.method == PART:
            segment = bisect_right(starts, at, hi=len(sizes)) - 1
            if at + chunk.raw > starts[segment + 1]:
                break
            leaves.setdefault(segment, []).append(chunk.digest)
            sums[segment] = sums.get(segment, 0) + chunk.raw
        at += chunk.raw
    if at != starts[-1] or 0 in leaves or any(sums[segment] != sizes[segment] for segment in leaves):
        msg = "its parts are not whole segments"
        raise ValueError(msg)
    return tuple(
        part(segment, sizes[segment], found, is_bytes=segment in bytes_segments) for segment, found in leaves.items()
    )
