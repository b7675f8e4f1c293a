"""The node-local tier: large states come back right, mapped and read-only, and the tree stays the truth."""

import mmap
import os
import pickle
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from support import extras, processes, raw_record, raw_tree
from support.node import Node, is_mapped, noise

import ana
from ana.fs import files, mounts
from ana.stores.node_cache import node_folder
from ana.stores.node_cache import store as tiered

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def node(tmp_path):
    """A tree and a folder for a cache."""
    return Node(tmp_path)


@pytest.fixture
def reads(monkeypatch):
    """The offsets and sizes of what this process reads of large files' contents."""
    found = []
    read = files.Opened.read

    def noted(opened, offset, targets):
        found.append((offset, sum(map(len, targets))))
        return read(opened, offset, targets)

    monkeypatch.setattr(files.Opened, "read", noted)
    return found


# What comes back


def test_arrays_are_mapped_read_only_from_one_file(node):
    """A large array is a read-only, page-aligned view of a mapped file; the second load maps the same file."""
    array = noise(1)
    uuid = node.store(array)
    first, second = node.load(uuid), node.load(uuid)
    (entry,) = node.entries()
    for found in (first, second):
        assert np.array_equal(found, array)
        assert is_mapped(found, entry)
        assert found.__array_interface__["data"][0] % mmap.PAGESIZE == 0
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 0.0
    assert node.leftovers() == []


def test_the_second_load_reads_nothing_of_the_tree(node, reads):
    """Once it is cached, a state under its content's address is had without the tree."""
    uuid = node.store(noise(1))
    node.load(uuid)
    assert sum(size for _, size in reads) >= MIB
    reads.clear()
    assert np.array_equal(node.load(uuid), noise(1))
    assert reads == []


