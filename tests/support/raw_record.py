"""Reads and writes records by struct, blake3 and zstd alone, as docs/format.md says; knows nothing of ana.

What is read is checked byte by byte (AssertionError says what is wrong). What is written may be as wrong as
a test wants it, with digests that are right.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import blake3

try:
    import zstandard
except ImportError:  # no wheel for this Python, which has zstd itself
    zstandard = None
    from compression import zstd

MAGIC = b"ANA\x00PKL\n"
SKIPPABLE = 0x184D2A50
PREFIX = struct.Struct("<II")
FIXED = struct.Struct("<8sHHIIIHHIQQQ32s")
CHUNK = struct.Struct("<IIB7x32s")
DIGEST_BYTES = 32
ZSTD, RAW, PART = 0, 1, 2
WHOLES, HINTS, PARTS, SUMMARY = 2, 4, 8, 16
WHOLE = 1 << 63
BLOCK_BYTES = 128 << 10
LABEL = b"ana content address v1"


@dataclass(frozen=True)
class Chunk:
    """An entry of the chunk table, and the stored bytes that it stands for."""

    frame: bytes
    raw: int
    method: int
    digest: bytes
    stored: int | None = None
    """What the table says, where that is not the frame's length."""


@dataclass(frozen=True)
class Record:
    """The parts of a record; `claims` overrides what the fixed part of the header says of them."""

    key: str
    class_name: str = ""
    children: tuple[str, ...] = ()
    segments: tuple[int, ...] = ()
    chunks: tuple[Chunk, ...] = ()
    created_ns: int = 0
    content: bytes = bytes(32)
    version: int = 1
    flags: int = 0
    """Without those that follow from the other fields."""
    bytes_segments: tuple[int, ...] = ()
    """The numbers of the segments that are `bytes` objects."""
    summary: str = ""
    hints: tuple[str, ...] = ()
    """For each child, or none."""
    claims: dict[str, int] = field(default_factory=dict)

    def under(self, key: str) -> "Record":
        """Return the same record under another key."""
        return replace(self, key=key)


def digest(data: bytes) -> bytes:
    """Return the 32 bytes of blake3."""
    return blake3.blake3(data).digest()


def text(key: str) -> bytes:
    """Return the bytes of a key or a name."""
    return key.encode("utf-8", "surrogatepass")


def packed(sizes: Sequence[int], bytes_segments: Sequence[int]) -> bytes:
    """Return the sizes of segments as they stand in headers and digests; `bytes_segments` are `bytes` objects."""
    return b"".join(struct.pack("<Q", size | WHOLE * (number in bytes_segments)) for number, size in enumerate(sizes))


def content_digest(
    class_name: str, segments: Sequence[bytes], pieces: Sequence[bytes], bytes_segments: Sequence[int] = ()
) -> bytes:
    """Return the content digest of a state whose segments are cut into `pieces`."""
    sizes = packed([len(segment) for segment in segments], bytes_segments)
    parts = (LABEL, text(class_name), sizes, b"".join(map(digest, pieces)))
    return digest(b"".join(struct.pack("<Q", len(part)) + part for part in parts))


def address(content: bytes) -> str:
    """Return the UUIDv8 of a content digest."""
    value = bytearray(content[:16])
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    digits = value.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def compress(data: bytes, *, level: int = 1, sized: bool = True) -> bytes:
    """Return a zstd frame; without `sized`, its header does not say how long `data` is."""
    if zstandard is not None:
        return zstandard.ZstdCompressor(level=level, write_content_size=sized).compress(data)
    parameters = zstd.CompressionParameter
    return zstd.compress(data, options={parameters.compression_level: level, parameters.content_size_flag: sized})


def decompress(frames: bytes) -> bytes:
    """Return the content of zstd frames, one after the other; skippable ones have none."""
    if zstandard is None:
        return zstd.decompress(frames)
    return zstandard.ZstdDecompressor().stream_reader(frames, read_across_frames=True).read()


