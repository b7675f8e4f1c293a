"""`ana pack` and `ana unpack`: nothing is lost, files get fewer, and what reads meanwhile finds everything."""

import json
import os
import subprocess
import sys
import time

import pytest
from support import raw_tree
from support.processes import run_module

from ana import maintenance
from ana.errors import LockTimeoutError
from ana.format import address, record
from ana.maintenance.common import locked
from ana.stores.directory.scan import Survey
from ana.stores.directory.store import DirectoryStore

OLD = 7 * 86400.0


def content(number, size=200):
    """Return the content of a state, and its address."""
    found = record.content("mesh:Mesh", [memoryview(f"{number:08d}".encode() * (size // 8))])
    return address.content_uuid(found.digest), found


def fill(tree, numbers, *, pack_bytes=0, age=OLD, size=200):
    """Store states, make their files old, and return their keys."""
    store = DirectoryStore(str(tree), durable=False)
    store.packs.pack_bytes = pack_bytes
    keys = []
    for number in numbers:
        key, state = content(number, size)
        store.put(key, state, (), repair=False)
        keys.append(key)
    store.packs.seal()
    for path in tree.rglob("*.zst"):
        os.utime(path, (time.time() - age, time.time() - age))
    return keys


def everything(tree, keys):
    """Return whether a new reader finds all states, whole."""
    store = DirectoryStore(str(tree), create=False)
    for key in keys:
        store.get(key).verify()
    return True


def files_in(tree):
    """Return how many files and folders there are below a tree."""
    return sum(1 for _ in tree.rglob("*"))


def test_small_files_go_into_one_pack(tmp_path):
    """States, their files and their folders: all are counted, and every state is found afterwards."""
    tree = tmp_path / "s"
    keys = fill(tree, range(300))
    large = fill(tree, [1], size=200_000)
    before = files_in(tree)
    done = maintenance.pack_states(str(tree))
    assert (done.packed, done.files_removed, done.new_packs, done.problems) == (300, 300, 1, [])
    assert files_in(tree) < before / 20
    assert everything(tree, keys + large)
    assert {path.name for path in tree.rglob("*.pkl.zst")} == {f"{large[0]}.pkl.zst"}
    assert maintenance.verify(str(tree)).problems == []


def test_packing_twice_does_nothing(tmp_path):
    """Nor does a dry run, which says the same as the run that follows."""
    tree = tmp_path / "s"
    keys = fill(tree, range(50))
    before = sorted(raw_tree.files(tree))
    would = maintenance.pack_states(str(tree), dry_run=True)
    assert sorted(raw_tree.files(tree)) == before
    done = maintenance.pack_states(str(tree))
    assert (would.packed, would.packed_bytes, would.files_removed) == (
        done.packed,
        done.packed_bytes,
        done.files_removed,
    )
    again = maintenance.pack_states(str(tree), older_than_seconds=0)
    assert (again.packed, again.merged, again.new_packs) == (0, 0, 0)
    assert everything(tree, keys)


def test_what_is_young_or_large_or_no_content_address_stays(tmp_path):
    """By the age of its file, its raw size, and its UUID."""
    tree = tmp_path / "s"
    young = fill(tree, range(5), age=60)
    store = DirectoryStore(str(tree), durable=False)
    chosen = "a name of its own"
    store.put(chosen, content(9)[1], (), repair=False)
    bare_key, bare = content(10)
    store.put(bare_key, record.content("", bare.views), (), repair=False)
    done = maintenance.pack_states(str(tree))
    assert done.packed == 0
    done = maintenance.pack_states(str(tree), older_than_seconds=0, smaller_bytes=150)
    assert done.packed == 0
    done = maintenance.pack_states(str(tree), older_than_seconds=0)
    assert done.packed == 5
    assert everything(tree, [*young, chosen])
    assert len(list(tree.rglob("*.pkl.zst"))) == 2


def test_a_damaged_file_stays_and_is_reported(tmp_path):
    """A copy would be damaged, too."""
    tree = tmp_path / "s"
    keys = fill(tree, range(10))
    path = raw_tree.path_of(tree, keys[3])
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, (time.time() - OLD,) * 2)
    done = maintenance.pack_states(str(tree))
    assert done.packed == 9
    assert [(wrong.kind, wrong.name.rpartition("/")[2]) for wrong in done.problems] == [("damaged", path.name)]
    assert path.read_bytes() == data
    assert everything(tree, keys[:3] + keys[4:])


def test_small_packs_are_merged(tmp_path):
    """The packs of many processes become one, and a reader that knows the old ones finds the states."""
    tree = tmp_path / "s"
    keys = []
    for process in range(6):
        keys += fill(tree, range(process * 20, process * 20 + 20), pack_bytes=65536)
    reader = DirectoryStore(str(tree), create=False)
    for key in keys:
        reader.get(key).verify()
    done = maintenance.pack_states(str(tree))
    assert (done.merged, done.new_packs, done.files_removed) == (6, 1, 6)
    assert len(list((tree / "packs").iterdir())) == 1
    for key in keys:
        reader.get(key).verify()
    assert everything(tree, keys)


@pytest.mark.slow
def test_an_unsealed_pack_of_a_living_writer_loses_nothing(tmp_path):
    """It is merged, and its writer goes on in another."""
    tree = tmp_path / "s"
    keys = fill(tree, range(10), pack_bytes=65536)
    writer = DirectoryStore(str(tree), durable=False)
    writer.packs.pack_bytes = 65536
    for number in range(100, 110):
        key, state = content(number)
        writer.put(key, state, (), repair=False)
        keys.append(key)
    for path in (tree / "packs").iterdir():
        os.utime(path, (time.time() - 3600,) * 2)
    assert maintenance.pack_states(str(tree)).merged == 2
    time.sleep(1.1)  # After a second a writer looks whether its pack is still there.
    for number in range(200, 210):
        key, state = content(number)
        writer.put(key, state, (), repair=False)
        keys.append(key)
    assert everything(tree, keys)
    writer.packs.seal()
    assert everything(tree, keys)


def test_a_damaged_pack_is_not_merged(tmp_path):
    """It stays with its whole records, and is reported."""
    tree = tmp_path / "s"
    keys = fill(tree, range(10), pack_bytes=65536) + fill(tree, range(20, 30), pack_bytes=65536)
    fill(tree, range(40, 50), pack_bytes=65536)
    wrong = min((tree / "packs").iterdir())
    data = bytearray(wrong.read_bytes())
    data[1000] ^= 1
    wrong.write_bytes(data)
    os.utime(wrong, (time.time() - OLD,) * 2)
    done = maintenance.pack_states(str(tree))
    assert done.merged == 2
    assert [problem.kind for problem in done.problems] == ["damaged"]
    assert wrong.read_bytes() == data
    store = DirectoryStore(str(tree), create=False)
    lost = [key for key in keys if not store.is_whole(key)]
    assert len(lost) <= 1


def test_unpacking_gives_each_state_a_file(tmp_path):
    """And the store packs no more by itself."""
    tree = tmp_path / "s"
    maintenance.init(str(tree), pack_bytes="64k")
    store = DirectoryStore(str(tree), durable=False)
    keys = []
    for number in range(50):
        key, state = content(number)
        store.put(key, state, (), repair=False)
        keys.append(key)
    store.packs.seal()
    assert not list(tree.rglob("*.pkl.zst"))
    done = maintenance.unpack_states(str(tree))
    assert (done.states, done.packs_removed, done.problems) == (50, 1, [])
    assert len(list(tree.rglob("*.pkl.zst"))) == 50
    assert not list((tree / "packs").iterdir())
    assert everything(tree, keys)
    assert DirectoryStore(str(tree)).packs.pack_bytes == 0


KILLED = """
import os, sys, threading, time
from ana import maintenance
threading.Thread(target=lambda: (time.sleep(float(sys.argv[2])), os.kill(os.getpid(), 9)), daemon=True).start()
maintenance.pack_states(sys.argv[1], smaller_bytes=64000, older_than_seconds=0)
"""


@pytest.mark.slow
@pytest.mark.leaves_temporaries(reason="its lock file may just be made")
@pytest.mark.parametrize("seconds", [0.0, 0.03, 0.1])
def test_killed_at_any_moment_it_loses_nothing(tmp_path, seconds):
    """And the next run finishes, without packing a state twice that is in an old pack already."""
    tree = tmp_path / "s"
    keys = fill(tree, range(500))
    fill(tree, range(5000, 5010), pack_bytes=65536)
    subprocess.run([sys.executable, "-c", KILLED, str(tree), str(seconds)], check=False, timeout=120)
    assert everything(tree, keys)
    maintenance.pack_states(str(tree), older_than_seconds=0)
    assert everything(tree, keys)
    assert not list(tree.rglob("*.pkl.zst"))
    assert Survey(DirectoryStore(str(tree))).unreadable == {}


def test_it_waits_for_other_maintenance(tmp_path):
    """The lock is the one of all maintenance."""
    tree = tmp_path / "s"
    fill(tree, range(3))
    with locked(DirectoryStore(str(tree))), pytest.raises(LockTimeoutError):
        maintenance.pack_states(str(tree), lock_seconds=0.1)


@pytest.mark.parametrize(
    "wrong", [{"smaller_bytes": 0}, {"smaller_bytes": (1 << 20) + 1}, {"older_than_seconds": -1.0}]
)
def test_senseless_arguments_are_refused(tmp_path, wrong):
    """Before anything is touched."""
    with pytest.raises(ValueError, match="smaller_bytes"):
        maintenance.pack_states(str(tmp_path / "s"), **wrong)
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_the_commands(tmp_path):
    """What they print, for people and as JSON."""
    tree = tmp_path / "s"
    fill(tree, range(40))
    said = run_module("ana", "-d", str(tree), "pack", "--dry-run")
    assert "40 states" in said
    assert "would go into packs" in said
    said = json.loads(run_module("ana", "-d", str(tree), "--json", "pack"))
    assert (said["packed"], said["new_packs"], said["problems"]) == (40, 1, [])
    said = run_module("ana", "-d", str(tree), "unpack")
    assert "40 states" in said
    assert "1 pack removed" in said
