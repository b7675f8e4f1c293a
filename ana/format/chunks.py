"""Chunks: pieces of a state's content as zstd frames, compressed or of raw blocks, each with a digest.

Pure: bytes in, bytes out. `docs/format.md` describes the frames.
"""

import logging
import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple, Self

import blake3

from ana.format import codec
from ana.runtime import buffers

__all__ = [
    "Changed",
    "Chunk",
    "Damaged",
    "Read",
    "Scratch",
    "SegmentedView",
    "digest",
    "encode",
    "is_possible",
    "read",
    "read_compressed",
    "read_content",
]

ZSTD, RAW, PART = 0, 1, 2
"""How a chunk is stored: a compressed frame (digest over it), a frame of raw blocks (digest over the content), or not
here but in a state of its own (`ana.format.parts`; digest over the content)."""

FRAME_MAGIC = 0xFD2FB528
MAX_CHUNK_BYTES = 16 << 20
"""Readers reject a chunk that claims more raw bytes, which bounds the memory allocated for one chunk."""
BLOCK_BYTES = 128 << 10
"""The size limit of a zstd block (RFC 8878, section 3.1.1.2.4)."""
_BLOCK_HEADER_BYTES = 3
DEFAULT_LEVEL = 1
"""Higher levels gain little: text shrinks to 21.6 % at level 1, 20.5 at 3, 19.7 at 6; small integers to 20, 24, 25."""
MAX_LEVEL = 22
"""zstd's highest level; its negative levels have no practical limit."""

_INCOMPRESSIBLE_BYTES = 3 << 10
"""Smaller content is stored raw: a file takes at least 4 KiB anyway, and zstd would cost 5 + 3 µs."""
_SAMPLED_BYTES = 64 << 10
_SAMPLE_BYTES = 8 << 10
"""The largest size of each of three samples; 1/64 of the piece suffices to tell noise from compressible data."""
_WORTHWHILE = 0.875
"""Compression that saves less than an eighth costs more time than it saves: float64 noise compresses to 94 %."""

SMALL_BYTES = 256 << 10
"""A smaller `bytes` object is written without a copy: it cannot change, and a copy would cost more."""
SCRATCH_BYTES = 4 << 20
_SPARE = 4
"""How many blocks of scratch memory to keep for later pieces."""

Read = Callable[[int, Sequence[memoryview]], None]
"""Fills writable views, one after the other, with the record's bytes from an offset on."""


class Chunk(NamedTuple):
    """One entry of the chunk table; sizes in bytes."""

    stored: int
    raw: int
    method: int
    digest: bytes


class Damaged(Exception):  # noqa: N818 - names the state of a chunk
    """A chunk's bytes are not those that were written; the message says how it shows."""


class Changed(Exception):  # noqa: N818 - names the state of a piece of content
    """A piece of content no longer matches its leaf, because it was modified meanwhile."""


class SegmentedView:
    """Segments addressed as one contiguous range of bytes."""

    def __init__(self, segments: Sequence[memoryview]) -> None:
        self.segments = segments
        self.starts: list[int] = list(accumulate((len(segment) for segment in segments), initial=0))

    def views(self, start: int, size: int) -> list[memoryview]:
        """Return the views that make up the `size` bytes from `start` on, in order."""
        views = []
        index = bisect_right(self.starts, start, hi=len(self.segments)) - 1
        while size > 0:
            segment = self.segments[index]
            at = start - self.starts[index]
            view = segment[at : at + size]
            if len(view):
                views.append(view)
            start += len(view)
            size -= len(view)
            index += 1
        return views


class Scratch:
    """Reusable memory for one piece of content at a time, because new pages cost more than hashing them.

    Each instance belongs to one thread, from `take` to the end of its `with` block.
    """

    __slots__ = ("_memory",)

    def __init__(self) -> None:
        self._memory: memoryview | None = None

    def take(self, size: int) -> memoryview:
        """Return `size` writable bytes, which reuse the memory taken before."""
        if size > SCRATCH_BYTES:
            # Not kept: with the huge pages that such a size gets, new memory costs half of a hash.
            return buffers.mapped(size)
        memory = self._memory
        if memory is None:
            try:
                memory = _spare.pop()
            except IndexError:
                memory = memoryview(bytearray(SCRATCH_BYTES))
            self._memory = memory
        return memory[:size]

    def fill(self, views: Sequence[memoryview], size: int) -> memoryview:
        """Return a copy of the views, one after the other."""
        return fill(self.take(size), views)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._memory is not None and len(_spare) < _SPARE:
            _spare.append(self._memory)
        self._memory = None


_spare: list[memoryview] = []


