"""Records: whatever goes in comes out, other programs can read it, and lies about sizes cost no memory."""

import gc
import importlib.util
import itertools
import os
import pickle
import pickletools
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import blake3
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import processes, raw_record

import ana
from ana import maintenance
from ana.format import record
from ana.format.signature import Seal

DATA = Path(__file__).parents[1] / "data"
SAMPLE, SAMPLE_2 = DATA / "tree-1", DATA / "tree-2"
SUPPORT = Path(raw_record.__file__).parent

KIB = 1 << 10
MIB = 1 << 20
LIMITS = (0, 1, 255, 256, 4 * KIB, 64 * KIB, 64 * KIB + 256, 128 * KIB, 256 * KIB, MIB, 4 * MIB)
"""Sizes at which something changes: a frame's size field, blocks, chunks of their own, the largest chunk."""

KEY = "5f3ac0e1-1234-4123-9123-123456789abc"
NOISE = blake3.blake3(b"noise").digest(length=4 * MIB + 1)

near_limits = st.tuples(st.sampled_from(LIMITS), st.sampled_from((-1, 0, 1))).map(lambda pair: max(0, sum(pair)))
sizes = st.one_of(near_limits, near_limits, st.integers(0, 600 * KIB))
few_sizes = st.lists(sizes, min_size=1, max_size=6)
many_sizes = st.lists(st.integers(0, 5000), min_size=1, max_size=3000)
kinds = st.sampled_from(("zeros", "noise", "text", "half"))
any_text = st.text(st.characters(codec=None), max_size=40)
keys = st.text(st.characters(codec=None), min_size=1, max_size=200)


