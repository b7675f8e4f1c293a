"""The record format: pickle stream and buffers to bytes, and back. Pure: no files, no clocks, no classes.

A record is a legal zstd file: one skippable frame that holds the header, then the chunks, each a
zstd frame of its own. `docs/format.md` describes it byte by byte.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from ana.errors import CorruptedStateError, StateChangedError
from ana.format import address, chunks, parts
from ana.format.chunks import PART, Chunk, Read, Scratch, SegmentedView
from ana.format.content import Content
from ana.format.draft import Draft
from ana.format.header import (
    MIN_RECORD_BYTES,
    Brief,
    Header,
    brief_of,
    header_size,
    is_signed,
    key_of,
    parse_header,
    record_size,
    sealed_anew,
    signed_parts,
)
from ana.format.offsets import OffsetAllocator
from ana.format.segments import marked
from ana.format.signature import Seal
from ana.runtime import buffers, threads

__all__ = [
    "MIN_RECORD_BYTES",
    "Brief",
    "Chunk",
    "Content",
    "Encoding",
    "Header",
    "PutBytes",
    "Scratch",
    "Write",
    "brief_of",
    "content",
    "copy",
    "decode",
    "decode_small",
    "encode",
    "header_size",
    "is_signed",
    "key_of",
    "parse_header",
    "record_size",
    "sealed_anew",
    "signed_parts",
    "verify",
    "verify_segments",
    "write",
]

PIECE_BYTES = 4 << 20
"""The largest piece that content is cut into; each piece is one chunk, and one leaf of the address."""
LARGE_BYTES = 256 << 10
"""A buffer of at least this size has chunks of its own, so that it can be read straight into its place."""
COPIED_BYTES = 32 << 20
"""The largest raw size of content that is copied in order to be hashed only once."""
PARALLEL_BYTES = 4 << 20
"""From this raw size on, threads are worthwhile: starting one takes as long as hashing 1 MiB."""


class Encoding(NamedTuple):
    """The properties of a record that do not depend on its state."""

    created_ns: int = 0
    """When the record was created, in ns since 1970."""
    level: int = chunks.DEFAULT_LEVEL
    """The compression level, as `chunks.encode` takes it."""
    seal: Seal | None = None
    """Signs the record; None for an unsigned one."""
    hints: Sequence[str] = ()
    """For each child, in which pack it lies, or ""; empty if none lies in one."""


_PLAIN = Encoding()


Bytes = bytes | bytearray | memoryview
Write = Callable[[int, Sequence[memoryview | bytes]], None]
"""Writes parts, one after the other, at an offset of the record. Called on several threads, once for each range."""

PutBytes = Callable[[int, memoryview | bytes], None]
"""Puts bytes at an offset of a target. Called on several threads, once for each range."""


def plan(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut concatenated segments into pieces (offset, size): large segments alone, small ones together."""
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
    class_name: str,
    views: Sequence[memoryview],
    sizes: Sequence[int] | None = None,
    bytes_segments: Sequence[int] = (),
    scratch: Scratch | None = None,
) -> Content:
    """Hash a state's pieces, then compute its content digest from theirs, the segments' sizes and the class name.

    Without `sizes`, each view is a segment. Small mutable content is copied, so that what is stored is what was hashed.
    Larger content is copied into `scratch`, up to `COPIED_BYTES`; otherwise it is checked when it is written. Copying
    costs a tenth of hashing it a second time, in new memory a third. The result is then valid until `scratch` is used
    again.
    """
    if sizes is None:
        sizes = [len(view) for view in views]
    pieces = plan(sizes)
    raw_bytes = sum(sizes)
    given, own = views, False
    if scratch is not None and raw_bytes >= chunks.SMALL_BYTES and _copy_pays(raw_bytes):
        views, own = [scratch.take(raw_bytes)], True
    if len(pieces) == 1:
        if own:
            chunks.fill(views[0], given)
        if pieces[0][1] < chunks.SMALL_BYTES and not chunks.is_stable(views):
            views = [memoryview(b"".join(views))]
        leaves = [chunks.digest(views)]
        digest = address.content_digest(class_name, marked(sizes, bytes_segments) if bytes_segments else sizes, leaves)
        return Content(class_name, views, sizes, bytes_segments, pieces, leaves, digest, raw_bytes, own=own)
    segmented, source = SegmentedView(views), SegmentedView(given)
    leaves = [b""] * len(pieces)

    def hash_piece(number: int) -> None:
        found = segmented.views(*pieces[number])
        if own:
            chunks.fill(found[0], source.views(*pieces[number]))
        leaves[number] = chunks.digest(found)

    threads.run(hash_piece, range(len(pieces)), _worthwhile_threads(raw_bytes))
    digest = address.content_digest(class_name, marked(sizes, bytes_segments) if bytes_segments else sizes, leaves)
    return Content(class_name, views, sizes, bytes_segments, pieces, leaves, digest, raw_bytes, own=own)


