"""What a pickler writes, in pieces: any state comes back as it was, and what is large is not copied."""

import io
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import memory

import ana
from ana import maintenance
from ana.objects import out_of_band
from ana.objects.out_of_band import LARGE_BYTES

LARGE = LARGE_BYTES
SMALL = LARGE_BYTES - 1


class Thing:
    """Of a class of its own: pickled by copyreg."""

    def __init__(self, content):
        self.content = content

    def __eq__(self, other):
        return self.content == other.content

    __hash__ = None


def _pickled(state, pickler_class=pickle.Pickler):
    return out_of_band.write(pickler_class, state)


def _segments(pickled):
    whole = b"".join(pickled.views)
    segments = []
    for size in pickled.sizes:
        segments.append(whole[:size])
        whole = whole[size:]
    assert whole == b""
    return segments


def _loaded(pickled):
    stream, *others = _segments(pickled)
    # As buffers: what is to be a `bytes` object is one, the rest is not.
    return pickle.loads(
        stream,
        buffers=[
            data if number in pickled.bytes_segments else bytearray(data) for number, data in enumerate(others, start=1)
        ],
    )


def _same(one, other):
    """Compare values and types."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return bool((one == other).all())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, Thing):
        return _same(one.content, other.content)
    return one == other


large_sizes = st.sampled_from((SMALL, LARGE, LARGE + 1, 70_000, 3 * LARGE))
leaves = st.one_of(
    st.integers(),
    st.text(max_size=8),
    st.binary(max_size=12),
    large_sizes.map(lambda size: b"\x97B" * (size // 2)),
    large_sizes.map(lambda size: bytearray(b"ab" * (size // 2))),
    large_sizes.map(lambda size: "\xe9x" * (size // 2)),
    large_sizes.map(lambda size: 1 << 8 * size),
    large_sizes.map(lambda size: np.arange(size // 8)),
    st.sampled_from((100, 600)).map(np.arange),
)
states = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=3), inner, max_size=4), inner.map(Thing)
    ),
    max_leaves=8,
)


@settings(max_examples=30, deadline=None)
@given(states)
@example([b"a" * LARGE, b"b" * LARGE, "c" * LARGE, b"d" * LARGE])
@example([[str(number) * 10 for number in range(90_000)], b"e" * LARGE, Thing(b"f" * LARGE)])
def test_any_state_comes_back(state):
    """Values and types, whatever large things are in them; by the C pickler and by Python's own."""
    for pickler_class in (pickle.Pickler, pickle._Pickler):
        assert _same(_loaded(_pickled(state, pickler_class)), state)


@settings(max_examples=20, deadline=None)
@given(states)
def test_a_state_without_large_bytes_is_the_pickle_that_python_makes(state):
    """Byte for byte, so that no address depends on how it was written."""
    pickled = _pickled(state)
    if not pickled.bytes_segments:
        buffers = []

        def keep(buffer):
            if buffer.raw().nbytes < out_of_band.IN_BAND_BYTES:
                return True
            buffers.append(bytes(buffer.raw()))
            return False

        assert _segments(pickled) == [pickle.dumps(state, 5, buffer_callback=keep), *buffers]


def test_large_content_is_not_copied():
    """What is written are views of the state's own bytes, byte arrays and arrays."""
    data, array, numbers = b"a" * LARGE, bytearray(LARGE), np.zeros(LARGE)
    pickled = _pickled([data, array, numbers])
    owners = [view.obj for view in pickled.views]
    assert any(owner is data for owner in owners)
    assert any(owner is array for owner in owners)
    assert any(np.shares_memory(np.frombuffer(view, "u1"), numbers) for view in pickled.views)
    assert sum(len(view) for view in pickled.views if view.obj is not data and view.obj is not array) < 9 * LARGE
    assert pickled.sizes[1:] == [LARGE, 8 * LARGE]
    assert pickled.bytes_segments == (1,)


def test_one_object_stays_one():
    """A `bytes` object that a state holds twice is stored once, and is one object again."""
    data = b"a" * LARGE
    pickled = _pickled({"one": data, "other": [data]})
    assert pickled.sizes[1:] == [LARGE]
    found = _loaded(pickled)
    assert found["one"] is found["other"][0]


def test_a_frame_is_not_taken_for_an_object():
    """A huge integer makes a frame as large as an object, and the integer before it can look like its opcode."""
    huge = 1 << 8 * (17 << 20)
    written = []

    class Spy(pickle.Pickler):
        def __init__(self, file, *arguments, **options):
            super().__init__(self, *arguments, **options)
            self.file = file

        def write(self, data):
            written.append(bytes(data))
            self.file.write(data)

    def opcode():
        return b"B" + len(written[-1]).to_bytes(4, "little")

    # So long that the frame ends right behind the next integer.
    filler = "x" * 65_522
    out_of_band.write(Spy, [filler, 1 << 33, huge])
    number = int.from_bytes(opcode(), "little")
    written.clear()
    pickled = out_of_band.write(Spy, [filler, number, huge])
    assert written[-2].endswith(opcode())
    assert pickled.bytes_segments == ()
    assert _loaded(pickled) == [filler, number, huge]


def test_classes_are_looked_for_beside_large_objects():
    """Opcodes are searched for a name; what an object holds is not."""

    def mentions(state):
        return any(b"__main__" in frames for frames in out_of_band.write(pickle.Pickler, state).frames)

    assert not mentions([b"__main__" * LARGE, "harmless"])
    assert mentions([[str(number) for number in range(900_000)], b"x" * LARGE, "__main__", 1 << 8 * LARGE])


@pytest.mark.parametrize("options", [{}, {"key": b"k" * 32}, {"allowed": ("numpy",)}, {"level": 0}], ids=str)
def test_bytes_of_any_size_are_stored_and_loaded(options):
    """In a store, with all that may be between; the type, the content, and no more of them than there were."""
    state = {"same": b"\x01" * (9 << 20), "text": "t" * LARGE, "part": [memoryview(b"m" * 7).tobytes(), b"n" * LARGE]}
    state["again"] = state["same"]
    with memory.folder() as folder:
        with ana.using_dl(pickle_dir=folder / "tree", durable=False, **options):
            ref = ana.Ref(state)
            uuid = ref.make_uuid()
            del ref
            found = ana.Ref.ana_load(uuid).value
        assert _same(found, state)
        assert found["same"] is found["again"]


def test_bytes_come_out_of_the_node_cache_as_bytes(tmp_path):
    """Mapped are arrays; a `bytes` object has memory of its own."""
    state = [b"\x01" * (1 << 20), np.arange(100_000)]
    options = {"pickle_dir": tmp_path / "tree", "node_cache": tmp_path / "node"}
    with ana.using_dl(**options):
        uuid = ana.Ref(state).make_uuid()
    for _ in range(2):
        with ana.using_dl(**options) as layer:
            found = ana.Ref.ana_load(uuid).value
            assert _same(found, state)
            assert not found[1].flags.writeable
            del found
    assert layer.stats().from_tier == 1


def test_a_pickle_with_bytes_beside_it_is_read_without_ana(tmp_path):
    """As the document says: the segments are the buffers that the stream asks for."""
    with ana.using_dl(pickle_dir=tmp_path / "tree"):
        uuid = ana.Ref(Thing(b"z" * LARGE)).make_uuid()
    stream, content = maintenance.cat(tmp_path / "tree", uuid)
    assert pickle.Unpickler(io.BytesIO(stream), buffers=[content]).load().content == b"z" * LARGE
