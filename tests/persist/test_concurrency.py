"""Many processes at one store at once, some of them killed: each state once, whole, and nothing acknowledged lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from support import raw_record, raw_tree
from support.processes import environment, run_program

import ana

STORE_ONE = """
import sys, ana, array
ana.set_dl(pickle_dir=sys.argv[1])
sys.stdin.readline()
ana.get_dl().store_state(sys.argv[2], array.array("d", range(int(sys.argv[3]))))
"""

STORE_MANY = """
import json, sys, ana
from support.classes import A
layer = ana.set_dl(pickle_dir=sys.argv[1], durable=False)
me, states, common = int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
sys.stdin.readline()
for number in range(states):
    # The first ones are the same in every process.
    a = A({"number": number, "owner": None if number < common else me, "text": "x" * (number % 50) * 100})
    print(json.dumps([a.make_uuid(), a.x]), flush=True)
"""

STORE_AND_DELETE = """
import os, sys, ana
from support.classes import A
layer = ana.set_dl(pickle_dir=sys.argv[1], durable=False, recheck_seconds=0)
rounds = 0
while not os.path.exists(sys.argv[2]):
    a = A("wanted by all")
    a.make_uuid()
    try:
        assert layer.load_state(a.uuid) == {"x": "wanted by all"}
    except ana.StateNotFoundError:
        pass
    rounds += 1
print(rounds)
"""


def start(program, *arguments):
    """Start a program that waits for a line on its standard input."""
    words = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def go(processes):
    """Let them all begin at the same moment."""
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def end(process):
    """Wait for a process and return what it printed."""
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.mark.parametrize(
    ("items", "writers"),
    [
        pytest.param(10, 12, id="small"),
        pytest.param(300_000, 6, id="large"),
        pytest.param(10, 64, id="small, many", marks=pytest.mark.slow),
        pytest.param(300_000, 16, id="large, many", marks=pytest.mark.slow),
    ],
)
def test_many_processes_store_one_uuid(tmp_path, items, writers):
    """Processes that store one UUID at once leave one whole file and nothing else."""
    store = tmp_path / "store"
    processes = [start(STORE_ONE, store, "wanted", items) for _ in range(writers)]
    go(processes)
    for process in processes:
        end(process)
    assert len(raw_tree.states(store)) == 1
    assert raw_tree.strangers(store) == []
    assert list(ana.set_dl(pickle_dir=store).load_state("wanted")) == list(range(items))


@pytest.mark.parametrize(("writers", "states"), [(6, 100), pytest.param(16, 500, marks=pytest.mark.slow)])
def test_states_in_common_are_stored_once(tmp_path, writers, states):
    """Processes store states, half of them the same: each is there once, and loads."""
    store = tmp_path / "store"
    common = states // 2
    processes = [start(STORE_MANY, store, number, states, common) for number in range(writers)]
    go(processes)
    acknowledged = [json.loads(line) for process in processes for line in end(process).splitlines()]
    assert len(acknowledged) == writers * states
    uuids = {uuid for uuid, _ in acknowledged}
    assert len(uuids) == common + writers * (states - common)
    assert len(raw_tree.states(store)) == len(uuids)
    assert raw_tree.strangers(store) == []
    layer = ana.set_dl(pickle_dir=store)
    assert all(layer.load_state(uuid) == {"x": x} for uuid, x in acknowledged)


@pytest.mark.slow
@pytest.mark.leaves_temporaries("writers are killed")
def test_killed_writers_lose_nothing_that_they_acknowledged(tmp_path):
    """Half of the writers are killed at some moment: what all have acknowledged loads, and the rest goes on."""
    kill_writers(tmp_path / "store", 8, 300, seconds=0)


@pytest.mark.slow
@pytest.mark.leaves_temporaries("writers are killed")
def test_writers_are_killed_for_a_minute(tmp_path):
    """The same again and again, for a minute, in one store."""
    kill_writers(tmp_path / "store", 8, 100_000, seconds=60)


def kill_writers(store, number, states, seconds):
    """Run writers, kill them at random moments (with `seconds`: and start new ones), check what they acknowledged."""
    chance = random.Random(4711)
    deadline = time.monotonic() + seconds
    acknowledged = []
    rounds = 0
    while rounds == 0 or time.monotonic() < deadline:
        processes = [start(STORE_MANY, store, 1000 * rounds + worker, states, 20) for worker in range(number)]
        go(processes)
        victims = processes if seconds else processes[: number // 2]
        for victim in victims:
            time.sleep(chance.uniform(0.0, 0.3))
            victim.send_signal(signal.SIGKILL)
        for process in processes:
            out, err = process.communicate(timeout=120)
            assert process.returncode in {0, -signal.SIGKILL}, err
            # The last line of a killed one may be cut.
            acknowledged += [json.loads(line) for line in out.splitlines(keepends=True) if line.endswith("\n")]
        rounds += 1
    assert acknowledged
    layer = ana.set_dl(pickle_dir=store)
    assert all(layer.load_state(uuid) == {"x": x} for uuid, x in acknowledged)
    for path in raw_tree.states(store):
        raw_record.read((store / path).read_bytes())
    for path in raw_tree.strangers(store):
        assert os.path.basename(path).startswith(".tmp-")
    layer.store_state("the store", "works")
    assert layer.load_state("the store") == "works"


@pytest.mark.slow
def test_store_against_delete(tmp_path):
    """While someone keeps removing a state, its writers and readers see it whole or not at all, and get no error."""
    store = tmp_path / "store"
    layer = ana.set_dl(pickle_dir=store)
    layer.store_state("first", 1)
    words = [sys.executable, "-c", STORE_AND_DELETE, str(store), str(tmp_path / "enough")]
    processes = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
        for _ in range(4)
    ]
    removed = 0
    while removed < 300 and all(process.poll() is None for process in processes):
        for path in raw_tree.states(store):
            if "first" not in path:
                (store / path).unlink(missing_ok=True)
                removed += 1
    (tmp_path / "enough").touch()
    assert sum(int(end(process)) for process in processes) >= removed
    assert removed >= 300
    assert raw_tree.strangers(store) == []


def test_a_purged_state_is_stored_again(tmp_path):
    """An object that was stored looks again on ana_store, and on pickling once recheck_seconds are over."""
    program = """
import os, pickle, sys, ana
from support.classes import A
layer = ana.set_dl(pickle_dir=sys.argv[1], recheck_seconds=float(sys.argv[2]))
inner = A("child"); inner.make_uuid()
outer = A([inner]); outer.make_uuid()
def purge(which):
    os.remove(layer.store.path(which.uuid))
def there(which):
    return os.path.exists(layer.store.path(which.uuid))
found = []
for which in (outer, inner):
    purge(which); pickle.dumps(outer); found.append(there(which))
    if not there(which):
        outer.ana_store(); found.append(there(which))
print(found)
"""
    assert run_program(program, tmp_path / "a", 0).strip() == "[True, True]"
    assert run_program(program, tmp_path / "b", 300).strip() == "[False, True, False, True]"
