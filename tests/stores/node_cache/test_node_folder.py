"""The node cache's folder: room, owners, damaged entries; whatever happens to it, tasks get their data."""

import contextlib
import itertools
import os
import shutil
import stat
import sys
import threading
import time

import numpy as np
import pytest
from support import limits, mounts, processes
from support.node import Node, is_mapped, noise

import ana
from ana.fs import files
from ana.stores.node_cache import entries, node_folder, store

KIB, MIB = 1 << 10, 1 << 20
STRANGER = 12345
ME = os.geteuid()


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


# Room


def test_the_bound_is_kept_and_the_least_recently_used_goes(node):
    """What was used last stays; the sum of all never exceeds the bound."""
    uuids = [node.store(noise(number)) for number in range(8)]
    bound = 4 * MIB + 64 * KIB
    for number, uuid in enumerate(uuids):
        node.load(uuid, node_cache_bytes=bound)
        # The first is used again and again.
        node.load(uuids[0], node_cache_bytes=bound)
        assert node.size_bytes() <= bound
        time.sleep(0.01)
        assert {path.name for path in node.entries()} == {uuids[0], *uuids[max(1, number - 2) : number + 1]}


def test_eviction_leaves_what_is_mapped_alone(node):
    """An array whose entry was removed to make room is the same array."""
    uuids = [node.store(noise(number)) for number in range(5)]
    held = [node.load(uuid, node_cache_bytes=2 * MIB + 64 * KIB) for uuid in uuids]
    assert len(node.entries()) == 2
    for number, array in enumerate(held):
        assert np.array_equal(array, noise(number))
        assert not array.flags.writeable


def test_the_bound_is_for_all_stores_of_a_user(node, tmp_path):
    """Entries of another tree make room, too."""
    bound, elsewhere = 2 * MIB + 64 * KIB, Node(tmp_path / "elsewhere")
    elsewhere.cache = node.cache
    for number in range(3):
        elsewhere.load(elsewhere.store(noise(number)), node_cache_bytes=bound)
        node.load(node.store(noise(number)), node_cache_bytes=bound)
        assert node.size_bytes() <= bound
    assert len({path.parent for path in node.entries()}) == 2


def test_what_is_larger_than_the_bound_is_read_from_the_tree(node):
    """Nothing is thrown out for it, and it comes as without a cache."""
    small, large = node.store(noise(1)), node.store(noise(2, 4 * MIB))
    node.load(small, node_cache_bytes=2 * MIB)
    found = node.load(large, node_cache_bytes=2 * MIB)
    assert np.array_equal(found, noise(2, 4 * MIB))
    assert found.flags.writeable
    assert [path.name for path in node.entries()] == [small]


def test_what_is_too_large_does_not_keep_others_out(node):
    """The same process goes on caching what fits."""
    small, large = node.store(noise(1)), node.store(noise(2, 4 * MIB))
    with ana.using_dl(node.layer(node_cache_bytes=2 * MIB)):
        assert ana.Ref.ana_load(large).value.flags.writeable
        assert not ana.Ref.ana_load(small).value.flags.writeable


def test_many_entries_do_not_use_up_the_descriptors(node):
    """More states than the process may have files open are loaded and held; the program can still open files."""
    uuids = [node.store(noise(number, store.LEAST_BYTES)) for number in range(60)]
    program = """
import resource, sys, numpy as np, ana
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
ana.set_dl(pickle_dir=sys.argv[1], node_cache=sys.argv[2])
held = [ana.Ref.ana_load(uuid).value for uuid in sys.argv[3:]]
print(sum(not array.flags.writeable for array in held), len([open("/dev/null") for _ in range(32)]))
print(*(float(array.sum()) for array in held))
"""
    said, sums = processes.run_program(program, node.tree, node.cache, *uuids).splitlines()
    mapped, opened = map(int, said.split())
    assert mapped >= 16
    assert opened == 32
    assert [float(word) for word in sums.split()] == [float(noise(n, store.LEAST_BYTES).sum()) for n in range(60)]