def fill(target: memoryview, views: Sequence[memoryview]) -> memoryview:
    """Copy the views into `target`, one after the other, and return it."""
    at = 0
    for view in views:
        target[at : at + len(view)] = view
        at += len(view)
    return target


_log = logging.getLogger("ana.chunks")


def digest(views: Sequence[memoryview]) -> bytes:
    """Return the 32 bytes of blake3 over the views, one after the other."""
    if len(views) == 1:
        return blake3.blake3(views[0]).digest()
    hasher = blake3.blake3()
    for view in views:
        hasher.update(view)
    return hasher.digest()


def encode(
    views: Sequence[memoryview], size: int, leaf: bytes, level: int, scratch: Scratch, *, own: bool = False
) -> tuple[Chunk, list[memoryview | bytes]]:
    """Return a chunk's entry and bytes; `leaf` is the digest of its content of `size` bytes.

    `level` is the zstd level, 0 for no compression. The bytes are verified to yield content with that digest: a
    compressed frame is decompressed again, other content is copied and the copy hashed, unless the views are our `own`
    memory. So they are right even if the views change meanwhile or the compressor fails. They are valid until `scratch`
    is used again. Raises Changed.
    """
    data = views[0] if len(views) == 1 else scratch.fill(views, size)
    frame = _compress(data, leaf, level) if level and size >= _INCOMPRESSIBLE_BYTES else None
    if frame is not None:
        return Chunk(len(frame), size, ZSTD, blake3.blake3(frame).digest()), [frame]
    if not own and (size >= SMALL_BYTES or not is_stable(views)):
        data = scratch.fill(views, size) if len(views) == 1 else data
        if blake3.blake3(data).digest() != leaf:
            raise Changed
    if size <= BLOCK_BYTES:
        lead = _lead(size)
        return Chunk(len(lead) + size, size, RAW, leaf), [lead, data]
    parts: list[memoryview | bytes] = []
    for start, header in _raw_blocks(size):
        parts += (header, data[start : start + BLOCK_BYTES])
    return Chunk(sum(map(len, parts)), size, RAW, leaf), parts


def is_stable(views: Sequence[memoryview]) -> bool:
    """Return whether content is a single `bytes` object, which cannot be modified."""
    return len(views) == 1 and type(views[0].obj) is bytes


def _compress(data: memoryview, leaf: bytes, level: int) -> bytes | None:
    """Return a frame that is verified to yield the content of a leaf; None if compression fails or saves too little."""
    if not _compressible(data, level):
        return None
    frame = codec.compress(data, level)
    if len(frame) >= len(data) * _WORTHWHILE:
        return None
    try:
        if blake3.blake3(_decompress(frame, len(data))).digest() == leaf:
            return frame
        reason = "has other content"
    except Damaged as error:
        reason = str(error)
    _log.warning("a compressed chunk %s: the object changed meanwhile, or memory or zstd have a fault here", reason)
    return None


def most_bytes(raw_bytes: int, n_chunks: int) -> int:
    """Return an upper bound for the size in bytes of a state's chunks."""
    blocks = raw_bytes // BLOCK_BYTES + n_chunks
    return raw_bytes + _BLOCK_HEADER_BYTES * blocks + _frame_header_bytes(MAX_CHUNK_BYTES) * n_chunks