def _copy_pays(raw_bytes: int) -> bool:
    """Return whether to copy content before it is hashed, so that it need not be hashed again when it is written.

    A large copy is wasted if the state is stored already. Then the next one probably is, too: 50 objects with the same
    array.
    """
    global _last_was_written  # noqa: PLW0603 - of the process: a wrong guess costs time only
    if raw_bytes <= chunks.SCRATCH_BYTES:
        return True
    pays = raw_bytes <= COPIED_BYTES and _last_was_written
    if pays:
        # Until it is.
        _last_was_written = False
    return pays


_last_was_written = True


def write(sink: Write, key: str, state: Content, children: Sequence[str], encoding: Encoding) -> int:
    """Write a record to `sink`, each chunk as soon as it is ready and the header last; return the record's size.

    Chunks are encoded and written on several threads, and each thread holds one chunk in memory. A single chunk is
    written together with the header. Parts are valid until `sink` returns, because their memory is reused.
    With a seal, the record is signed. What the content says are parts is not written, and must be among the children.
    Raises StateChangedError if the content no longer matches its hash.
    """
    created_ns, level, seal, hints = encoding
    if _is_small(state):
        size, data = _small(key, state, children, encoding)
        sink(0, data)
        return size
    if state.own_bytes > chunks.SCRATCH_BYTES:
        global _last_was_written  # noqa: PLW0603 - see `_copy_pays`
        _last_was_written = True
    draft = Draft(key, state, len(state.pieces), children, hints)
    segmented = SegmentedView(state.views)
    numbers = range(len(state.pieces))
    elsewhere = {
        number: Chunk(0, state.pieces[number][1], PART, state.leaves[number])
        for segment in state.parts
        for number in parts.pieces_of(segment, state.sizes, state.pieces)
    }

    def encoded(number: int, scratch: chunks.Scratch) -> tuple[Chunk, list[memoryview | bytes]]:
        return _encode_piece(key, state, number, segmented.views(*state.pieces[number]), level, scratch)

    own = [number for number in numbers if number not in elsewhere]
    if len(own) == 1:
        with chunks.Scratch() as scratch:
            chunk, data = encoded(own[0], scratch)
            table = [elsewhere.get(number, chunk) for number in numbers]
            sink(0, [draft.header(table, created_ns, seal), *data])
        return draft.header_bytes + chunk.stored
    offsets = OffsetAllocator(draft.header_bytes)

    def work(number: int) -> None:
        if number in elsewhere:
            offsets.place(number, elsewhere[number])
            return
        with chunks.Scratch() as scratch:
            chunk, data = encoded(number, scratch)
            sink(offsets.place(number, chunk), data)

    threads.run(work, numbers, _worthwhile_threads(state.own_bytes), give_up=offsets.give_up)
    sink(0, [draft.header(offsets.table, created_ns, seal)])
    return offsets.end


def _is_small(state: Content) -> bool:
    return len(state.pieces) == 1 and state.raw_bytes < chunks.SMALL_BYTES


def _small(
    key: str, state: Content, children: Sequence[str], encoding: Encoding
) -> tuple[int, list[memoryview | bytes]]:
    """Return the size and the parts of a small record."""
    draft = Draft(key, state, 1, children, encoding.hints)
    # It cannot have changed since it was hashed, so it needs no scratch memory.
    chunk, data = chunks.encode(state.views, state.raw_bytes, state.leaves[0], encoding.level, chunks.Scratch())
    return draft.header_bytes + chunk.stored, [draft.header([chunk], encoding.created_ns, encoding.seal), *data]