def test_a_full_disk_means_no_caching(node, tmp_path):
    """Where there is no room the state is read from the tree, and nothing is left on the disk."""
    uuid = node.store(noise(1, 2 * MIB))
    with mounts.ext4(tmp_path / "disk", 8 * MIB) as node.cache:
        filler = node.cache / "filler"
        filler.write_bytes(bytes(5 * MIB))
        assert np.array_equal(node.load(uuid, node_cache_bytes=6 * MIB), noise(1, 2 * MIB))
        assert node.entries() == [filler]
        filler.unlink()
        assert np.array_equal(node.load(uuid, node_cache_bytes=6 * MIB), noise(1, 2 * MIB))
        assert [path.name for path in node.entries()] == [uuid]


@contextlib.contextmanager
def _limited(place):
    place.mkdir()
    with limits.largest_file(4 * MIB):
        yield place


DISKS = {
    "ext4": lambda place: mounts.ext4(place, 6 * MIB),
    "tmpfs": lambda place: mounts.tmpfs(place, "size=4m"),
    "limit of a file's size": _limited,
}


@pytest.mark.parametrize("make", DISKS)
def test_a_disk_that_becomes_full_meanwhile_means_no_caching(node, tmp_path, monkeypatch, make):
    """The real error of a write in the middle of an entry: the task gets its data, and nothing is left."""
    uuid = node.store(noise(1, 8 * MIB))
    monkeypatch.setattr(node_folder.NodeFolder, "_make_room", lambda *_: True)
    with DISKS[make](tmp_path / "disk") as node.cache:
        found = node.load(uuid)
        assert np.array_equal(found, noise(1, 8 * MIB))
        assert found.flags.writeable
        assert node.entries() == node.leftovers() == []


def test_after_a_refusal_the_disk_is_left_alone_for_a_while(node, tmp_path, monkeypatch):
    """A full disk is not filled up anew by each state."""
    uuids = [node.store(noise(number, 8 * MIB)) for number in range(3)]
    monkeypatch.setattr(node_folder.NodeFolder, "_make_room", lambda *_: True)
    created, create = [], node_folder._create
    monkeypatch.setattr(node_folder, "_create", lambda path: created.append(1) or create(path))
    with mounts.tmpfs(tmp_path / "disk", "size=4m") as node.cache, ana.using_dl(node.layer()):
        for number, uuid in enumerate(uuids):
            assert np.array_equal(ana.Ref.ana_load(uuid).value, noise(number, 8 * MIB))
    assert len(created) == 1


def test_a_read_only_folder_means_no_caching(node, tmp_path, caplog):
    """Said once, not for each state."""
    uuids = [node.store(noise(number)) for number in range(3)]
    (tmp_path / "empty").mkdir()
    with mounts.read_only(tmp_path / "empty", tmp_path / "place") as node.cache, ana.using_dl(node.layer()):
        for number, uuid in enumerate(uuids):
            assert np.array_equal(ana.Ref.ana_load(uuid).value, noise(number))
    assert [record.levelname for record in caplog.records if record.name == "ana.nodefolder"] == ["WARNING"]


