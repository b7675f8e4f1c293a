"""Memory that content is read into: writable, aligned for arrays, and not filled with zeros first.

Every buffer owns its memory, so that a small array that is kept does not keep the state it came in.
"""

import io
import mmap
import sys
from typing import Any

__all__ = ["ALIGNMENT_BYTES", "Whole", "allocate"]

ALIGNMENT_BYTES = 64
"""A cache line, and the widest vector register: what numerical libraries hope for."""
_MAPPED_BYTES = 4 << 20
"""From this size on memory comes from the system in huge pages, where numpy's allocator is not there to do that."""


def allocate(size: int) -> memoryview:
    """Return `size` writable bytes, aligned to 64, whose values are arbitrary. Raises MemoryError.

    By numpy where the process has it: malloc gives it memory whose pages are there already, and large arrays
    huge pages. Faulting in new pages costs more than reading into them.
    """
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "empty"):
        block = numpy.empty(size + ALIGNMENT_BYTES, "u1")
        return _aligned(memoryview(block), block.__array_interface__["data"][0], size)
    if size < _MAPPED_BYTES:
        import ctypes  # noqa: PLC0415 - takes milliseconds, and only processes without numpy get here

        spare = bytearray(size + ALIGNMENT_BYTES)
        return _aligned(memoryview(spare), ctypes.addressof(ctypes.c_char.from_buffer(spare)), size)
    try:
        # Page-aligned, and given back when the last view of it goes.
        mapped = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from error
    mapped.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(mapped)


def _aligned(view: memoryview, address: int, size: int) -> memoryview:
    skip = -address % ALIGNMENT_BYTES
    return view[skip : skip + size]


class _Memory(io.BytesIO):
    """Memory whose end no cycle hastens: the collector would close the file first, and then its last views."""

    def close(self) -> None:
        """Do nothing: what is left of it goes with the object."""


class Whole:
    """A `bytes` object that is being read: its memory is written through `view` until it is taken. Not copied.

    (CPython's BytesIO gives out the very object that it began with; a Python that copies is as right.)
    """

    def __init__(self, size: int) -> None:
        """Take memory for `size` bytes. Raises MemoryError."""
        self._file = _Memory(bytes(size))
        self.view = self._file.getbuffer()

    def take(self, size: int | None = None) -> bytes:
        """Return the object, or its first `size` bytes. No other view of it may be left."""
        self.view.release()
        if size is not None:
            self._file.truncate(size)
        return self._file.getvalue()
