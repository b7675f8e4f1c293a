"""The log: quiet by default; each event once, at its level, with its fields."""

import logging
import pickle
import re
import shutil
import sys

import blake3
import filelock
import pytest
from support import classes, processes, raw_tree

import ana

DOCUMENT = processes.ROOT / "docs" / "observing.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
NOISE = blake3.blake3(b"noise").digest(length=2 << 20)


@pytest.fixture
def tree(tmp_path):
    """A folder with a layer over it."""
    ana.set_dl(pickle_dir=tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def events(caplog):
    """Return what was logged: level, logger, and the fields that are not every record's."""
    caplog.set_level(logging.DEBUG, logger="ana")
    ordinary = {*vars(logging.makeLogRecord({})), "message", "asctime"}

    def found():
        records = [record for record in caplog.records if hasattr(record, "event")]
        caplog.clear()
        return [
            (record.levelname, record.name, {k: v for k, v in vars(record).items() if k not in ordinary})
            for record in records
        ]

    return found


def test_a_program_that_asked_for_nothing_hears_nothing(tree):
    """Not even warnings: damage, whatever is set aside, and a lock that is not to be had."""
    program = """
import os, sys, ana; from support import classes
layer = ana.set_dl(pickle_dir=sys.argv[1])
made = classes.A("state")
path = layer.store.path(made.make_uuid())
with open(path, "r+b") as file:
    file.write(b"nonsense")
ana.set_dl(pickle_dir=sys.argv[1])
try:
    classes.A.ana_load(made.uuid)
except ana.CorruptedStateError:
    made.ana_store()
print("healed")
"""
    assert processes.run_program(program, tree, stderr=processes.STDOUT) == "healed\n"


@pytest.mark.parametrize("value", ["small", NOISE], ids=["small", "large"])
def test_storing_finding_and_loading_are_told(tree, events, value):
    """DEBUG: which state, where, how large, how long it took; the sizes are those of `stats()`."""
    uuid = classes.A(value).make_uuid()
    ((level, logger, fields),) = events()
    stats = ana.get_dl().stats()
    seconds = fields.pop("seconds")
    sizes = {"raw_bytes": stats.stored_raw_bytes, "file_bytes": stats.stored_file_bytes}
    place = {"uuid": uuid, "store": str(tree)}
    assert (level, logger, fields) == ("DEBUG", "ana.stores", {"event": "stored", **place, **sizes})
    assert 0 < seconds < 60
    classes.A(value).make_uuid()
    ((level, _, fields),) = events()
    assert fields.pop("seconds") > 0
    assert (level, fields) == ("DEBUG", {"event": "found", **place, **sizes, "file_bytes": 0})
    ana.set_dl(pickle_dir=tree)
    classes.A.ana_load(uuid)
    ((level, _, fields),) = events()
    assert fields.pop("seconds") > 0
    assert (level, fields) == ("DEBUG", {"event": "loaded", **place, **sizes})


def test_references_to_live_objects_are_not_told(tree, events):
    """They are counted; telling would take longer than they do."""
    made = classes.A("state")
    made.make_uuid()
    events()
    assert pickle.loads(pickle.dumps(made)) is made
    assert events() == []


def test_damage_is_a_warning(tree, events):
    """Who reads it says that, and what is wrong; who heals it says where the damaged file is."""
    made = classes.A("state")
    path = raw_tree.path_of(tree, made.make_uuid())
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    ana.set_dl(pickle_dir=tree)
    events()
    with pytest.raises(ana.CorruptedStateError) as caught:
        classes.A.ana_load(made.uuid)
    ((level, logger, fields),) = events()
    assert (level, logger) == ("WARNING", "ana.stores")
    expected = {"event": "damaged", "uuid": made.uuid, "store": str(tree), "path": str(path)}
    assert fields == {**expected, "reason": caught.value.reason}
    made.ana_store()
    (fields,) = [fields for level, _, fields in events() if fields["event"] == "set aside" and level == "WARNING"]
    assert path.with_name(fields["aside"].rpartition("/")[2]).exists()
    assert (fields["uuid"], fields["path"], fields["store"]) == (made.uuid, str(path), str(tree))


def test_a_lock_that_is_not_to_be_had_is_a_warning(tree, events, monkeypatch):
    """It was waited for in vain; where there are no locks at all, that is information."""
    monkeypatch.setattr("ana.stores.directory.store.LOCKED_BYTES", len(NOISE))
    ana.get_dl().store_state("large", NOISE)
    (lock,) = (tree / ".ana" / "locks").iterdir()
    raw_tree.path_of(tree, "large").unlink()
    with filelock.FileLock(lock), monkeypatch.context() as impatient:
        impatient.setattr("ana.stores.directory.store.LOCK_SECONDS", 0.1)
        ana.get_dl().store_state("large", NOISE)
    raw_tree.path_of(tree, "large").unlink()
    shutil.rmtree(tree / ".ana")
    (tree / ".ana").write_text("in the way")
    ana.get_dl().store_state("large", NOISE)
    (_, timeout, _, none, _) = events()[-5:]
    assert timeout[:2] == ("WARNING", "ana.locks")
    assert timeout[2]["event"] == "lock timeout"
    assert 0.1 <= timeout[2]["seconds"] < 60
    assert (timeout[2]["path"], timeout[2]["store"]) == (str(lock), str(tree))
    assert none[:2] == ("INFO", "ana.locks")
    assert none[2]["event"] == "no lock"


def test_going_on_with_a_references_store_is_information(tree, events):
    """A process that nobody configured says into which store its results go."""
    made = classes.A("state")
    made.make_uuid()
    data = pickle.dumps(made)
    program = """
import logging, pickle, sys
logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(event)s %(store)s")
pickle.loads(bytes.fromhex(sys.argv[1])).x
"""
    said = processes.run_program(program, data.hex(), stderr=processes.STDOUT)
    assert said == f"INFO ana.current adopted {tree}\n"


def test_the_document_says_what_is_logged(tmp_path):
    """The line that it shows is the one that the program prints, but for numbers and paths."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (shown,) = re.findall(r"logs `(DEBUG:.*?)`\.", text)
    (tmp_path / "example.py").write_text(BLOCKS[1], encoding="utf-8")
    said = processes.run(sys.executable, "example.py", cwd=tmp_path, stderr=processes.STDOUT)
    pattern = re.compile(r"'[0-9a-f-]+…?'|\d[\d.e-]*|/.*")
    assert pattern.sub("#", said.strip()) == pattern.sub("#", shown)
