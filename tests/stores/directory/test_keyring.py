"""Stores with a key: nothing is loaded from them but what the key has signed, for this UUID, in this store."""

import copy
import json
import os
import pickle
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import blake3
import pytest
from support import raw_record
from support.users import Trap

import ana
from ana.format import record, signature
from ana.stores.directory import keyring

KEY = bytes(range(32))
OTHER = bytes(range(1, 33))


class A(ana.Storable):
    """Something to store."""

    def __init__(self, x):
        self.x = x


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own, so that nobody's keys are found."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("ANA_KEY_FILE", raising=False)
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    """Where a store may be made."""
    return tmp_path / "store"


def stored(folder, x, key=KEY, **options):
    """Store an object of that state; return its UUID and its file."""
    layer = ana.set_dl(pickle_dir=folder, key=key, **options)
    uuid = A(x).make_uuid()
    return uuid, Path(layer.store.path(uuid))


def load(folder, uuid, key=KEY):
    """Load it in a layer that has nothing in memory."""
    ana.set_dl(pickle_dir=folder, key=key)
    return A.ana_load(uuid).x


@pytest.mark.parametrize("x", ["small", "text " * 100_000, os.urandom(9 << 20)], ids=["small", "text", "large"])
def test_what_is_signed_loads(folder, x):
    """Of every kind; and the record is signed as the document says, the address as without a key."""
    uuid, path = stored(folder, x)
    assert load(folder, uuid) == x
    data = path.read_bytes()
    (size,) = struct.unpack_from("<I", data, 4)
    end = 8 + size
    assert struct.unpack_from("<H", data, 18)[0] & 1
    label, store = b"ana record seal v1", json.loads((folder / "ana.json").read_text())["id"].encode()
    feed = struct.pack("<QQQ", len(label), len(store), len(uuid)) + label + store + uuid.encode() + data[: end - 32]
    assert data[end - 32 : end] == blake3.blake3(feed, key=KEY).digest()
    ana.set_dl()
    assert A(x).make_uuid() == uuid


def test_a_worker_finds_the_key_where_its_environment_says(folder, tmp_path):
    """A reference leads there; without the key, the object says on its first use what is missing."""
    key_file = tmp_path / "elsewhere" / "key"
    keyring.make(str(key_file), "a-store-of-mine", [str(folder)])
    uuid, _ = stored(folder, {"a": 1}, key_file)
    ana.set_dl(pickle_dir=folder, key=key_file)
    reference = pickle.dumps(ana.Ref([1, 2]))
    unaddressed = ana.Ref([1, 2])
    unaddressed.make_uuid()
    reference = pickle.dumps(unaddressed)
    program = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).value)"

    def run(**environment):
        command = [sys.executable, "-c", program, reference.hex()]
        return subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=120
        )

    assert run(ANA_KEY_FILE=str(key_file)).stdout == "[1, 2]\n"
    without = run()
    assert without.returncode == 1
    assert "this store has a key, which this process does not: name its key file with ANA_KEY_FILE" in without.stderr
    shutil.copy(key_file, keys_folder(tmp_path) / "a-store-of-mine")
    assert run().stdout == "[1, 2]\n"
    assert uuid


def keys_folder(tmp_path):
    """Make the user's own folder of keys."""
    found = tmp_path / "config" / "ana" / "keys"
    found.mkdir(parents=True, mode=0o700)
    return found


# Attacks: whoever can write to the tree


