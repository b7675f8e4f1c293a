"""The record format: pickle stream and buffers to bytes, and back. Pure: no files, no clocks, no classes.

A record is a legal zstd file: one skippable frame that holds the header, then the chunks, each a
zstd frame of its own. `docs/format.md` gives it byte by byte.
"""

import struct
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import NamedTuple

import blake3
import zstandard

from ana import address
from ana.errors import CorruptedStateError, UnsupportedFormatError

__all__ = ["Chunk", "Content", "Header", "content", "decode", "encode", "header_size", "parse_header", "verify"]

VERSION = 1
MAGIC = b"ANA\x00PKL\n"
SKIPPABLE = 0x184D2A50
FRAME_MAGIC = 0xFD2FB528
PREFIX = struct.Struct("<II")
FIXED = struct.Struct("<8sHHIIIHHIQQQ32s")
CHUNK = struct.Struct("<IIB7x32s")
DIGEST_BYTES = 32
MIN_RECORD_BYTES = PREFIX.size + FIXED.size + DIGEST_BYTES

ZSTD, RAW = 0, 1
"""How a chunk is stored: a compressed frame (digest over it), or a frame of raw blocks (digest over the content)."""

PIECE_BYTES = 4 << 20
"""Content is cut into pieces of this size at the most; each is one chunk and one leaf of the address."""
LARGE_BYTES = 256 << 10
"""A buffer from this size on has chunks of its own, so that it can be read straight into its place."""
MAX_CHUNK_BYTES = 16 << 20
"""No reader accepts a chunk that claims more raw bytes: it bounds what one chunk can make us allocate."""
BLOCK_BYTES = 128 << 10
"""The most that a zstd block may hold (RFC 8878, section 3.1.1.2.4)."""
DEFAULT_LEVEL = 1

MAX_HEADER_BYTES = 256 << 20
"""No reader accepts a larger header: enough for the chunks of 20 TB, or for six million children."""

MAX_CHILD_BYTES = 4 * address.MAX_KEY_CHARACTERS
"""A key has up to 200 characters of up to four bytes."""

_SAMPLE_BYTES = 16 << 10
_WORTHWHILE = 0.95
"""Compression that saves less than 5 % costs more time than it saves."""


class Chunk(NamedTuple):
    """One entry of the chunk table; sizes in bytes."""

    stored: int
    raw: int
    method: int
    digest: bytes


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

Read = Callable[[int, Sequence[memoryview]], None]
"""Fills the given writable views with the record's bytes from an offset on."""


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
    space = _Space(segments)
    leaves = [_hash(space.views(start, size)) for start, size in pieces]
    return Content(class_name, segments, pieces, leaves, address.content_digest(class_name, lengths, leaves))


def encode(
    key: str,
    state: Content,
    children: Sequence[str] = (),
    *,
    created_ns: int = 0,
    level: int = DEFAULT_LEVEL,
) -> list[memoryview | bytes]:
    """Return a record as a list of byte strings, to be written one after the other.

    Incompressible pieces are views of the caller's own buffers between block headers: nothing is copied.
    """
    space = _Space(state.segments)
    body: list[memoryview | bytes] = []
    table: list[Chunk] = []
    for (start, size), leaf in zip(state.pieces, state.leaves, strict=True):
        chunk, parts = _encode_chunk(space.views(start, size), size, leaf, level)
        table.append(chunk)
        body.extend(parts)
    return [_encode_header(key, state, children, table, created_ns), *body]


def header_size(prefix: Bytes, size_bytes: int, key: str, where: str) -> int:
    """Return the header's size in bytes (frame header included) from a record's first 128 bytes.

    Raises CorruptedStateError unless it is a plausible part of a file of `size_bytes`.
    """
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
    return total


