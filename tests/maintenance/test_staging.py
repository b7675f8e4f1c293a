"""States are brought to the nodes, into a file or a cache; roots are named; a staged file is an exported one, too."""

import json
import os
import pickle
import subprocess

import numpy as np
import pytest
from support import processes, raw_tree
from support.care import ran
from support.node import Node, noise

import ana
from ana import maintenance
from ana.errors import CorruptedStateError, StateNotFoundError, StoreError

KIB, MIB = 1 << 10, 1 << 20


@pytest.fixture
def node(tmp_path, monkeypatch):
    """A node with a store and an empty cache."""
    monkeypatch.setenv("ANA_NODE_CACHE", str(tmp_path / "cache"))
    return Node(tmp_path)


def fill(tree, **options):
    """Keep small and large states as "sweep"; return the pickle of a reference to all of them."""
    with ana.using_dl(ana.DirDataLayer(tree, durable=False, node_cache="", part_bytes=256 * KIB, **options)) as layer:
        top = ana.Ref([ana.Ref(noise(1)), ana.Ref({"shared": noise(2)}), *(ana.Ref(number) for number in range(20))])
        layer.keep("sweep", top)
        return pickle.dumps(top)


TASK = """
import json, pickle, sys
import ana
from ana.runtime import counters
top = pickle.loads(bytes.fromhex(sys.argv[1]))
values = [ref.value for ref in top.value]
sums = [found for home, found in counters.snapshot().items() if home.startswith("/")]
print(json.dumps([values[2:], float(values[0].sum() + values[1]["shared"].sum()), values[0].flags.writeable,
    sum(found["from_tier"] for found in sums), sum(found["from_store"] for found in sums)]))
"""


def task(references, **variables):
    """Load everything in a process of its own; return the counts of loads from the node and from the store."""
    done = processes.run_program(TASK, references.hex(), env=processes.environment(**variables))
    numbers, total, writeable, *counts = json.loads(done)
    assert numbers == list(range(20))
    assert total == float(noise(1).sum() + noise(2).sum())
    assert not writeable
    return counts


def test_a_node_gets_all_of_it(node):
    """After staging into the cache, tasks of the node have everything without the store: large states are mapped."""
    references = fill(node.tree)
    staged = maintenance.stage_in_cache(node.tree, ["sweep"])
    assert staged.entries == 2
    assert len(staged.states) == 25
    assert node.leftovers() == []
    node.tree.rename(node.tree.with_name("away"))
    assert task(references) == [25, 0]


def test_what_is_in_the_cache_is_not_read_again(node):
    """Staging again reads no large state, and changes nothing."""
    fill(node.tree)
    first = maintenance.stage_in_cache(node.tree, ["sweep"])
    before = {path: path.stat().st_ino for path in node.entries() if "staged-" not in str(path)}
    for path in raw_tree.states(node.tree):
        if (node.tree / path).stat().st_size > 500 * KIB:
            (node.tree / path).chmod(0)
    assert maintenance.stage_in_cache(node.tree, ["sweep"]) == first
    assert before == {path: path.stat().st_ino for path in node.entries() if "staged-" not in str(path)}


def test_several_are_staged_beside_each_other(node):
    """What one job has staged stays when another one stages something else."""
    references = fill(node.tree)
    other = pickle.dumps(ana.Ref("later"))
    with ana.using_dl(pickle_dir=node.tree):
        late = ana.Ref("later")
        late.make_uuid()
        other = pickle.dumps(late)
    maintenance.stage_in_cache(node.tree, ["sweep"])
    maintenance.stage_in_cache(node.tree, [late.uuid])
    node.tree.rename(node.tree.with_name("away"))
    assert task(references) == [25, 0]
    with ana.using_dl(ana.DataLayer()):
        assert pickle.loads(other).value == "later"


def test_a_full_cache_is_an_error(node, monkeypatch):
    """If the states do not fit, staging says so; tasks have what fits, and the rest from the store."""
    references = fill(node.tree)
    monkeypatch.setenv("ANA_NODE_CACHE_BYTES", "1200k")
    with pytest.raises(StoreError, match="room for"):
        maintenance.stage_in_cache(node.tree, ["sweep"])
    monkeypatch.delenv("ANA_NODE_CACHE_BYTES")
    assert task(references)[1] > 0