def test_entries_of_a_folder_that_became_read_only_are_still_used(node, tmp_path):
    """Reading needs no right to write; nor does a mapping that cannot note that it was used."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (tmp_path / "place").mkdir()
    with mounts.read_only(node.cache, tmp_path / "place") as node.cache:
        assert is_mapped(node.load(uuid), node.entries()[0])


def test_it_may_be_removed_at_any_time(node):
    """While a thread removes the whole folder again and again, every load gets its data."""
    uuids = [node.store(noise(number, 512 * KIB)) for number in range(8)]
    node.load(uuids[0])
    over = threading.Event()

    def remove():
        while not over.is_set():
            shutil.rmtree(node.cache, ignore_errors=True)
            time.sleep(0.001)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        held = [node.load(uuid) for _ in range(15) for uuid in uuids]
    finally:
        over.set()
        thread.join()
    for number, array in enumerate(held):
        assert np.array_equal(array, noise(number % 8, 512 * KIB))


def test_removed_between_two_loads_it_is_made_anew(node):
    """The same layer caches again."""
    one, two = node.store(noise(1)), node.store(noise(2))
    with ana.using_dl(node.layer()):
        held = ana.Ref.ana_load(one).value
        shutil.rmtree(node.cache)
        assert np.array_equal(ana.Ref.ana_load(two).value, noise(2))
        assert np.array_equal(held, noise(1))
    assert [path.name for path in node.entries()] == [two]


# Whose it is


def _user_folder(node):
    return node.cache / f"ana-{ME}"


def _chown(path):
    if ME:
        pytest.skip("only root gives files away")
    os.chown(path, STRANGER, STRANGER)


PLANTED = {
    "a symlink": lambda node: _user_folder(node).symlink_to(_evil(node)),
    "open to the group": lambda node: _user_folder(node).mkdir(mode=0o750),
    "another user's": lambda node: (_user_folder(node).mkdir(mode=0o700), _chown(_user_folder(node))),
    "a file": lambda node: _user_folder(node).write_bytes(b""),
}


def _evil(node):
    place = node.cache / "evil"
    place.mkdir(mode=0o700)
    return place


@pytest.mark.parametrize("planted", PLANTED)
def test_a_folder_that_is_not_ours_alone_is_not_used(node, planted, caplog):
    """Neither read nor written to; the state comes from the tree, and a warning says why."""
    node.cache.mkdir()
    PLANTED[planted](node)
    found = node.load(node.store(noise(1)))
    assert np.array_equal(found, noise(1))
    assert found.flags.writeable
    assert [path for path in node.entries() if path != _user_folder(node)] == []
    assert "not cached" in caplog.text


@pytest.mark.parametrize("what", ["the user's folder", "the store's folder", "the entry"])
def test_entries_that_others_could_have_written_are_not_used(node, what):
    """Whoever owns a folder or the file could have put anything there: a whole entry with other content, say."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.chmod(0o600)
    entry.write_bytes(data)
    assert not np.array_equal(node.load(uuid), noise(1))
    _chown({"the user's folder": entry.parent.parent, "the store's folder": entry.parent, "the entry": entry}[what])
    assert np.array_equal(node.load(uuid), noise(1))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602])
def test_an_entry_that_others_may_open_is_not_used(node, mode):
    """Its content would be anybody's, and is replaced by one of our own."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.chmod(0o600)
    entry.write_bytes(data)
    entry.chmod(mode)
    assert np.array_equal(node.load(uuid), noise(1))
    assert stat.S_IMODE(entry.stat().st_mode) == 0o400
    assert np.array_equal(node.load(uuid), noise(1))


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_something_else_in_an_entrys_place_is_not_used(node, kind):
    """Nothing is followed, nothing is waited for."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    moved = entry.rename(node.cache / "moved")
    {"symlink": lambda: entry.symlink_to(moved), "fifo": lambda: os.mkfifo(entry), "folder": entry.mkdir}[kind]()
    found = node.load(uuid)
    assert np.array_equal(found, noise(1))
    assert not is_mapped(found, moved)


# What is not an entry


def _rewrite(entry, data):
    entry.chmod(0o600)
    entry.write_bytes(data)
    entry.chmod(0o400)


def _is_used(node, uuid, reads):
    reads.clear()
    assert np.array_equal(node.load(uuid), noise(1))
    return reads == []


