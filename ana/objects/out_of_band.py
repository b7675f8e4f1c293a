"""Collects what a pickler writes: the pickle stream in pieces, and the segments beside it. Nothing large is copied.

The C pickler passes the content of a large object to its file uncopied, right after the opcode that introduces it. For
a `bytes` object this module replaces that opcode by NEXT_BUFFER (PEP 574), and makes the object a segment of its own.
So it is written from where it is, and read straight into the object that it becomes.
"""

import pickle
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["PROTOCOL", "Pickled", "write"]

PROTOCOL = 5
IN_BAND_BYTES = 4096
"""Smaller buffers stay in the stream: a segment of their own costs more than a copy."""
LARGE_BYTES = 256 << 10
"""A `bytes` object of at least this size is a segment of its own, and so has its own chunks (`record.plan`)."""
_FRAME_BYTES = 64 << 10
"""A single write of at least this size is a frame, or the content of one object."""
JOINED_BYTES = 4 << 20
"""Frames are joined into pieces of about this size."""
_PROTO, _FRAME, _NEXT_BUFFER = b"\x80\x05", b"\x95", b"\x97"


class Pickled:
    """A pickled state: the bytes of its segments, end to end in views of any size, and each segment's size in bytes.

    The first segment is the pickle stream. `bytes_segments` are the numbers of those that become `bytes` objects.
    `frames` are the parts of the stream that are not the content of a large object.
    """

    __slots__ = ("bytes_segments", "frames", "sizes", "views")

    def __init__(
        self, views: list[memoryview], sizes: list[int], bytes_segments: Sequence[int], frames: Sequence[bytes]
    ) -> None:
        self.views: list[memoryview] = views
        self.sizes: list[int] = sizes
        self.bytes_segments: Sequence[int] = bytes_segments
        self.frames: Sequence[bytes] = frames

    def segments(self) -> "list[list[memoryview]]":
        """Return the views of each segment."""
        found: list[list[memoryview]] = []
        views = iter(self.views)
        for size in self.sizes:
            parts: list[memoryview] = []
            while size > sum(part.nbytes for part in parts):
                parts.append(next(views))
            found.append(parts)
        return found


def write(
    pickler_class: Callable[..., Any],
    state: object,
    *,
    least_bytes: int = IN_BAND_BYTES,
    large_bytes: int = LARGE_BYTES,
) -> Pickled:
    """Pickle a state with a class like `pickle.Pickler`. Raises what pickling raises.

    Args:
        pickler_class: Called as `pickle.Pickler` is.
        state: What to pickle.
        least_bytes: Smaller buffers stay in the stream.
        large_bytes: Smaller `bytes` objects do, and those of less than 64 KiB.

    """
    writes: list[Any] = []
    # Each with how many writes there were before.
    buffers: list[tuple[int, memoryview]] = []

    def keep(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < least_bytes:
            return True
        buffers.append((len(writes), view))
        return False

    pickler_class(_File(writes.append), PROTOCOL, buffer_callback=keep).dump(state)
    if len(writes) == 1 and not buffers:
        stream = writes[0]
        return Pickled([memoryview(stream)], [len(stream)], (), writes)
    return _Sorting(writes, buffers, large_bytes).pickled()


class _File:
    """The file that a pickler writes to. Appends each write to a list."""

    __slots__ = ("write",)

    def __init__(self, write: Callable[[Any], object]) -> None:
        self.write = write


class _Sorting:
    """Sorts the writes into frames, contents of large objects in the stream, and segments beside it."""

    def __init__(self, writes: list[Any], buffers: list[tuple[int, memoryview]], large_bytes: int) -> None:
        self.large_bytes = large_bytes
        self.frames: list[bytes] = []
        self.stream: list[memoryview] = []
        self.others: list[memoryview] = []
        self.bytes_segments: list[int] = []
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        buffers.reverse()
        for number in range(len(writes)):
            while buffers and buffers[-1][0] <= number:
                self.others.append(buffers.pop()[1])
            self._sort(writes[number])
            # Do not keep the joined parts in memory as well.
            writes[number] = None
        self.others += [view for _, view in reversed(buffers)]
        self._join(0)

    def pickled(self) -> Pickled:
        """Return the result."""
        sizes = [sum(map(len, self.stream)), *map(len, self.others)]
        return Pickled([*self.stream, *self.others], sizes, tuple(self.bytes_segments), self.frames)

    def _sort(self, data: Any) -> None:
        if isinstance(data, pickle.PickleBuffer):
            # A buffer that stays in the stream.
            data = data.raw()
        size = len(data)
        if size < _FRAME_BYTES or _is_frame(data):
            self._pending.append(bytes(data))
            self._pending_bytes += size
            if self._pending_bytes >= JOINED_BYTES:
                self._join(1)
        elif size >= self.large_bytes and isinstance(data, bytes) and self._is_introduced(size):
            self.others.append(memoryview(data))
            self.bytes_segments.append(len(self.others))
        else:
            self._join(0)
            self.stream.append(memoryview(data))

    def _is_introduced(self, size: int) -> bool:
        """Replace the opcode of a `bytes` object of this size by NEXT_BUFFER. Return False if it is another opcode."""
        last = self._pending[-1] if self._pending else b""
        for opcode in (b"B" + size.to_bytes(8, "little")[:4], b"\x8e" + size.to_bytes(8, "little")):
            if last.endswith(opcode) and int.from_bytes(opcode[1:], "little") == size:
                self._pending[-1] = last[: -len(opcode)] + _NEXT_BUFFER
                self._pending_bytes += 1 - len(opcode)
                return True
        return False

    def _join(self, left: int) -> None:
        """Join the frames so far into one piece, except the last `left` frames, which may still change."""
        frames = self._pending[: len(self._pending) - left]
        if frames:
            piece = frames[0] if len(frames) == 1 else b"".join(frames)
            self.frames.append(piece)
            self.stream.append(memoryview(piece))
            del self._pending[: len(frames)]
            self._pending_bytes -= len(piece)


def _is_frame(data: bytes | bytearray | memoryview) -> bool:
    """Return whether this is a frame, perhaps with an opcode after it. An object's content may look like one."""
    start = len(_PROTO) if data[: len(_PROTO)] == _PROTO else 0
    content = start + 9
    claimed = int.from_bytes(data[start + 1 : content], "little")
    return data[start : start + 1] == _FRAME and claimed <= len(data) - content