def test_small_states_are_left_to_the_tree(node):
    """Below the threshold nothing is cached, not even the folder is made."""
    array = noise(1, tiered.LEAST_BYTES // 2)
    assert np.array_equal(node.load(node.store(array)), array)
    assert not node.cache.exists()


def test_all_kinds_of_values_keep_their_types(node):
    """Out-of-band memory is read-only; whatever travels in the stream is as it always is."""
    frame = {"ints": np.arange(100_000), "letters": np.array(["a", "b"] * 5_000), "empty": np.zeros((0, 3))}
    value = {
        "bytes": os.urandom(MIB),
        "bytearray": bytearray(os.urandom(MIB)),
        "list": list(range(1000)),
        "str": "é" * 100_000,
        "memory": pickle.PickleBuffer(bytearray(b"x" * MIB)),
        "frozen": pickle.PickleBuffer(b"y" * MIB),
        "fortran": np.asfortranarray(np.arange(120_000.0).reshape(300, 400)),
        "small": np.arange(10),
        **frame,
    }
    found = node.load(node.store(value))
    assert node.entries()
    for name in ("bytes", "bytearray", "list", "str"):
        assert type(found[name]) is type(value[name])
        assert found[name] == value[name]
    found["bytearray"][:1] = b"!"
    for name, expected in (("memory", b"x" * MIB), ("frozen", b"y" * MIB)):
        assert found[name].readonly
        assert found[name] == expected
    for name in ("fortran", "small", *frame):
        assert found[name].dtype == value[name].dtype
        assert np.array_equal(found[name], value[name])
    assert found["fortran"].flags.f_contiguous
    # In-band, as in any state: below 4 KiB.
    assert found["small"].flags.writeable


def test_a_class_that_rebuilds_itself_of_a_buffer_gets_its_own_memory(node):
    """A bytearray that went out of band through a class's own reduction is a bytearray again, and writable."""
    from support import classes

    value = classes.Rebuilt(os.urandom(MIB))
    found = node.load(node.store(value))
    assert type(found.content) is bytearray
    assert found.content == value.content
    found.content[0] ^= 1


@pytest.mark.parametrize("size_bytes", [10_000, 1 * MIB, 8 * MIB])
@pytest.mark.parametrize("cached", [True, False])
def test_who_asks_for_what_is_behind_a_buffer_gets_that_buffer(node, size_bytes, cached):
    """As the example in Python's documentation does: not what its memory was cut out of."""
    from support import classes

    value = classes.ZeroCopy(os.urandom(size_bytes))
    for _ in range(2):
        found = node.load(node.store(value), node_cache=node.cache if cached else "")
        assert type(found) is classes.ZeroCopy
        assert found == value


@pytest.mark.slow
def test_pandas_and_scipy_work_on_mapped_memory(node):
    """What reads its arrays only does not notice."""
    extras.require("pandas", "scipy")
    import pandas as pd
    import scipy.sparse

    frame = pd.DataFrame({"a": noise(1), "b": noise(2)})
    matrix = scipy.sparse.random(2000, 2000, density=0.05, format="csr", random_state=1)
    found_frame, found_matrix = node.load(node.store([frame, matrix]))
    assert node.entries()
    pd.testing.assert_frame_equal(found_frame, frame)
    assert (found_matrix @ found_matrix.T != matrix @ matrix.T).nnz == 0
    assert found_frame.assign(c=1).groupby("c").a.sum().iloc[0] == pytest.approx(frame.a.sum())


@pytest.mark.parametrize("level", [0, 1])
def test_what_lies_there_is_the_content_at_its_place(node, level):
    """An entry holds the header and then each segment, decompressed, large ones at a page."""
    parts = [np.arange(300_000) % 7, noise(1, 5 * MIB), np.arange(600), noise(2, 100 * KIB)]
    with ana.using_dl(ana.DirDataLayer(node.tree, level=level)):
        ana.Ref(parts).make_uuid()
    (state,) = raw_tree.states(node.tree)
    uuid = Path(state).name.removesuffix(".pkl.zst")
    node.load(uuid)
    (entry,) = node.entries()
    data = entry.read_bytes()
    _, (stream, *buffers) = raw_record.read(raw_tree.path_of(node.tree, uuid).read_bytes())
    assert buffers == [part.tobytes() for part in parts]
    at = data.find(stream)
    assert at % 64 == 0
    at += len(stream)
    for buffer in buffers:
        begin = data.find(buffer, at)
        alignment = 4096 if len(buffer) >= 64 * KIB else 64
        assert begin == at + -at % alignment
        at = begin + len(buffer)
    assert len(data) == at
    assert stat.S_IMODE(entry.stat().st_mode) == 0o400
    for folder in (entry.parent, entry.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


# What is true: the tree


def test_a_content_address_is_served_though_the_tree_has_lost_it(node):
    """Equal address, equal content. But the object is not taken for stored: a reference to it stores it again."""
    uuid = node.store(noise(1))
    node.load(uuid)
    path = raw_tree.path_of(node.tree, uuid)
    path.unlink()
    with ana.using_dl(node.layer()) as layer:
        ref = ana.Ref.ana_load(uuid)
        assert np.array_equal(ref.value, noise(1))
        assert not layer.store.has(uuid)
        assert not layer.store.is_whole(uuid)
        pickle.dumps(ref)
        assert layer.store.has(uuid)
    assert path.exists()


def test_a_given_uuid_is_what_the_tree_says(node):
    """Lost there, it is lost; replaced there, the entry is replaced."""
    node.store(noise(1), uuid="the mesh")
    assert np.array_equal(node.load("the mesh"), noise(1))
    assert len(node.entries()) == 1
    path = raw_tree.path_of(node.tree, "the mesh")
    path.unlink()
    with pytest.raises(ana.StateNotFoundError):
        node.load("the mesh")
    with ana.using_dl(ana.DirDataLayer(node.tree)):
        ref = ana.Ref(noise(2))
        ref.make_uuid(uuid="the mesh")
        ref.ana_store()
    assert np.array_equal(node.load("the mesh"), noise(2))
    assert len(node.entries()) == 1


def test_a_given_uuid_is_revalidated_by_its_header_alone(node, reads):
    """The content is not read again."""
    node.store(noise(1), uuid="the mesh")
    node.load("the mesh")
    reads.clear()
    assert np.array_equal(node.load("the mesh"), noise(1))
    assert reads == []


def test_puts_go_to_the_tree_alone(node):
    """What is stored is in the tree, and is cached when it is first loaded."""
    with ana.using_dl(node.layer()):
        uuid = ana.Ref(noise(1)).make_uuid()
    assert raw_tree.path_of(node.tree, uuid).exists()
    assert not node.cache.exists()


def test_a_damaged_state_is_a_typed_error_and_leaves_nothing(node):
    """What the tree cannot prove right never becomes an entry."""
    uuid = node.store(noise(1))
    path = raw_tree.path_of(node.tree, uuid)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    for _ in range(2):
        with pytest.raises(ana.CorruptedStateError, match="checksum"):
            node.load(uuid)
        assert node.entries() == node.leftovers() == []


def test_many_states_and_prefetch_go_through_the_tier(node):
    """`load_many` and `prefetch` map what is cached."""
    uuids = [node.store(noise(number)) for number in range(6)]
    for _ in range(2):
        with ana.using_dl(node.layer()) as layer:
            for number, ref in enumerate(layer.load_many(uuids)):
                assert np.array_equal(ref.value, noise(number))
                assert not ref.value.flags.writeable
    assert len(node.entries()) == 6


def test_a_state_that_was_found_and_let_go_is_found_again(node):
    """After `release`, and a second time, `segments` gives the content; also if the entry is gone meanwhile."""
    uuid = node.store(noise(1))
    store = node.layer().store
    expected = [bytes(segment) for segment in store.get(uuid).segments()]
    found = store.get(uuid)
    found.release()
    assert [bytes(segment) for segment in found.segments()] == expected
    shutil.rmtree(node.cache)
    assert [bytes(segment) for segment in found.segments()] == expected
    found.verify()
    raw_tree.path_of(node.tree, uuid).unlink()
    with pytest.raises(ana.StateNotFoundError):
        found.verify()


# Options


def test_auto_takes_the_first_place_that_is_local(node, tmp_path, monkeypatch):
    """In this order; what is not set, not there, not local or not writable is passed over."""
    for name in ("SLURM_TMPDIR", "LOCAL_SCRATCH", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    uuid = node.store(noise(1))
    assert node.load(uuid, node_cache="auto").flags.writeable
    for name in ("TMPDIR", "LOCAL_SCRATCH", "SLURM_TMPDIR"):
        place = tmp_path / name
        place.mkdir()
        monkeypatch.setenv(name, str(place))
        assert not node.load(uuid, node_cache="auto").flags.writeable
        assert len(list(place.rglob(uuid))) == 1
        assert len(list(tmp_path.rglob(uuid))) == {"TMPDIR": 1, "LOCAL_SCRATCH": 2, "SLURM_TMPDIR": 3}[name]
    for bad in ("relative", str(tmp_path / "missing"), "/proc"):
        monkeypatch.setenv("SLURM_TMPDIR", bad)
        assert node_folder.choose("auto") == str(tmp_path / "LOCAL_SCRATCH")


def test_a_place_on_a_network_filesystem_is_refused(node, monkeypatch, caplog):
    """Mapped files there can kill a process: there is no cache, and a warning says why."""
    uuid = node.store(noise(1))
    server = mounts.Mount("/", "nfs4", "server:/export", "rw")
    monkeypatch.setattr(mounts, "mount_of", lambda _: server)
    assert node.load(uuid).flags.writeable
    assert "network filesystem" in caplog.text
    monkeypatch.setenv("TMPDIR", str(node.cache.parent))
    assert node_folder.choose("auto") is None


def test_without_a_boot_id_there_is_no_cache(node, monkeypatch, tmp_path):
    """Then nobody could tell an entry that was on its way to the disk when the node went down."""
    monkeypatch.setattr(node_folder, "_BOOT_ID", str(tmp_path / "missing"))
    assert node.load(node.store(noise(1))).flags.writeable
    assert not node.cache.exists()


def test_options_that_make_no_sense_are_refused(node, monkeypatch):
    """Before anything is touched, and with words that help."""
    for option in ({"node_cache": "x"}, {"node_cache_bytes": 1}):
        with pytest.raises(TypeError, match="is for a folder"):
            ana.DataLayer(**option)
    for value, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError), ("0", ValueError)):
        with pytest.raises(error, match="node_cache_bytes"):
            node.layer(node_cache_bytes=value)
    for said in ("1X", "G", "-1", "0", "lots"):
        monkeypatch.setenv("ANA_NODE_CACHE_BYTES", said)
        with pytest.raises(ana.ANAError, match="ANA_NODE_CACHE_BYTES"):
            node.layer()
    assert not node.tree.exists()


def test_the_environments_bound_is_kept(node, monkeypatch):
    """Also by who was told of the place alone."""
    monkeypatch.setenv("ANA_NODE_CACHE_BYTES", "1100KiB")
    monkeypatch.setenv("ANA_NODE_CACHE", str(node.cache))
    for number in range(3):
        assert not node.load(node.store(noise(number)), node_cache=None).flags.writeable
        assert len(node.entries()) == 1


def test_the_empty_string_means_no_cache_whatever_the_environment_says(node, monkeypatch):
    """One layer can do without."""
    monkeypatch.setenv("ANA_NODE_CACHE", str(node.cache))
    assert node.load(node.store(noise(1)), node_cache="").flags.writeable
    assert not node.cache.exists()


def test_little_memory_is_enough_to_fill_an_entry(node):
    """The first process, too, has no second copy of the array: it is written a piece at a time."""
    uuid = node.store(noise(1, 64 * MIB))
    program = """
import re, sys, numpy, ana
from pathlib import Path
ana.set_dl(pickle_dir=sys.argv[1], node_cache=sys.argv[2])
array = ana.Ref.ana_load(sys.argv[3]).value
print(array.flags.writeable, re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
    writeable, anonymous = processes.run_program(program, node.tree, node.cache, uuid).split()
    assert writeable == "False"
    assert int(anonymous) * KIB < 64 * MIB


def test_what_the_tier_has_is_counted_as_such(tmp_path):
    """The process that fetches a state has read it from the tree, the next layer finds it in the tier."""
    ana.set_dl(pickle_dir=tmp_path / "store")
    uuid = ana.Ref(bytes(1_000_000)).make_uuid()
    found = []
    for _ in range(2):
        layer = ana.set_dl(pickle_dir=tmp_path / "store", node_cache=tmp_path / "node")
        assert ana.Ref.ana_load(uuid).value == bytes(1_000_000)
        numbers = layer.stats()
        found.append((numbers.from_store, numbers.from_tier))
    assert found == [(1, 0), (0, 1)]
