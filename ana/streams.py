"""What a pickler writes to: the pickle stream in pieces, and what goes beside it. Nothing large is copied.

The C pickler hands the content of a large object to the file that it writes to as it is, right behind the opcode that
introduces it. Of a `bytes` object that opcode becomes NEXT_BUFFER (PEP 574) here, and the object a segment of its own:
it is written from where it is, and read straight into the object that it becomes again.
"""

import pickle
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["PROTOCOL", "Pickled", "Sink"]

PROTOCOL = 5
IN_BAND_BYTES = 4096
"""Buffers below this size stay in the stream: a segment of their own costs more than a copy."""
LARGE_BYTES = 256 << 10
"""A `bytes` object from this size on is a segment of its own: so it has chunks of its own (`record.plan`)."""
_FRAME_BYTES = 64 << 10
"""From this size on, what a pickler writes at once is a frame, or the content of one object."""
JOINED_BYTES = 4 << 20
"""Frames are put together into pieces of about this size."""
_PROTO, _FRAME, _NEXT_BUFFER = b"\x80\x05", b"\x95", b"\x97"


class Pickled(NamedTuple):
    """A pickled state: the bytes of its segments, end to end in views of any size, and each segment's size in bytes.

    The first segment is the pickle stream. `wholes` are the numbers of the segments that become `bytes` objects.
    """

    views: list[memoryview]
    sizes: list[int]
    wholes: tuple[int, ...] = ()


class Sink:
    """The file of one dump."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._pieces: list[bytes] = []
        """Frames: opcodes and small objects, what may name a class."""
        self._stream: list[memoryview] = []
        self._others: list[memoryview] = []
        self._wholes: list[int] = []

    def dump(self, pickler_class: Callable[..., Any], state: object) -> None:
        """Pickle a state with a class like `pickle.Pickler`. Raises what pickling raises."""
        pickler_class(self, protocol=PROTOCOL, buffer_callback=self._keep).dump(state)
        self._join(0)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take what comes next in the stream; the pickler calls this."""
        size = len(data)
        if size < _FRAME_BYTES or _is_frame(data):
            self._frames.append(bytes(data))
            self._frames_bytes += size
            if self._frames_bytes >= JOINED_BYTES:
                self._join(1)
        elif size >= LARGE_BYTES and isinstance(data, bytes) and self._is_introduced(size):
            self._others.append(memoryview(data))
            self._wholes.append(len(self._others))
        else:
            self._join(0)
            self._stream.append(memoryview(data))

    def mentions(self, name: bytes) -> bool:
        """Say whether this stands in the stream, the content of large objects aside."""
        return any(name in piece for piece in self._pieces)

    def pickled(self) -> Pickled:
        """Return what was written."""
        sizes = [sum(map(len, self._stream)), *map(len, self._others)]
        return Pickled([*self._stream, *self._others], sizes, tuple(self._wholes))

    def _keep(self, buffer: pickle.PickleBuffer) -> bool:
        """Take a buffer out of the stream, unless it is small; the pickler calls this."""
        view = buffer.raw()
        if view.nbytes < IN_BAND_BYTES:
            return True
        self._others.append(view)
        return False

    def _is_introduced(self, size: int) -> bool:
        """Say whether the opcode before is that of a `bytes` object of this size; then it is NEXT_BUFFER now."""
        last = self._frames[-1] if self._frames else b""
        for opcode in (b"B" + size.to_bytes(8, "little")[:4], b"\x8e" + size.to_bytes(8, "little")):
            if last.endswith(opcode) and int.from_bytes(opcode[1:], "little") == size:
                self._frames[-1] = last[: -len(opcode)] + _NEXT_BUFFER
                self._frames_bytes += 1 - len(opcode)
                return True
        return False

    def _join(self, left: int) -> None:
        """Make one piece of the frames so far, but for the last `left` ones: what comes next may change those."""
        frames = self._frames[: len(self._frames) - left]
        if frames:
            piece = frames[0] if len(frames) == 1 else b"".join(frames)
            self._pieces.append(piece)
            self._stream.append(memoryview(piece))
            del self._frames[: len(frames)]
            self._frames_bytes -= len(piece)


def _is_frame(data: bytes | bytearray | memoryview) -> bool:
    """Say whether this is a frame, and perhaps an opcode behind it. An object's content may look like one."""
    start = len(_PROTO) if data[: len(_PROTO)] == _PROTO else 0
    content = start + 9
    claimed = int.from_bytes(data[start + 1 : content], "little")
    return data[start : start + 1] == _FRAME and claimed <= len(data) - content
