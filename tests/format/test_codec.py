"""Each zstd library that `ana.codec` can use keeps the codec's promises; tested are those that are installed."""

import random
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from importlib.util import find_spec

import pytest
from support import processes, raw_record

from ana.format import codec

PACKAGE, STANDARD = "zstandard", "compression.zstd"
LIBRARIES = [name for name in (PACKAGE, STANDARD) if find_spec(name.split(".")[0])]
"""On Python 3.11 the first, on 3.15 the second, on 3.14 both."""

GOLDEN = bytes.fromhex("28b52ffda0e09304005c0000186162630100faffe66e084c000008630100fcff3910024d000008620100dc131d0801")
"""`b"abc" * 100_000` at level 1: frame header (size stated, no checksum, no dictionary) and three blocks."""

CONTENTS = {
    "one byte": b"x",
    "text": b"all work and no play " * 4000,
    "noise": random.Random(2).randbytes(70_000),
    "4 MiB": random.Random(3).randbytes(4096) * 1024,
}


def _codec(name):
    return (codec._Zstandard if name == PACKAGE else codec._Standard)(import_module(name))


@pytest.fixture(params=LIBRARIES)
def library(request, monkeypatch):
    """Have the codec use each library."""
    monkeypatch.setattr(codec, "_codec", _codec(request.param))
    return request.param


@pytest.mark.parametrize("level", [-22, 1, 19])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.usefixtures("library")
def test_content_comes_back(content, level):
    """A frame states its size, and every library that is there makes the same content of it."""
    frame = codec.compress(memoryview(content), level)
    assert raw_record.content_size(frame) == len(content)
    for name in LIBRARIES:
        assert _codec(name).decompress(bytearray(frame), len(content)) == content


@pytest.mark.usefixtures("library")
def test_a_stored_frame_is_read_and_written_again():
    """A frame of 1.0 is read; a new one has the same header, without a checksum, and ends with its last block."""
    content = b"abc" * 100_000
    assert codec.decompress(GOLDEN, len(content)) == content
    frame = codec.compress(content, 1)
    assert frame[:9] == GOLDEN[:9]
    assert len(frame) == len(GOLDEN)


@pytest.mark.usefixtures("library")
def test_a_codec_is_used_again_after_an_error():
    """What cannot be compressed or decompressed leaves nothing behind in the next frame."""
    frame = codec.compress(b"before" * 100, 1)
    with pytest.raises(TypeError):
        codec.compress("text", 1)
    with pytest.raises(codec.FrameError):
        codec.decompress(frame[:-1], 600)
    assert codec.compress(b"before" * 100, 1) == frame
    assert codec.decompress(frame, 600) == b"before" * 100


BAD = {
    "longer than stated": (GOLDEN, 299_999),
    "shorter than stated": (GOLDEN, 300_001),
    "cut": (GOLDEN[:-1], 300_000),
    "followed by a byte": (GOLDEN + b"\0", 300_000),
    "followed by a frame": (GOLDEN + GOLDEN, 300_000),
    "no frame": (b"not a frame of zstd", 300_000),
    "only a header": (GOLDEN[:9], 300_000),
    "half a header": (GOLDEN[:6], 300_000),
    "empty": (b"", 300_000),
    "a damaged block": (GOLDEN[:12] + b"\xff" + GOLDEN[13:], 300_000),
    "states no size": (raw_record.compress(b"abc" * 100_000, sized=False), 300_000),
    "skippable": (b"\x50\x2a\x4d\x18\x04\0\0\0abcd", 4),
}


@pytest.mark.parametrize(("frame", "size"), BAD.values(), ids=BAD)
@pytest.mark.usefixtures("library")
def test_whatever_is_not_such_a_frame_is_refused(frame, size):
    """One frame of the stated size, ending where the bytes end: anything else is an error."""
    with pytest.raises(codec.FrameError):
        codec.decompress(frame, size)


@pytest.mark.usefixtures("library")
def test_threads_do_not_disturb_each_other():
    """Threads that compress and decompress at the same time get their own content back."""

    def comes_back(number):
        content = random.Random(number).randbytes(500) * 200
        return codec.decompress(codec.compress(content, 1), len(content)) == content

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(comes_back, range(40)))


WITHOUT = """
import sys
for name in sys.argv[1:]:
    sys.modules[name] = None
try:
    from ana.format import codec
except ImportError as error:
    print(error)
else:
    frame = codec.compress(b"abc" * 1000, 1)
    print(type(codec._codec).__name__, codec.decompress(frame, 3000) == b"abc" * 1000)
"""


def test_any_library_will_do():
    """`zstandard` is used where it is installed, Python's own otherwise, and without both there is a cure."""
    used = {PACKAGE: "_Zstandard True", STANDARD: "_Standard True"}
    assert processes.run_program(WITHOUT).strip() == used[LIBRARIES[0]]
    assert processes.run_program(WITHOUT, PACKAGE).strip() == (used[STANDARD] if STANDARD in LIBRARIES else CURE)
    assert processes.run_program(WITHOUT, PACKAGE, STANDARD).strip() == CURE


CURE = "ana needs zstd, and this Python was built without it: pip install zstandard"


def test_a_forked_child_begins_anew(library):
    """After `reset` the codec is another one, of the same library, and works."""
    before = codec._codec
    codec.reset()
    assert codec._codec is not before
    assert codec._codec.module.__name__ == library
    assert codec.decompress(codec.compress(b"abc", 1), 3) == b"abc"
