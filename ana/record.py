"""The record format: pickle stream and buffers to bytes, and back. Pure: no files, no clocks, no classes.

A record is a legal zstd file: one skippable frame that holds the header, then the chunks, each a
zstd frame of its own. `docs/format.md` gives it byte by byte.
"""

import struct
import threading
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import blake3

from ana import address, buffers, chunks, threads
from ana.chunks import Chunk, Read, Space
from ana.errors import CorruptedStateError, UnsupportedFormatError

__all__ = [
    "Chunk",
    "Content",
    "Header",
    "Write",
    "content",
    "decode",
    "decode_small",
    "encode",
    "header_size",
    "parse_header",
    "verify",
    "write",
]

VERSION = 1
MAGIC = b"ANA\x00PKL\n"
SKIPPABLE = 0x184D2A50
PREFIX = struct.Struct("<II")
FIXED = struct.Struct("<8sHHIIIHHIQQQ32s")
CHUNK = struct.Struct("<IIB7x32s")
DIGEST_BYTES = 32
MIN_RECORD_BYTES = PREFIX.size + FIXED.size + DIGEST_BYTES

PIECE_BYTES = 4 << 20
"""Content is cut into pieces of this size at the most; each is one chunk and one leaf of the address."""
LARGE_BYTES = 256 << 10
"""A buffer from this size on has chunks of its own, so that it can be read straight into its place."""
PARALLEL_BYTES = 4 << 20
"""From this size on (raw bytes) chunks are worth threads: starting one takes as long as hashing 1 MiB."""
MAX_HEADER_BYTES = 256 << 20
"""No reader accepts a larger header: enough for the chunks of 20 TB, or for six million children."""

MAX_CHILD_BYTES = 4 * address.MAX_KEY_CHARACTERS
"""A key has up to 200 characters of up to four bytes."""


class Header(NamedTuple):
    """All that a record says of itself without being decompressed. Sizes in bytes, time in ns since 1970."""

    key: str
    class_name: str
    children: tuple[str, ...]
    segments: tuple[int, ...]
    chunks: tuple[Chunk, ...]
    raw_bytes: int
    stored_bytes: int
    created_ns: int
    content: bytes
    header_bytes: int


class Content(NamedTuple):
    """A state's segments (the pickle stream, then each buffer), cut into pieces and hashed."""

    class_name: str
    segments: Sequence[memoryview]
    pieces: Sequence[tuple[int, int]]
    leaves: Sequence[bytes]
    digest: bytes


Bytes = bytes | bytearray | memoryview
Write = Callable[[int, Sequence[memoryview | bytes]], None]
"""Puts parts, one after the other, at an offset of the record. Called from several threads, once for each range."""


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


def content(class_name: str, segments: Sequence[memoryview]) -> Content:
    """Hash a state: its pieces, and from their digests and the class's name its content digest."""
    lengths = [len(segment) for segment in segments]
    pieces = plan(lengths)
    if len(pieces) == 1:
        leaves = [chunks.digest(segments)]
        return Content(class_name, segments, pieces, leaves, address.content_digest(class_name, lengths, leaves))
    space = Space(segments)
    leaves = [b""] * len(pieces)

    def hash_piece(number: int) -> None:
        leaves[number] = chunks.digest(space.views(*pieces[number]))

    threads.run(hash_piece, range(len(pieces)), _worthwhile_threads(sum(lengths)))
    return Content(class_name, segments, pieces, leaves, address.content_digest(class_name, lengths, leaves))


