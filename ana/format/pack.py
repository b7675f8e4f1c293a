"""Packs: records end to end in one file, and an index once no more are added. Pure: bytes in, bytes out.

A pack is a legal zstd file: records are, and the index is a skippable frame at the end. `docs/format.md` describes it
byte by byte.
"""

import re
import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

import blake3

from ana.errors import CorruptedStateError, UnsupportedFormatError
from ana.format import address, chunks, header
from ana.format.header import Bytes
from ana.format.signature import Seal

__all__ = [
    "MAX_BYTES",
    "MAX_RECORDS",
    "MAX_RECORD_BYTES",
    "SUFFIX",
    "TRAILER_BYTES",
    "Index",
    "Spot",
    "damaged_spots",
    "hint",
    "index_frame",
    "is_name",
    "key_of_number",
    "number_of",
    "parse_hint",
    "read_index",
    "records",
    "trailer_size",
]

SUFFIX = ".pack.zst"
MAX_BYTES = 64 << 20
"""A pack gets no record that would make it larger than this, its index not counted."""
MAX_RECORDS = 1 << 16
MAX_RECORD_BYTES = 4 << 20
"""A larger record gets a file of its own."""

MAGIC = b"ANA\x00PAK\n"
_END = b"ANA\x00END\n"
VERSION = 1
SKIPPABLE = 0x184D2A51
"""The magic number of the index frame; records begin with 0x184D2A50."""
_FIXED = struct.Struct("<II8sHHIQ")
"""Magic number, frame size, magic bytes, version, flags, number of records, their size together."""
_TRAILER = struct.Struct("<Q8s")
_DIGEST_BYTES = 32
_ENTRY_BYTES = 8 + 8 + 4 + 4
TRAILER_BYTES = _TRAILER.size
_START = struct.pack("<I", header.SKIPPABLE)
_LOW = (1 << 64) - 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}\.pack\.zst", re.ASCII)
_HINT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,119}):([0-9]{1,9}):([0-9]{1,8})", re.ASCII)


class Spot(NamedTuple):
    """Where a record lies in a pack: its offset and size in bytes."""

    offset: int
    size: int


def number_of(key: str) -> int:
    """Return a content address as a number, by which indexes are sorted."""
    return int(key.replace("-", ""), 16)


def key_of_number(number: int) -> str:
    """Return the content address of a number."""
    digits = f"{number:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def is_name(name: str) -> bool:
    """Return whether a file name is that of a pack."""
    return _NAME.fullmatch(name) is not None


def hint(name: str, spot: Spot) -> str:
    """Return the text by which references say where a record lies."""
    return f"{name.removesuffix(SUFFIX)}:{spot.offset}:{spot.size}"


def parse_hint(said: object) -> tuple[str, Spot] | None:
    """Return a pack's file name and a spot from a hint; None if it is none, or senseless."""
    found = _HINT.fullmatch(said) if isinstance(said, str) else None
    if found is None:
        return None
    name, offset, size = found.groups()
    spot = tuple.__new__(Spot, (int(offset), int(size)))
    return (f"{name}{SUFFIX}", spot) if _makes_sense(spot, MAX_BYTES) else None


def _makes_sense(spot: Spot, end: int) -> bool:
    return header.MIN_RECORD_BYTES <= spot.size <= MAX_RECORD_BYTES and spot.offset + spot.size <= end