def parse_header(data: Bytes, size_bytes: int, key: str, where: str) -> Header:
    """Return the verified header of the record of `key`; `data` holds it whole, `size_bytes` is the file's size.

    All sizes are checked against each other and the file before anything is allocated for them. Raises
    CorruptedStateError, or UnsupportedFormatError for a version or a flag that is not known.
    """
    end = header_size(data, size_bytes, key, where)
    view = memoryview(data)[:end]
    if view[PREFIX.size : PREFIX.size + len(MAGIC)] != MAGIC:
        raise CorruptedStateError(key, where, "it is no record of ana")
    if blake3.blake3(view[:-DIGEST_BYTES]).digest() != view[-DIGEST_BYTES:]:
        _refuse_newer(view, where)
        raise CorruptedStateError(key, where, "its header does not match its checksum")
    _refuse_newer(view, where)
    header = _parse_fields(view, key, where)
    _check_sums(header, size_bytes, key, where)
    if header.key != key:
        raise CorruptedStateError(key, where, f"it is the record of {header.key!r}, under another name")
    return header


def decode(header: Header, read: Read, where: str) -> list[bytearray | bytes]:
    """Return the segments of a record: each chunk is read, verified, and then decompressed into its place.

    `read` gets offsets into the record. Raises CorruptedStateError; what `read` raises passes through.
    """
    whole = _decode_small(header, read, where)
    if whole is not None:
        return [whole]
    segments = [bytearray(length) for length in header.segments]
    space = _Space([memoryview(segment) for segment in segments])
    offset, start = header.header_bytes, 0
    for number, chunk in enumerate(header.chunks):
        _decode_chunk(header, number, read, offset, space.views(start, chunk.raw), where)
        offset += chunk.stored
        start += chunk.raw
    return list(segments)


def verify(header: Header, read: Read, where: str) -> None:
    """Read all chunks and check their digests, without decompressing. Raises CorruptedStateError."""
    offset = header.header_bytes
    for number, chunk in enumerate(header.chunks):
        if chunk.method == RAW:
            _read_raw(header, number, read, offset, [memoryview(bytearray(chunk.raw))], where)
        else:
            _read_frame(header, number, read, offset, where)
        offset += chunk.stored


def reader(data: Bytes) -> Read:
    """Return the `read` function of a record that is in memory."""
    source = memoryview(data)

    def read(offset: int, targets: Sequence[memoryview]) -> None:
        for target in targets:
            target[:] = source[offset : offset + len(target)]
            offset += len(target)

    return read


def reset_codecs() -> None:
    """Forget this process's (de)compressors: for a forked child, which shares none with its parent."""
    global _codecs  # noqa: PLW0603 - one per process, replaced after fork
    _codecs = _Codecs()


class _Space:
    """Segments laid end to end, addressed as one range of bytes."""

    def __init__(self, segments: Sequence[memoryview]) -> None:
        self.segments = segments
        self.starts = list(accumulate((len(segment) for segment in segments), initial=0))

    def views(self, start: int, size: int) -> list[memoryview]:
        """Return the views that make up the range of `size` bytes from `start` on, in order."""
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


class _Codecs(threading.local):
    """(De)compressors of one thread: sharing one between threads crashes zstandard."""

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_CHUNK_BYTES)

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        found = self.compressors.get(level)
        if found is None:
            found = self.compressors[level] = zstandard.ZstdCompressor(
                level=level, write_content_size=True, write_checksum=False
            )
        return found


_codecs = _Codecs()


def _hash(views: Sequence[memoryview]) -> bytes:
    if len(views) == 1:
        return blake3.blake3(views[0]).digest()
    hasher = blake3.blake3()
    for view in views:
        hasher.update(view)
    return hasher.digest()


def _encode_chunk(
    views: list[memoryview], size: int, leaf: bytes, level: int
) -> tuple[Chunk, list[memoryview | bytes]]:
    data = views[0] if len(views) == 1 else memoryview(b"".join(views))
    if _compressible(data, level):
        frame = _codecs.compressor(level).compress(data)
        if len(frame) < size * _WORTHWHILE:
            return Chunk(len(frame), size, ZSTD, blake3.blake3(frame).digest()), [frame]
    parts: list[memoryview | bytes] = []
    for start, header in _raw_blocks(size):
        parts += [header, data[start : start + BLOCK_BYTES]]
    return Chunk(sum(map(len, parts)), size, RAW, leaf), parts