def content_size(frame: bytes) -> int | None:
    """Return how long the content of a zstd frame is by its header."""
    if zstandard is None:
        return zstd.get_frame_info(frame).decompressed_size
    return zstandard.get_frame_parameters(frame).content_size


def zstd_chunk(data: bytes, *, level: int = 1) -> Chunk:
    """Return a chunk that holds `data` compressed."""
    frame = compress(data, level=level)
    return Chunk(frame, len(data), ZSTD, digest(frame))


def raw_chunk(data: bytes) -> Chunk:
    """Return a chunk that holds `data` as raw blocks (RFC 8878, section 3.1.1)."""
    if len(data) < 256:
        lead = struct.pack("<IBB", 0xFD2FB528, 0x20, len(data))
    elif len(data) < 65536 + 256:
        lead = struct.pack("<IBH", 0xFD2FB528, 0x60, len(data) - 256)
    else:
        lead = struct.pack("<IBI", 0xFD2FB528, 0xA0, len(data))
    for start in range(0, len(data), BLOCK_BYTES):
        block = data[start : start + BLOCK_BYTES]
        last = start + len(block) == len(data)
        lead += (len(block) << 3 | last).to_bytes(3, "little") + block
    return Chunk(lead, len(data), RAW, digest(data))


def part_chunk(size: int, leaf: bytes) -> Chunk:
    """Return a chunk of a part, which is elsewhere: `leaf` is the digest of its content."""
    return Chunk(b"", size, PART, leaf)


def write(record: Record) -> bytes:
    """Return a record's bytes."""
    names = [text(child) for child in record.children]
    stored = [len(chunk.frame) if chunk.stored is None else chunk.stored for chunk in record.chunks]
    fields = {
        "n_children": len(names),
        "n_segments": len(record.segments),
        "n_chunks": len(record.chunks),
        "key_size": len(text(record.key)),
        "class_size": len(text(record.class_name)),
        "reserved": 0,
        "raw_bytes": sum(record.segments),
        "stored_bytes": sum(stored),
        **{name: claim for name, claim in record.claims.items() if name != "frame"},
    }
    flags = record.flags | WHOLES * bool(record.bytes_segments) | SUMMARY * bool(record.summary)
    flags |= HINTS * bool(record.hints) | PARTS * any(chunk.method == PART for chunk in record.chunks)
    summary = [text(record.summary)] if record.summary else []
    payload = b"".join(
        (
            FIXED.pack(MAGIC, record.version, flags, *fields.values(), record.created_ns, record.content),
            text(record.key),
            text(record.class_name),
            *(struct.pack("<H", len(name)) + name for name in (*summary, *names)),
            packed(record.segments, record.bytes_segments),
            *(
                CHUNK.pack(size, chunk.raw, chunk.method, chunk.digest)
                for size, chunk in zip(stored, record.chunks, strict=True)
            ),
            *(struct.pack("<H", len(hint)) + hint.encode() for hint in record.hints),
        )
    )
    head = PREFIX.pack(SKIPPABLE, record.claims.get("frame", len(payload) + DIGEST_BYTES)) + payload
    return head + digest(head) + b"".join(chunk.frame for chunk in record.chunks)


