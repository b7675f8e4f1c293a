"""The record format: pickle stream and buffers to bytes, and back. Pure: no files, no clocks, no classes.

A record is a legal zstd file: one skippable frame that holds the header, then the chunks, each a
zstd frame of its own. `docs/format.md` gives it byte by byte.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from ana.errors import CorruptedStateError, StateChangedError
from ana.format import address, chunks
from ana.format.chunks import Chunk, Read, SegmentedView
from ana.format.header import (
    MIN_RECORD_BYTES,
    Draft,
    Header,
    header_size,
    is_signed,
    key_of,
    marked,
    parse_header,
    sealed_anew,
    signed_parts,
)
from ana.format.signature import Seal
from ana.runtime import buffers, threads

__all__ = [
    "MIN_RECORD_BYTES",
    "Chunk",
    "Content",
    "Encoding",
    "Header",
    "PutBytes",
    "Write",
    "content",
    "copy",
    "decode",
    "decode_small",
    "encode",
    "header_size",
    "is_signed",
    "key_of",
    "parse_header",
    "sealed_anew",
    "signed_parts",
    "verify",
    "write",
]

PIECE_BYTES = 4 << 20
"""Content is cut into pieces of this size at the most; each is one chunk and one leaf of the address."""
LARGE_BYTES = 256 << 10
"""A buffer from this size on has chunks of its own, so that it can be read straight into its place."""
PARALLEL_BYTES = 4 << 20
"""From this size on (raw bytes) chunks are worth threads: starting one takes as long as hashing 1 MiB."""


class Encoding(NamedTuple):
    """What a record says and holds beside its state."""

    created_ns: int = 0
    """When it was made, in ns since 1970."""
    level: int = chunks.DEFAULT_LEVEL
    """The compression level, as `chunks.encode` takes it."""
    seal: Seal | None = None
    """What signs the record."""


class Content(NamedTuple):
    """A state's segments (the pickle stream, then each buffer), end to end in views, cut into pieces and hashed.

    `bytes_segments` are the numbers of the segments that are `bytes` objects.
    """

    class_name: str
    views: Sequence[memoryview]
    sizes: Sequence[int]
    bytes_segments: Sequence[int]
    pieces: Sequence[tuple[int, int]]
    leaves: Sequence[bytes]
    digest: bytes
    raw_bytes: int


Bytes = bytes | bytearray | memoryview
Write = Callable[[int, Sequence[memoryview | bytes]], None]
"""Puts parts, one after the other, at an offset of the record. Called from several threads, once for each range."""

PutBytes = Callable[[int, memoryview | bytes], None]
"""Puts bytes at an offset of something. Called from several threads, once for each range."""


def plan(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut segments, laid end to end, into pieces (offset, size): large ones alone, small ones together."""
    pieces: list[tuple[int, int]] = []
    start = position = 0
    for length in lengths:
        large = length >= LARGE_BYTES
        if position > start and (large or position - start + length > PIECE_BYTES):
            pieces.append((start, position - start))
            start = position
        position += length
        if large:
            pieces.extend((at, min(PIECE_BYTES, position - at)) for at in range(start, position, PIECE_BYTES))
            start = position
    if position > start:
        pieces.append((start, position - start))
    return pieces


def content(
    class_name: str, views: Sequence[memoryview], sizes: Sequence[int] | None = None, bytes_segments: Sequence[int] = ()
) -> Content:
    """Hash a state: its pieces, and from their digests, its segments' sizes and the class's name its content digest.

    Without `sizes`, each view is a segment. Small content that somebody may modify is copied: what was hashed is what
    is stored. A larger one is checked when it is written.
    """
    if sizes is None:
        sizes = [len(view) for view in views]
    pieces = plan(sizes)
    if len(pieces) == 1:
        if pieces[0][1] < chunks.SMALL_BYTES and not chunks.is_stable(views):
            views = [memoryview(b"".join(views))]
        leaves = [chunks.digest(views)]
        digest = address.content_digest(class_name, marked(sizes, bytes_segments) if bytes_segments else sizes, leaves)
        return Content(class_name, views, sizes, bytes_segments, pieces, leaves, digest, pieces[0][1])
    segmented = SegmentedView(views)
    leaves = [b""] * len(pieces)

    def hash_piece(number: int) -> None:
        leaves[number] = chunks.digest(segmented.views(*pieces[number]))

    raw_bytes = sum(sizes)
    threads.run(hash_piece, range(len(pieces)), _worthwhile_threads(raw_bytes))
    digest = address.content_digest(class_name, marked(sizes, bytes_segments) if bytes_segments else sizes, leaves)
    return Content(class_name, views, sizes, bytes_segments, pieces, leaves, digest, raw_bytes)


