"""Arrays come back right: equal, writable, aligned, each in memory of its own; so do what is made of arrays."""

import gc
import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import extras, memory, processes

import ana

ALIGNMENT = 64
ALIGNED_FROM_BYTES = 4096
"""Smaller ones are part of the pickle, and lie where Python puts them."""

SIZES = [0, 1, 100, 5_000, 300_000, 5_000_000]
"""Bytes: none, less than an item, in the pickle, a buffer, several chunks."""

STRUCTURED = np.dtype([("number", "i4"), ("name", "S3"), ("inner", [("x", "f8", (2,))])])
DTYPES = ["f8", "i1", "?", "c16", STRUCTURED, "M8[ns]", "m8[s]", "U5", "S7", ">i4", "f2", "O"]
BUFFERED = [dtype for dtype in DTYPES if np.dtype(dtype).kind not in "OMm"]
"""The others numpy pickles without buffers, and loads into memory of its own choice."""

ORDERS = {
    "C": np.ascontiguousarray,
    "Fortran": np.asfortranarray,
    "transposed": lambda array: array.T,
    "every other row": lambda array: array[::2],
    "every other column": lambda array: array[:, ::2],
    "backwards": lambda array: array[::-1],
    "all backwards": lambda array: array[::-1, ::-1],
    "a row many times": lambda array: np.broadcast_to(array[0], array.shape),
}


class Folder:
    """A store in a folder, and a new layer over it for each load, as in another process."""

    def __init__(self, path):
        self.path = path

    def layer(self):
        return ana.set_dl(pickle_dir=self.path, durable=False)

    def states(self):
        return list(self.path.rglob("*.zst"))


class Mapping:
    """The same over a dict."""

    def __init__(self):
        self.mapping = {}

    def layer(self):
        return ana.set_dl(ana.DictDataLayer(self.mapping))

    def states(self):
        return list(self.mapping)


@pytest.fixture(params=["folder", "mapping"])
def store(request, tmp_path):
    """Each kind of store."""
    return Folder(tmp_path / "s") if request.param == "folder" else Mapping()


def back(store, value):
    """Store a value, and load it in a layer that has never seen it."""
    store.layer()
    uuid = ana.Ref(value).make_uuid()
    store.layer()
    return ana.Ref.ana_load(uuid).value


def plain(value):
    """Return what plain pickle makes of a value."""
    return pickle.loads(pickle.dumps(value, 5))


def array_of(dtype, size_bytes, seed=1):
    """Make an array of about as many bytes, of content that does not compress away."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    items = -(-size_bytes // dtype.itemsize)
    if dtype.kind == "O":
        return np.array([f"object {number}" if number % 2 else number for number in range(items)], dtype="O")
    if dtype.kind == "U":
        return np.array([f"{number:05}" for number in rng.integers(99_999, size=items)], dtype=dtype)
    if dtype.kind == "b":
        return rng.integers(2, size=items).astype(bool)
    if dtype.kind in "fc":
        return rng.random(items).astype(dtype)
    return np.frombuffer(bytearray(rng.bytes(items * dtype.itemsize)), dtype=dtype)


def assert_same(found, expected):
    """See that values are equal, of the same types, the arrays in the same order, and writable alike."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        assert_same(list(found.values()), list(expected.values()))
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, np.ndarray):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        # Of what has no items, the strides mean nothing.
        assert found.strides == expected.strides or expected.size == 0
        assert (found.flags.f_contiguous, found.flags.writeable) == (
            expected.flags.f_contiguous,
            expected.flags.writeable,
        )
        assert found.tobytes() == expected.tobytes() if expected.dtype.kind != "O" else np.array_equal(found, expected)
    else:
        assert found == expected


def root_of(array):
    """Return what owns the memory of an array: at the end of all its bases."""
    found = array
    while True:
        if isinstance(found, np.ndarray) and found.base is not None:
            found = found.base
        elif isinstance(found, memoryview) and found.obj is not None:
            found = found.obj
        else:
            return found


def held_bytes(array):
    """Return how much memory an array keeps alive."""
    return memoryview(root_of(array)).nbytes


def is_aligned(array):
    """Say whether an array's memory begins at a multiple of 64 bytes."""
    return array.ctypes.data % ALIGNMENT == 0


