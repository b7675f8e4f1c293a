"""Makes the sample trees beside this file, without ana: `python tests/data/make.py FOLDER`.

All states are of `ana.Ref`. tree-1, of format 1, has a small state, whose only chunk is compressed; one with two
out-of-band buffers that do not compress, which refers to the first; and one with a large `bytes` object.

tree-2, of format 2, has a sealed pack of two states with summaries, the second of which refers to the first, with a
hint; a pack that a killed writer left, with a torn end; a state with a part; and two roots: a named one, and one that
grows and whose last line is torn. tests/format/test_record.py checks that the files are what
this makes.
"""

import json
import pickle
import sys
from pathlib import Path

import blake3

sys.path.insert(0, str(Path(__file__).parents[1]))

from support import raw_pack, raw_record

CLASS = "ana.storable:Ref"
CREATED_NS = 1_700_000_000_000_000_000
CONFIG = {"format": 1, "levels": 2, "id": "0b8f4a53-5c1e-4d6b-9a57-3f1d2c7e8a90"}
CONFIG_2 = {"format": 2, "levels": 2, "id": "6a4be9d2-7f10-4a39-8f6e-2d1c5b9e0347", "roots": True}
SEALED, OPEN = "node17-4711-83b1d6f20a9c55e0", "node18-4712-0d2f9a1b7c3e5846"
"""The names of the packs, without the suffix."""

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
    """Write a pickle opcode by opcode: {"part": load(Ref, child), "noise": buffer, "more": buffer}."""
    items = _word("part") + _reference(child) + _word("noise") + b"\x97" + _word("more") + b"\x97"
    return b"\x80\x05}(" + items + b"u."


def _word(string: str) -> bytes:
    return b"\x8c" + bytes([len(string)]) + string.encode()


def _reference(child: str) -> bytes:
    """Return the opcodes of load(Ref, child)."""

    def name(module: str, qualified: str) -> bytes:
        return _word(module) + _word(qualified) + b"\x93"

    return name("ana.reference", "load") + name("ana.storable", "Ref") + _word(child) + b"\x86R"


def tree_1() -> dict[str, bytes]:
    """Return the files of the tree of format 1 by their paths in it."""
    first, _ = small()
    second, _ = buffers(first.key)
    third, _ = text()
    return {"ana.json": json.dumps(CONFIG).encode() + b"\n", **_loose(first, second, third)}


def packed() -> list[raw_record.Record]:
    """Return the records of the states in packs: two in the sealed one, then the one in the other."""
    first = _record(pickle.dumps({"x": 1}, 5), summary="dict of 1")
    hint = f"{SEALED}:0:{len(raw_record.write(first))}"
    second = _record(
        b"\x80\x05}" + _word("x") + _reference(first.key) + b"s.", (first.key,), (hint,), summary="dict of 1"
    )
    return [first, second, _record(pickle.dumps({"x": 3}, 5))]


def with_part() -> list[raw_record.Record]:
    """Return the records of a state that is a large `bytes` object, and of its part."""
    stream, leaf = b"\x80\x05\x97\x94.", raw_record.digest(TEXT)
    whole = raw_record.content_digest("ana:part", [TEXT], [TEXT], bytes_segments=(0,))
    key, chunk = raw_record.address(whole), raw_record.zstd_chunk(TEXT)
    part = raw_record.Record(key, "ana:part", (), (len(TEXT),), (chunk,), CREATED_NS, whole, bytes_segments=(0,))
    content = raw_record.content_digest(CLASS, [stream, TEXT], [stream, TEXT], bytes_segments=(1,))
    chunks = (raw_record.raw_chunk(stream), raw_record.part_chunk(len(TEXT), leaf))
    lengths = (len(stream), len(TEXT))
    key = raw_record.address(content)
    holder = raw_record.Record(key, CLASS, (part.key,), lengths, chunks, CREATED_NS, content, bytes_segments=(1,))
    return [holder, part]


def tree_2() -> dict[str, bytes]:
    """Return the files of the tree of format 2 by their paths in it."""
    first, second, third = packed()
    holder, part = with_part()
    data = [raw_record.write(first), raw_record.write(second)]
    spots = {first.key: (0, len(data[0])), second.key: (len(data[0]), len(data[1]))}
    torn = raw_record.write(third) + data[1][:-7]
    root = {"name": "named", "since": CREATED_NS / 1e9, "by": "node17, pid 4711", "uuids": [second.key]}
    growing = {"name": "job", "since": CREATED_NS / 1e9, "by": "node18, pid 4712", "grows": True, "uuids": []}
    return {
        "ana.json": json.dumps(CONFIG_2).encode() + b"\n",
        **_loose(holder, part),
        f"packs/{SEALED}.pack.zst": b"".join(data) + raw_pack.index_frame(spots, sum(map(len, data))),
        f"packs/{OPEN}.pack.zst": torn,
        f".ana/roots/named.{raw_record.digest(second.key.encode()).hex()[:16]}.json": _lines(root),
        ".ana/roots/job.0e6e609dce187c55.json": _lines(growing, holder.key, third.key) + b'"5f3ac0e1-12',
    }


def _record(
    stream: bytes, children: tuple[str, ...] = (), hints: tuple[str, ...] = (), summary: str = ""
) -> raw_record.Record:
    content = raw_record.content_digest(CLASS, [stream], [stream])
    key, chunk = raw_record.address(content), raw_record.raw_chunk(stream)
    return raw_record.Record(
        key, CLASS, children, (len(stream),), (chunk,), CREATED_NS, content, summary=summary, hints=hints
    )


def _lines(*values: object) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def _loose(*records: raw_record.Record) -> dict[str, bytes]:
    return {f"{one.key[:2]}/{one.key[2:4]}/{one.key}.pkl.zst": raw_record.write(one) for one in records}


TREES = {"tree-1": tree_1, "tree-2": tree_2}


if __name__ == "__main__":
    for name, files in TREES.items():
        for path, data in files().items():
            place = Path(sys.argv[1], name, path)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