def _compressible(data: memoryview, level: int) -> bool:
    """Guess from three samples whether a large piece is worth compressing; small ones are just tried."""
    if len(data) < LARGE_BYTES:
        return True
    starts = (0, (len(data) - _SAMPLE_BYTES) // 2, len(data) - _SAMPLE_BYTES)
    sample = b"".join(data[start : start + _SAMPLE_BYTES] for start in starts)
    return len(_codecs.compressor(level).compress(sample)) < len(sample) * _WORTHWHILE


def _raw_blocks(size: int) -> Iterator[tuple[int, bytes]]:
    """Yield (offset into the content, the bytes before it) of a zstd frame of raw blocks (RFC 8878, 3.1.1)."""
    if size < 256:  # noqa: PLR2004 - the size field's widths
        lead = struct.pack("<IBB", FRAME_MAGIC, 0x20, size)
    elif size < 65536 + 256:
        lead = struct.pack("<IBH", FRAME_MAGIC, 0x60, size - 256)
    else:
        lead = struct.pack("<IBI", FRAME_MAGIC, 0xA0, size)
    for start in range(0, size, BLOCK_BYTES):
        block = min(BLOCK_BYTES, size - start)
        last = start + block == size
        yield start, lead + (block << 3 | last).to_bytes(3, "little")
        lead = b""


def _encode_header(key: str, state: Content, children: Sequence[str], table: Sequence[Chunk], created_ns: int) -> bytes:
    key_raw = address.key_bytes(key)
    class_raw = address.key_bytes(state.class_name)
    names = [address.key_bytes(child) for child in children]
    lengths = [len(segment) for segment in state.segments]
    parts = [
        FIXED.pack(
            MAGIC,
            VERSION,
            0,
            len(names),
            len(lengths),
            len(table),
            len(key_raw),
            len(class_raw),
            0,
            sum(lengths),
            sum(chunk.stored for chunk in table),
            created_ns,
            state.digest,
        ),
        key_raw,
        class_raw,
        *(len(name).to_bytes(2, "little") + name for name in names),
        struct.pack(f"<{len(lengths)}Q", *lengths),
        *(CHUNK.pack(*chunk) for chunk in table),
    ]
    payload = b"".join(parts)
    if len(payload) > MAX_HEADER_BYTES - MIN_RECORD_BYTES:
        msg = f"a state of {len(lengths)} buffers with {len(names)} references has too large a header: use fewer"
        raise ValueError(msg)
    head = PREFIX.pack(SKIPPABLE, len(payload) + DIGEST_BYTES) + payload
    return head + blake3.blake3(head).digest()


def _refuse_newer(view: memoryview, where: str) -> None:
    version, flags = struct.unpack_from("<HH", view, PREFIX.size + len(MAGIC))
    if version != VERSION or flags:
        raise UnsupportedFormatError(where, f"{version} (flags {flags:#x})", VERSION)


def _parse_fields(view: memoryview, key: str, where: str) -> Header:
    """Take the header's variable parts out of it; every count is checked against the header's own size first."""
    fixed = FIXED.unpack_from(view, PREFIX.size)
    n_children, n_segments, n_chunks, key_size, class_size = fixed[3:8]
    raw_bytes, stored_bytes, created_ns, digest = fixed[9:]
    at = PREFIX.size + FIXED.size
    room = len(view) - DIGEST_BYTES - at
    least = key_size + class_size + 2 * n_children + 8 * n_segments + CHUNK.size * n_chunks
    if least > room:
        raise CorruptedStateError(key, where, "its header's counts do not fit into it")
    try:
        found, at = _text(view, at, key_size)
        class_name, at = _text(view, at, class_size)
        children = []
        for _ in range(n_children):
            child, at = _text(view, at + 2, int.from_bytes(view[at : at + 2], "little"))
            children.append(child)
        segments = struct.unpack_from(f"<{n_segments}Q", view, at)
        at += 8 * n_segments
        chunks = tuple(Chunk(*fields) for fields in CHUNK.iter_unpack(view[at : at + CHUNK.size * n_chunks]))
        at += CHUNK.size * n_chunks
    except (ValueError, struct.error) as error:
        raise CorruptedStateError(key, where, f"its header cannot be read ({error})") from None
    if at != len(view) - DIGEST_BYTES or len(chunks) != n_chunks:
        raise CorruptedStateError(key, where, "its header's parts do not add up")
    return Header(
        found, class_name, tuple(children), segments, chunks, raw_bytes, stored_bytes, created_ns, digest, len(view)
    )


def _text(view: memoryview, at: int, size: int) -> tuple[str, int]:
    return str(view[at : at + size], "utf-8", "surrogatepass"), at + size


def _check_sums(header: Header, size_bytes: int, key: str, where: str) -> None:
    """Refuse sizes that do not add up, before anything is allocated for them."""
    sums_fit = (
        header.segments
        and sum(header.segments) == sum(chunk.raw for chunk in header.chunks) == header.raw_bytes
        and sum(chunk.stored for chunk in header.chunks) == header.stored_bytes
    )
    if not sums_fit:
        raise CorruptedStateError(key, where, "its sizes do not add up")
    if header.header_bytes + header.stored_bytes != size_bytes:
        expected = header.header_bytes + header.stored_bytes
        raise CorruptedStateError(key, where, f"it has {size_bytes} bytes instead of {expected}")
    for chunk in header.chunks:
        if not 0 < chunk.raw <= MAX_CHUNK_BYTES or chunk.method not in (ZSTD, RAW) or not _stored_fits(chunk):
            raise CorruptedStateError(key, where, "its chunk table holds impossible sizes")


def _stored_fits(chunk: Chunk) -> bool:
    if chunk.method == RAW:
        return chunk.stored == chunk.raw + sum(len(header) for _, header in _raw_blocks(chunk.raw))
    # ZSTD_COMPRESSBOUND, generously: a frame that is larger than its content is no frame of ours.
    # Nor does zstd do with less than three bytes for a block of 128 KiB.
    return 3 * chunk.raw // BLOCK_BYTES < chunk.stored <= chunk.raw + (chunk.raw >> 7) + 1024


def _decode_small(header: Header, read: Read, where: str) -> bytes | None:
    """Decode a record of one segment in one compressed chunk without copying its content; else return None."""
    if len(header.segments) != 1 or len(header.chunks) != 1 or header.chunks[0].method != ZSTD:
        return None
    return _decompress(header, 0, _read_frame(header, 0, read, header.header_bytes, where), where)


def _decode_chunk(header: Header, number: int, read: Read, offset: int, targets: list[memoryview], where: str) -> None:
    chunk = header.chunks[number]
    if chunk.method == RAW:
        _read_raw(header, number, read, offset, targets, where)
        return
    content_bytes = memoryview(_decompress(header, number, _read_frame(header, number, read, offset, where), where))
    for target in targets:
        target[:] = content_bytes[: len(target)]
        content_bytes = content_bytes[len(target) :]


def _read_frame(header: Header, number: int, read: Read, offset: int, where: str) -> bytearray:
    chunk = header.chunks[number]
    frame = bytearray(chunk.stored)
    read(offset, [memoryview(frame)])
    if blake3.blake3(frame).digest() != chunk.digest:
        raise CorruptedStateError(header.key, where, f"chunk {number} does not match its checksum")
    return frame


def _decompress(header: Header, number: int, frame: bytearray, where: str) -> bytes:
    """Decompress a verified frame, after checking that it claims exactly the size that the table says."""
    expected = header.chunks[number].raw
    try:
        claimed = zstandard.get_frame_parameters(frame).content_size
        if claimed != expected:
            raise CorruptedStateError(header.key, where, f"chunk {number} claims {claimed} bytes instead of {expected}")
        data: bytes = _codecs.decompressor.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptedStateError(header.key, where, f"chunk {number} cannot be decompressed ({error})") from None
    if len(data) != expected:
        raise CorruptedStateError(header.key, where, f"chunk {number} has {len(data)} bytes instead of {expected}")
    return data


def _read_raw(header: Header, number: int, read: Read, offset: int, targets: list[memoryview], where: str) -> None:
    """Read a frame of raw blocks with its content going straight to its place, block headers aside."""
    chunk = header.chunks[number]
    expected = b""
    space = _Space(targets)
    scratch: list[bytearray] = []
    views: list[memoryview] = []
    for start, lead in _raw_blocks(chunk.raw):
        expected += lead
        scratch.append(bytearray(len(lead)))
        views.append(memoryview(scratch[-1]))
        views += space.views(start, min(BLOCK_BYTES, chunk.raw - start))
    read(offset, views)
    if b"".join(scratch) != expected or _hash(targets) != chunk.digest:
        raise CorruptedStateError(header.key, where, f"chunk {number} does not match its checksum")
