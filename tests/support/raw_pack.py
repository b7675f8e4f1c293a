"""Reads and writes packs by struct and blake3 alone, as docs/format.md says; knows nothing of ana."""

import struct
from collections.abc import Iterator
from pathlib import Path

from support import raw_record

MAGIC, END = b"ANA\x00PAK\n", b"ANA\x00END\n"
SKIPPABLE = 0x184D2A51
FIXED = struct.Struct("<II8sHHIQ")
TRAILER = struct.Struct("<Q8s")
SUFFIX = ".pack.zst"


def packs(tree: Path) -> list[Path]:
    """Return the packs of a store."""
    return sorted((tree / "packs").glob(f"*{SUFFIX}"))


def records(data: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield the key, offset and size of each record from the start on, by what their headers claim."""
    at = 0
    while len(data) - at >= raw_record.PREFIX.size + raw_record.FIXED.size:
        magic, frame = raw_record.PREFIX.unpack_from(data, at)
        if magic != raw_record.SKIPPABLE:
            return
        _, _, _, *counts, _, _, stored, _, _ = raw_record.FIXED.unpack_from(data, at + raw_record.PREFIX.size)
        start = at + raw_record.PREFIX.size + raw_record.FIXED.size
        key = data[start : start + counts[3]].decode("utf-8", "replace")
        size = raw_record.PREFIX.size + frame + stored
        if at + size > len(data):
            return
        yield key, at, size
        at += size


def index(data: bytes) -> dict[str, tuple[int, int]] | None:
    """Return where each key's record lies by the index at the end, after checking every byte of it; None if none."""
    if data[-8:] != END:
        return None
    size, _ = TRAILER.unpack(data[-TRAILER.size :])
    frame = data[-size:]
    magic, rest, name, version, flags, count, end = FIXED.unpack_from(frame)
    assert (magic, rest, name, version, flags) == (SKIPPABLE, size - 8, MAGIC, 1, 0)
    assert end == len(data) - size
    assert raw_record.digest(frame[: -TRAILER.size - 32]) == frame[-TRAILER.size - 32 : -TRAILER.size]
    high, low, offsets, sizes = (
        struct.unpack_from(f"<{count}{kind}", frame, FIXED.size + at * count)
        for kind, at in (("Q", 0), ("Q", 8), ("I", 16), ("I", 20))
    )
    numbers = [first << 64 | last for first, last in zip(high, low, strict=True)]
    assert numbers == sorted(numbers)
    return {_key(n): spot for n, spot in zip(numbers, zip(offsets, sizes, strict=True), strict=True)}


def _key(number: int) -> str:
    digits = f"{number:032x}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def index_frame(spots: dict[str, tuple[int, int]], end: int, /, **claims: int) -> bytes:
    """Return an index with a digest that is right; `claims` overrides what its fixed part says."""
    rows = sorted((int(key.replace("-", ""), 16), *spot) for key, spot in spots.items())
    size = FIXED.size + 24 * len(rows) + 32 + TRAILER.size
    said = {"frame": size - 8, "version": 1, "flags": 0, "count": len(rows), "end": end, "size": size, **claims}
    head = FIXED.pack(SKIPPABLE, said["frame"], MAGIC, said["version"], said["flags"], said["count"], said["end"])
    head += struct.pack(f"<{len(rows)}Q", *(row[0] >> 64 for row in rows))
    head += struct.pack(f"<{len(rows)}Q", *(row[0] & (1 << 64) - 1 for row in rows))
    head += struct.pack(f"<{len(rows)}I", *(row[1] for row in rows))
    head += struct.pack(f"<{len(rows)}I", *(row[2] for row in rows))
    return head + raw_record.digest(head) + TRAILER.pack(said["size"], END)


def find(tree: Path, key: str) -> tuple[Path, int, int] | None:
    """Return the pack that holds a key's record, its offset and its size; the last one that was written to a pack."""
    found = None
    for path in packs(tree):
        for name, at, size in records(path.read_bytes()):
            if name == key:
                found = path, at, size
    return found


def read(tree: Path, key: str) -> bytes:
    """Return the bytes of a key's record; b"" if it is in no pack."""
    found = find(tree, key)
    if found is None:
        return b""
    path, at, size = found
    return path.read_bytes()[at : at + size]


def overwrite(path: Path, at: int, data: bytes) -> None:
    """Write bytes into a pack, in place."""
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)
