"""Packs: records end to end in one file, and an index once no more are added. Pure: bytes in, bytes out.

A pack is a legal zstd file: records are, and the index is a skippable frame at the end. A staged file (`ana stage`)
ends with a wide index: of records of any size, under any key. `docs/format.md` describes both byte by byte.
"""

import re
import struct
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    "index_at_end",
    "index_frame",
    "is_name",
    "key_of_number",
    "number_of",
    "parse_hint",
    "read_index",
    "records",
    "trailer_size",
    "wide_index_frame",
    "wide_number_of",
]

SUFFIX = ".pack.zst"
MAX_BYTES = 64 << 20
"""A pack gets no record that would make it larger than this, its index not counted."""
MAX_RECORDS = 1 << 16
MAX_RECORD_BYTES = 4 << 20
"""A larger record gets a file of its own."""

MAGIC = b"ANA\x00PAK\n"
_END = b"ANA\x00END\n"
VERSION, _WIDE_VERSION = 1, 2
SKIPPABLE = 0x184D2A51
"""The magic number of the index frame; records begin with 0x184D2A50."""
_FIXED = struct.Struct("<II8sHHIQ")
"""Magic number, frame size, magic bytes, version, flags, number of records, their size together."""
_TRAILER = struct.Struct("<Q8s")
_DIGEST_BYTES = 32
_COLUMNS, _WIDE_COLUMNS = "QQII", "QQQQ"
"""The types of an index's columns: of 8 and 4 bytes."""
_TAIL_BYTES = 64 << 10
"""Read from the end of a file first: an index of 2,700 records."""
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


def wide_number_of(key: str) -> int:
    """Return the number of any key, as wide indexes have it: of a UUID that of its digits, of another key a digest."""
    if address.is_canonical(key):
        return number_of(key)
    return int.from_bytes(blake3.blake3(address.key_bytes(key)).digest(length=16), "big")


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


def _makes_sense(spot: Spot, end: int, most: int = MAX_RECORD_BYTES) -> bool:
    return header.MIN_RECORD_BYTES <= spot.size <= most and spot.offset + spot.size <= end


class Index:
    """Where the records of a sealed pack lie, in four sorted columns: 24 bytes a record. It never changes.

    A wide index takes 32 bytes a record, has no limit on sizes, and says something about its file.
    """

    __slots__ = ("_high", "_low", "_most", "_offsets", "_sizes", "about", "end")

    def __init__(self, columns: Sequence["array[int]"], end: int, about: bytes | None = None) -> None:
        self._high, self._low, self._offsets, self._sizes = columns
        self._most = MAX_RECORD_BYTES if about is None else end
        self.end: int = end
        """The size in bytes of all records together: where the index begins."""
        self.about: bytes | None = about
        """What a wide index says about its file; None: it is not a wide one."""

    @classmethod
    def of(cls, spots: Mapping[int, Spot], end: int, about: bytes | None = None) -> "Index":
        """Return the index of records, given by the numbers of their keys."""
        numbers = sorted(spots)
        values = (
            [number >> 64 for number in numbers],
            [number & _LOW for number in numbers],
            [spots[number].offset for number in numbers],
            [spots[number].size for number in numbers],
        )
        kinds = _COLUMNS if about is None else _WIDE_COLUMNS
        return cls([array(kind, column) for kind, column in zip(kinds, values, strict=True)], end, about)

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
                return spot if _makes_sense(spot, self.end, self._most) else None
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
            if _makes_sense(spot, self.end, self._most):
                yield high << 64 | low, spot

    def highs(self) -> "array[int]":
        """Return the first 64 bits of each key, sorted."""
        return self._high

    def highs_between(self, first: int, last: int) -> "array[int]":
        """Return those of `highs` that are numbers from `first` to `last`."""
        return self._high[bisect_left(self._high, first) : bisect_right(self._high, last)]

    def frame(self) -> bytes:
        """Return the frame that is written after the records."""
        columns = [_little_endian(column) for column in (self._high, self._low, self._offsets, self._sizes)]
        rest = b"".join([*columns, self.about or b""])
        version = VERSION if self.about is None else _WIDE_VERSION
        size = _FIXED.size + len(rest) + _DIGEST_BYTES + TRAILER_BYTES
        head = _FIXED.pack(SKIPPABLE, size - 8, MAGIC, version, 0, len(self), self.end) + rest
        return head + blake3.blake3(head).digest() + _TRAILER.pack(size, _END)


def index_frame(spots: Mapping[int, Spot], end: int) -> bytes:
    """Return the index of records as a frame, to be written after them, at `end`."""
    return Index.of(spots, end).frame()


def wide_index_frame(spots: Mapping[int, Spot], end: int, about: bytes) -> bytes:
    """Return a wide index as a frame, to be written at `end`: of records given by `wide_number_of` their keys."""
    return Index.of(spots, end, about).frame()


def index_at_end(read: Callable[[int, int], Bytes], size_bytes: int) -> Index | None:
    """Return the index that ends a file; None if there is none, or a damaged one.

    Args:
        read: Returns the bytes of the file from an offset on, given the offset and their number.
        size_bytes: The size of the file.

    """
    tail = read(max(0, size_bytes - _TAIL_BYTES), min(size_bytes, _TAIL_BYTES))
    length = trailer_size(tail)
    if not 0 < length <= size_bytes:
        return None
    frame = tail[-length:] if length <= len(tail) else read(size_bytes - length, length)
    return read_index(frame, size_bytes)


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
    if (magic, size, name, flags, end) != (SKIPPABLE, len(frame) - 8, MAGIC, 0, size_bytes - len(frame)):
        return None
    kinds = {VERSION: _COLUMNS, _WIDE_VERSION: _WIDE_COLUMNS}.get(version, "")
    rest = len(frame) - least - count * sum(array(kind).itemsize for kind in kinds)
    if not kinds or rest < 0 or (rest and version == VERSION):
        return None
    view = memoryview(frame)
    signed = len(frame) - TRAILER_BYTES - _DIGEST_BYTES
    if blake3.blake3(view[:signed]).digest() != view[signed : signed + _DIGEST_BYTES]:
        return None
    columns, at = [], _FIXED.size
    for kind in kinds:
        columns.append(_native(kind, view[at : at + array(kind).itemsize * count]))
        at += array(kind).itemsize * count
    return Index(columns, end, None if version == VERSION else bytes(view[at:signed]))


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
