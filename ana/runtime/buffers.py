"""Buffers for content that is read: writable, aligned for arrays, and not zeroed first.

Every buffer owns its memory, so keeping a small array does not keep the rest of its state in memory.
"""

import io
import mmap
import sys
from contextlib import suppress
from typing import Any

__all__ = ["ALIGNMENT_BYTES", "Whole", "allocate", "mapped"]

ALIGNMENT_BYTES = 64
"""The size of a cache line and of the widest vector register; numerical libraries are fastest with it."""
_MAPPED_BYTES = 4 << 20
"""From this size on, memory is mapped in huge pages if numpy's allocator is not available to do so."""


def allocate(size: int) -> memoryview:
    """Return `size` writable bytes with arbitrary values, aligned to 64 bytes.

    Uses numpy if the process has imported it: its malloc reuses pages that are already mapped, and gives large arrays
    huge pages. Faulting in new pages costs more than reading into them.

    Raises:
        MemoryError: there is not enough memory.
    """
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and hasattr(numpy, "empty"):
        block = numpy.empty(size + ALIGNMENT_BYTES, "u1")
        return _aligned(memoryview(block), block.__array_interface__["data"][0], size)
    if size >= _MAPPED_BYTES:
        return mapped(size)
    import ctypes  # noqa: PLC0415 - takes milliseconds, and only processes without numpy get here

    spare = bytearray(size + ALIGNMENT_BYTES)
    return _aligned(memoryview(spare), ctypes.addressof(ctypes.c_char.from_buffer(spare)), size)


def mapped(size: int) -> memoryview:
    """Return `size` writable bytes, which go back to the system with their last view.

    malloc keeps freed blocks of up to 32 MiB for each thread's next one.

    Raises:
        MemoryError: there is not enough memory.
    """
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from error
    # Kernels without huge pages refuse it.
    with suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(pages)


def _aligned(view: memoryview, address: int, size: int) -> memoryview:
    skip = -address % ALIGNMENT_BYTES
    return view[skip : skip + size]


class _Memory(io.BytesIO):
    """Memory that the cyclic collector cannot close while views of it are left."""

    def close(self) -> None:
        """Do nothing: the memory is freed with the object."""


class Whole:
    """A `bytes` object that is being filled through `view`, and then taken without a copy.

    (CPython's BytesIO returns the very object that it was made with. A Python that copies is correct, too.)
    """

    def __init__(self, size: int) -> None:
        """Allocate `size` bytes. Raises MemoryError."""
        self._file = _Memory(bytes(size))
        self.view: memoryview = self._file.getbuffer()

    def take(self, size: int | None = None) -> bytes:
        """Return the object, or its first `size` bytes. No view other than `view` may be left."""
        self.view.release()
        if size is not None:
            self._file.truncate(size)
        return self._file.getvalue()