class Index:
    """Where the records of a sealed pack lie, in four sorted columns: 24 bytes a record. It never changes."""

    __slots__ = ("_high", "_low", "_offsets", "_sizes", "end")

    def __init__(self, columns: Sequence["array[int]"], end: int) -> None:
        self._high, self._low, self._offsets, self._sizes = columns
        self.end = end
        """The size in bytes of all records together."""

    @classmethod
    def of(cls, spots: Mapping[int, Spot], end: int) -> "Index":
        """Return the index of records, given by the numbers of their keys."""
        numbers = sorted(spots)
        return cls(
            [
                array("Q", [number >> 64 for number in numbers]),
                array("Q", [number & _LOW for number in numbers]),
                array("I", [spots[number].offset for number in numbers]),
                array("I", [spots[number].size for number in numbers]),
            ],
            end,
        )

    def __len__(self) -> int:
        return len(self._high)

    def find(self, number: int) -> Spot | None:
        """Return where the record of a key lies, given the key's number."""
        high, low, column = number >> 64, number & _LOW, self._high
        at = bisect_left(column, high)
        while at < len(column) and column[at] == high:
            if self._low[at] == low:
                # As `Spot(...)`, without a Python call: every look-up comes here.
                spot = tuple.__new__(Spot, (self._offsets[at], self._sizes[at]))
                return spot if _makes_sense(spot, self.end) else None
            at += 1
        return None

    def items(self) -> Iterator[tuple[int, Spot]]:
        """Yield the number of each key and where its record lies, in the order of the keys."""
        return self._items(0, len(self._high))

    def between(self, first: int, last: int) -> Iterator[tuple[int, Spot]]:
        """Yield as `items` does, but only numbers from `first` to `last`."""
        start, stop = bisect_left(self._high, first >> 64), bisect_right(self._high, last >> 64)
        return (item for item in self._items(start, stop) if first <= item[0] <= last)

    def _items(self, start: int, stop: int) -> Iterator[tuple[int, Spot]]:
        columns = (column[start:stop] for column in (self._high, self._low, self._offsets, self._sizes))
        for high, low, offset, size in zip(*columns, strict=True):
            spot = Spot(offset, size)
            if _makes_sense(spot, self.end):
                yield high << 64 | low, spot

    def highs(self) -> "array[int]":
        """Return the first 64 bits of each key, sorted."""
        return self._high

    def highs_between(self, first: int, last: int) -> "array[int]":
        """Return those of `highs` that are numbers from `first` to `last`."""
        return self._high[bisect_left(self._high, first) : bisect_right(self._high, last)]

    def frame(self) -> bytes:
        """Return the frame that is written after the records."""
        size = _FIXED.size + _ENTRY_BYTES * len(self) + _DIGEST_BYTES + TRAILER_BYTES
        columns = [_little_endian(column) for column in (self._high, self._low, self._offsets, self._sizes)]
        head = b"".join([_FIXED.pack(SKIPPABLE, size - 8, MAGIC, VERSION, 0, len(self), self.end), *columns])
        return head + blake3.blake3(head).digest() + _TRAILER.pack(size, _END)


def index_frame(spots: Mapping[int, Spot], end: int) -> bytes:
    """Return the index of records as a frame, to be written after them, at `end`."""
    return Index.of(spots, end).frame()


def trailer_size(tail: Bytes) -> int:
    """Return the size of the index frame that ends with these bytes; 0 if none does: the pack is not sealed."""
    if len(tail) < TRAILER_BYTES:
        return 0
    size, magic = _TRAILER.unpack_from(tail, len(tail) - TRAILER_BYTES)
    return int(size) if magic == _END else 0


def read_index(frame: Bytes, size_bytes: int) -> Index | None:
    """Return the index in a frame that ends a pack of `size_bytes`; None if it is damaged or of a newer version.

    Records are found without it, too, by `records`.
    """
    least = _FIXED.size + _DIGEST_BYTES + TRAILER_BYTES
    if not least <= len(frame) == trailer_size(frame) <= size_bytes:
        return None
    magic, size, name, version, flags, count, end = _FIXED.unpack_from(frame)
    said = (magic, size, name, version, flags, end, least + count * _ENTRY_BYTES)
    if said != (SKIPPABLE, len(frame) - 8, MAGIC, VERSION, 0, size_bytes - len(frame), len(frame)):
        return None
    view = memoryview(frame)
    signed = len(frame) - TRAILER_BYTES - _DIGEST_BYTES
    if blake3.blake3(view[:signed]).digest() != view[signed : signed + _DIGEST_BYTES]:
        return None
    columns, at = [], _FIXED.size
    for kind, width in (("Q", 8), ("Q", 8), ("I", 4), ("I", 4)):
        columns.append(_native(kind, view[at : at + width * count]))
        at += width * count
    return Index(columns, end)