def write(
    sink: Write,
    key: str,
    state: Content,
    children: Sequence[str] = (),
    *,
    created_ns: int = 0,
    level: int = chunks.DEFAULT_LEVEL,
) -> None:
    """Make a record, giving its parts to `sink` as they are ready: the chunks, and at last the header.

    Chunks are compressed and given away on several threads; as many as there are threads are in memory at once. One
    chunk goes together with its header. Incompressible pieces are views of the caller's own buffers between block
    headers: nothing is copied.
    """
    names = _Names(key, state, children)
    if len(state.pieces) == 1:
        chunk, parts = chunks.encode(state.segments, names.raw_bytes, state.leaves[0], level)
        sink(0, [names.header([chunk], created_ns), *parts])
        return
    space = Space(state.segments)
    line = _Line(names.header_bytes)

    def work(number: int) -> None:
        start, size = state.pieces[number]
        with line:
            chunk, parts = chunks.encode(space.views(start, size), size, state.leaves[number], level)
            sink(line.place(number, chunk), parts)

    threads.run(work, range(len(state.pieces)), _worthwhile_threads(names.raw_bytes))
    sink(0, [names.header(line.table, created_ns)])


def encode(
    key: str,
    state: Content,
    children: Sequence[str] = (),
    *,
    created_ns: int = 0,
    level: int = chunks.DEFAULT_LEVEL,
) -> list[memoryview | bytes]:
    """Return a record as a list of byte strings, one after the other; otherwise like `write`."""
    found: dict[int, Sequence[memoryview | bytes]] = {}
    write(found.__setitem__, key, state, children, created_ns=created_ns, level=level)
    return [part for _, parts in sorted(found.items()) for part in parts]


def header_size(prefix: Bytes, size_bytes: int, key: str, where: str) -> int:
    """Return the header's size in bytes (frame header included) from a record's first 128 bytes.

    Raises CorruptedStateError unless it is a plausible part of a file of `size_bytes`.
    """
    return _fixed_part(prefix, size_bytes, key, where)[0]


def parse_header(data: Bytes, size_bytes: int, key: str, where: str) -> Header:
    """Return the verified header of the record of `key`; `data` holds it whole, `size_bytes` is the file's size.

    All sizes are checked against each other and the file before anything is allocated for them. Raises
    CorruptedStateError, or UnsupportedFormatError for a version or a flag that is not known.
    """
    end, fixed = _fixed_part(data, size_bytes, key, where)
    if fixed[0] != MAGIC:
        raise CorruptedStateError(key, where, "it is no record of ana")
    view = memoryview(data)[:end]
    whole = blake3.blake3(view[:-DIGEST_BYTES]).digest() == view[-DIGEST_BYTES:]
    if fixed[1] != VERSION or fixed[2]:
        # Whole or not: a newer program may have other checksums.
        raise UnsupportedFormatError(where, f"{fixed[1]} (flags {fixed[2]:#x})", VERSION)
    if not whole:
        raise CorruptedStateError(key, where, "its header does not match its checksum")
    header = _parse_fields(view, fixed, key, where)
    _check_sums(header, size_bytes, key, where)
    if header.key != key:
        raise CorruptedStateError(key, where, f"it is the record of {header.key!r}, under another name")
    return header


def _fixed_part(prefix: Bytes, size_bytes: int, key: str, where: str) -> tuple[int, tuple[Any, ...]]:
    """Return the size of a header, and the fields of its fixed part, as soon as they are plausible."""
    if size_bytes < MIN_RECORD_BYTES:
        raise CorruptedStateError(key, where, f"{size_bytes} bytes are too few for a record")
    magic, frame = PREFIX.unpack_from(prefix)
    if magic != SKIPPABLE:
        raise CorruptedStateError(key, where, "it does not begin with a record's header")
    total: int = PREFIX.size + frame
    if not MIN_RECORD_BYTES <= total <= min(size_bytes, MAX_HEADER_BYTES):
        raise CorruptedStateError(key, where, f"its header claims {total} bytes of {size_bytes}")
    fixed = FIXED.unpack_from(prefix, PREFIX.size)
    n_children, n_segments, n_chunks, key_size, class_size = fixed[3:8]
    least = MIN_RECORD_BYTES + key_size + class_size + 2 * n_children + 8 * n_segments + CHUNK.size * n_chunks
    # Of a newer version nothing more is known.
    if fixed[:2] == (MAGIC, VERSION) and not least <= total <= least + MAX_CHILD_BYTES * n_children:
        raise CorruptedStateError(key, where, f"its header's counts do not fit into {total} bytes")
    return total, fixed