def read(data: bytes) -> tuple[Record, list[bytes]]:
    """Return a record's fields and its content's segments (parts are empty), after checking every byte of it."""
    magic, frame = PREFIX.unpack_from(data)
    assert magic == SKIPPABLE
    end = PREFIX.size + frame
    assert digest(data[: end - DIGEST_BYTES]) == data[end - DIGEST_BYTES : end]
    record, counts = _fixed(data)
    at = PREFIX.size + FIXED.size
    key, at = _take(data, at, counts["key_size"])
    class_name, at = _take(data, at, counts["class_size"])
    summary = ""
    if counts["flags"] & SUMMARY:
        summary, at = _take(data, at + 2, struct.unpack_from("<H", data, at)[0])
    children = []
    for _ in range(counts["n_children"]):
        child, at = _take(data, at + 2, struct.unpack_from("<H", data, at)[0])
        children.append(child)
    sizes = struct.unpack_from(f"<{counts['n_segments']}Q", data, at)
    segments = tuple(size & ~WHOLE for size in sizes)
    bytes_segments = tuple(number for number, size in enumerate(sizes) if size & WHOLE)
    assert bool(bytes_segments) == bool(counts["flags"] & WHOLES)
    at += 8 * len(segments)
    table = [CHUNK.unpack_from(data, at + number * CHUNK.size) for number in range(counts["n_chunks"])]
    at += len(table) * CHUNK.size
    hints = []
    for _ in range(counts["n_children"] if counts["flags"] & HINTS else 0):
        hint, at = _take(data, at + 2, struct.unpack_from("<H", data, at)[0])
        hints.append(hint)
    assert at == end - DIGEST_BYTES
    chunks, content = _contents(data, end, table)
    assert counts["stored_bytes"] == len(data) - end
    elsewhere = _in_parts(segments, table)
    assert bool(elsewhere) == bool(counts["flags"] & PARTS)
    assert counts["raw_bytes"] == sum(segments) == len(content) + sum(segments[number] for number in elsewhere)
    parts = replace(
        record,
        key=key,
        class_name=class_name,
        summary=summary,
        hints=tuple(hints),
        children=tuple(children),
        segments=segments,
        bytes_segments=bytes_segments,
        chunks=tuple(chunks),
    )
    return parts, _cut(content, [0 if number in elsewhere else size for number, size in enumerate(segments)])


def _fixed(data: bytes) -> tuple[Record, dict[str, int]]:
    magic, version, flags, *counts, reserved, raw_bytes, stored_bytes, created_ns, content = FIXED.unpack_from(
        data, PREFIX.size
    )
    assert (magic, version, flags & ~(WHOLES | HINTS | PARTS | SUMMARY), reserved) == (MAGIC, 1, 0, 0)
    names = ("flags", "n_children", "n_segments", "n_chunks", "key_size", "class_size", "raw_bytes", "stored_bytes")
    figures = dict(zip(names, (flags, *counts, raw_bytes, stored_bytes), strict=True))
    return Record("", created_ns=created_ns, content=content), figures


def _take(data: bytes, at: int, size: int) -> tuple[str, int]:
    return data[at : at + size].decode("utf-8", "surrogatepass"), at + size


def _contents(data: bytes, at: int, table: Sequence[tuple[int, int, int, bytes]]) -> tuple[list[Chunk], bytes]:
    """Take each chunk out, check its digest, and decompress it: raw blocks as well are legal zstd."""
    chunks, contents = [], []
    for stored, raw, method, expected in table:
        if method == PART:
            assert not stored
            chunks.append(part_chunk(raw, expected))
            continue
        frame = data[at : at + stored]
        content = decompress(frame)
        assert len(content) == raw
        assert method in (ZSTD, RAW)
        assert digest(frame if method == ZSTD else content) == expected
        assert content_size(frame) == raw
        chunks.append(Chunk(frame, raw, method, expected))
        contents.append(content)
        at += stored
    assert at == len(data)
    return chunks, b"".join(contents)


def _in_parts(segments: Sequence[int], table: Sequence[tuple[int, int, int, bytes]]) -> set[int]:
    """Return the numbers of the segments that are parts: each of their chunks is elsewhere, or none."""
    found, start = set(), 0
    starts = [sum(raw for _, raw, _, _ in table[:number]) for number in range(len(table))]
    for number, size in enumerate(segments):
        within = [entry for at, entry in zip(starts, table, strict=True) if start <= at < start + size]
        if any(method == PART for _, _, method, _ in within):
            assert all(method == PART for _, _, method, _ in within)
            assert sum(raw for _, raw, _, _ in within) == size
            found.add(number)
        start += size
    return found


def _cut(content: bytes, lengths: Sequence[int]) -> list[bytes]:
    segments, at = [], 0
    for length in lengths:
        segments.append(content[at : at + length])
        at += length
    return segments