# Each kind of array


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: np.dtype(dtype).name)
def test_types_and_sizes(store, dtype, size_bytes):
    """Of every type and size: equal, writable; and what it was made from stays as it was."""
    array = array_of(dtype, size_bytes)
    before = array.copy()
    found = back(store, array)
    assert_same(found, array)
    assert found.flags.writeable
    found[:] = np.zeros(1, dtype=array.dtype)
    assert_same(array, before)


@pytest.mark.parametrize("size_bytes", [size for size in SIZES if size >= ALIGNED_FROM_BYTES])
@pytest.mark.parametrize("dtype", BUFFERED, ids=lambda dtype: np.dtype(dtype).name)
def test_alignment(store, dtype, size_bytes):
    """From 4096 bytes on, an array that travels as a buffer begins at a multiple of 64 bytes."""
    assert is_aligned(back(store, array_of(dtype, size_bytes)))


@pytest.mark.parametrize("number_of_bytes", [ALIGNED_FROM_BYTES, 5_001, 65_537, 300_007, 1_048_577])
def test_alignment_of_what_comes_after(store, number_of_bytes):
    """Arrays of odd lengths after one another are aligned, each of them."""
    found = back(store, [array_of("i1", number_of_bytes + number, number) for number in range(20)])
    assert [is_aligned(array) for array in found] == [True] * 20


@pytest.mark.parametrize("size_bytes", [800, 80_000, 8_000_000])
@pytest.mark.parametrize("order", ORDERS)
def test_orders(store, order, size_bytes):
    """Fortran order stays; views with gaps, backwards or repeated come as plain pickle makes them; all are writable."""
    array = ORDERS[order](array_of("f8", size_bytes).reshape(10, -1))
    found = back(store, array)
    assert np.array_equal(found, array)
    assert_same(found, plain(array))
    # Only what lies in memory as a whole travels as a buffer.
    whole = array.flags.c_contiguous or array.flags.f_contiguous
    assert not whole or size_bytes < ALIGNED_FROM_BYTES or is_aligned(found)
    assert found.flags.writeable


@pytest.mark.parametrize("size_bytes", SIZES)
def test_read_only_arrays(store, size_bytes):
    """An array that was read-only comes as plain pickle makes it: read-only. Its copy is writable."""
    array = array_of("f8", size_bytes)
    array.flags.writeable = False
    found = back(store, array)
    assert_same(found, plain(array))
    assert not found.flags.writeable
    assert found.copy().flags.writeable


@pytest.mark.parametrize("shape", [(0,), (0, 5), (3, 0), (0, 0, 0), ()])
@pytest.mark.parametrize("dtype", ["f8", STRUCTURED, "O", "U5"], ids=lambda dtype: np.dtype(dtype).name)
def test_shapes_without_extent(store, shape, dtype):
    """Arrays without items, and without dimensions, keep their shape and are writable."""
    array = np.zeros(shape, dtype)
    found = back(store, array)
    assert_same(found, array)
    found[...] = np.zeros((), dtype)


def test_arrays_of_other_classes(store, tmp_path):
    """Masked arrays, record arrays, and maps of files that are gone come back, of their class, with their values."""
    masked = np.ma.masked_array(array_of("f8", 80_000), mask=array_of("?", 10_000))
    found = back(store, masked)
    assert type(found) is type(masked)
    assert np.array_equal(found.mask, masked.mask)
    assert np.array_equal(found.filled(0), masked.filled(0))
    record = array_of(STRUCTURED, 50_000).view(np.recarray)
    assert type(back(store, record)) is np.recarray
    assert back(store, record).tobytes() == record.tobytes()
    file = tmp_path / "map"
    file.write_bytes(array_of("i1", 50_000).tobytes())
    mapped = np.memmap(file, dtype="i1", mode="r")
    store.layer()
    uuid = ana.Ref(mapped).make_uuid()
    del mapped
    file.unlink()
    store.layer()
    assert np.array_equal(ana.Ref.ana_load(uuid).value, array_of("i1", 50_000))


# Arrays inside of other things


