"""Records that lie about sizes, with digests that are right: refused before any memory is spent on the lie."""

import json
import os
import struct
from dataclasses import replace

import pytest
from support import processes, raw_record, raw_tree
from support.raw_record import Chunk, Record

import ana

MIB = 1 << 20
SPARE_BYTES = 160 * MIB
"""What the reading process may allocate on top of what Python and ana take."""

LIES = {"36": 1 << 36, "45": 1 << 45, "63": 1 << 63}
STREAM = b"\x80\x05K\x2a."
FRAME = raw_record.zstd_chunk(STREAM).frame
ZEROS = raw_record.compress(bytes(64 * MIB))
ZEROS_WITHOUT_SIZE = raw_record.compress(bytes(64 * MIB), sized=False)

LOADER = """
import json, resource, sys
import ana

layer = ana.set_dl(sys.argv[1])
layer.load_state("honest")
limit = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
found = {}
for key in json.load(sys.stdin):
    try:
        found[key] = repr(layer.load_state(key))
    except Exception as error:
        found[key] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def _record(*chunks: Chunk, segments: tuple[int, ...] = (len(STREAM),), **claims: int) -> Record:
    """Return a record without its key: by default an honest one of the number 42."""
    content = raw_record.content_digest("", [STREAM], [STREAM])
    return Record("", "", (), segments, chunks or (_chunk(FRAME),), 1, content, claims=claims)


def _chunk(frame: bytes, raw: int = len(STREAM), method: int = raw_record.ZSTD, stored: int | None = None) -> Chunk:
    """Return a chunk of any bytes, whose digest is right."""
    return Chunk(frame, raw, method, raw_record.digest(frame), stored)


def _frame(claimed: int) -> bytes:
    """Return a zstd frame that claims any number of bytes, and has one byte."""
    return struct.pack("<IBQ", 0xFD2FB528, 0xE0, claimed) + b"\x09\x00\x00x"


def _zeros(claimed: int, blocks: int) -> bytes:
    """Return a zstd frame that claims any number of bytes, and has blocks of 128 KiB of zeros each."""
    kinds = ((128 << 10) << 3 | 1 << 1 | last for last in (0, 1))
    block, last = (kind.to_bytes(3, "little") + b"\0" for kind in kinds)
    return struct.pack("<IBI", 0xFD2FB528, 0xA0, claimed) + block * (blocks - 1) + last


COUNTS = dict.fromkeys(("n_children", "n_segments", "n_chunks"), 2**32 - 1)

IN_HEADER = {
    **{f"{name} of 2^32": _record(**{name: claim}) for name, claim in COUNTS.items()},
    "all counts of 2^32": _record(**COUNTS),
    "a key of 64 KiB": _record(key_size=2**16 - 1),
    "a class name of 64 KiB": _record(class_size=2**16 - 1),
    "no segments": _record(n_segments=0),
    "a header of 4 GiB": _record(frame=2**32 - 1),
    "an empty header": _record(frame=0),
    **{f"2^{power} raw bytes": _record(raw_bytes=claim) for power, claim in LIES.items()},
    **{f"2^{power} stored bytes": _record(stored_bytes=claim) for power, claim in LIES.items()},
    **{f"a segment of 2^{power}": _record(segments=(claim,)) for power, claim in LIES.items()},
    **{
        f"a bytes object of 2^{power}": replace(_record(segments=(len(STREAM), claim)), bytes_segments=(1,))
        for power, claim in LIES.items()
    },
    "segments whose sum overflows": _record(segments=(2**63, 2**63, 5), raw_bytes=5),
    "a million empty segments that are not there": _record(n_segments=10**6),
}
"""Headers that claim what the record doesn't have."""

IN_TABLE = {
    "a chunk of 4 GiB": _record(_chunk(FRAME, 2**32 - 1), segments=(2**32 - 1,)),
    "a chunk of 64 MiB": _record(_chunk(ZEROS, 64 * MIB), segments=(64 * MIB,)),
    "4096 chunks of 16 MiB in a byte each": _record(*[_chunk(b"x", 16 * MIB)] * 4096, segments=(2**36,)),
    "16 MiB of raw blocks that are not there": _record(_chunk(FRAME, 16 * MIB, raw_record.RAW), segments=(16 * MIB,)),
    "an empty chunk": _record(_chunk(FRAME), _chunk(b"", 0)),
    "a chunk that ends beyond the file": _record(_chunk(FRAME, stored=2**32 - 1)),
    "a chunk of an unknown method": _record(_chunk(FRAME, method=2)),
}
"""Chunk tables that cannot be true."""

IN_FRAME = {
    **{f"a frame of 2^{power}": _record(_chunk(_frame(claim))) for power, claim in LIES.items()},
    "64 MiB of zeros": _record(_chunk(ZEROS)),
    "64 MiB of zeros without their size": _record(_chunk(ZEROS_WITHOUT_SIZE)),
    "64 MiB of blocks in five bytes": _record(_chunk(_zeros(5, 512))),
    "64 MiB of blocks in 16 MiB": _record(_chunk(_zeros(16 * MIB, 512), 16 * MIB), segments=(16 * MIB,)),
    "64 MiB without their size in 16 MiB": _record(_chunk(ZEROS_WITHOUT_SIZE, 16 * MIB), segments=(16 * MIB,)),
    "a second frame": _record(_chunk(FRAME + ZEROS)),
    "half a frame": _record(_chunk(FRAME[:-3])),
    "no frame": _record(_chunk(b"nothing of the kind")),
}
"""Frames that do not hold what the table says."""

LONGER = {
    "64 MiB of zeros behind a record": (_record(), 64 * MIB),
    "64 GiB of nothing behind a record": (_record(), 2**36),
    "a header of 3 GiB that is not there": (_record(frame=3 * 2**30), 2**33),
    "a header of 200 MiB that is not there": (_record(frame=200 * MIB), 2**33),
}
"""Records in files that are longer (they have a hole): by how many bytes."""

ALL = {**IN_HEADER, **IN_TABLE, **IN_FRAME, **{name: record for name, (record, _) in LONGER.items()}}


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory):
    """What a process with little memory says of each record, loaded from a tree."""
    tree = tmp_path_factory.mktemp("tree")
    ana.DirDataLayer(tree).store_state("honest", 42)
    for name, record in ALL.items():
        path = raw_tree.put(tree, name, raw_record.write(record.under(name)))
        os.truncate(path, path.stat().st_size + LONGER.get(name, (None, 0))[1])
    keys = ["honest", *ALL, "honest"]
    return processes.ask_python(LOADER, tree, SPARE_BYTES, input=json.dumps(keys))


def test_honest_records_load_with_little_memory(verdicts):
    """The limit under which these tests run leaves enough for a state that tells the truth."""
    assert verdicts["honest"] == "42"
    honest = raw_record.write(_record().under("honest"))
    assert raw_record.read(honest)[1] == [STREAM]


@pytest.mark.parametrize("name", ALL)
def test_lies_about_sizes_are_refused(verdicts, name):
    """CorruptedStateError, naming the state, and never a MemoryError or wrong bytes."""
    assert verdicts[name].startswith(f"CorruptedStateError: state {name!r} is damaged: ")
