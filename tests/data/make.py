"""Makes the sample tree beside this file, without ana: `python tests/data/make.py FOLDER`.

Three states of `ana.Ref`: a small one, whose only chunk is compressed; one with two out-of-band buffers that do not
compress, which refers to the first; and one with a large `bytes` object. tests/format/test_record.py checks that the
files are what this makes.
"""

import json
import pickle
import sys
from pathlib import Path

import blake3

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import raw_record

CLASS = "ana.storable:Ref"
CREATED_NS = 1_700_000_000_000_000_000
CONFIG = {"format": 1, "levels": 2, "id": "0b8f4a53-5c1e-4d6b-9a57-3f1d2c7e8a90"}

SMALL_STATE = {"name": "cube", "vertices": [[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]}
NOISE = blake3.blake3(b"noise").digest(length=150_000)
"""Does not compress, and is longer than one zstd block."""
TEXT = b"all work and no play " * 15_000
"""Large enough to be a segment of its own."""
MORE_NOISE = blake3.blake3(b"more noise").digest(length=5_000)


def small() -> tuple[raw_record.Record, list[bytes]]:
    """Return the record of the small state, and its one segment."""
    stream = pickle.dumps(SMALL_STATE, 5)
    content = raw_record.content_digest(CLASS, [stream], [stream])
    chunk = raw_record.zstd_chunk(stream)
    record = raw_record.Record(raw_record.address(content), CLASS, (), (len(stream),), (chunk,), CREATED_NS, content)
    return record, [stream]


def buffers(child: str) -> tuple[raw_record.Record, list[bytes]]:
    """Return the record of the state with buffers, and its three segments: less than 256 KiB are one piece."""
    segments = [_stream(child), NOISE, MORE_NOISE]
    whole = b"".join(segments)
    content = raw_record.content_digest(CLASS, segments, [whole])
    lengths = tuple(len(segment) for segment in segments)
    chunk = raw_record.raw_chunk(whole)
    record = raw_record.Record(raw_record.address(content), CLASS, (child,), lengths, (chunk,), CREATED_NS, content)
    return record, segments


def text() -> tuple[raw_record.Record, list[bytes]]:
    """Return the record of the state that is a large `bytes` object, and its two segments, each a piece."""
    segments = [b"\x80\x05\x97\x94.", TEXT]
    content = raw_record.content_digest(CLASS, segments, segments, bytes_segments=(1,))
    lengths = tuple(len(segment) for segment in segments)
    chunks = (raw_record.raw_chunk(segments[0]), raw_record.zstd_chunk(TEXT))
    key = raw_record.address(content)
    return raw_record.Record(key, CLASS, (), lengths, chunks, CREATED_NS, content, bytes_segments=(1,)), segments


def _stream(child: str) -> bytes:
    """Write a pickle opcode by opcode: {"part": load(Ref, (child)), "noise": buffer, "more": buffer}."""

    def word(string: str) -> bytes:
        return b"\x8c" + bytes([len(string)]) + string.encode()

    def name(module: str, qualified: str) -> bytes:
        return word(module) + word(qualified) + b"\x93"

    reference = name("ana.reference", "load") + name("ana.storable", "Ref") + word(child) + b"\x86R"
    items = word("part") + reference + word("noise") + b"\x97" + word("more") + b"\x97"
    return b"\x80\x05}(" + items + b"u."


def files() -> dict[str, bytes]:
    """Return the tree's files by their paths in it."""
    first, _ = small()
    second, _ = buffers(first.key)
    third, _ = text()
    return {
        "ana.json": json.dumps(CONFIG).encode() + b"\n",
        **{
            f"{record.key[:2]}/{record.key[2:4]}/{record.key}.pkl.zst": raw_record.write(record)
            for record in (first, second, third)
        },
    }


if __name__ == "__main__":
    for path, data in files().items():
        place = Path(sys.argv[1], path)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