ARRAYS = st.builds(
    lambda dtype, items, seed, order: ORDERS[order](
        array_of(dtype, items * np.dtype(dtype).itemsize, seed)[: items // 2 * 2].reshape(2, -1)
    ),
    st.sampled_from(DTYPES),
    st.sampled_from([0, 2, 14, 600, 5_000, 70_000]),
    st.integers(1, 9),
    st.sampled_from(list(ORDERS)),
)
LEAVES = ARRAYS | st.binary(max_size=50) | st.binary(max_size=50).map(bytearray) | st.text(max_size=5) | st.none()
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4) | st.tuples(inner, inner)
    ),
    max_leaves=12,
)


@pytest.mark.slow
@given(VALUES)
def test_any_nesting(value):
    """Dicts, lists and tuples of arrays of all kinds come as plain pickle makes them, from both kinds of store."""
    expected = plain(value)
    with memory.folder() as path:
        for store in (Folder(path / "s"), Mapping()):
            assert_same(back(store, value), expected)
        # Before the folder goes.
        ana.set_dl()


def test_an_array_that_is_there_twice(store):
    """One array in two places is one array again; two equal arrays are two."""
    one, other = array_of("f8", 50_000), array_of("f8", 50_000)
    found = back(store, [one, one, other])
    assert found[0] is found[1]
    assert not np.shares_memory(found[0], found[2])


def test_what_is_loaded_twice_is_not_shared(store):
    """Two loads, in two layers, have nothing to do with each other: writing into one does not show in the other."""
    array = array_of("f8", 50_000)
    first, second = back(store, array), back(store, array)
    first[:] = 0
    assert np.array_equal(second, array)
    assert np.array_equal(back(store, array), array)


@pytest.mark.parametrize("size_bytes", [800, 80_000, 8_000_000])
@pytest.mark.parametrize("order", ["C", "Fortran"])
@pytest.mark.parametrize("writable", [True, False])
def test_what_came_back_is_the_same_state(store, order, writable, size_bytes):
    """An array that was loaded and is stored again, has the same address: nothing is written."""
    array = ORDERS[order](array_of("f8", size_bytes).reshape(10, -1)).copy("K")
    array.flags.writeable = writable
    found = back(store, {"array": array})
    (state,) = store.states()
    store.layer()
    ana.Ref(found).make_uuid()
    assert store.states() == [state]


# Memory


def many():
    """Make a thousand arrays of 1 to 100 kB."""
    sizes = np.linspace(1_000, 100_000, 1000).astype(int)
    return [array_of("i1", int(size), seed) for seed, size in enumerate(sizes)]


def test_small_arrays_have_memory_of_their_own(store):
    """A thousand arrays of 1 to 100 kB: no two in one piece of memory, and none keeps more alive than it needs."""
    found = back(store, many())
    assert len({id(root_of(array)) for array in found}) == len(found)
    assert not any(np.shares_memory(one, other) for one, other in itertools.pairwise(found))
    assert [array.nbytes for array in found if held_bytes(array) > array.nbytes + 2 * ALIGNMENT] == []


def test_a_small_array_does_not_keep_a_large_one(store):
    """A small array beside a large one, before or after it in the state, holds its own bytes only."""
    small, large = array_of("i1", 5_000), array_of("i1", 5_000_000)
    for value in ({"small": small, "large": large}, {"large": large, "small": small}):
        found = back(store, value)
        assert held_bytes(found["small"]) <= small.nbytes + 2 * ALIGNMENT
        assert root_of(found["small"]) is not root_of(found["large"])