def _encode_piece(
    key: str, state: Content, number: int, views: Sequence[memoryview], level: int, scratch: chunks.Scratch
) -> tuple[Chunk, list[memoryview | bytes]]:
    start, size = state.pieces[number]
    try:
        return chunks.encode(views, size, state.leaves[number], level, scratch, own=state.own)
    except chunks.Changed:
        what = f"it changed while it was stored (bytes {start:,} to {start + size:,} of {state.raw_bytes:,})"
        raise StateChangedError(key, state.class_name, what) from None


def encode(key: str, state: Content, children: Sequence[str] = (), encoding: Encoding = _PLAIN) -> bytes:
    """Return a record as bytes; otherwise like `write`."""
    if _is_small(state):
        return b"".join(_small(key, state, children, encoding)[1])
    header_bytes = Draft(key, state, len(state.pieces), children, encoding.hints).header_bytes
    most = header_bytes + chunks.most_bytes(state.own_bytes, len(state.pieces))
    whole = buffers.Whole(most)

    def put(offset: int, data: Sequence[memoryview | bytes]) -> None:
        for one in data:
            whole.view[offset : offset + len(one)] = one
            offset += len(one)

    return whole.take(write(put, key, state, children, encoding))


def decode(header: Header, read: Read, where: str) -> list[bytes | memoryview]:
    """Return the segments of a record: each chunk is read, verified, then decompressed into its place.

    The result is verified too: its digests must yield the content digest in the header. `read` takes offsets in the
    record and is called on several threads if the record is large. Each segment has its own memory, writable and
    aligned to 64 bytes, except for `bytes` objects (the pickle stream may be one). A segment that is a part is
    `parts.ABSENT`: `ana.stores.parts` gets it. Raises CorruptedStateError, MemoryError, and whatever `read` raises.
    """
    is_part = header.class_name == parts.CLASS_NAME
    if len(header.segments) == len(header.chunks) == 1 and header.chunks[0].method == chunks.ZSTD and not is_part:
        # Avoids another copy of the content.
        found: list[bytes | memoryview] = []

        def one(chunk: Chunk, offset: int, _: int) -> bytes:
            data = chunks.read_compressed(chunk, read, offset)
            found.append(data)
            return chunks.digest([memoryview(data)])

        _each(header, where, one)
        return found
    sizes = header.own_segments
    bytes_segments = {number: buffers.Whole(sizes[number]) for number in header.bytes_segments}
    segments = [
        bytes_segments[number].view if number in bytes_segments else _memory_for(number or is_part, size)
        for number, size in enumerate(sizes)
    ]
    _fill(header, read, where, segments)
    found = [bytes_segments[at].take() if at in bytes_segments else view for at, view in enumerate(segments)]
    for part in header.parts:
        found[part.segment] = parts.ABSENT
    return found


def _fill(header: Header, read: Read, where: str, segments: Sequence[memoryview]) -> None:
    segmented = SegmentedView(segments)
    _each(
        header,
        where,
        lambda chunk, offset, start: chunks.read(chunk, read, offset, segmented.views(start, chunk.raw)),
    )


def copy(header: Header, read: Read, where: str, offsets: Sequence[int], put: PutBytes) -> None:
    """Read, verify and decompress a record a piece at a time, and put each segment at its offset.

    Like `decode`, but holds only one piece per thread in memory. The whole is verified only once it returns.
    Whatever `put` raises passes through.
    """
    sizes = header.own_segments
    starts = list(accumulate(sizes, initial=0))

    def put_piece(piece: memoryview, start: int) -> None:
        number = bisect_right(starts, start, hi=len(sizes)) - 1
        while piece:
            at = start - starts[number]
            found = piece[: sizes[number] - at]
            if found:
                put(offsets[number] + at, found)
            piece = piece[len(found) :]
            start += len(found)
            number += 1

    _pass(header, read, where, put_piece)


