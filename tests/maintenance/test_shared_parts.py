"""What maintenance does with parts: they are children of their holders, and states like any others."""

import contextlib
import json
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from support import care, processes, raw_tree
from support.care import make_older, ran
from support.classes import A

import ana
from ana import maintenance
from ana.maintenance import Scope

pytestmark = pytest.mark.once

PARTS = {"part_bytes": "256KiB", "durable": False}
UNREACHABLE = Scope(unreachable=True)


def noise(number, size_bytes=600_000):
    """Return an array that no other number gives."""
    return np.random.default_rng(number).standard_normal(size_bytes // 8)


@pytest.fixture
def store(tmp_path):
    """A store with three objects, two days old: two share an array, one has another."""
    tree = tmp_path / "store"
    ana.set_dl(pickle_dir=tree, **PARTS)
    uuids = [A([noise(number // 2), number]).make_uuid() for number in range(3)]
    for name in raw_tree.states(tree):
        make_older(tree / name, 2)
    return Made(tree, uuids)


class Made:
    """A store, the objects' UUIDs, and those of the two parts."""

    def __init__(self, tree, uuids):
        self.tree = tree
        self.uuids = uuids
        self.parts = [maintenance.show(tree, uuids[number]).parts[0]["uuid"] for number in (0, 2)]

    def files(self):
        """The UUIDs of all states that have files."""
        return {name.rpartition("/")[2][:36] for name in raw_tree.states(self.tree)}

    def path(self, key):
        """A state's file."""
        return raw_tree.path_of(self.tree, key)


def loaded(tree, uuid, **options):
    """Load an object as another process would."""
    with ana.using_dl(ana.DirDataLayer(tree, **{**PARTS, **options})):
        return A.ana_load(uuid).x


def test_a_part_stays_as_long_as_one_holder_does(store):
    """Collecting takes the parts that no live state holds, and no other."""
    maintenance.keep(store.tree, "mine", [store.uuids[1]])
    maintenance.gc(store.tree, UNREACHABLE)
    assert store.files() == {store.uuids[1], store.parts[0]}
    assert (loaded(store.tree, store.uuids[1])[0] == noise(0)).all()
    maintenance.forget(store.tree, "mine")
    maintenance.gc(store.tree, UNREACHABLE, without_roots=True)
    assert not store.files()
    assert loaded(store.tree, store.uuids[2])[1] == 2, "readers find state and part in the trash"
    assert store.files() == {store.uuids[2], store.parts[1]}


def test_a_young_holder_keeps_its_old_part(store):
    """An object that is stored now may hold a part of last year."""
    ana.set_dl(pickle_dir=store.tree, **PARTS)
    uuid = A([noise(0), "new"]).make_uuid()
    maintenance.gc(store.tree, UNREACHABLE, without_roots=True)
    assert store.files() == {uuid, store.parts[0]}


def test_a_part_in_the_trash_is_found_by_who_stores_it(store):
    """Its content is not written again, and it is no longer in the trash."""
    maintenance.gc(store.tree, UNREACHABLE, without_roots=True)
    assert not store.files()
    ana.set_dl(pickle_dir=store.tree, **PARTS)
    uuid = A([noise(0), "new"]).make_uuid()
    assert (loaded(store.tree, uuid)[0] == noise(0)).all()


def test_verifying_finds_missing_and_damaged_parts(store):
    """By their own UUIDs; another store heals them."""
    twin = store.tree.with_name("twin")
    ana.set_dl(pickle_dir=twin, **PARTS)
    for number in range(3):
        A([noise(number // 2), number]).make_uuid()
    store.path(store.parts[0]).unlink()
    damaged = bytearray(store.path(store.parts[1]).read_bytes())
    damaged[-9] ^= 4
    store.path(store.parts[1]).write_bytes(damaged)
    found = maintenance.verify(store.tree)
    assert {(wrong.kind, wrong.uuid) for wrong in found.problems} == {
        ("missing", store.parts[0]),
        ("damaged", store.parts[1]),
    }
    repaired = maintenance.verify(store.tree, repair_from=twin)
    assert sorted(repaired.repaired) == sorted(store.parts)
    assert not maintenance.verify(store.tree).problems


def test_exports_take_parts_along(store, tmp_path):
    """One archive, parts before their holders, each once; the importing store has them as states of their own."""
    archive = tmp_path / "some.tar"
    maintenance.export_states(store.tree, store.uuids[:2], archive)
    with tarfile.open(archive) as opened:
        names = [name.rpartition("/")[2][:36] for name in opened.getnames() if name.endswith(".zst")]
    assert names[0] == store.parts[0]
    assert sorted(names) == sorted([store.parts[0], *store.uuids[:2]])
    other = care.store(tmp_path / "other")
    maintenance.import_file(other, archive)
    assert (loaded(other, store.uuids[1])[0] == noise(0)).all()
    assert not maintenance.verify(other).problems


def test_the_command_shows_parts(store, capfd):
    """`ls`, `show`, `show --tree`, `cat` and `stats` say what is a part, and how many states share it."""
    said = ran(capfd, "-d", store.tree, "ls").out
    assert said.count("ana:part") == 2
    said = ran(capfd, "-d", store.tree, "show", store.uuids[0]).out
    assert "parts" in said
    assert "600 kB" in said
    assert "times smaller" not in said
    document = ran(capfd, "-d", store.tree, "--json", "show", store.uuids[0]).document
    assert document["parts"] == [{"segment": 1, "size_bytes": 600_000, "uuid": store.parts[0]}]
    assert document["children"] == [store.parts[0]]
    assert {chunk["method"] for chunk in document["chunks"]} == {"raw", "part"}
    tree = ran(capfd, "-d", store.tree, "show", "--tree", store.uuids[0]).out
    assert f"{store.parts[0]}    600 kB  ana:part" in tree
    stats = ran(capfd, "-d", store.tree, "stats", "--exact").out
    assert "shared by 3 states" in stats
    document = ran(capfd, "-d", store.tree, "--json", "stats", "--exact").document["summary"]
    assert (document["parts"], document["holders"], document["states"]) == (2, 3, 5)
    assert 1_200_000 < document["raw_bytes"] < 1_210_000
    assert document["shared_raw_bytes"] == 600_000


def test_cat_writes_all_of_the_content(store):
    """A state's stream and buffers with those in parts; of a part, its bytes."""
    stream, buffer = maintenance.cat(store.tree, store.uuids[0])
    assert bytes(buffer) == noise(0).tobytes()
    assert pickle.loads(stream, buffers=[buffer])["x"][1] == 0
    (part,) = maintenance.cat(store.tree, store.parts[0])
    assert bytes(part) == noise(0).tobytes()


def test_a_report_counts_parts(store):
    """As a class of their own, and what sharing saves."""
    assert "ana:part" in maintenance.report(store.tree)


def test_a_holder_goes_into_a_pack_and_its_part_does_not(store):
    """A holder is small: `pack_bytes` counts what its own record has; `ana pack` moves it, too."""
    ana.set_dl(pickle_dir=store.tree, pack_bytes="4k", **PARTS)
    before = len(raw_tree.states(store.tree))
    uuid = A([noise(0), "packed"]).make_uuid()
    ana.set_dl()
    assert len(raw_tree.states(store.tree)) == before
    assert maintenance.show(store.tree, uuid).pack
    assert (loaded(store.tree, uuid)[0] == noise(0)).all()
    maintenance.pack_states(store.tree)
    assert store.files() == set(store.parts)
    assert [loaded(store.tree, key)[1] for key in store.uuids] == [0, 1, 2]
    summary = maintenance.stats(store.tree, exact=True).summary
    assert (summary.parts, summary.holders, summary.raw_bytes // 1000) == (2, 4, 1200)
    maintenance.gc(store.tree, UNREACHABLE, without_roots=True, grace_seconds=3600)
    assert store.parts[0] in store.files(), "a holder in a pack keeps its part"
    assert not maintenance.verify(store.tree).problems


def test_signed_stores_sign_parts(tmp_path):
    """A part is signed as any state; one that is not, or by another key, is refused."""
    key = bytes(range(32))
    tree = tmp_path / "store"
    ana.set_dl(pickle_dir=tree, key=key, **PARTS)
    uuid = A(noise(1)).make_uuid()
    part = json.loads(json.dumps(maintenance.show(ana.get_dl().store, uuid).parts))[0]["uuid"]
    assert (loaded(tree, uuid, key=key) == noise(1)).all()
    ana.set_dl(pickle_dir=tmp_path / "unsigned", **PARTS)
    assert A(noise(1)).make_uuid() == uuid
    raw_tree.path_of(tree, part).write_bytes(raw_tree.path_of(tmp_path / "unsigned", part).read_bytes())
    with pytest.raises(ana.CorruptedStateError, match="signed") as caught:
        loaded(tree, uuid, key=key)
    assert caught.value.uuid == uuid


COLLECTOR = """
import os, sys
from ana import maintenance

print("ready", flush=True)
rounds = 0
while not os.path.exists(sys.argv[2]):
    maintenance.gc(sys.argv[1], maintenance.Scope(unreachable=True), grace_seconds=30, without_roots=True)
    rounds += 1
print(rounds)
"""


@pytest.mark.slow
def test_collections_never_take_a_part_from_who_stores_a_holder_of_it(tmp_path):
    """Another process collects all the time, and parts are old; each object that is kept loads at the end."""
    tree = tmp_path / "store"
    layer = ana.set_dl(pickle_dir=tree, **PARTS)
    arrays = [noise(number, 300_000) for number in range(3)]
    words = [sys.executable, "-c", COLLECTOR, str(tree), str(tmp_path / "stop")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=processes.environment()) as collector:
        assert collector.stdout.readline() == "ready\n"
        uuids = []
        for number in range(60):
            if number % 10 == 9:
                maintenance.forget(tree, "mine")
                uuids.clear()
            uuids += layer.keep("mine", A([arrays[number % 3], number]))
            # Whoever holds them, the parts themselves are of last year.
            for path in tree.glob("??/??/[0-9a-f]*.zst"):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_size > 300_000:
                        make_older(path, 365)
        (tmp_path / "stop").touch()
        assert int(collector.communicate(timeout=120)[0]) > 0
    assert uuids
    for uuid in uuids:
        array, number = loaded(tree, uuid)
        assert (array == arrays[number % 3]).all()