KEEP_THE_SMALL = """
import gc, json, os, sys
import numpy as np
import ana

def resident():
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

layer = ana.set_dl(pickle_dir=sys.argv[1])
ana.Ref.ana_load(sys.argv[2]).value
layer = ana.set_dl(pickle_dir=sys.argv[1])
before = resident()
state = ana.Ref.ana_load(sys.argv[3]).value
# All of it is touched.
total = int(state["large"].sum()) + int(state["small"].sum())
loaded = resident()
kept = state["small"]
del state
layer = ana.set_dl()
print(json.dumps([before, loaded, resident(), kept.nbytes, total]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("content", ["noise", "numbers"])
def test_the_memory_of_a_large_array_goes_while_a_small_one_stays(tmp_path, content):
    """Of a state of 64 MB, compressed or not, whoever keeps 5 kB has its memory back."""
    rng = np.random.default_rng(1)
    large = np.frombuffer(bytearray(rng.bytes(64_000_000)), "u1") if content == "noise" else np.arange(8_000_000)
    value = {"large": large, "small": array_of("i1", 5_000)}
    ana.set_dl(pickle_dir=tmp_path / "s", durable=False)
    warm = ana.Ref(array_of("i1", 300_000)).make_uuid()
    uuid = ana.Ref(value).make_uuid()
    before, loaded, after, nbytes, total = processes.ask_python(KEEP_THE_SMALL, tmp_path / "s", warm, uuid)
    assert (nbytes, total) == (5_000, int(value["large"].sum()) + int(value["small"].sum()))
    assert loaded - before > 56_000_000
    assert after - before < 16_000_000


def test_a_state_that_is_gone_leaves_its_arrays_whole(store, tmp_path):
    """Arrays stay as they are when the state, the layer and the store's file are gone."""
    expected = many()[::50]
    found = back(store, many()[::50])
    ana.set_dl()
    gc.collect()
    for path in (tmp_path / "s").rglob("*.zst"):
        path.unlink()
    assert_same(found, expected)


# Bytes


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_and_bytearrays(store, kind, size_bytes):
    """They come back as what they were; a bytearray can grow."""
    value = kind(array_of("i1", size_bytes).tobytes())
    found = back(store, value)
    assert type(found) is kind
    assert found == value
    if kind is bytearray:
        found += b"more"
        assert len(found) == len(value) + 4


@pytest.mark.parametrize("size_bytes", SIZES)
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_pickle_buffers(store, kind, size_bytes):
    """A PickleBuffer comes as its bytes, writable where they were, aligned where they are many."""
    value = kind(array_of("i1", size_bytes).tobytes())
    found = back(store, pickle.PickleBuffer(value))
    assert found == value
    assert memoryview(found).readonly == (kind is bytes)
    assert size_bytes < ALIGNED_FROM_BYTES or is_aligned(np.frombuffer(found, "u1"))


def test_a_pickle_buffer_of_an_array(store):
    """A PickleBuffer over Fortran order comes as the bytes that lie in memory."""
    array = np.asfortranarray(array_of("f8", 80_000).reshape(100, -1))
    assert bytes(back(store, pickle.PickleBuffer(array))) == array.tobytes("A")


@pytest.mark.parametrize("size_bytes", [100, 50_000])
def test_a_pickle_buffer_with_gaps(store, size_bytes):
    """It is refused, as plain pickle refuses it: by an error that says why; nothing is stored, and there is no UUID."""
    store.layer()
    buffer = pickle.PickleBuffer(memoryview(bytearray(size_bytes))[::2])
    ref = ana.Ref(buffer)
    with pytest.raises((pickle.PicklingError, BufferError), match="contiguous"):
        ref.make_uuid()
    assert ref.uuid is None
    assert store.states() == []


# What is made of arrays


FRAMES = [
    "one block",
    "mixed blocks",
    "pyarrow strings",
    "pyarrow types",
    "nullable",
    "categories",
    "multi-index",
    "time zone",
    "columns of a frame",
    "rows of a frame",
    "no rows",
]


def frames():
    """Make data frames of many kinds, by name."""
    extras.require("pandas", "pyarrow")
    import pandas as pd

    rows = 3_000
    numbers = pd.DataFrame(array_of("f8", rows * 8 * 4).reshape(rows, 4), columns=list("abcd"))
    words = pd.Series([f"word {number % 97}" for number in range(rows)])
    moments = pd.date_range("2024-03-30", periods=rows, freq="h", tz="Europe/Berlin")
    product = pd.MultiIndex.from_product([range(30), [f"x{number}" for number in range(100)]], names=["i", "j"])
    return {
        "one block": numbers,
        "mixed blocks": numbers.assign(e=range(rows), f=words.astype(object), g=True, h=np.float32(1), i=moments),
        "pyarrow strings": pd.DataFrame({"s": words.astype("string[pyarrow]"), "n": range(rows)}),
        "pyarrow types": pd.DataFrame({"n": pd.array(range(rows), dtype="int64[pyarrow]")}),
        "nullable": pd.DataFrame({"n": pd.array([None, *range(rows - 1)], dtype="Int64")}),
        "categories": pd.DataFrame({"c": words.astype("category")}),
        "multi-index": numbers.set_index(product),
        "time zone": numbers.set_index(moments),
        "columns of a frame": numbers[["a", "c"]],
        "rows of a frame": numbers[::3],
        "no rows": numbers[:0],
    }