def write(sink: Write, key: str, state: Content, children: Sequence[str], encoding: Encoding) -> int:
    """Make a record, giving its parts to `sink` as they are ready: the chunks, and at last the header; return its size.

    Chunks are made and given away on several threads; as many as there are threads are in memory at once. One
    chunk goes together with its header. Parts are good until `sink` returns: they lie in memory that is used again.
    With a seal, the record is signed. Raises StateChangedError where the content is not what was hashed.
    """
    created_ns, level, seal = encoding
    draft = Draft(key, state, len(state.pieces), children)
    if len(state.pieces) == 1:
        if state.raw_bytes < chunks.SMALL_BYTES:
            # Stable since it was hashed, so no memory is taken for it.
            chunk, parts = chunks.encode(state.views, state.raw_bytes, state.leaves[0], level, chunks.Scratch())
            sink(0, [draft.header([chunk], created_ns, seal), *parts])
            return draft.header_bytes + chunk.stored
        with chunks.Scratch() as scratch:
            chunk, parts = _encode_piece(key, state, 0, state.views, level, scratch)
            sink(0, [draft.header([chunk], created_ns, seal), *parts])
        return draft.header_bytes + chunk.stored
    segmented = SegmentedView(state.views)
    offsets = _OffsetAllocator(draft.header_bytes)

    def work(number: int) -> None:
        with chunks.Scratch() as scratch:
            views = segmented.views(*state.pieces[number])
            chunk, parts = _encode_piece(key, state, number, views, level, scratch)
            sink(offsets.place(number, chunk), parts)

    threads.run(work, range(len(state.pieces)), _worthwhile_threads(draft.raw_bytes), give_up=offsets.give_up)
    sink(0, [draft.header(offsets.table, created_ns, seal)])
    return offsets.end


def _encode_piece(
    key: str, state: Content, number: int, views: Sequence[memoryview], level: int, scratch: chunks.Scratch
) -> tuple[Chunk, list[memoryview | bytes]]:
    start, size = state.pieces[number]
    try:
        return chunks.encode(views, size, state.leaves[number], level, scratch)
    except chunks.Changed:
        what = f"it changed while it was stored (bytes {start:,} to {start + size:,} of {state.raw_bytes:,})"
        raise StateChangedError(key, state.class_name, what) from None


def encode(
    key: str,
    state: Content,
    children: Sequence[str] = (),
    *,
    created_ns: int = 0,
    level: int = chunks.DEFAULT_LEVEL,
    seal: Seal | None = None,
) -> bytes:
    """Return a record; otherwise like `write`."""
    header_bytes = Draft(key, state, len(state.pieces), children).header_bytes
    most = header_bytes + chunks.most_bytes(state.raw_bytes, len(state.pieces))
    whole = buffers.Whole(most)

    def put(offset: int, parts: Sequence[memoryview | bytes]) -> None:
        for part in parts:
            whole.view[offset : offset + len(part)] = part
            offset += len(part)

    return whole.take(write(put, key, state, children, Encoding(created_ns, level, seal)))


def decode(header: Header, read: Read, where: str) -> list[bytes | memoryview]:
    """Return the segments of a record: each chunk is read, verified, and then decompressed into its place.

    What comes out is verified, too: its digests have to give the content digest in the header. `read` gets offsets
    into the record, on several threads where the record is large. Each segment has memory of its own, writable and
    aligned to 64 bytes, but for `bytes` objects (the pickle stream may be one). Raises
    CorruptedStateError, MemoryError; what `read` raises passes through.
    """
    if len(header.segments) == len(header.chunks) == 1 and header.chunks[0].method == chunks.ZSTD:
        # Without copying its content once more.
        found: list[bytes | memoryview] = []

        def one(chunk: Chunk, offset: int, _: int) -> bytes:
            data = chunks.read_compressed(chunk, read, offset)
            found.append(data)
            return chunks.digest([memoryview(data)])

        _each(header, where, one)
        return found
    bytes_segments = {number: buffers.Whole(header.segments[number]) for number in header.bytes_segments}
    segments = [
        bytes_segments[number].view if number in bytes_segments else _memory_for(number, size)
        for number, size in enumerate(header.segments)
    ]
    _fill(header, read, where, segments)
    return [bytes_segments[number].take() if number in bytes_segments else view for number, view in enumerate(segments)]


def _fill(header: Header, read: Read, where: str, segments: Sequence[memoryview]) -> None:
    segmented = SegmentedView(segments)
    _each(
        header,
        where,
        lambda chunk, offset, start: chunks.read(chunk, read, offset, segmented.views(start, chunk.raw)),
    )