@pytest.mark.slow
def test_a_flipped_bit_of_the_header_shows(node, reads):
    """Each byte of what an entry says of itself is covered; a flipped one means fetching it anew."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = entry.read_bytes()
    size = entries.header_size(data)
    assert 100 < size < 1000
    for position in [*range(0, size, 7), size - 1]:
        damaged = bytearray(data)
        damaged[position] ^= 1 << position % 8
        _rewrite(entry, damaged)
        assert not _is_used(node, uuid, reads)
        assert _is_used(node, uuid, reads)
        assert entry.read_bytes() == data


@pytest.mark.parametrize("change", ["empty", "header", "half", "one byte less", "one byte more", "zeros", "text"])
def test_truncated_and_foreign_files_are_never_used(node, reads, change):
    """Nor longer ones; they are replaced."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = entry.read_bytes()
    changed = {
        "empty": b"",
        "header": data[: entries.header_size(data)],
        "half": data[: len(data) // 2],
        "one byte less": data[:-1],
        "one byte more": data + b"\0",
        "zeros": bytes(len(data)),
        "text": b"this is no entry of any kind" * 100,
    }[change]
    _rewrite(entry, changed)
    assert not _is_used(node, uuid, reads)
    assert _is_used(node, uuid, reads)


def test_entries_of_other_keys_stores_and_boots_are_never_used(node, reads, monkeypatch, tmp_path):
    """A whole entry under another's name, of another tree, or from before the node was booted, is none."""
    uuid, other = node.store(noise(1)), node.store(noise(2))
    elsewhere = Node(tmp_path / "elsewhere")
    assert elsewhere.store(noise(1)) == uuid
    for place, key in ((node, uuid), (node, other), (elsewhere, uuid)):
        place.load(key)
    entry, foreign = next(path for path in node.entries() if path.name == uuid), elsewhere.entries()[0]
    right = entry.read_bytes()
    for wrong in (next(path for path in node.entries() if path.name == other), foreign):
        _rewrite(entry, wrong.read_bytes())
        assert not _is_used(node, uuid, reads)
        assert entry.read_bytes() == right
    assert _is_used(node, uuid, reads)
    monkeypatch.setattr(node_folder, "boot_id", lambda: bytes(16))
    assert not _is_used(node, uuid, reads)


def test_content_is_trusted_unless_it_is_to_be_verified(node, reads, monkeypatch, caplog):
    """As docs/node-cache.md says: the content of an own entry is hashed at each mapping only if that is asked for."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    data = bytearray(entry.read_bytes())
    data[-8] ^= 1
    _rewrite(entry, data)
    assert not np.array_equal(node.load(uuid), noise(1))
    monkeypatch.setenv("ANA_NODE_CACHE_VERIFY", "1")
    assert not _is_used(node, uuid, reads)
    assert "does not match its digest" in caplog.text
    assert _is_used(node, uuid, reads)


class Alarm(BaseException):
    """What a signal handler raises."""


def _raise_at(code, moment):
    """Return a trace function that raises Alarm at that opcode (counted from 0) of functions in `code`."""
    left = [moment]

    def trace(frame, event, _):
        if frame.f_code not in code:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            if not left[0]:
                left[0] -= 1
                raise Alarm
            left[0] -= 1
        return trace

    return trace


def _descriptors():
    """Return what is open; the listing itself is closed by the time that it is asked for."""
    return {int(name) for name in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{name}")}


def test_whenever_a_signal_handler_raises_an_entry_is_closed_once(node):
    """At each opcode of opening: the handler's exception comes out, and no descriptor is closed a second time."""
    uuid = node.store(noise(1))
    node.load(uuid)
    (entry,) = node.entries()
    folder = node_folder.NodeFolder(str(node.cache), entry.parent.name, None)
    code = {node_folder.NodeFolder.open.__code__, node_folder.OpenedEntry.__init__.__code__}
    before = sys.gettrace()
    leaks = 0
    for moment in itertools.count():
        descriptors = _descriptors()
        sys.settrace(_raise_at(code, moment))
        try:
            opened = folder.open(entry.name)
            break
        except Alarm:
            pass
        finally:
            sys.settrace(before)
        for descriptor in _descriptors() - descriptors:
            os.close(descriptor)
            leaks += 1
    opened.close()
    assert moment > 50
    # Between open() and its owner: nobody can close what nobody has.
    assert leaks < 20
