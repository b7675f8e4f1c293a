"""Stores with a key, looked after: made, verified, collected, copied, and given another key."""

import json
import pickle
import shutil
import signal
from pathlib import Path

import blake3
import pytest
from support import mounts, raw_tree
from support.care import ran

import ana
from ana import maintenance
from ana.maintenance import keys as store_keys
from ana.stores.directory import keyring


class A(ana.Storable):
    """Something to store."""

    def __init__(self, x, child=None):
        self.x = x
        self.child = child


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home of its own, so that nobody's keys are found."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("ANA_KEY_FILE", raising=False)


@pytest.fixture
def store(tmp_path):
    """A store with a key, for a parent, its child, and a large object, whose state has a part."""
    maintenance.init(tmp_path / "store", keyed=True)
    return tmp_path / "store"


def fill(store):
    """Store some states; return their UUIDs."""
    ana.set_dl(pickle_dir=store)
    parent = A("parent", A("child"))
    parent.child.make_uuid()
    return [parent.make_uuid(), parent.child.uuid, A(bytes(range(256)) * 40_000).make_uuid()]


def load(store, uuid):
    """Load it in a layer that has nothing in memory."""
    ana.set_dl(pickle_dir=store)
    return A.ana_load(uuid).x


def key_file(store):
    """Say where the store's key is."""
    return Path(keyring.default_path(json.loads((store / "ana.json").read_text())["id"]))


def test_ana_init_makes_a_store_with_a_key(tmp_path, capfd):
    """Both are where the command says, with their modes; its own user needs no option to use it."""
    done = ran(capfd, "--json", "-d", tmp_path / "store", "init", "--keyed")
    made = json.loads(done.out)
    assert (done.code, made["mode"], made["key_file"]) == (0, "0700", str(key_file(tmp_path / "store")))
    assert key_file(tmp_path / "store").stat().st_mode & 0o777 == 0o600
    uuids = fill(tmp_path / "store")
    assert load(tmp_path / "store", uuids[0]) == "parent"
    # Signed: without the key, nobody opens it.
    key_file(tmp_path / "store").unlink()
    with pytest.raises(ana.UntrustedStoreError, match="this store has a key"):
        load(tmp_path / "store", uuids[0])


def test_ana_init_makes_shared_and_plain_stores(tmp_path, capfd):
    """And says so; what is there already is an error, and stays as it is."""
    done = ran(capfd, "-d", tmp_path / "shared", "init", "--shared")
    assert (done.code, (tmp_path / "shared").stat().st_mode & 0o7777) == (0, 0o2770)
    assert "mode 2770" in done.out
    done = ran(capfd, "-d", tmp_path / "plain", "init")
    assert (done.code, (tmp_path / "plain").stat().st_mode & 0o7777) == (0, 0o700)
    before = (tmp_path / "plain" / "ana.json").read_bytes()
    done = ran(capfd, "-d", tmp_path / "plain", "init", "--keyed")
    assert (done.code, "there is a store already" in done.err) == (1, True)
    assert (tmp_path / "plain" / "ana.json").read_bytes() == before
    assert ran(capfd, "-d", tmp_path / "new", "init", "--key-file", tmp_path / "k").code == 2
    (tmp_path / "k").write_text("")
    assert ran(capfd, "-d", tmp_path / "new", "init", "--keyed", "--key-file", tmp_path / "k").code == 1
    assert not (tmp_path / "new").exists()


def test_ana_key_new_makes_a_key_for_key(tmp_path, capfd):
    """A file with mode 0600 that `key=` takes; one that is there is not overwritten."""
    assert ran(capfd, "key", "new", tmp_path / "key").code == 0
    ana.set_dl(pickle_dir=tmp_path / "store", key=tmp_path / "key")
    assert ana.Ref([1]).make_uuid()
    before = (tmp_path / "key").read_bytes()
    assert ran(capfd, "key", "new", tmp_path / "key").code == 1
    assert (tmp_path / "key").read_bytes() == before


def test_all_maintenance_knows_the_key(store, tmp_path, capfd):
    """Whole is what is signed: nothing is taken for damaged, and what is not signed is."""
    uuids = fill(store)
    assert ran(capfd, "-d", store, "verify").code == 0
    assert ran(capfd, "-d", store, "stats", "--exact").code == 0
    assert "mode 0700, signed with a key" in ran(capfd, "-d", store, "info").out
    assert maintenance.info(store).keyed
    assert pickle.loads(maintenance.cat(store, uuids[1])[0]) == {"x": "child", "child": None}
    maintenance.keep(store, "mine", [uuids[0]])
    done = maintenance.gc(store, maintenance.Scope(unreachable=True), grace_seconds=0)
    assert len(done.trashed) == 2
    # A read that misses brings back what is signed.
    assert load(store, uuids[2]) == bytes(range(256)) * 40_000
    plain = ana.DirDataLayer(tmp_path / "plain")
    ana.set_dl(plain)
    assert A("child").make_uuid() == uuids[1]
    shutil.copy(raw_tree.path_of(tmp_path / "plain", uuids[1]), raw_tree.path_of(store, uuids[1]))
    done = ran(capfd, "-d", store, "verify")
    assert (done.code, "not signed" in done.out) == (4, True)