def _fill(kind: str, size: int, seed: int = 0) -> bytes:
    if kind == "zeros":
        return bytes(size)
    if kind == "noise":
        return NOISE[-size:] if size else b""
    if kind == "half":
        return bytes(size // 2) + NOISE[: size - size // 2]
    return (b"all work and no play %d " % seed * (size // 20 + 1))[:size]


@st.composite
def _states(draw):
    """Lists of segments; each size with a kind of content that compresses well, badly, or half."""
    lengths = draw(st.one_of(few_sizes, few_sizes, many_sizes))
    some = draw(st.lists(kinds, min_size=1, max_size=4))
    return [_fill(kind, size, seed) for seed, (size, kind) in enumerate(zip(lengths, itertools.cycle(some)))]


def _views(segments):
    return [memoryview(segment) for segment in segments]


def _encode(segments, key=KEY, class_name="m:C", children=(), **options):
    content = record.content(class_name, _views(segments))
    return record.encode(key, content, children, record.Encoding(**options))


def _decode(data, key=KEY):
    header = record.parse_header(data, len(data), key, "here")
    return header, record.decode(header, record.reader(data), "here")


# There and back


@settings(max_examples=60)
@given(_states())
@example([b""])
@example([b"", b"", b""])
@example([b"", NOISE, b""])
@example([NOISE[: 4 * MIB], NOISE])
@example([b"x", bytes(4 * MIB + 1), b"", NOISE[: 256 * KIB], b"y"])
@example([NOISE[:5000]] * 1000)
def test_what_goes_in_comes_out(segments):
    """Segments of any number and size come back as they were, and are writable where they are buffers."""
    header, found = _decode(_encode(segments))
    assert [bytes(segment) for segment in found] == segments
    assert header.segments == tuple(map(len, segments))
    assert not any(memoryview(segment).readonly for segment in found[1:])


@settings(max_examples=30)
@given(_states(), st.data())
def test_bytes_objects_come_out_as_such(segments, data):
    """Segments that are marked come back as `bytes`, whatever is beside them; without ana's help, too."""
    bytes_segments = tuple(data.draw(st.sets(st.integers(1, len(segments) - 1)))) if len(segments) > 1 else ()
    content = record.content("m:C", _views(segments), bytes_segments=bytes_segments)
    header, found = _decode(record.encode(KEY, content))
    assert header.bytes_segments == tuple(sorted(bytes_segments))
    assert [bytes(segment) for segment in found] == segments
    assert [number for number, segment in enumerate(found) if number and isinstance(segment, bytes)] == sorted(
        bytes_segments
    )
    part, read = raw_record.read(record.encode(KEY, content))
    assert (part.bytes_segments, read) == (header.bytes_segments, segments)
    assert (content.digest == record.content("m:C", _views(segments)).digest) == (not bytes_segments)


@settings(max_examples=60)
@given(_states())
def test_other_programs_read_the_same(segments):
    """A reader made of struct, blake3 and zstd finds every digest right, and the same segments."""
    data = _encode(segments, class_name="mesh:Mesh", children=("a", "b"), created_ns=7)
    found, content = raw_record.read(data)
    assert content == segments
    assert (found.key, found.class_name, found.children, found.created_ns) == (KEY, "mesh:Mesh", ("a", "b"), 7)
    pieces = [b"".join(segments)[start : start + size] for start, size in record.plan(list(map(len, segments)))]
    assert found.content == raw_record.content_digest("mesh:Mesh", segments, pieces)


@given(keys, any_text, st.lists(keys, max_size=20), st.integers(0, 2**64 - 1))
@example("\udcff", "\udcfe", ["\ud800", "\U0001f600" * 200, "a"], 0)
@example("\U0001f600" * 200, "", [], 2**64 - 1)
def test_names_and_children_come_back(key, class_name, children, created_ns):
    """Keys, class names and children of any characters, lone surrogates too, survive the header."""
    data = _encode([b"state"], key, class_name, children, created_ns=created_ns)
    header, _ = _decode(data, key)
    assert (header.key, header.class_name, header.children) == (key, class_name, tuple(children))
    assert header.created_ns == created_ns
    assert raw_record.read(data)[0].children == tuple(children)


@settings(max_examples=20)
@given(_states())
def test_the_same_state_makes_the_same_bytes(segments):
    """Encoding is deterministic, and does not depend on what kind of buffer the bytes are in."""
    assert _encode(segments) == _encode([bytearray(segment) for segment in segments])


def test_what_compresses_is_compressed():
    """Zeros shrink to next to nothing, noise grows by its block headers only."""
    assert len(_encode([bytes(4 * MIB)])) < 2 * KIB
    assert len(_encode([NOISE])) < len(NOISE) + 3 * (len(NOISE) // (128 * KIB) + 2) + 400


def test_the_header_comes_first_and_alone():
    """A header is read from the record's beginning, whatever follows it, without the content."""
    data = _encode([NOISE], children=("child",))
    size = record.header_size(data[:200], len(data), KEY, "here")
    header = record.parse_header(data[:size], len(data), KEY, "here")
    assert header.children == ("child",)
    assert header.header_bytes == size < 400


# The plan


@given(st.lists(st.one_of(sizes, st.integers(0, 40 * MIB)), max_size=40))
@example([4 * MIB - 1, 1, 1])
@example([256 * KIB - 1] * 17)
@example([0, 256 * KIB, 0, 256 * KIB, 0])
def test_the_plan_covers_everything_once(lengths):
    """Pieces are in order, without gaps, none empty, none over 4 MiB; 4 MiB is where a large segment is cut."""
    pieces = record.plan(lengths)
    ends = [start + size for start, size in pieces]
    assert [start for start, _ in pieces] == ([0, *ends[:-1]] if pieces else [])
    assert (ends[-1] if ends else 0) == sum(lengths)
    assert all(0 < size <= 4 * MIB for _, size in pieces)


@given(st.lists(st.one_of(sizes, st.integers(0, 12 * MIB)), max_size=40))
def test_large_segments_have_pieces_of_their_own(lengths):
    """A segment of 256 KiB or more begins and ends with a piece, so that it is read straight into place."""
    pieces = record.plan(lengths)
    edges = {start for start, _ in pieces} | {start + size for start, size in pieces}
    start = 0
    for length in lengths:
        if length >= 256 * KIB:
            inside = [(at, size) for at, size in pieces if start <= at < start + length]
            assert {start, start + length} <= edges
            assert [size for _, size in inside[:-1]] == [4 * MIB] * (len(inside) - 1)
        start += length


@given(st.lists(st.integers(0, 256 * KIB - 1), max_size=60))
@example([256 * KIB - 1] * 33)
@example([4, 0, 3])
def test_small_segments_share_pieces(lengths):
    """Small segments are put together, never cut, until the next one would make more than 4 MiB."""
    starts = list(itertools.accumulate(lengths, initial=0))
    pieces = record.plan(lengths)
    assert {start for start, _ in pieces} | {start + size for start, size in pieces} <= set(starts)
    first_at = {start: length for start, length in zip(starts, lengths, strict=False) if length}
    for (_, size), (following, _) in itertools.pairwise(pieces):
        assert size + first_at[following] > 4 * MIB


# Other programs


def test_large_content_is_copied_while_large_states_are_new(monkeypatch):
    """A copy that is not written is wasted: the next content is hashed as it is, until a large state is written."""
    monkeypatch.setattr(record, "_last_was_written", True)
    large = [memoryview(bytearray(5 << 20))]

    def hashed(views=large):
        with record.Scratch() as scratch:
            found = record.content("m:C", views, scratch=scratch)
            assert found.own == (found.views[0].obj is not views[0].obj)
        return found

    assert hashed([memoryview(bytearray(1 << 20))]).own
    first = hashed()
    assert first.own
    assert first == hashed()._replace(views=first.views, own=True)
    assert not hashed().own
    assert hashed([memoryview(bytearray(1 << 20))]).own
    record.encode(KEY, hashed())
    assert hashed().own
    assert not hashed([memoryview(bytearray(record.COPIED_BYTES + 1))]).own


def _resident_bytes():
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _copy_and_drop(all_have_one):
    """Copy large content, as it is while a state is stored, and let it go once all threads have such a copy."""
    with record.Scratch() as scratch:
        copy = scratch.take(24 * MIB)
        copy[:: 4 * KIB] = bytes(len(copy[:: 4 * KIB]))
        all_have_one.wait()


def test_copies_of_large_content_leave_no_memory_behind():
    """Eight threads that each stored a large state leave nothing of it, although malloc would keep it for them."""
    pytest.importorskip("numpy")
    before = _resident_bytes()
    for _ in range(3):
        all_have_one = threading.Barrier(8)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(_copy_and_drop, [all_have_one] * 8))
    assert _resident_bytes() - before < 48 * MIB


def _sample(name):
    """Load the module that made the sample tree."""
    spec = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make = _sample("make")


def _examples():
    """Return the records by hand, each with its file in the sample tree."""
    small, small_segments = make.small()
    buffers, segments = make.buffers(small.key)
    return [
        (part, content, SAMPLE / part.key[:2] / part.key[2:4] / f"{part.key}.pkl.zst")
        for part, content in ((small, small_segments), (buffers, segments), make.text())
    ]


@pytest.mark.parametrize("name", make.TREES)
def test_the_sample_trees_are_what_their_script_makes(name):
    """The stored files and the script beside them say the same (another zstd may compress differently)."""
    tree, made = DATA / name, make.TREES[name]()
    assert {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} == set(made)
    for path, data in made.items():
        stored = (tree / path).read_bytes()
        if path.endswith(".pkl.zst"):
            (first, content), (second, expected) = raw_record.read(stored), raw_record.read(data)
            assert (replace(first, chunks=()), content) == (replace(second, chunks=()), expected)
        else:
            assert stored == data


def test_the_sample_tree_is_read_without_ana():
    """struct, blake3 and zstd are all it takes: a process that never imports ana gets all states."""
    program = (
        "import json, pathlib, pickle, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "import raw_record\n"
        "found = {}\n"
        "for name in sys.argv[2:]:\n"
        "    parts, segments = raw_record.read(pathlib.Path(name).read_bytes())\n"
        "    state = pickle.loads(segments[0]) if len(segments) == 1 else None\n"
        "    found[parts.key] = [parts.class_name, parts.children, list(map(len, segments)), state]\n"
        "assert not any(name.split('.')[0] == 'ana' for name in sys.modules)\n"
        "print(json.dumps(found))\n"
    )
    examples = _examples()
    found = processes.ask_python(program, SUPPORT, *(path for _, _, path in examples), cwd="/")
    (small, _, _), (buffers, segments, _), _ = examples
    assert found[small.key] == ["ana.storable:Ref", [], [small.segments[0]], make.SMALL_STATE]
    assert found[buffers.key] == ["ana.storable:Ref", [small.key], list(map(len, segments)), None]


def test_the_sample_tree_is_read_by_ana():
    """States of format 1 load for ever: values, buffers, references, `bytes` objects."""
    (small, _, _), (buffers, _, _), (text, _, _) = _examples()
    with ana.using_dl(pickle_dir=SAMPLE):
        value = ana.Ref.ana_load(buffers.key).value
        assert value["part"].uuid == small.key
        assert value["part"].value == make.SMALL_STATE
        assert (bytes(value["noise"]), bytes(value["more"])) == (make.NOISE, make.MORE_NOISE)
        assert ana.Ref.ana_load(text.key).value == make.TEXT
        assert type(ana.Ref.ana_load(text.key).value) is bytes


def test_the_sample_tree_with_packs_is_read_by_ana(tmp_path):
    """Packs, sealed and torn, hints, parts, summaries and roots of format 2 are read for ever."""
    first, second, third = make.packed()
    holder, part = make.with_part()
    with ana.using_dl(pickle_dir=SAMPLE_2):
        (value,) = ana.load(second.key).value.values()
        assert (value.uuid, value.value) == (first.key, {"x": 1})
        assert ana.load(third.key).value == {"x": 3}
        assert ana.load(holder.key).value == make.TEXT
    kept = {root.name: set(root.uuids) for root in maintenance.roots(SAMPLE_2)}
    assert kept == {"named": {second.key}, "job": {holder.key, third.key}}
    states = {state.uuid: state.summary for state in maintenance.ls(SAMPLE_2)}
    assert states == {first.key: "dict of 1", second.key: "dict of 1", third.key: "", holder.key: "", part.key: ""}
    shutil.copytree(SAMPLE_2, tmp_path / "tree")
    assert (maintenance.verify(tmp_path / "tree").checked, maintenance.verify(tmp_path / "tree").problems) == (5, [])


@pytest.mark.parametrize("number", [1, 2], ids=["buffers", "bytes"])
def test_ana_writes_what_was_written_by_hand(number):
    """From the same state ana makes the very bytes of the sample with raw blocks, and finds its address."""
    part, segments, path = _examples()[number]
    content = record.content(part.class_name, _views(segments), bytes_segments=part.bytes_segments)
    assert content.digest == part.content
    data = record.encode(part.key, content, part.children, record.Encoding(part.created_ns))
    assert data == path.read_bytes()


@pytest.fixture
def zstd():
    """The zstd command, another program that reads the format."""
    found = shutil.which("zstd")
    if found is None:
        pytest.skip("no zstd command: apt-get install zstd")
    return found


def test_zstd_and_pickletools_show_a_state(zstd, tmp_path):
    """`zstd -dc FILE > state.pkl; python -m pickletools state.pkl` shows a stored state: it is a plain pickle."""
    with ana.using_dl(pickle_dir=tmp_path / "store") as layer:
        layer.store_state("state", {"answer": 42, "list": list(range(1000))})
    (path,) = tmp_path.rglob("*.pkl.zst")
    plain = subprocess.run([zstd, "-dc", path], capture_output=True, check=True).stdout
    assert pickle.loads(plain) == {"answer": 42, "list": list(range(1000))}
    (tmp_path / "state.pkl").write_bytes(plain)
    shown = processes.run_module("pickletools", "state.pkl", cwd=tmp_path)
    assert "SHORT_BINUNICODE 'answer'" in shown


@settings(max_examples=15)
@given(_states())
@example([b""])
@example([NOISE, bytes(4 * MIB + 1), b"tail"])
def test_zstd_reads_every_record(segments):
    """The zstd command finds all frames legal, raw blocks too, and gives the segments one after the other."""
    command = shutil.which("zstd")
    if command is None:
        pytest.skip("no zstd command: apt-get install zstd")
    done = subprocess.run([command, "-dc"], input=_encode(segments), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"".join(segments)


def test_a_clock_before_1970_is_no_reason_not_to_store():
    """A host's clock may be set to anything: a record says 1970 then."""
    data = record.encode("x", record.content("a:B", [memoryview(b"state")]), (), record.Encoding(-(10**18)))
    assert record.parse_header(data, len(data), "x", "here").created_ns == 0


def test_out_of_band_buffers_follow_the_stream(zstd):
    """In a state with buffers the pickle comes first: pickletools stops at its end."""
    (_, segments, path) = _examples()[1]
    plain = subprocess.run([zstd, "-dc", path], capture_output=True, check=True).stdout
    opcodes = [opcode.name for opcode, _, _ in pickletools.genops(plain)]
    assert opcodes.count("NEXT_BUFFER") == 2
    assert plain == b"".join(segments)


@pytest.mark.parametrize("seal", [None, Seal("id", (bytes(32),))], ids=["plain", "signed"])
def test_the_most_important_alone(seal):
    """It is read without the rest of the header, and is verified as with it."""
    children = (KEY, "my mesh/1", "ü" * 100)
    content = record.content("made:Up", [memoryview(b"\x80\x05N.")])
    data = record.encode(KEY, content, children, record.Encoding(seal=seal))
    brief = record.brief_of(data, len(data), KEY, "here", seal)
    assert brief == record.Brief(KEY, "made:Up", children, 4)
    end = record.header_size(data, len(data), KEY, "here")
    for at in range(end):
        damaged = bytearray(data)
        damaged[at] ^= 0x40
        with pytest.raises((ana.CorruptedStateError, ana.UnsupportedFormatError)):
            record.brief_of(damaged, len(data), KEY, "here", seal)
    with pytest.raises(ana.CorruptedStateError):
        record.brief_of(data, len(data), KEY[::-1], "here", seal)