def planted(folder, path, tmp_path, **options):
    """Put a record into the tree that is right in all but its signature; return the file that its pickle makes."""
    sentinel = tmp_path / "sentinel"
    content = record.content(f"{__name__}:A", [memoryview(pickle.dumps({"x": Trap(sentinel)}, 5))])
    uuid = path.name.partition(".")[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(record.encode(uuid, content, encoding=record.Encoding(**options)))
    return sentinel


def test_the_trap_works(folder, tmp_path):
    """In a store without a key: else the tests below would prove nothing."""
    layer = ana.set_dl(pickle_dir=folder)
    # Under a UUID that a program chose: a content's own address would show that it is not that.
    sentinel = planted(folder, Path(layer.store.path("chosen")), tmp_path)
    load(folder, "chosen", None)
    assert sentinel.exists()


@pytest.mark.parametrize("attack", ["unsigned", "another key", "another store", "flag only"])
def test_what_is_not_signed_is_refused(folder, tmp_path, attack):
    """Before anything is unpickled; and storing the object again puts the right state in its place."""
    uuid, path = stored(folder, 1)
    store_id = json.loads((folder / "ana.json").read_text())["id"]
    seal = {
        "unsigned": None,
        "another key": signature.Seal(store_id, [OTHER]),
        "another store": signature.Seal("another", [KEY]),
        "flag only": None,
    }[attack]
    sentinel = planted(folder, path, tmp_path, seal=seal)
    if attack == "flag only":
        data = bytearray(path.read_bytes())
        data[18] = 1
        (size,) = struct.unpack_from("<I", data, 4)
        data[8 + size - 32 : 8 + size] = blake3.blake3(data[: 8 + size - 32]).digest()
        path.write_bytes(data)
    with pytest.raises(ana.CorruptedStateError, match=r"not signed|not by this store's key") as caught:
        load(folder, uuid)
    assert caught.value.path == str(path)
    assert not sentinel.exists()
    ana.set_dl(pickle_dir=folder, key=KEY)
    again = A(1)
    assert again.make_uuid() == uuid
    again.ana_store()
    assert load(folder, uuid) == 1
    assert not sentinel.exists()


def test_a_record_under_another_uuid_is_refused(folder):
    """Moved, and moved with the key in its header replaced."""
    first, first_path = stored(folder, 1)
    second, second_path = stored(folder, 2)
    data = first_path.read_bytes()
    for moved in (data, data.replace(first.encode(), second.encode())):
        second_path.unlink(missing_ok=True)
        second_path.write_bytes(moved)
        with pytest.raises(ana.CorruptedStateError, match=r"signature|another name"):
            load(folder, second)


def test_a_record_out_of_another_store_is_refused(folder, tmp_path):
    """Though both have the same key, and both are whole."""
    uuid, path = stored(folder, 1)
    other, other_path = stored(tmp_path / "other", 1)
    assert uuid == other
    shutil.copy(other_path, path)
    with pytest.raises(ana.CorruptedStateError, match="not by this store's key for this UUID"):
        load(folder, uuid)


def test_a_record_with_a_new_content_under_an_old_header_is_refused(folder):
    """The signature covers the chunks' digests, and they cover the content."""
    uuid, path = stored(folder, "a" * 2000)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"aaaaa", b"aabaa", 1))
    with pytest.raises(ana.CorruptedStateError, match="chunk 0"):
        load(folder, uuid)


def test_a_store_without_its_mark_is_refused(folder, tmp_path):
    """Who rewrites ana.json to say that there is no key, or another id, wins nothing, whoever knows the key."""
    key_file = tmp_path / "config" / "ana" / "keys" / "the-id"
    keyring.make(str(key_file), "the-id", [str(folder)])
    uuid, path = stored(folder, 1, key_file)
    config = json.loads((folder / "ana.json").read_text())
    assert config["keyed"] is True
    assert config["id"] == "the-id"
    for changed in ({**config, "keyed": False}, {**config, "id": "x"}, {**config, "id": "x", "keyed": False}):
        (folder / "ana.json").write_text(json.dumps(changed))
        sentinel = planted(folder, path, tmp_path)
        for key in (None, key_file):
            with pytest.raises(ana.UntrustedStoreError, match=r"replaced it"):
                load(folder, uuid, key)
        assert not sentinel.exists()


def test_a_store_without_a_key_refuses_signed_records(folder, tmp_path):
    """Nobody can say there what the signature is worth."""
    uuid, path = stored(folder, 1, None)
    planted(folder, path, tmp_path, seal=signature.Seal("x", [KEY]))
    with pytest.raises(ana.CorruptedStateError, match="signed with a key, and this store has none"):
        load(folder, uuid, None)


# Rotation


def test_after_a_rotation_old_and_new_records_load(folder, tmp_path):
    """The new key signs, both are believed, until the old one is taken out: then a replayed record is refused."""
    key_file = tmp_path / "key"
    keyring.make(str(key_file), "the-id")
    old, path = stored(folder, 1, key_file)
    ring = keyring.rotate(str(key_file))
    assert len(ring.keys) == 2
    new, _ = stored(folder, 2, key_file)
    assert load(folder, old, key_file) == 1
    assert load(folder, new, key_file) == 2
    # As `ana key rotate` does, once all is signed anew.
    ana.get_dl().store.tree.amend(key=signature.Seal("the-id", ring.keys).fingerprints[0])
    assert load(folder, new, ring.keys[0]) == 2
    with pytest.raises(ana.CorruptedStateError):
        load(folder, old, ring.keys[0])
    with pytest.raises(ana.UntrustedStoreError, match="another key"):
        load(folder, new, ring.keys[1])
    assert path.exists()