def decode(header: Header, read: Read, where: str) -> list[bytes | memoryview]:
    """Return the segments of a record: each chunk is read, verified, and then decompressed into its place.

    `read` gets offsets into the record, on several threads where the record is large. Each segment has memory of its
    own, writable and aligned to 64 bytes (the pickle stream may be bytes). Raises CorruptedStateError,
    MemoryError; what `read` raises passes through.
    """
    if len(header.segments) == len(header.chunks) == 1 and header.chunks[0].method == chunks.ZSTD:
        # Without copying its content once more.
        found: list[bytes | memoryview] = []
        _each(header, where, lambda chunk, offset, _: found.append(chunks.read_compressed(chunk, read, offset)))
        return found
    stream, *others = header.segments
    segments = [_memory_for_stream(stream), *map(buffers.allocate, others)]
    space = Space(segments)
    _each(
        header,
        where,
        lambda chunk, offset, start: chunks.read(chunk, read, offset, space.views(start, chunk.raw)),
    )
    return list(segments)


def decode_small(header: Header, data: bytearray, where: str) -> list[bytes | memoryview]:
    """Return the segments of a record that is in memory, as `decode`; what needs no copy stays where it is."""
    alone = len(header.segments) == len(header.chunks) == 1
    if alone and header.chunks[0].method == chunks.RAW and header.raw_bytes <= chunks.BLOCK_BYTES:
        try:
            return [chunks.raw_content(header.chunks[0], memoryview(data)[header.header_bytes :])]
        except chunks.Damaged as error:
            raise CorruptedStateError(header.key, where, f"chunk 0 {error}") from None
    return decode(header, reader(data), where)


def verify(header: Header, read: Read, where: str) -> None:
    """Read all chunks and check their digests, without decompressing. Raises CorruptedStateError."""
    _each(header, where, lambda chunk, offset, _: chunks.verify(chunk, read, offset))


def reader(data: Bytes) -> Read:
    """Return the `read` function of a record that is in memory."""
    source = memoryview(data)

    def read(offset: int, targets: Sequence[memoryview]) -> None:
        for target in targets:
            target[:] = source[offset : offset + len(target)]
            offset += len(target)

    return read


def _each(header: Header, where: str, work: Callable[[Chunk, int, int], object]) -> None:
    """Call `work` with each chunk, its offset in the record, and that of its content among the segments."""
    table = header.chunks
    offsets = list(accumulate((chunk.stored for chunk in table), initial=header.header_bytes))
    starts = list(accumulate((chunk.raw for chunk in table), initial=0))

    def one(number: int) -> None:
        try:
            work(table[number], offsets[number], starts[number])
        except chunks.Damaged as error:
            raise CorruptedStateError(header.key, where, f"chunk {number} {error}") from None

    threads.run(one, range(len(table)), _worthwhile_threads(header.raw_bytes))


def _memory_for_stream(size: int) -> memoryview:
    return buffers.allocate(size) if size >= PARALLEL_BYTES else memoryview(bytearray(size))


def _worthwhile_threads(raw_bytes: int) -> int:
    return threads.available() if raw_bytes >= PARALLEL_BYTES else 1


class _Line:
    """Where the chunks of a record go: each behind the one before, whichever thread is ready first.

    As a context manager around a thread's work on one chunk: what goes wrong there wakes the threads that wait.
    """

    def __init__(self, offset: int) -> None:
        self.table: list[Chunk] = []
        self._offset = offset
        self._changed = threading.Condition()
        self._broken = False

    def place(self, number: int, chunk: Chunk) -> int:
        """Return the chunk's offset in the record, as soon as the sizes of all chunks before it are known."""
        with self._changed:
            while len(self.table) < number and not self._broken:
                self._changed.wait()
            if self._broken:
                msg = "another chunk could not be written"
                raise RuntimeError(msg)
            offset = self._offset
            self._offset += chunk.stored
            self.table.append(chunk)
            self._changed.notify_all()
            return offset

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with self._changed:
                self._broken = True
                self._changed.notify_all()


