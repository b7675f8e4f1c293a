"""What is known of one pack: where its records lie. Reads the index of a sealed pack, walks an unsealed one."""

import errno
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import partial
from typing import NamedTuple

from ana.errors import StoreError
from ana.format import header, pack
from ana.format.pack import Index, Spot
from ana.format.signature import Seal
from ana.fs.append_file import KeptFile

__all__ = ["Catalog", "PackTable", "read_table"]

_NUMBER = (1 << 20) - 1
"""The bits of a merged entry that number its pack; the others are the first bits of a key."""
_PAUSE = 1000
"""How many look-ups to make before asking again whether merging pays."""
_PARTS = 16
"""Indexes are merged a part at a time, which bounds the memory that it takes."""

BLOCK_BYTES = 8 << 20
"""Read at a time of a pack without an index. No record is larger."""


class PackTable(NamedTuple):
    """Where the records of a pack lie: by its index, or as found by reading it up to `end`, if it is not sealed."""

    end: int
    """Up to where all is known: the end of the records, or where the first damage begins if it is not sealed."""
    said: Index | None
    """The pack's own index; None if it is not sealed."""
    walked: dict[int, Spot]
    """The records of a pack that is not sealed, by the numbers of their keys."""
    size_bytes: int
    """The size of the file when it was read."""
    modified: float
    """When it was changed last, in s since 1970 by the server's clock."""

    @property
    def sealed(self) -> bool:
        """Whether the pack has its index, so that nothing is appended any more."""
        return self.said is not None

    def find(self, number: int) -> Spot | None:
        """Return where the record of a key lies, given the key's number."""
        return self.walked.get(number) if self.said is None else self.said.find(number)

    def items(self) -> Iterator[tuple[int, Spot]]:
        """Yield the number of each key, and where its record lies."""
        yield from self.walked.items() if self.said is None else self.said.items()

    def between(self, first: int, last: int) -> Iterator[tuple[int, Spot]]:
        """Yield the numbers from `first` to `last`, and where their records lie."""
        if self.said is None:
            yield from ((number, spot) for number, spot in self.walked.items() if first <= number <= last)
        else:
            yield from self.said.between(first, last)

    def highs_between(self, first: int, last: int) -> Iterable[int]:
        """Return the first 64 bits of each key, of those for which these are numbers from `first` to `last`."""
        if self.said is not None:
            return self.said.highs_between(first, last)
        return [high for number in self.walked if first <= (high := number >> 64) <= last]

    def __len__(self) -> int:
        return len(self.walked) if self.said is None else len(self.said)


class Catalog:
    """The tables of all packs, and where a key is in any of them: a few µs for a million records in many packs.

    Not safe between threads that change it; looking up is, beside a change.

    Attributes:
        tables: What is known of each pack, by its name.

    """

    def __init__(self) -> None:
        self.tables: dict[str, PackTable] = {}
        self._apart: set[str] = set()
        self._merged = array("Q")
        self._names: list[str] = []
        self._looks = self._next = 0

    def put(self, name: str, table: PackTable) -> None:
        """Add what is known of a pack, or replace it by something newer."""
        self.tables[name] = table
        self._apart.add(name)

    def drop(self, name: str) -> None:
        """Forget a pack."""
        self.tables.pop(name, None)
        self._apart.discard(name)

    def find(self, number: int) -> list[tuple[str, Spot]]:
        """Return the packs that have the record of a key, and where, given the key's number."""
        if not self.tables:
            return []
        names, merged = list(self._apart), self._merged
        first = number >> 84 << 20
        last = first + _NUMBER
        for at in range(bisect_left(merged, first), len(merged)):
            entry = merged[at]
            if entry > last:
                break
            names.append(self._names[entry & _NUMBER])
        found: list[tuple[str, Spot]] = []
        for name in names:
            table = self.tables.get(name)
            spot = None if table is None else table.find(number)
            if spot is not None:
                found.append((name, spot))
        self._looks += 1
        if self._looks > self._next:
            self._merge_if_it_pays()
        return found

    def _merge_if_it_pays(self) -> None:
        """Merge the indexes of sealed packs once as many look-ups were made in each of them as it merges entries."""
        sealed = [name for name in tuple(self._apart) if self.tables[name].sealed]
        if len(sealed) > 1 and self._looks * len(sealed) > sum(len(self.tables[name]) for name in sealed):
            self._merge()
        self._next = self._looks + _PAUSE

    def _merge(self) -> None:
        indexes = {name: table.said for name, table in self.tables.items() if table.said is not None}
        names = list(indexes)[: _NUMBER + 1]
        columns = [indexes[name].highs() for name in names]
        merged = array("Q")
        for part in range(_PARTS):
            low, high = (part << 64) // _PARTS, ((part + 1) << 64) // _PARTS
            entries: list[int] = []
            for number, column in enumerate(columns):
                start, stop = bisect_left(column, low), bisect_left(column, high)
                entries += [first & ~_NUMBER | number for first in column[start:stop]]
            entries.sort()
            merged.extend(entries)
        self._names, self._merged, self._looks = names, merged, 0
        self._apart = {name for name, table in self.tables.items() if not table.sealed}.union(
            self.tables.keys() - names
        )


def read_table(file: KeptFile, known: PackTable | None, seal: Seal | None) -> PackTable:
    """Return where the records of an open pack lie; `known` itself if nothing has changed since. Raises StoreError.

    Args:
        file: The open pack.
        known: What was known of the pack before; only what has come since is read.
        seal: The store's key: records that it has not signed are not found.

    """
    size, modified = file.status.size_bytes, file.status.modified
    if known is not None and (known.size_bytes, known.modified) == (size, modified):
        return known
    index = pack.index_at_end(partial(_read, file), size)
    if index is not None and index.about is None:
        return PackTable(index.end, index, {}, size, modified)
    # If it became shorter, its writer has cut off what the disk did not take.
    end, walked = (0, {}) if known is None or known.size_bytes > size else (known.end, dict(known.walked))
    end = _walk(file, end, walked, seal)
    if size - end >= header.MIN_RECORD_BYTES:
        # A torn end, or damage: then records may follow. What is not whole now may be so later.
        rest = _read(file, end, min(size - end, 2 * pack.MAX_BYTES))
        _add(walked, end, pack.damaged_spots(rest, file.path, seal))
    return PackTable(end, None, walked, size, modified)


def _walk(file: KeptFile, end: int, walked: dict[int, Spot], seal: Seal | None) -> int:
    """Add the records from an offset on; return where the first begins that is not whole."""
    while file.status.size_bytes - end >= pack.TRAILER_BYTES:
        block = _read(file, end, min(BLOCK_BYTES, file.status.size_bytes - end))
        reached = _add(walked, end, pack.records(block, file.path, seal))
        if reached == end:
            break
        end = reached
    return end


def _add(walked: dict[int, Spot], start: int, found: Iterable[tuple[str, Spot]]) -> int:
    """Add records that were found in the bytes from `start` on; return where the last one ends."""
    end = start
    for key, spot in found:
        walked[pack.number_of(key)] = Spot(start + spot.offset, spot.size)
        end = start + spot.offset + spot.size
    return end


def _read(file: KeptFile, offset: int, size: int) -> bytearray:
    data = file.read(offset, size)
    if len(data) < size:
        raise StoreError(file.path, errno.ESTALE, "it was deleted, or became shorter, while it was read")
    return data
