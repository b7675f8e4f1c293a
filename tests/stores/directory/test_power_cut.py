"""The power fails on a real ext4: what was acknowledged as durable is there, and nothing wrong ever is."""

import contextlib
import os
import pickle

import blake3
import pytest
from support import power, processes, raw_record, raw_tree
from support.classes import A

import ana

pytestmark = pytest.mark.once

NOISE = blake3.blake3(b"noise").digest(length=6 << 20)
VALUES = ["small", "small again", "x" * 100_000, NOISE[: 2 << 20], NOISE]
"""Small states, one of many blocks, one that writers lock, one of several chunks."""

STORE = """
import sys, ana
from support.classes import A
layer = ana.set_dl(pickle_dir=sys.argv[1], durable=False)
for number in range(int(sys.argv[2])):
    print(A(["not durable", number]).make_uuid())
"""
"""Stores states in a process of its own that does not wait for the disk."""


@pytest.fixture
def disk():
    """A disk whose power can be cut."""
    with power.disk() as made:
        yield made


@pytest.fixture
def tree(disk):
    """Where the tree is on that disk."""
    return disk.place / "tree"


def _not_durable(tree, number_of_states):
    return processes.run_program(STORE, tree, number_of_states).split()


def _someone_syncs(disk):
    """Let another program wait for the disk: ext4 writes all names of all files with its journal, not their bytes."""
    with open(disk.place / "file of another program", "wb") as file:
        file.write(b"bytes")
        os.fsync(file.fileno())


def _whole_states(tree):
    """Return the keys of the states that are whole, read past ana."""
    whole = set()
    for path in raw_tree.states(tree):
        # What may be damaged, and how, is up to the kernel: so is how reading fails.
        with contextlib.suppress(Exception):
            part, _ = raw_record.read((tree / path).read_bytes())
            whole.add(part.key)
    return whole


def _works(tree):
    """See that the tree can be stored into and loaded from, whatever the power cut left there."""
    with ana.using_dl(pickle_dir=tree):
        uuid = A("after the power cut").make_uuid()
    with ana.using_dl(pickle_dir=tree):
        assert A.ana_load(uuid).x == "after the power cut"


def test_durable_states_survive(disk, tree):
    """After each acknowledgement the power may fail: all that was acknowledged until then is there and whole."""
    acknowledged = {}
    with ana.using_dl(pickle_dir=tree):
        for value in VALUES:
            acknowledged[A(value).make_uuid()] = value
            with disk.after_a_power_cut() as place:
                assert _whole_states(place / "tree") == set(acknowledged)
                assert raw_tree.strangers(place / "tree") == []
                _all_load(place / "tree", acknowledged)
                _works(place / "tree")


def _all_load(tree, expected):
    with ana.using_dl(pickle_dir=tree):
        for uuid, value in expected.items():
            assert A.ana_load(uuid).x == value


def test_references_lead_somewhere_after_a_power_cut(disk, tree):
    """What was pickled by reference, with all that it refers to, is there."""
    with ana.using_dl(pickle_dir=tree):
        child = A("child")
        child.make_uuid("child")
        parent = A([child, A("held bare")])
        parent.make_uuid("parent")
        pickle.dumps(parent)
    with disk.after_a_power_cut() as place, ana.using_dl(pickle_dir=place / "tree"):
        loaded = A.ana_load("parent")
        assert loaded.x[0].x == "child"
        assert loaded.x[1].x == "held bare"
        _works(place / "tree")


@pytest.mark.parametrize(
    "store",
    [
        lambda number: A(["not durable", number]).make_uuid(),
        lambda number: A(["not durable", number]).ana_store(),
        lambda number: A(A(["not durable", number])).make_uuid(),
    ],
    ids=["make_uuid", "ana_store", "held bare"],
)
def test_what_another_process_wrote_is_made_durable(disk, tree, store):
    """A state that is found there counts as stored: then it is on the disk, whoever wrote it a moment ago."""
    ana.DirDataLayer(tree)
    _not_durable(tree, 5)
    with ana.using_dl(pickle_dir=tree):
        uuids = {store(number) for number in range(5)}
    with disk.after_a_power_cut() as place:
        assert uuids <= _whole_states(place / "tree")
        _works(place / "tree")