def records(data: Bytes, where: str, seal: Seal | None = None) -> Iterator[tuple[str, Spot]]:
    """Yield the key and the spot of each record in `data`, which begins with one, up to the first that is not whole.

    The stored bytes of each are verified: what a crash has torn is not yielded. An index is skipped.
    """
    view, at = memoryview(data), 0
    while (found := _record_at(view, at, where, seal)) is not None:
        key, spot = found
        if key:
            yield found
        at = spot.offset + spot.size


def damaged_spots(data: Bytes, where: str, seal: Seal | None = None) -> Iterator[tuple[str, Spot]]:
    """Yield the whole records of a pack as `records` does, and go on behind damage: with the next whole record."""
    view, at = memoryview(data), 0
    while at >= 0:
        for key, spot in records(view[at:], where, seal):
            yield key, Spot(at + spot.offset, spot.size)
        at = _next_start(data, at, where, seal)


def _next_start(data: Bytes, at: int, where: str, seal: Seal | None) -> int:
    """Return where whole records go on behind the run that begins at `at`; -1 if nowhere."""
    view = memoryview(data)
    while (found := _record_at(view, at, where, seal)) is not None:
        at = found[1].offset + found[1].size
    whole = bytes(view[at + 1 :])
    base, near = at + 1, 0
    while (near := whole.find(_START, near)) >= 0:
        if _record_at(view, base + near, where, seal) is not None:
            return base + near
        near += 1
    return -1


def _record_at(view: memoryview, at: int, where: str, seal: Seal | None) -> tuple[str, Spot] | None:
    """Return the key and the spot of the whole record, or the frame of an index with the key "", that begins there."""
    if len(view) - at < TRAILER_BYTES:
        return None
    magic, size = header.PREFIX.unpack_from(view, at)
    if magic == SKIPPABLE and view[at + 8 : at + 16] == MAGIC and at + 8 + size <= len(view):
        return "", Spot(at, 8 + size)
    key, size = _measured(view[at:], where)
    return (key, Spot(at, size)) if size and _is_whole(view[at : at + size], key, where, seal) else None


def _is_whole(data: memoryview, key: str, where: str, seal: Seal | None) -> bool:
    """Return whether these are the bytes of the record of a key, as they were written."""
    try:
        parsed = header.parse_header(data, len(data), key, where, seal)
    except (CorruptedStateError, UnsupportedFormatError):
        return False
    ends = list(accumulate((chunk.stored for chunk in parsed.chunks), initial=parsed.header_bytes))
    # A bare state, whose key need not be its address, can only be a copy inside of another state's content.
    frames = [data[start:end] for start, end in pairwise(ends)]
    return parsed.class_name != "" and all(map(chunks.is_whole, parsed.chunks, frames))


def _measured(view: memoryview, where: str) -> tuple[str, int]:
    """Return the key and the size in bytes that a record's first bytes claim; size 0 if there is no such record."""
    key = header.key_of(view[:1024])
    if not address.is_content_uuid(key):
        return key, 0
    try:
        size = header.record_size(view, key, where)
    except CorruptedStateError:
        return key, 0
    return key, size if size <= min(len(view), MAX_RECORD_BYTES) else 0


def _little_endian(column: "array[int]") -> bytes:
    if sys.byteorder != "little":
        column = array(column.typecode, column)
        column.byteswap()
    return column.tobytes()


def _native(kind: str, data: memoryview) -> "array[int]":
    column = array(kind)
    column.frombytes(data)
    if sys.byteorder != "little":
        column.byteswap()
    return column
