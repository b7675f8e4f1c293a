"""The record format: pickle stream and buffers to bytes, and back. Pure: no files, no clocks, no classes.

A record is a legal zstd file: one skippable frame that holds the header, then the chunks, each a
zstd frame of its own. `docs/format.md` gives it byte by byte.
"""

import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import blake3

from ana import address, chunks
from ana.chunks import Chunk, Read, Space
from ana.errors import CorruptedStateError, UnsupportedFormatError

__all__ = ["Chunk", "Content", "Header", "content", "decode", "encode", "header_size", "parse_header", "verify"]

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
    space = Space(segments)
    leaves = [chunks.digest(space.views(start, size)) for start, size in pieces]
    return Content(class_name, segments, pieces, leaves, address.content_digest(class_name, lengths, leaves))


def encode(
    key: str,
    state: Content,
    children: Sequence[str] = (),
    *,
    created_ns: int = 0,
    level: int = chunks.DEFAULT_LEVEL,
) -> list[memoryview | bytes]:
    """Return a record as a list of byte strings, to be written one after the other.

    Incompressible pieces are views of the caller's own buffers between block headers: nothing is copied.
    """
    space = Space(state.segments)
    body: list[memoryview | bytes] = []
    table: list[Chunk] = []
    for (start, size), leaf in zip(state.pieces, state.leaves, strict=True):
        chunk, parts = chunks.encode(space.views(start, size), size, leaf, level)
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
    if len(header.segments) == len(header.chunks) == 1 and header.chunks[0].method == chunks.ZSTD:
        # Without copying its content once more.
        found: list[bytes] = []
        _each(header, where, lambda chunk, offset, _: found.append(chunks.read_compressed(chunk, read, offset)))
        return list(found)
    segments = [bytearray(length) for length in header.segments]
    space = Space([memoryview(segment) for segment in segments])
    _each(
        header,
        where,
        lambda chunk, offset, start: chunks.read(chunk, read, offset, space.views(start, chunk.raw)),
    )
    return list(segments)


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
    offset, start = header.header_bytes, 0
    for number, chunk in enumerate(header.chunks):
        try:
            work(chunk, offset, start)
        except chunks.Damaged as error:
            raise CorruptedStateError(header.key, where, f"chunk {number} {error}") from None
        offset += chunk.stored
        start += chunk.raw


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
        if not chunks.is_possible(chunk):
            raise CorruptedStateError(key, where, "its chunk table holds impossible sizes")