def test_states_travel_between_stores_with_other_keys(store, tmp_path):
    """Exported without a signature, imported under the other store's; copied for a repair, too."""
    uuids = fill(store)
    maintenance.export_states(store, [uuids[0], uuids[2]], tmp_path / "file.tar")
    for other, keyed in (("plain", False), ("keyed", True)):
        maintenance.init(tmp_path / other, keyed=keyed)
        assert maintenance.import_file(tmp_path / other, tmp_path / "file.tar").problems == []
        assert maintenance.verify(tmp_path / other).problems == []
        assert load(tmp_path / other, uuids[2]) == bytes(range(256)) * 40_000
    raw_tree.path_of(store, uuids[1]).write_bytes(b"damaged")
    assert maintenance.verify(store, repair_from=tmp_path / "keyed").repaired == [uuids[1]]
    assert load(store, uuids[1]) == "child"


def test_a_node_cache_has_what_was_signed(store, tmp_path):
    """It is verified when it is fetched; the cache is this user's alone."""
    uuids = fill(store)
    for _ in range(2):
        layer = ana.set_dl(pickle_dir=store, node_cache=tmp_path / "node")
        assert A.ana_load(uuids[2]).x == bytes(range(256)) * 40_000
        numbers = layer.stats()
    assert numbers.from_tier == 1


# Another key


def test_a_rotation_signs_all_and_forgets_the_old_key(store, tmp_path, capfd):
    """States, also in the trash, load with the new key; a record out of a backup from before is refused."""
    uuids = fill(store)
    backup = tmp_path / "backup"
    shutil.copytree(store, backup)
    old = keyring.load(str(key_file(store))).keys
    maintenance.keep(store, "mine", [uuids[0]])
    assert len(maintenance.gc(store, maintenance.Scope(unreachable=True), grace_seconds=0).trashed) == 2
    done = ran(capfd, "--json", "-d", store, "key", "rotate")
    rotated = json.loads(done.out)
    assert (done.code, rotated["states"], rotated["signed"], rotated["finished"]) == (0, 4, 4, True)
    new = keyring.load(str(key_file(store))).keys
    assert len(new) == 1
    assert new != old
    assert [load(store, uuid) for uuid in uuids] == ["parent", "child", bytes(range(256)) * 40_000]
    assert maintenance.verify(store).problems == []
    shutil.copy(raw_tree.path_of(backup, uuids[1]), raw_tree.path_of(store, uuids[1]))
    with pytest.raises(ana.CorruptedStateError, match="not by this store's key"):
        load(store, uuids[1])


