"""Roots that are damaged, or were lost: never taken for kept, and never for nothing to keep."""

import json
import shutil

import pytest
from support import care, raw_tree

import ana
from ana import maintenance
from ana.maintenance import Scope


@pytest.fixture
def store(tmp_path):
    """A store with one state that is kept, and old; its folder, and the UUID."""
    layer = ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    (uuid,) = layer.keep("paper", ana.Ref("kept"))
    care.make_older(raw_tree.path_of(tmp_path / "store", uuid), 99)
    return tmp_path / "store", uuid


def collect(folder, **options):
    """Collect what is older than a day."""
    return maintenance.gc(folder, Scope(older_than_seconds=86400), **options).trashed


DAMAGE = {
    "empty": b"",
    "cut short": b'{"name": "paper", "uuids": [',
    "zeros": bytes(200),
    "another's": b'{"name": "else", "uuids": [], "since": 1.0, "by": "x"}',
    "no root": b'["paper"]',
    "deep": b"[" * 60_000,
    "endless": b'{"name": "paper", "uuids": [], "since": 1' + b"0" * 400 + b', "by": "x"}',
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("by", ["command", "program"])
def test_keeping_again_mends_a_damaged_root(store, damage, by):
    """What says that it is kept is: the file is written anew, and collections go on and spare the state."""
    folder, uuid = store
    (path,) = (folder / ".ana" / "roots").iterdir()
    whole = json.loads(path.read_bytes())
    path.write_bytes(DAMAGE[damage])
    with pytest.raises(ana.UntrustedStoreError, match="under its name again"):
        collect(folder)
    if by == "command":
        maintenance.keep(folder, "paper", [uuid])
    else:
        layer = ana.set_dl(pickle_dir=folder)
        layer.keep("paper", ana.Ref.ana_load(uuid))
    assert json.loads(path.read_bytes())["uuids"] == whole["uuids"]
    care.make_older(raw_tree.path_of(folder, uuid), 99)
    assert collect(folder) == []
    assert [root.name for root in maintenance.roots(folder)] == ["paper"]


def test_a_whole_root_is_not_written_again(store):
    """Since when it is kept stays known."""
    folder, uuid = store
    (path,) = (folder / ".ana" / "roots").iterdir()
    before = path.stat()
    maintenance.keep(folder, "paper", [uuid])
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_copy_without_its_dot_files_is_noticed(store, tmp_path, capfd):
    """`cp -r store/* copy` leaves .ana behind: nothing is collected there until that is seen to."""
    folder, uuid = store
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    for entry in folder.iterdir():
        if not entry.name.startswith("."):
            (shutil.copytree if entry.is_dir() else shutil.copy2)(entry, copy / entry.name)
    assert collect(folder) == []
    for words in (["--older-than", "1d"], ["--unreachable"], ["--max-files", "0", "--dry-run"]):
        refused = care.ran(capfd, "-d", copy, "gc", *words)
        assert (refused.code, "dot files" in refused.err) == (1, True)
    assert care.ran(capfd, "--json", "-d", copy, "gc", "--older-than", "1d", "--dry-run", "--without-roots").code == 0
    maintenance.keep(copy, "paper", [uuid])
    assert collect(copy) == []


def test_roots_that_were_all_forgotten_are_no_loss(store):
    """Their folder is there: then it is meant."""
    folder, uuid = store
    maintenance.forget(folder, "paper")
    assert [name.rpartition("/")[2] for name in collect(folder)] == [f"{uuid}.pkl.zst"]


def test_an_older_versions_roots_are_noted_by_a_collection(store):
    """`ana.json` of 1.0 says nothing of roots: the first collection that sees one has it say so."""
    folder, _ = store
    config = json.loads((folder / "ana.json").read_bytes())
    assert config.pop("roots") is True
    (folder / "ana.json").write_text(json.dumps({**config, "later": [1]}))
    collect(folder)
    assert json.loads((folder / "ana.json").read_bytes()) == {**config, "later": [1], "roots": True}
    shutil.rmtree(folder / ".ana")
    with pytest.raises(ana.UntrustedStoreError, match="the folder of its roots is gone"):
        collect(folder)
