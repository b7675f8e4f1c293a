"""What a record stores: a state's segments, cut into pieces and hashed. Pure."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from ana.format import parts
from ana.format.chunks import SegmentedView
from ana.format.parts import Part

__all__ = ["Content"]


class Content(NamedTuple):
    """A state's segments (the pickle stream, then each buffer) as views, with the pieces they are cut into, hashed.

    `bytes_segments` are the numbers of the segments that are `bytes` objects, `parts` of those that are stored as
    states of their own.
    """

    class_name: str
    views: Sequence[memoryview]
    sizes: Sequence[int]
    bytes_segments: Sequence[int]
    pieces: Sequence[tuple[int, int]]
    leaves: Sequence[bytes]
    digest: bytes
    raw_bytes: int
    parts: Sequence[int] = ()
    own: bool = False
    """Whether the views are of memory that nobody else can change: it need not be hashed again when it is written."""
    describe: Callable[[], str] = str
    """Returns what people are told about the value, such as its type and shape; called when a record is made. No digest
    of the content covers it."""

    @property
    def own_bytes(self) -> int:
        """The raw size without the parts."""
        return self.raw_bytes - sum([self.sizes[number] for number in self.parts]) if self.parts else self.raw_bytes

    def described_by(self, describe: Callable[[], str]) -> "Content":
        """Return the content with a function that says what the value is."""
        # As `_replace` does, in a fourth of the time: every new state passes here.
        return tuple.__new__(Content, (*self[:-1], describe))

    def with_parts(self, segments: Sequence[int]) -> "Content":
        """Return the content with these segments as parts."""
        return self._replace(parts=tuple(segments))

    def part(self, segment: int) -> tuple[Part, "Content"]:
        """Return the part that a large segment becomes, and the content of its record. Nothing is hashed again."""
        sizes, is_bytes = [self.sizes[segment]], segment in self.bytes_segments
        start = sum(self.sizes[:segment])
        numbers = parts.pieces_of(segment, self.sizes, self.pieces)
        pieces = [(at - start, size) for at, size in self.pieces[numbers.start : numbers.stop]]
        leaves = self.leaves[numbers.start : numbers.stop]
        found = parts.part(segment, sizes[0], leaves, is_bytes=is_bytes)
        views = SegmentedView(self.views).views(start, sizes[0])
        marks = (0,) if is_bytes else ()
        record = Content(parts.CLASS_NAME, views, sizes, marks, pieces, leaves, found.digest, sizes[0])
        return found, record._replace(own=True) if self.own else record