class _Names:
    """What a record's header says, but for its chunks; its size is known before theirs."""

    def __init__(self, key: str, state: Content, children: Sequence[str]) -> None:
        self.state = state
        self.lengths = [len(segment) for segment in state.segments]
        self.raw_bytes = sum(self.lengths)
        self.key = address.key_bytes(key)
        self.class_name = address.key_bytes(state.class_name)
        self.children = [address.key_bytes(child) for child in children]
        named = sum(len(name) + 2 for name in self.children) + len(self.key) + len(self.class_name)
        numbered = 8 * len(self.lengths) + CHUNK.size * len(state.pieces)
        self.header_bytes = MIN_RECORD_BYTES + named + numbered
        if self.header_bytes > MAX_HEADER_BYTES:
            counts = f"{len(self.lengths)} buffers with {len(children)} references"
            msg = f"a state of {counts} has too large a header: use fewer"
            raise ValueError(msg)

    def header(self, table: Sequence[Chunk], created_ns: int) -> bytes:
        """Return the header of a record with these chunks."""
        head = b"".join(
            [
                PREFIX.pack(SKIPPABLE, self.header_bytes - PREFIX.size),
                FIXED.pack(
                    MAGIC,
                    VERSION,
                    0,
                    len(self.children),
                    len(self.lengths),
                    len(table),
                    len(self.key),
                    len(self.class_name),
                    0,
                    self.raw_bytes,
                    sum(chunk.stored for chunk in table),
                    created_ns,
                    self.state.digest,
                ),
                self.key,
                self.class_name,
                *(len(name).to_bytes(2, "little") + name for name in self.children),
                struct.pack(f"<{len(self.lengths)}Q", *self.lengths),
                *(CHUNK.pack(*chunk) for chunk in table),
            ]
        )
        return head + blake3.blake3(head).digest()


def _parse_fields(view: memoryview, fixed: tuple[Any, ...], key: str, where: str) -> Header:
    """Take the header's variable parts out of it; the counts are known to be possible for its size."""
    n_children, n_segments, n_chunks, key_size, class_size = fixed[3:8]
    raw_bytes, stored_bytes, created_ns, digest = fixed[9:]
    at = PREFIX.size + FIXED.size
    try:
        found, at = _text(view, at, key_size)
        class_name, at = _text(view, at, class_size)
        children = []
        for _ in range(n_children):
            child, at = _text(view, at + 2, int.from_bytes(view[at : at + 2], "little"))
            children.append(child)
        segments = struct.unpack_from(f"<{n_segments}Q", view, at)
        at += 8 * n_segments
        table = tuple(Chunk(*fields) for fields in CHUNK.iter_unpack(view[at : at + CHUNK.size * n_chunks]))
        at += CHUNK.size * n_chunks
    except (ValueError, struct.error) as error:
        raise CorruptedStateError(key, where, f"its header cannot be read ({error})") from None
    if at != len(view) - DIGEST_BYTES or len(table) != n_chunks:
        raise CorruptedStateError(key, where, "its header's parts do not add up")
    return Header(
        found, class_name, tuple(children), segments, table, raw_bytes, stored_bytes, created_ns, digest, len(view)
    )


def _text(view: memoryview, at: int, size: int) -> tuple[str, int]:
    return str(view[at : at + size], "utf-8", "surrogatepass"), at + size


def _check_sums(header: Header, size_bytes: int, key: str, where: str) -> None:
    """Refuse sizes that do not add up, before anything is allocated for them."""
    raw_bytes = stored_bytes = 0
    for chunk in header.chunks:
        if not chunks.is_possible(chunk):
            raise CorruptedStateError(key, where, "its chunk table holds impossible sizes")
        raw_bytes += chunk.raw
        stored_bytes += chunk.stored
    fit = header.segments and sum(header.segments) == raw_bytes == header.raw_bytes
    if not fit or header.stored_bytes != stored_bytes:
        raise CorruptedStateError(key, where, "its sizes do not add up")
    expected = header.header_bytes + stored_bytes
    if expected != size_bytes:
        raise CorruptedStateError(key, where, f"it has {size_bytes} bytes instead of {expected}")