@pytest.mark.parametrize("name", FRAMES)
def test_data_frames(store, name):
    """A pandas DataFrame comes back equal, with its types, its index and its order; and can be changed."""
    made = frames()
    assert [*made] == FRAMES
    import pandas as pd

    frame = made[name]
    found = back(store, frame)
    pd.testing.assert_frame_equal(found, frame, check_freq=True)
    if len(found):
        found.iloc[0, 0] = found.iloc[1, 0]
        assert found.iloc[0, 0] == found.iloc[1, 0]


def test_series_and_indices(store):
    """So do a pandas Series and an Index."""
    series = frames()["mixed blocks"]["i"]
    import pandas as pd

    pd.testing.assert_series_equal(back(store, series), series)
    index = frames()["multi-index"].index
    pd.testing.assert_index_equal(back(store, index), index)


TABLES = ["numbers", "words", "a slice", "nothing", "few", "lists", "a dictionary", "chunks", "a table", "a batch"]


def tables():
    """Make things of pyarrow's, by name."""
    extras.require("pyarrow")
    import pyarrow as pa

    numbers = pa.array(range(100_000), pa.int64())
    words = pa.array([None if number % 5 == 0 else f"word {number}" for number in range(10_000)])
    return {
        "numbers": numbers,
        "words": words,
        "a slice": numbers.slice(1_000, 5_000),
        "nothing": pa.array([], pa.float32()),
        "few": pa.array([1, None, 3]),
        "lists": pa.array([[1, 2], None, [], [3]] * 2_000),
        "a dictionary": words.dictionary_encode(),
        "chunks": pa.chunked_array([numbers, numbers]),
        "a table": pa.table({"n": numbers.slice(0, 10_000), "s": words}),
        "a batch": pa.record_batch({"n": numbers.slice(0, 10_000), "s": words}),
    }


@pytest.mark.parametrize("name", TABLES)
def test_arrow(store, name):
    """Arrays and tables of pyarrow's come back equal and valid."""
    made = tables()
    assert [*made] == TABLES
    value = made[name]
    found = back(store, value)
    assert type(found) is type(value)
    assert found.equals(value)
    found.validate(full=True)


def test_alignment_of_what_is_made_of_arrays(store):
    """The large arrays of data frames and sparse matrices are aligned; pyarrow's buffers, as it wants them."""
    extras.require("scipy")
    import scipy.sparse

    table = back(store, tables()["a table"])
    buffers = [buffer for column in table.columns for chunk in column.chunks for buffer in chunk.buffers() if buffer]
    large = [buffer for buffer in buffers if buffer.size >= ALIGNED_FROM_BYTES]
    assert len(large) >= 3
    assert [buffer.address % ALIGNMENT for buffer in large] == [0] * len(large)
    assert is_aligned(back(store, frames()["one block"]).to_numpy())
    matrix = back(store, scipy.sparse.csr_array(array_of("f8", 800_000).reshape(100, -1)))
    assert is_aligned(matrix.data)
    assert is_aligned(matrix.indices)


@pytest.mark.parametrize("kind", ["csr", "csc", "coo", "bsr", "lil", "dok"])
@pytest.mark.parametrize("family", ["matrix", "array"])
def test_sparse(store, family, kind):
    """A sparse matrix or array of each format comes back equal, of its class and type, and can be changed."""
    extras.require("scipy")
    import scipy.sparse

    made = array_of("f8", 300 * 200 * 8).reshape(300, 200)
    made[made < 0.95] = 0
    value = getattr(scipy.sparse, f"{kind}_{family}")(made)
    found = back(store, value)
    assert type(found) is type(value)
    assert (found.shape, found.dtype, found.nnz) == (value.shape, value.dtype, value.nnz)
    assert np.array_equal(found.toarray(), value.toarray())
    if kind in {"csr", "csc", "bsr", "coo"}:
        found.data[:] = 1
        assert found.sum() == found.data.size
