"""Many processes at once on one tree: each state is there once, whole, and nothing else is."""

import contextlib
import hashlib
import multiprocessing
import os
import random
import signal

import blake3
import pytest
from support import raw_record, raw_tree

import ana
from ana.format import record
from ana.stores.directory import store
from ana.stores.directory.store import DirectoryStore

pytestmark = pytest.mark.once

KIB = 1 << 10
MIB = 1 << 20
NOISE = blake3.blake3(b"noise").digest(length=2 * MIB)
UUID = "5f3ac0e1-1234-8123-9123-123456789abc"
PATIENCE_SECONDS = 120

fork = multiprocessing.get_context("fork")


@pytest.fixture
def tree(tmp_path):
    """Where the processes make a tree."""
    return tmp_path / "pickles"


def _content(value):
    return record.content("", [memoryview(value)])


def _in_processes(number_of_processes, work):
    """Call `work(number)` in so many forked processes at the same moment; return what each returned."""
    with _crowd(number_of_processes, lambda number, sender: sender.send(_result(work, number))) as (_, receivers):
        answers = [receiver.recv() if receiver.poll(PATIENCE_SECONDS) else "no answer" for receiver in receivers]
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
    return answers


def _result(work, number):
    try:
        return work(number)
    except Exception as error:
        return error


@contextlib.contextmanager
def _crowd(number_of_processes, work):
    """Fork processes that call `work(number, sender)` at the same moment; yield them and what receives."""
    gate = os.pipe()
    pipes = [fork.Pipe(duplex=False) for _ in range(number_of_processes)]
    processes = [
        fork.Process(target=_enter, args=(gate, work, number, sender)) for number, (_, sender) in enumerate(pipes)
    ]
    for process, (_, sender) in zip(processes, pipes, strict=True):
        process.start()
        sender.close()
    for end in gate:
        os.close(end)
    with contextlib.ExitStack() as stack:
        yield processes, [stack.enter_context(receiver) for receiver, _ in pipes]
    for process in processes:
        process.join()
        process.close()


def _enter(gate, work, number, sender):
    reading, writing = gate
    os.close(writing)
    # The end of the file: when all are there, and the parent has closed its end.
    os.read(reading, 1)
    work(number, sender)


def _check_all(tree, number_of_states):
    """Every file in the tree is `ana.json` or a whole state, and there are so many."""
    states = raw_tree.states(tree)
    assert len(states) == number_of_states
    assert raw_tree.strangers(tree) == []
    for path in states:
        part, _ = raw_record.read((tree / path).read_bytes())
        assert str(raw_tree.path_of(tree, part.key).relative_to(tree)) == path