def copy(header: Header, read: Read, where: str, offsets: Sequence[int], put: PutBytes) -> None:
    """Put each segment of a record at its offset, a piece at a time: read, verified, and decompressed.

    As `decode`, but with no more in memory than a piece for each thread; and only when it returns is the whole known to
    be right. What `put` raises passes through.
    """
    starts = list(accumulate(header.segments, initial=0))

    def put_piece(piece: memoryview, start: int) -> None:
        number = bisect_right(starts, start, hi=len(header.segments)) - 1
        while piece:
            at = start - starts[number]
            part = piece[: header.segments[number] - at]
            if part:
                put(offsets[number] + at, part)
            piece = piece[len(part) :]
            start += len(part)
            number += 1

    _pass(header, read, where, put_piece)


def decode_small(header: Header, data: bytearray, where: str) -> list[bytes | memoryview]:
    """Return the segments of a record that is in memory, as `decode`; what needs no copy stays where it is."""
    alone = len(header.segments) == len(header.chunks) == 1
    if alone and header.chunks[0].method == chunks.RAW and header.raw_bytes <= chunks.BLOCK_BYTES:
        try:
            found = chunks.raw_content(header.chunks[0], memoryview(data)[header.header_bytes :])
        except chunks.Damaged as error:
            raise CorruptedStateError(header.key, where, f"chunk 0 {error}") from None
        _check_content(header, [header.chunks[0].digest], where)
        return [found]
    return decode(header, reader(data), where)


def verify(header: Header, read: Read, where: str) -> None:
    """Read all chunks and check what they hold, as `copy` does. Raises CorruptedStateError."""
    _pass(header, read, where, lambda *_: None)


def reader(data: Bytes) -> Read:
    """Return the `read` function of a record that is in memory."""
    source = memoryview(data)

    def read(offset: int, targets: Sequence[memoryview]) -> None:
        for target in targets:
            target[:] = source[offset : offset + len(target)]
            offset += len(target)

    return read


def _pass(header: Header, read: Read, where: str, take: Callable[[memoryview, int], object]) -> None:
    """Hand each chunk's content to `take`, with its offset among the segments, and verify it."""

    def one(chunk: Chunk, offset: int, start: int) -> bytes:
        with chunks.Scratch() as scratch:
            content = chunks.read_content(chunk, read, offset, scratch)
            take(content, start)
            return chunk.digest if chunk.method == chunks.RAW else chunks.digest([content])

    _each(header, where, one)


def _each(header: Header, where: str, work: Callable[[Chunk, int, int], bytes]) -> None:
    """Call `work` with each chunk, its offset in the record, and that of its content among the segments.

    It returns the digest of that content; together they have to give the content digest. Raises CorruptedStateError.
    """
    table = header.chunks
    offsets = list(accumulate((chunk.stored for chunk in table), initial=header.header_bytes))
    starts = list(accumulate((chunk.raw for chunk in table), initial=0))
    leaves = [b""] * len(table)

    def one(number: int) -> None:
        try:
            leaves[number] = work(table[number], offsets[number], starts[number])
        except chunks.Damaged as error:
            raise CorruptedStateError(header.key, where, f"chunk {number} {error}") from None

    threads.run(one, range(len(table)), _worthwhile_threads(header.raw_bytes))
    _check_content(header, leaves, where)


def _check_content(header: Header, leaves: Sequence[bytes], where: str) -> None:
    """Refuse content whose digest is not the one in the header, or not the one that its key is the address of."""
    sizes = marked(header.segments, header.bytes_segments) if header.bytes_segments else header.segments
    found = address.content_digest(header.class_name, sizes, leaves)
    if found != header.content:
        reason = "its content is not what its content digest says, though its chunks are as they were written"
        raise CorruptedStateError(header.key, where, reason)
    # A bare state has whatever name the program chose.
    if header.class_name and not address.is_right(header.key, found):
        reason = f"it has the content of another address, {address.content_uuid(found)}"
        raise CorruptedStateError(header.key, where, reason)


def _memory_for(number: int, size: int) -> memoryview:
    """Return memory for a segment. Nothing is left of the stream: it need not be aligned."""
    return buffers.allocate(size) if number or size >= PARALLEL_BYTES else memoryview(bytearray(size))


def _worthwhile_threads(raw_bytes: int) -> int:
    return threads.available() if raw_bytes >= PARALLEL_BYTES else 1


class _OffsetAllocator:
    """Where the chunks of a record go: each behind the one before, whichever thread is ready first."""

    def __init__(self, offset: int) -> None:
        self.table: list[Chunk] = []
        self.end = offset
        self._changed = threading.Condition()
        self._broken = False

    def place(self, number: int, chunk: Chunk) -> int:
        """Return the chunk's offset in the record, as soon as the sizes of all chunks before it are known."""
        with self._changed:
            while len(self.table) < number and not self._broken:
                self._changed.wait()
            if self._broken:
                msg = "another chunk could not be written"
                raise threads.GaveUp(msg)
            offset = self.end
            self.end += chunk.stored
            self.table.append(chunk)
            self._changed.notify_all()
            return offset

    def give_up(self) -> None:
        """Wake the threads that wait for a chunk that will not come."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()