def decode_small(header: Header, data: bytearray, where: str) -> list[bytes | memoryview]:
    """Return the segments of a record that is in memory, like `decode`, but without a copy if possible."""
    alone = len(header.chunks) == 1
    if alone and header.chunks[0].method == chunks.RAW and header.raw_bytes <= chunks.BLOCK_BYTES:
        try:
            found = chunks.raw_content(header.chunks[0], memoryview(data)[header.header_bytes :])
        except chunks.Damaged as error:
            raise CorruptedStateError(header.key, where, f"chunk 0 {error}") from None
        _check_content(header, [header.chunks[0].digest], where)
        return [found] if len(header.segments) == 1 else _cut(header, found)
    return decode(header, reader(data), where)


def _cut(header: Header, content: memoryview) -> list[bytes | memoryview]:
    """Return the segments of a content, each but the pickle stream in memory of its own."""
    segments: list[bytes | memoryview] = []
    for number, size in enumerate(header.segments):
        segment: bytes | memoryview = content[:size]
        if number in header.bytes_segments:
            segment = bytes(segment)
        elif number:
            segment = chunks.fill(buffers.allocate(size), [content[:size]])
        segments.append(segment)
        content = content[size:]
    return segments


def verify(header: Header, read: Read, where: str) -> None:
    """Read all chunks and verify their content, as `copy` does. Raises CorruptedStateError."""
    _pass(header, read, where, lambda *_: None)


def verify_segments(header: Header, segments: Sequence[memoryview], where: str) -> None:
    """Verify a record's segments, as `decode` returns them. Raises CorruptedStateError."""
    segmented = SegmentedView(segments)
    _each(header, where, lambda chunk, _, start: chunks.digest(segmented.views(start, chunk.raw)))


def reader(data: Bytes) -> Read:
    """Return a function that reads a record that is in memory."""
    source = memoryview(data)

    def read(offset: int, targets: Sequence[memoryview]) -> None:
        for target in targets:
            target[:] = source[offset : offset + len(target)]
            offset += len(target)

    return read


def _pass(header: Header, read: Read, where: str, take: Callable[[memoryview, int], object]) -> None:
    """Pass each chunk's content to `take`, with its offset in the segments, and verify it."""

    def one(chunk: Chunk, offset: int, start: int) -> bytes:
        with chunks.Scratch() as scratch:
            content = chunks.read_content(chunk, read, offset, scratch)
            take(content, start)
            return chunk.digest if chunk.method == chunks.RAW else chunks.digest([content])

    _each(header, where, one)


def _each(header: Header, where: str, work: Callable[[Chunk, int, int], bytes]) -> None:
    """Call `work` with each chunk, its offset in the record, and the offset of its content in the segments.

    `work` returns the digest of that content; chunks of parts say theirs. All of them must yield the content digest.
    Raises CorruptedStateError.
    """
    table = header.chunks
    offsets = list(accumulate((chunk.stored for chunk in table), initial=header.header_bytes))
    starts = list(accumulate((0 if chunk.method == PART else chunk.raw for chunk in table), initial=0))
    leaves = [chunk.digest for chunk in table]

    def one(number: int) -> None:
        if table[number].method == PART:
            return
        try:
            leaves[number] = work(table[number], offsets[number], starts[number])
        except chunks.Damaged as error:
            raise CorruptedStateError(header.key, where, f"chunk {number} {error}") from None

    threads.run(one, range(len(table)), _worthwhile_threads(header.own_bytes))
    _check_content(header, leaves, where)


def _check_content(header: Header, leaves: Sequence[bytes], where: str) -> None:
    """Reject content if its digest differs from the one in the header, or does not match a content address."""
    sizes = marked(header.segments, header.bytes_segments) if header.bytes_segments else header.segments
    found = address.content_digest(header.class_name, sizes, leaves)
    if found != header.content:
        reason = "its content does not match its content digest, although each chunk matches its checksum"
        raise CorruptedStateError(header.key, where, reason)
    # A bare state may have any key that the program chose.
    if header.class_name and not address.is_right(header.key, found):
        reason = f"its content belongs to another address, {address.content_uuid(found)}"
        raise CorruptedStateError(header.key, where, reason)


def _memory_for(number: int, size: int) -> memoryview:
    """Return memory for a segment. The pickle stream is discarded after loading, so it need not be aligned."""
    return buffers.allocate(size) if number or size >= PARALLEL_BYTES else memoryview(bytearray(size))


def _worthwhile_threads(raw_bytes: int) -> int:
    return threads.available() if raw_bytes >= PARALLEL_BYTES else 1