@pytest.mark.slow
def test_a_new_tree_is_made_once_by_many(tree):
    """Eight processes open the same new store at once: all get the same store, whose `ana.json` stays."""

    def work(number):
        store = DirectoryStore(str(tree))
        store.put(f"state {number}", _content(b"%d" % number), (), repair=False)
        return store.config.id

    for _ in range(4):
        ids = _in_processes(8, work)
        assert set(ids) == {raw_tree.config(tree)["id"]}
        _check_all(tree, 8)
        for path in sorted(tree.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        tree.rmdir()


@pytest.mark.parametrize("durable", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_64_processes_store_one_uuid(tree, durable):
    """All succeed, exactly one of them has written, and everyone finds the state whole at once."""
    DirectoryStore(str(tree))

    def work(_):
        store = DirectoryStore(str(tree), durable=durable)
        written = store.put(UUID, _content(NOISE[: 20 * KIB]), (), repair=False)
        return written, [bytes(segment) for segment in store.get(UUID).segments()] == [NOISE[: 20 * KIB]]

    answers = _in_processes(64, work)
    assert sorted(written for written, _ in answers) == [False] * 63 + [True]
    assert all(whole for _, whole in answers)
    _check_all(tree, 1)


def test_one_of_many_writes_a_large_state(tree, monkeypatch):
    """Of 16 processes one writes a state that is worth a lock, and the others find it: the lock saves their work."""
    monkeypatch.setattr(store, "LOCKED_BYTES", len(NOISE))
    DirectoryStore(str(tree))

    def work(_):
        before = _bytes_written()
        written = DirectoryStore(str(tree)).put(UUID, _content(NOISE), (), repair=False)
        return written, _bytes_written() - before

    answers = _in_processes(16, work)
    assert sorted(written for written, _ in answers) == [False] * 15 + [True]
    assert sum(size_bytes for _, size_bytes in answers) < 2 * len(NOISE)
    _check_all(tree, 1)


def _bytes_written():
    """Return how many bytes this process has handed to write calls (proc(5), /proc/pid/io)."""
    with open("/proc/self/io", encoding="ascii") as file:
        fields = dict(line.split(": ") for line in file)
    return int(fields["wchar"])


def test_different_contents_under_one_uuid_first_writer_wins(tree):
    """Of 32 different states under one explicit UUID exactly one is there, the same for everybody."""
    DirectoryStore(str(tree))

    def work(number):
        store = DirectoryStore(str(tree))
        written = store.put("chosen", _content(b"state %d" % number), (), repair=False)
        return written, bytes(store.get("chosen").segments()[0])

    answers = _in_processes(32, work)
    winners = [number for number, (written, _) in enumerate(answers) if written]
    assert len(winners) == 1
    assert {found for _, found in answers} == {b"state %d" % winners[0]}
    _check_all(tree, 1)


@pytest.mark.slow
def test_many_processes_heal_one_state(tree):
    """16 processes find the same damage and store the state again: afterwards it is whole, for all of them."""
    store = DirectoryStore(str(tree))
    path = raw_tree.path_of(tree, UUID)
    for turn in range(2):
        store.put(UUID, _content(NOISE[: 20 * KIB]), (), repair=True)
        damaged = path.read_bytes()[:-1] + bytes([turn])
        path.write_bytes(damaged)

        def work(_):
            own = DirectoryStore(str(tree))
            own.put(UUID, _content(NOISE[: 20 * KIB]), (), repair=True)
            return [bytes(segment) for segment in own.get(UUID).segments()] == [NOISE[: 20 * KIB]]

        assert all(_in_processes(16, work))
        assert raw_record.read(path.read_bytes())[0].key == UUID
        assert damaged in [(tree / name).read_bytes() for name in raw_tree.strangers(tree)]


@pytest.mark.leaves_temporaries("writers are killed while they write")
@pytest.mark.slow
def test_16_processes_store_500_states_and_some_are_killed(tree):
    """Half of the states are common to all. Whatever was acknowledged loads; each state is there once."""
    DirectoryStore(str(tree))
    choice = random.Random(7)
    acknowledged = set()
    with _crowd(16, lambda number, sender: _store_many(tree, number, sender)) as (processes, receivers):
        for process, receiver in list(zip(processes, receivers, strict=True))[::4]:
            acknowledged.update(receiver.recv() for _ in range(choice.randrange(1, 400)))
            os.kill(process.pid, signal.SIGKILL)
        for receiver in receivers:
            _drain(receiver, acknowledged)
    assert len(acknowledged) >= 250 + 12 * 250
    layer = ana.DirDataLayer(tree)
    for key in acknowledged:
        assert layer.load_state(key) == _value(key)
    assert len(raw_tree.states(tree)) >= len(acknowledged)
    assert all(os.path.basename(name).startswith(".tmp-") for name in raw_tree.strangers(tree))


def _value(key):
    return hashlib.sha256(key.encode()).digest() * (len(key) * 20)


def _store_many(tree, number, sender):
    layer = ana.DirDataLayer(tree)
    keys = [f"common {turn}" for turn in range(250)] + [f"own {number} {turn}" for turn in range(250)]
    random.Random(number).shuffle(keys)
    for key in keys:
        layer.store_state(key, _value(key))
        sender.send(key)


def _drain(receiver, acknowledged):
    while True:
        try:
            acknowledged.add(receiver.recv())
        except EOFError:
            return