def is_possible(chunk: Chunk) -> bool:
    """Return whether a chunk's sizes are possible; checked before anything is allocated."""
    if not 0 < chunk.raw <= MAX_CHUNK_BYTES:
        return False
    if chunk.method == RAW:
        blocks = -(-chunk.raw // BLOCK_BYTES)
        return chunk.stored == chunk.raw + _frame_header_bytes(chunk.raw) + _BLOCK_HEADER_BYTES * blocks
    if chunk.method == PART:
        return chunk.stored == 0
    # At most ZSTD_COMPRESSBOUND, rounded up: we never store a frame larger than its content.
    # At least three bytes for each block of 128 KiB, the least that zstd needs.
    least, most = 3 * chunk.raw // BLOCK_BYTES, chunk.raw + (chunk.raw >> 7) + 1024
    return chunk.method == ZSTD and least < chunk.stored <= most


def read(chunk: Chunk, source: Read, offset: int, targets: list[memoryview]) -> bytes:
    """Read a chunk, verify it, put its content into the targets, and return its leaf. Raises Damaged."""
    if chunk.method == RAW:
        _read_raw(chunk, source, offset, targets)
        return chunk.digest
    data = read_compressed(chunk, source, offset)
    content = memoryview(data)
    for target in targets:
        target[:] = content[: len(target)]
        content = content[len(target) :]
    return digest(targets)


def read_content(chunk: Chunk, source: Read, offset: int, scratch: Scratch) -> memoryview:
    """Return a chunk's verified content, which is valid until `scratch` is used again. Raises Damaged."""
    if chunk.method != RAW:
        return memoryview(read_compressed(chunk, source, offset))
    content = scratch.take(chunk.raw)
    _read_raw(chunk, source, offset, [content])
    return content


def raw_content(chunk: Chunk, frame: memoryview) -> memoryview:
    """Return the verified content of an in-memory frame of one raw block, without a copy. Raises Damaged."""
    lead = _lead(chunk.raw)
    content = frame[len(lead) : chunk.stored]
    # As `bytes`: Python compares a memoryview item by item.
    if bytes(frame[: len(lead)]) != lead or blake3.blake3(content).digest() != chunk.digest:
        raise Damaged(_MISMATCH)
    return content


def is_whole(chunk: Chunk, frame: memoryview) -> bool:
    """Return whether an in-memory frame matches its checksum; a part has none here. Decompresses nothing."""
    if chunk.method == PART:
        return True
    if chunk.method != RAW:
        return blake3.blake3(frame).digest() == chunk.digest
    hasher, at = blake3.blake3(), 0
    for start, lead in _raw_blocks(chunk.raw):
        size = min(BLOCK_BYTES, chunk.raw - start)
        if bytes(frame[at : at + len(lead)]) != lead:
            return False
        at += len(lead)
        hasher.update(frame[at : at + size])
        at += size
    return hasher.digest() == chunk.digest


def read_compressed(chunk: Chunk, source: Read, offset: int) -> bytes:
    """Return the content of a compressed chunk; the frame is verified before it is decompressed. Raises Damaged."""
    return _decompress(_read_frame(chunk, source, offset), chunk.raw)


def _decompress(frame: bytes | bytearray, size: int) -> bytes:
    try:
        return codec.decompress(frame, size)
    except codec.FrameError as error:
        raise Damaged(str(error)) from None


def _compressible(data: memoryview, level: int) -> bool:
    """Guess from three samples whether a large piece is worth compressing; a small piece always is tried."""
    length = len(data)
    if length < _SAMPLED_BYTES:
        return True
    size = min(_SAMPLE_BYTES, length // 64)
    sample = b"".join(data[start : start + size] for start in (0, (length - size) // 2, length - size))
    return len(codec.compress(sample, level)) < len(sample) * _WORTHWHILE


def _raw_blocks(size: int) -> Iterator[tuple[int, bytes]]:
    """Yield, for each raw block of a zstd frame, its offset in the content and its header bytes (RFC 8878, 3.1.1)."""
    lead = _frame_header(size)
    for start in range(0, size, BLOCK_BYTES):
        block = min(BLOCK_BYTES, size - start)
        last = start + block == size
        yield start, lead + (block << 3 | last).to_bytes(_BLOCK_HEADER_BYTES, "little")
        lead = b""


@lru_cache(maxsize=256)
def _lead(size: int) -> bytes:
    """Return the header bytes of a frame of one raw block."""
    return _frame_header(size) + (size << 3 | 1).to_bytes(_BLOCK_HEADER_BYTES, "little")


def _frame_header(size: int) -> bytes:
    if size < 256:  # noqa: PLR2004 - the size field's widths
        return struct.pack("<IBB", FRAME_MAGIC, 0x20, size)
    if size < 65536 + 256:
        return struct.pack("<IBH", FRAME_MAGIC, 0x60, size - 256)
    return struct.pack("<IBI", FRAME_MAGIC, 0xA0, size)


def _frame_header_bytes(size: int) -> int:
    return 6 if size < 256 else 7 if size < 65536 + 256 else 9  # noqa: PLR2004 - as above


def _read_frame(chunk: Chunk, source: Read, offset: int) -> bytearray:
    frame = bytearray(chunk.stored)
    source(offset, [memoryview(frame)])
    if blake3.blake3(frame).digest() != chunk.digest:
        raise Damaged(_MISMATCH)
    return frame


_MISMATCH = "does not match its checksum"


def _read_raw(chunk: Chunk, source: Read, offset: int, targets: list[memoryview]) -> None:
    """Read a frame of raw blocks: the content goes straight into `targets`, the block headers into scratch memory."""
    expected = b""
    segmented = SegmentedView(targets)
    scratch: list[bytearray] = []
    views: list[memoryview] = []
    for start, lead in _raw_blocks(chunk.raw):
        expected += lead
        scratch.append(bytearray(len(lead)))
        views.append(memoryview(scratch[-1]))
        views += segmented.views(start, min(BLOCK_BYTES, chunk.raw - start))
    source(offset, views)
    if b"".join(scratch) != expected or digest(targets) != chunk.digest:
        raise Damaged(_MISMATCH)