# Key files, and what is told of keys


def test_a_key_is_shown_to_nobody(folder, tmp_path, caplog):
    """Not in a repr, a pickle, an error, a log or a reference."""
    caplog.set_level(0)
    ring = keyring.make(str(tmp_path / "key"), "the-id", [str(folder)])
    uuid, path = stored(folder, 1, tmp_path / "key")
    layer = ana.get_dl()
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ana.CorruptedStateError) as caught:
        load(folder, uuid, tmp_path / "key")
    shown = [repr(ring), repr(layer), repr(layer.store), repr(layer.store.seal), str(caught.value), caplog.text]
    shown += [pickle.dumps(caught.value), pickle.dumps(ana.Ref(2)), (folder / "ana.json").read_bytes()]
    for text in map(str, shown):
        assert ring.keys[0].hex() not in text
        assert str(ring.keys[0]) not in text
    for attempt in (pickle.dumps, copy.copy):
        with pytest.raises(TypeError, match="ANA_KEY_FILE"):
            attempt(layer.store.seal)


def test_a_key_file_is_for_its_owner_alone(folder, tmp_path):
    """It is made so; one that others can read is refused, with the command that mends it."""
    path = tmp_path / "deep" / "key"
    keyring.make(str(path), "the-id")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with pytest.raises(ana.StoreError):
        keyring.make(str(path), "the-id")
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ana.UntrustedStoreError, match=f"chmod 600 {path}"):
            ana.DirDataLayer(folder, key=path)
    path.chmod(0o600)
    (tmp_path / "link").symlink_to(path)
    os.mkfifo(tmp_path / "fifo", 0o600)
    for wrong in ("link", "fifo"):
        with pytest.raises(ana.UntrustedStoreError, match="regular file"):
            ana.DirDataLayer(folder, key=tmp_path / wrong)
    assert not folder.exists()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"keys": []}', '{"keys": ["00"]}', '{"keys": ["zz"]}', "\x00\xff"])
def test_a_file_that_is_no_key_file(folder, tmp_path, text):
    """What it holds is not quoted."""
    path = tmp_path / "key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ana.UntrustedStoreError, match="key file") as caught:
        ana.DirDataLayer(folder, key=path)
    assert caught.value.__cause__ is None
    assert not folder.exists()


def test_bad_keys_are_refused_before_anything_is_made(folder, tmp_path):
    """A wrong size, a wrong type, a file that is not there, a layer without a folder."""
    for key, error in ((b"short", ValueError), (5, TypeError), (tmp_path / "none", ana.StoreError)):
        with pytest.raises(error, match="key"):
            ana.DirDataLayer(folder, key=key)
    with pytest.raises(TypeError, match="pickle_dir"):
        ana.DataLayer(key=KEY)
    assert not folder.exists()


def test_a_stranger_reads_a_signed_record(folder):
    """The tests' own reader, which shares no code with ana, takes it apart: only the signature is another."""
    uuid, path = stored(folder, 1)
    data = bytearray(path.read_bytes())
    data[18] = 0
    (size,) = struct.unpack_from("<I", data, 4)
    data[8 + size - 32 : 8 + size] = blake3.blake3(data[: 8 + size - 32]).digest()
    assert raw_record.read(bytes(data))[0].key == uuid


@pytest.mark.parametrize("store_id", ["", "..", "../../elsewhere", "."])
def test_a_stores_id_leads_to_no_other_file(folder, tmp_path, store_id):
    """What stands in ana.json is not believed to be a path; a store without an id has no key."""
    keyring.make(str(tmp_path / "config" / "ana" / "keys" / "the-id"), "the-id")
    keyring.make(str(tmp_path / "config" / "elsewhere"), "another")
    uuid, _ = stored(folder, 1, None)
    config = json.loads((folder / "ana.json").read_text())
    (folder / "ana.json").write_text(json.dumps({**config, "id": store_id}))
    assert load(folder, uuid, None) == 1
