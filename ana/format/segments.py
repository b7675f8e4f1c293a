"""Segments: their sizes as a header writes them and as the content digest covers them. Pure."""

from collections.abc import Callable, Sequence
from typing import Protocol

__all__ = ["Described", "marked", "unmarked"]

_WHOLE = 1 << 63
"""The bit in a segment's size that marks it as a `bytes` object."""


class Described(Protocol):
    """What a header needs to know about a state's content; `record.Content` implements it."""

    @property
    def class_name(self) -> str:
        """The name of the state's class."""

    @property
    def digest(self) -> bytes:
        """The content digest."""

    @property
    def sizes(self) -> Sequence[int]:
        """The size of each segment."""

    @property
    def describe(self) -> Callable[[], str]:
        """Returns what people are told about the value."""

    @property
    def bytes_segments(self) -> Sequence[int]:
        """The numbers of the segments that are `bytes` objects."""


def marked(segments: Sequence[int], bytes_segments: Sequence[int]) -> Sequence[int]:
    """Return the segments' sizes as they are written and hashed, with a bit set for each `bytes` object."""
    those = set(bytes_segments)
    return [size | _WHOLE if number in those else size for number, size in enumerate(segments)]


def unmarked(written: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the segments' sizes, and the numbers of the segments that are `bytes` objects."""
    bytes_segments = tuple(number for number, size in enumerate(written) if size & _WHOLE)
    return tuple(size & ~_WHOLE for size in written), bytes_segments