def test_without_a_local_disk_there_is_no_cache(node, monkeypatch):
    """Where nothing is local, the error names the cure."""
    fill(node.tree)
    for name in ("ANA_NODE_CACHE", "SLURM_TMPDIR", "LOCAL_SCRATCH", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(StoreError, match="set ANA_NODE_CACHE"):
        maintenance.stage_in_cache(node.tree, ["sweep"])


def test_with_a_cache_a_staged_file_fills_it(node, tmp_path):
    """With both, the first task on a node maps large states from the staged file, and the store is not read."""
    references = fill(node.tree)
    maintenance.stage_states(node.tree, ["sweep"], tmp_path / "sweep.ana")
    node.tree.rename(node.tree.with_name("away"))
    for _ in range(2):
        assert task(references, ANA_STAGED=str(tmp_path / "sweep.ana")) == [25, 0]
    assert len(node.entries()) == 2


def test_nothing_is_staged_of_a_damaged_state(node, tmp_path):
    """A damaged or missing state is an error, and no file is left."""
    fill(node.tree)
    path = node.tree / max(raw_tree.states(node.tree), key=lambda name: (node.tree / name).stat().st_size)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    for stage in (maintenance.stage_states, lambda *words: maintenance.stage_in_cache(*words[:2])):
        with pytest.raises(CorruptedStateError):
            stage(node.tree, ["sweep"], tmp_path / "sweep.ana")
    path.unlink()
    with pytest.raises(StateNotFoundError):
        maintenance.stage_states(node.tree, ["sweep"], tmp_path / "sweep.ana")
    assert list(tmp_path.glob("*.ana")) == []


@pytest.mark.parametrize("keyed", [False, True])
def test_a_staged_file_is_an_exported_one(tmp_path, monkeypatch, keyed):
    """`ana import` takes a staged file (of a signed store, with its key), and tar makes a store of it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    maintenance.init(tmp_path / "tree", keyed=keyed)
    fill(tmp_path / "tree")
    staged = maintenance.stage_states(tmp_path / "tree", ["sweep"], tmp_path / "sweep.ana")
    done = maintenance.import_file(tmp_path / "imported", tmp_path / "sweep.ana")
    assert sorted(done.imported) == sorted(staged.states)
    assert done.problems == []
    (tmp_path / "unpacked").mkdir(0o700)
    subprocess.run(["tar", "-xf", tmp_path / "sweep.ana", "-C", tmp_path / "unpacked"], check=True)
    for tree in ("imported", "unpacked"):
        found = maintenance.verify(tmp_path / tree)
        assert (found.states, found.problems) == (len(staged.states), [])
    if keyed:
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
        with pytest.raises(ana.ANAError, match="key"):
            maintenance.import_file(tmp_path / "other", tmp_path / "sweep.ana")


@pytest.mark.parametrize(("shared", "mode"), [(False, 0o600), (True, 0o640)])
def test_others_cannot_read_or_write_what_was_staged(tmp_path, monkeypatch, shared, mode):
    """Whatever the umask, a staged file has no more rights than its store, and nobody else may write it."""
    monkeypatch.setenv("ANA_SHARED", str(int(shared)))
    fill(tmp_path / "tree")
    before = os.umask(0o002)
    try:
        maintenance.stage_states(maintenance.open_store(tmp_path / "tree"), ["sweep"], tmp_path / "sweep.ana")
    finally:
        os.umask(before)
    assert (tmp_path / "sweep.ana").stat().st_mode & 0o777 == mode


# Names


def test_roots_are_names(node, tmp_path):
    """Where states are named, a root's name stands for all that it keeps; a UUID's beginning still works."""
    fill(node.tree)
    with ana.using_dl(pickle_dir=node.tree) as layer:
        more = ana.Ref("more")
        layer.keep("sweep", more)
        layer.keep("paper 1", more)
    (uuid,) = (key for root in maintenance.roots(node.tree) if root.name == "paper 1" for key in root.uuids)
    for names, count in ((["paper 1"], 1), ([uuid[:13]], 1), (["sweep"], 26), (["paper 1", "sweep", uuid], 26)):
        path = tmp_path / f"{count}-{len(names)}-{len(names[0])}.ana"
        assert len(maintenance.export_states(node.tree, names, path).states) == count
    with pytest.raises(StateNotFoundError, match="no such name"):
        maintenance.export_states(node.tree, ["no such name"], tmp_path / "none.ana")


# The command


def test_the_command_says_what_it_did(node, tmp_path, capfd):
    """`ana stage` writes a file or into the cache, one of the two, and says how much; as JSON, too."""
    fill(node.tree)
    file = tmp_path / "sweep.ana"
    done = ran(capfd, "-d", node.tree, "stage", "sweep", "-o", file)
    assert (done.code, f"25 states in {file}" in done.out.replace("\n", "")) == (0, True)
    again = ran(capfd, "-d", node.tree, "stage", "sweep", "-o", file)
    assert again.code == 1
    assert "exists already" in again.err
    cached = ran(capfd, "-d", node.tree, "--json", "stage", "sweep", "--node-cache")
    assert cached.document["entries"] == 2
    for words in ((), ("-o", file, "--node-cache")):
        assert ran(capfd, "-d", node.tree, "stage", "sweep", *words).code == 2
    assert ran(capfd, "-d", node.tree, "stage", "nothing", "-o", tmp_path / "x").code == 4


def test_it_goes_through_a_pipe(node, tmp_path):
    """`ana stage -o -` writes the same file to standard output."""
    fill(node.tree)
    with open(tmp_path / "sweep.ana", "wb") as file:
        processes.run_module("ana", "-d", node.tree, "stage", "sweep", "-o", "-", stdout=file)
    assert len(maintenance.import_file(tmp_path / "imported", tmp_path / "sweep.ana").imported) == 25
    assert np.frombuffer((tmp_path / "sweep.ana").read_bytes()[-8:], "S8")[0] == b"ANA\0END\n"
