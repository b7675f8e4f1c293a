"""What is known of one pack: where its records lie. Reads the index of a sealed pack, walks an unsealed one."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ana.format import pack
from ana.format.pack import Index, Spot
from ana.format.signature import Seal
from ana.fs.append_file import KeptFile

__all__ = ["PackTable", "read_table"]

TAIL_BYTES = 64 << 10
"""Read from the end of a pack first: an index of 2,700 records."""
BLOCK_BYTES = 8 << 20
"""Read at a time of a pack without an index. No record is larger."""


class PackTable(NamedTuple):
    """Where the records of a pack lie: by its index, or as found by reading it up to `end`, if it is not sealed."""

    end: int
    """The size in bytes of the records that are known."""
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

    def highs(self) -> Iterable[int]:
        """Return the first 64 bits of each key."""
        return (number >> 64 for number in self.walked) if self.said is None else self.said.highs()

    def __len__(self) -> int:
        return len(self.walked) if self.said is None else len(self.said)


def read_table(file: KeptFile, known: PackTable | None, seal: Seal | None) -> PackTable:
    """Return where the records of an open pack lie; `known` itself if nothing has changed since. Raises StoreError.

    Args:
        file: The open pack.
        known: What was known of the pack before; only what has come since is read.
        seal: The store's key: records that it has not signed are not found.

    """
    size, modified = file.status.size_bytes, file.status.modified
    if known is not None and known.size_bytes == size:
        return known
    index = _index(file, size)
    if index is not None:
        return PackTable(index.end, index, {}, size, modified)
    end, walked = (0, {}) if known is None else (known.end, dict(known.walked))
    while size - end >= pack.TRAILER_BYTES:
        block = file.read(end, min(BLOCK_BYTES, size - end))
        reached = end
        for key, spot in pack.records(block, file.path, seal):
            walked[pack.number_of(key)] = Spot(end + spot.offset, spot.size)
            reached = max(reached, end + spot.offset + spot.size)
        if reached == end:
            break
        end = reached
    return PackTable(end, None, walked, size, modified)


def _index(file: KeptFile, size: int) -> Index | None:
    tail = file.read(max(0, size - TAIL_BYTES), min(size, TAIL_BYTES))
    length = pack.trailer_size(tail)
    if not 0 < length <= size:
        return None
    frame = tail[-length:] if length <= len(tail) else file.read(size - length, length)
    return pack.read_index(frame, size)