def test_a_rotation_that_is_interrupted_goes_on(store, monkeypatch):
    """In between all states load; the second run makes no third key, and ends with one."""
    uuids = fill(store)
    sign, calls = store_keys.ingest.sign_anew, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 2:
            signal.raise_signal(signal.SIGINT)
        return sign(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(store_keys.ingest, "sign_anew", interrupted)
        with pytest.raises(KeyboardInterrupt):
            maintenance.rotate_key(store)
    half = keyring.load(str(key_file(store))).keys
    assert len(half) == 2
    assert [load(store, uuid) for uuid in uuids] == ["parent", "child", bytes(range(256)) * 40_000]
    done = maintenance.rotate_key(store)
    assert (done.resumed, done.finished, done.signed) == (True, True, 3)
    assert keyring.load(str(key_file(store))).keys == half[:1]
    assert [load(store, uuid) for uuid in uuids] == ["parent", "child", bytes(range(256)) * 40_000]


def test_damaged_states_do_not_hold_a_rotation_up(store):
    """They are of no use with any key; what cannot be read just now keeps the old key."""
    uuids = fill(store)
    raw_tree.path_of(store, uuids[1]).write_bytes(b"damaged" * 100)
    done = maintenance.rotate_key(store)
    assert (done.finished, [wrong.kind for wrong in done.problems]) == (True, ["damaged"])
    assert load(store, uuids[2]) == bytes(range(256)) * 40_000


def test_there_is_nothing_to_rotate_without_a_key(tmp_path):
    """An error, and no key is made."""
    maintenance.init(tmp_path / "plain")
    with pytest.raises(ana.UntrustedStoreError, match="no key"):
        maintenance.rotate_key(tmp_path / "plain")
    assert not (tmp_path / "config").exists()


# Which key is whose


def other_key(tmp_path):
    """Make a key that is for no store yet."""
    return maintenance.new_key(tmp_path / "other.key")


def states_of(store):
    """Return all that lies in the shard folders, what was set aside, too."""
    return sorted(str(path) for path in store.glob("??/??/*") if path.is_file()) + sorted(
        map(str, store.glob("??/??/.*"))
    )


def without_fingerprint(store):
    """Make a store look as version 1.0 made it."""
    config = json.loads((store / "ana.json").read_text())
    del config["key"]
    (store / "ana.json").write_text(json.dumps(config))


def test_the_fingerprint_is_what_the_document_says(store):
    """8 bytes derived from key and id: they tell keys apart, and show nothing of one."""
    config = json.loads((store / "ana.json").read_text())
    (key,) = keyring.load(str(key_file(store))).keys
    derived = blake3.blake3(
        key + config["id"].encode(), derive_key_context="ana 2026-11-26 store key fingerprint v1"
    ).hexdigest()
    assert config["key"] == derived[:16]


@pytest.mark.parametrize("how", ["environment", "option"])
def test_a_wrong_key_is_told_from_damage(store, tmp_path, monkeypatch, how):
    """Nothing is opened with it, so nothing is called damaged, moved or written; the right one is found."""
    uuids = fill(store)
    before = states_of(store)
    if how == "option":
        with pytest.raises(ana.UntrustedStoreError, match="another key than"):
            ana.DirDataLayer(store, key=other_key(tmp_path))
        with pytest.raises(ana.UntrustedStoreError, match="another key than"):
            ana.DirDataLayer(store, key=b"k" * 32)
    else:
        monkeypatch.setenv("ANA_KEY_FILE", other_key(tmp_path))
        assert maintenance.verify(store, set_aside=True).problems == []
        assert load(store, uuids[0]) == "parent"
        key_file(store).unlink()
        with pytest.raises(ana.UntrustedStoreError, match="another key than"):
            maintenance.verify(store, set_aside=True)
    assert states_of(store) == before


def test_a_wrong_key_replaces_nothing_where_there_is_no_fingerprint(store, tmp_path):
    """As in a store of version 1.0: neither `verify --set-aside` nor a writer takes what it cannot read for damaged."""
    uuids = fill(store)
    without_fingerprint(store)
    before = states_of(store)
    ring = keyring.load(str(key_file(store)))
    key_file(store).write_text(json.dumps({"store": ring.store_id, "keys": [b"k".hex() * 32]}))
    found = maintenance.verify(store, set_aside=True)
    assert {"wrong key" in wrong.reason for wrong in found.problems if wrong.kind == "failed"} == {True}
    ana.set_dl(pickle_dir=store)
    obj = A("child")
    obj.make_uuid()
    with pytest.raises(ana.UntrustedStoreError, match="wrong key"):
        obj.ana_store()
    assert states_of(store) == before
    # With the right one, damage is seen to.
    key_file(store).write_text(json.dumps({"store": ring.store_id, "keys": [key.hex() for key in ring.keys]}))
    raw_tree.path_of(store, uuids[1]).write_bytes(b"damaged" * 100)
    assert len(maintenance.verify(store, set_aside=True).set_aside) == 1


def test_a_process_that_missed_a_rotation_replaces_nothing(store):
    """What is signed with the new key is not damaged, though it cannot be read with the old one."""
    uuids = fill(store)
    layer = ana.DirDataLayer(store)
    maintenance.rotate_key(store)
    with ana.using_dl(layer):
        obj = A("child")
        obj.make_uuid()
        with pytest.raises(ana.UntrustedStoreError, match="rotated"):
            obj.ana_store()
    assert maintenance.verify(store).problems == []
    assert load(store, uuids[1]) == "child"


def test_a_key_of_two_stores_is_not_lost_by_rotating_one(tmp_path, monkeypatch):
    """The file that both are read with stays; the one whose key was rotated has a file of its own from then on."""
    shared = maintenance.new_key(tmp_path / "my.key")
    monkeypatch.setenv("ANA_KEY_FILE", shared)
    uuids = {}
    for name in ("a", "b"):
        ana.set_dl(pickle_dir=tmp_path / name, key=shared)
        uuids[name] = A(name).make_uuid()
    before = keyring.load(shared).keys
    done = maintenance.rotate_key(tmp_path / "a")
    assert (done.finished, done.signed, done.key_file) == (True, 1, str(key_file(tmp_path / "a")))
    assert keyring.load(shared).keys == before
    assert keyring.load(done.key_file).keys != before
    for name in ("a", "b"):
        assert maintenance.verify(tmp_path / name).problems == []
        assert load(tmp_path / name, uuids[name]) == name
    assert maintenance.rotate_key(tmp_path / "a").finished


def test_a_stores_own_key_makes_no_other_store(store, tmp_path):
    """They would have one id and one key, and rotating it would make one of them unreadable."""
    with pytest.raises(ana.UntrustedStoreError, match=f"the key of the store {store}.*ana key new"):
        ana.DirDataLayer(tmp_path / "second", key=key_file(store))
    assert not (tmp_path / "second" / "ana.json").exists()


# ana.json, purged


@pytest.mark.parametrize("own", [True, False], ids=["ana init", "ana key new"])
def test_a_purged_configuration_comes_back_with_its_key(tmp_path, own):
    """Who looks reads the store as it was, and writes nothing; who stores writes `ana.json` anew, with id and key."""
    store = tmp_path / "store"
    if own:
        maintenance.init(store, keyed=True)
        options = {}
    else:
        options = {"key": maintenance.new_key(tmp_path / "my.key")}
    ana.set_dl(pickle_dir=store, **options)
    uuid = A("signed").make_uuid()
    before = json.loads((store / "ana.json").read_text())
    (store / "ana.json").unlink()
    if own:
        assert maintenance.verify(store).problems == []
        assert not (store / "ana.json").exists()
    ana.set_dl(pickle_dir=store, **options)
    assert A.ana_load(uuid).x == "signed"
    assert json.loads((store / "ana.json").read_text()) == before


def test_without_its_key_a_purged_configuration_is_not_written(store, tmp_path):
    """Another one would have the store refused for ever: neither without a key, nor with a wrong one."""
    fill(store)
    (store / "ana.json").unlink()
    key_files = Path(keyring.default_path("x")).parent
    key_files.rename(tmp_path / "away")
    for key in (None, b"k" * 32, other_key(tmp_path)):
        with pytest.raises(ana.UntrustedStoreError, match=r"ana\.json.*is gone.*signed with a key"):
            ana.DirDataLayer(store, key=key)
        assert not (store / "ana.json").exists()
    (tmp_path / "away").rename(key_files)
    assert ana.DirDataLayer(store).store.config.keyed


def test_a_key_makes_no_keyed_store_of_what_is_not_signed(tmp_path):
    """Nothing in it could be read then."""
    ana.set_dl(pickle_dir=tmp_path / "plain")
    A(1).make_uuid()
    (tmp_path / "plain" / "ana.json").unlink()
    with pytest.raises(ana.UntrustedStoreError, match="not signed"):
        ana.DirDataLayer(tmp_path / "plain", key=b"k" * 32)
    assert not (tmp_path / "plain" / "ana.json").exists()


# Key files on full disks


def test_a_full_disk_leaves_no_key_file(tmp_path, capfd):
    """Nothing is in the way once there is room; a rotation keeps the old key."""
    with mounts.tmpfs(tmp_path / "small", "size=1m,mode=755") as small:
        maintenance.init(tmp_path / "rotated", keyed=True, key_file=small / "its.key")
        with pytest.raises(OSError, match="No space"):
            (small / "fill").write_bytes(bytes(2 << 20))
        before = (small / "its.key").read_bytes()
        with pytest.raises(ana.StoreError):
            keyring.rotate(str(small / "its.key"))
        assert (small / "its.key").read_bytes() == before
        for words in (
            ["key", "new", small / "new"],
            ["-d", tmp_path / "s", "init", "--keyed", "--key-file", small / "k"],
        ):
            assert ran(capfd, *words).code == 1
        assert sorted(path.name for path in small.iterdir()) == ["fill", "its.key"]
        (small / "fill").unlink()
        for words in (
            ["key", "new", small / "new"],
            ["-d", tmp_path / "s", "init", "--keyed", "--key-file", small / "k"],
        ):
            assert ran(capfd, *words).code == 0


@pytest.mark.parametrize("size", [0, 5, 40])
def test_an_older_versions_half_a_key_file_is_told(tmp_path, capfd, size):
    """Made on a full disk: it says what it is, and what to do."""
    path = Path(maintenance.new_key(tmp_path / "key"))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ana.UntrustedStoreError, match=r"key file that is empty or cut short: remove it"):
        ana.DirDataLayer(tmp_path / "store", key=path)
    assert ran(capfd, "key", "new", path).code == 1
