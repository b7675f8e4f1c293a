"""Where the chunks of a record go while it is being written by several threads. Pure."""

import threading

from ana.format.chunks import Chunk
from ana.runtime import threads

__all__ = ["OffsetAllocator"]


class OffsetAllocator:
    """Assigns the chunks of a record their offsets: in order, whichever thread is ready first."""

    def __init__(self, offset: int) -> None:
        self.table: list[Chunk] = []
        self.end: int = offset
        self._changed = threading.Condition()
        self._broken = False

    def place(self, number: int, chunk: Chunk) -> int:
        """Return the chunk's offset in the record; waits until the sizes of all chunks before it are known."""
        with self._changed:
            self._changed.wait_for(lambda: len(self.table) >= number or self._broken)
            if self._broken:
                msg = "another chunk could not be written"
                raise threads.GaveUp(msg)
            offset = self.end
            self.end += chunk.stored
            self.table.append(chunk)
            self._changed.notify_all()
            return offset

    def give_up(self) -> None:
        """Wake the threads that wait for a chunk that failed."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()