def test_the_tree_of_another_process_is_made_durable(disk, tree):
    """The same where the other process made the tree and its folders, too."""
    _not_durable(tree, 5)
    with ana.using_dl(pickle_dir=tree):
        uuids = {A(["not durable", number]).make_uuid() for number in range(5)}
    with disk.after_a_power_cut() as place:
        assert uuids <= _whole_states(place / "tree")
        assert raw_tree.config(place / "tree")["levels"] == 2


def test_children_of_another_process_are_made_durable(disk, tree):
    """A durable state that refers to one that was found there: both are on the disk."""
    _not_durable(tree, 3)
    with ana.using_dl(pickle_dir=tree):
        children = [A(["not durable", number]) for number in range(3)]
        for child in children:
            child.make_uuid()
        parent = A(children).make_uuid()
    with disk.after_a_power_cut() as place, ana.using_dl(pickle_dir=place / "tree"):
        assert [child.x[1] for child in A.ana_load(parent).x] == [0, 1, 2]


def test_loaded_children_are_made_durable(disk, tree):
    """A durable state that refers to one that was loaded: both are on the disk."""
    (uuid,) = _not_durable(tree, 1)
    with ana.using_dl(pickle_dir=tree):
        child = A.ana_load(uuid)
        assert child.x == ["not durable", 0]
        parent = A(child).make_uuid()
    with disk.after_a_power_cut() as place, ana.using_dl(pickle_dir=place / "tree"):
        assert A.ana_load(parent).x.x == ["not durable", 0]


@pytest.mark.parametrize("synced", [False, True], ids=["nothing was written", "names were written"])
def test_states_that_are_not_durable_are_whole_or_said_to_be_lost(disk, tree, synced):
    """With durable=False the power cut may take a state or its bytes: never something else is loaded."""
    ana.DirDataLayer(tree)
    uuids = _not_durable(tree, 20)
    if synced:
        _someone_syncs(disk)
    with disk.after_a_power_cut() as place:
        whole = _whole_states(place / "tree")
        # Else this disk forgets nothing, and these tests show nothing.
        assert len(whole) < len(uuids)
        with ana.using_dl(pickle_dir=place / "tree") as layer:
            for number, uuid in enumerate(uuids):
                if uuid in whole:
                    assert A.ana_load(uuid).x == ["not durable", number]
                else:
                    with pytest.raises((ana.StateNotFoundError, ana.CorruptedStateError)):
                        A.ana_load(uuid)
            assert len(layer.uuid_cache) <= len(whole)
        _all_can_be_stored_again(place / "tree", uuids)


def _all_can_be_stored_again(tree, uuids):
    """The same job again: it stores what was lost, and sets aside what was damaged."""
    with ana.using_dl(pickle_dir=tree):
        for number, uuid in enumerate(uuids):
            assert A(["not durable", number]).ana_store() == uuid
    assert _whole_states(tree) == set(uuids)


def test_names_without_bytes(disk, tree):
    """The everyday case of a power cut: an empty file where the state should be. One look-up shows it."""
    ana.DirDataLayer(tree)
    uuids = _not_durable(tree, 20)
    _someone_syncs(disk)
    with disk.after_a_power_cut() as place:
        empty = [path for path in raw_tree.states(place / "tree") if (place / "tree" / path).stat().st_size == 0]
        assert empty
        with ana.using_dl(pickle_dir=place / "tree"):
            for number in range(20):
                A(["not durable", number]).make_uuid()
        assert _whole_states(place / "tree") == set(uuids)
