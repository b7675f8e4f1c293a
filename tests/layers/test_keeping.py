"""`dl.keeping`: what a process and its workers store in a block is kept while it runs, and for a time after."""

import concurrent.futures
import json
import math
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest
from support import care, processes, raw_tree
from support.classes import A

import ana
from ana import maintenance, stores
from ana.maintenance import Scope
from ana.persist import keeping
from ana.stores.directory import root_journal, roots

METHODS = pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])


@pytest.fixture
def layer(tmp_path):
    """The current layer, over a folder."""
    with ana.using_dl(pickle_dir=tmp_path / "store", durable=False) as made:
        yield made


def kept(layer, name="sweep"):
    """Return the UUIDs that a root names."""
    found = {root.name: set(root.uuids) for root in maintenance.roots(layer.home)}
    return found.get(name, set())


def store(value):
    """Be a task: store a state, and return its reference."""
    obj = A([value])
    obj.make_uuid()
    return obj


def uuid_of(value):
    """Return the UUID of what `store` stores."""
    with ana.using_dl(ana.DataLayer()):
        return A([value]).make_uuid()


def wait_for(condition):
    """Wait until a condition holds."""
    patience = time.monotonic() + processes.PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < patience
        time.sleep(0.01)


def test_what_is_stored_in_the_block_is_kept(layer):
    """Objects, bare states, in bulk, in any thread; not what is stored before or after."""
    store("before")
    with layer.keeping("sweep", ttl="1d"):
        inside = [store("inside").uuid, *layer.store_many([A(["a"]), A(["b"])])]
        layer.store_state("bare", 1)
        thread = threading.Thread(target=store, args=["thread"])
        thread.start()
        thread.join()
        assert kept(layer) == {*inside, "bare", uuid_of("thread")}
    store("after")
    assert kept(layer) == {*inside, "bare", uuid_of("thread")}


def test_what_was_there_already_is_kept_too(layer):
    """Stored by another process before, or by this one and sent now: the job relies on it."""
    mine = store("mine")
    ana.DirDataLayer(layer.home).store_many([A(["other's"])])
    with layer.keeping("sweep", ttl="1d"):
        assert store("other's").uuid in kept(layer)
        assert mine.uuid not in kept(layer)
        pickle.dumps(mine)
        assert mine.uuid in kept(layer)


def test_a_state_is_kept_when_its_uuid_is_known(layer):
    """Not at the end of the block: a kill may come at once."""
    with layer.keeping("sweep", ttl="1d"):
        for value in range(3):
            assert store(value).uuid in kept(layer)


def test_blocks_may_be_nested(layer):
    """What the inner one stores is kept under both names; the same name twice is one."""
    with layer.keeping("outer"), layer.keeping("inner", ttl="1d"), layer.keeping("inner", ttl="1d"):
        both = store("both").uuid
    assert kept(layer, "outer") == kept(layer, "inner") == {both}
    assert [root.until is None for root in maintenance.roots(layer.home)] == [False, True]


@pytest.mark.parametrize("inner", ["30d", None])
def test_the_latest_end_of_blocks_of_one_name_counts(layer, inner):
    """In one process as in several: nested blocks, and those of two threads, may have different times to live."""
    with layer.keeping("sweep", ttl="1h"), layer.keeping("sweep", ttl=inner):
        store("x")
    (root,) = maintenance.roots(layer.home)
    assert root.until is None if inner is None else root.until > time.time() + 29 * 86400


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_worker_keeps_as_long_as_the_longest_of_its_blocks(layer, method):
    """Those that it was started under, by name and time to live."""
    with layer.keeping("sweep", ttl="1h"), layer.keeping("sweep"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            uuid = pool.map(store, ["x"])[0].uuid
        lasting = [root for root in roots.read(layer.store) if root.ttl_seconds == math.inf]
        assert any(uuid in root.uuids for root in lasting)


def test_another_store_is_not_touched(layer, tmp_path):
    """The block is about one layer's store."""
    with layer.keeping("sweep"), ana.using_dl(pickle_dir=tmp_path / "other") as other:
        store("there")
    assert kept(layer) == kept(other) == set()


def test_a_layer_in_memory_keeps_all_anyway():
    """The block does nothing there."""
    with ana.using_dl(ana.DataLayer()) as layer, layer.keeping("sweep", ttl="1d"):
        store("x")


@pytest.mark.parametrize(
    ("name", "ttl"), [("", "1d"), ("x" * 201, "1d"), ("sweep", "soon"), ("sweep", 0), ("sweep", 10**400)]
)
def test_a_wrong_argument_begins_nothing(layer, name, ttl):
    """The block is not entered, and no file is made."""
    with pytest.raises(ValueError, match=r"name|ttl|characters|key"), layer.keeping(name, ttl=ttl):
        pytest.fail("it was entered")
    assert maintenance.roots(layer.home) == []


@pytest.mark.slow
@METHODS
def test_workers_keep_what_they_store(layer, method):
    """Workers that were started in the block, also if they are terminated like those of a Pool."""
    with layer.keeping("sweep", ttl="1d"), multiprocessing.get_context(method).Pool(2) as pool:
        found = pool.map(store, range(4))
    assert kept(layer) == {obj.uuid for obj in found}


@pytest.mark.slow
@pytest.mark.parametrize("chooses", [False, True])
@METHODS
def test_a_workers_worker_keeps_too(layer, method, chooses):
    """Whatever is started below the block, also if a worker chooses its store itself, and stores nothing."""
    with layer.keeping("sweep", ttl="1d"):
        context = multiprocessing.get_context(method)
        process = context.Process(target=start_another, args=[layer.home if chooses else None])
        process.start()
        process.join()
    assert kept(layer) == {uuid_of("far below")}


def start_another(folder):
    """Be a worker that starts another one."""
    if folder is not None:
        ana.set_dl(pickle_dir=folder, durable=False)
    process = multiprocessing.get_context("spawn").Process(target=store, args=["far below"])
    process.start()
    process.join()


def test_tasks_of_an_executor_that_is_older_than_the_block(layer):
    """What is sent in the block is kept, and what its tasks store; later tasks are not."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool, ana.Executor(pool) as executor:
        executor.submit(store, "before").result()
        with layer.keeping("sweep", ttl="1d"):
            executor.submit(store, "inside").result()
            executor.submit(len, b"x" * 200_000).result()
        executor.submit(store, "after").result()
        assert len(kept(layer)) == 2
        assert uuid_of("inside") in kept(layer)


def test_the_process_gives_signs_of_life(layer, monkeypatch):
    """While nothing is stored, too: the root is always as young as the last of them."""
    monkeypatch.setattr(keeping, "BEAT_SECONDS", 0.02)
    with layer.keeping("sweep", ttl="1d"):
        for _ in range(3):
            (path,) = roots_of(layer)
            care.make_older(path, 2)
            wait_for(lambda path=path: time.time() - path.stat().st_mtime < 3600)
    names = {thread.name for thread in threading.enumerate()}
    assert "ana-keeping" not in names


def roots_of(layer):
    """Return the files of roots."""
    return sorted((processes.Path(layer.home) / ".ana" / "roots").glob("*.json"))


PROGRAM = """
import sys, time, ana
layer = ana.set_dl(pickle_dir=sys.argv[1], durable=False)
with layer.keeping("sweep", ttl="1d"):
    for value in range(3):
        print(ana.Ref([value]).make_uuid(), flush=True)
    time.sleep(600)
"""


def test_a_killed_job_keeps_for_its_time_to_live(layer):
    """`kill -9`: all that it was told is stored stays for the time to live, goes then, and is gone a grace later."""
    command = [sys.executable, "-c", PROGRAM, layer.home]
    with subprocess.Popen(command, env=processes.environment(), stdout=subprocess.PIPE, text=True) as job:
        said = {job.stdout.readline().strip() for _ in range(3)}
        job.send_signal(signal.SIGKILL)
    shared = store("shared").uuid
    maintenance.keep(layer.home, "paper", [shared])
    assert kept(layer) == said
    for uuid in (*said, shared):
        care.make_older(raw_tree.path_of(layer.home, uuid), 9)
    assert maintenance.gc(layer.home, Scope(unreachable=True)).trashed == []
    for path in roots_of(layer):
        care.make_older(path, 1.1)
    assert len(maintenance.gc(layer.home, Scope(unreachable=True)).trashed) == 3
    for path in (*roots_of(layer), *processes.Path(layer.home).rglob(".trash-*")):
        care.make_older(path, 2.2)
    assert len(maintenance.gc(layer.home, Scope(unreachable=True)).deleted) == 3
    assert {state.uuid for state in maintenance.ls(layer.home)} == {shared}


def test_a_forked_child_begins_a_file_of_its_own(layer):
    """It never writes into its parent's; and the end of its block is not the parent's."""
    with layer.keeping("sweep", ttl="1d"):
        mine = store("parent").uuid
        if (pid := os.fork()) == 0:
            store("child")
            os._exit(0)
        os.waitpid(pid, 0)
        last = store("parent again").uuid
    assert len(roots_of(layer)) == 2
    assert kept(layer) == {mine, last, uuid_of("child")}


def test_a_name_that_was_forgotten_begins_anew(layer, monkeypatch):
    """What was stored before is not kept any more; what is stored from now on is."""
    monkeypatch.setattr(root_journal, "CHECK_SECONDS", 0.0)
    with layer.keeping("sweep", ttl="1d"):
        store("before")
        maintenance.forget(layer.home, "sweep")
        after = store("after").uuid
    assert kept(layer) == {after}


def test_a_process_that_was_stopped_for_too_long_gets_its_root_back(layer, monkeypatch):
    """Suspended past its end, so that a collection removed its root: the next sign of life brings all back."""
    monkeypatch.setattr(root_journal, "CHECK_SECONDS", 0.0)
    with layer.keeping("sweep", ttl="1d"):
        before = store("before").uuid
        care.make_older(raw_tree.path_of(layer.home, before), 9)
        for path in roots_of(layer):
            care.make_older(path, 3)
        assert len(maintenance.gc(layer.home, Scope(unreachable=True), without_roots=True).trashed) == 1
        assert kept(layer) == set()
        after = store("after").uuid
        assert kept(layer) == {before, after}
    done = maintenance.gc(layer.home, Scope(unreachable=True))
    assert len(done.brought_back) == 1


@pytest.mark.parametrize("end", ['"f73a74bb-29', "\0\0\0\0", ""])
def test_a_line_that_a_crash_has_cut_short_is_no_damage(layer, end):
    """The whole lines count, and collections go on."""
    with layer.keeping("sweep", ttl="1d"):
        uuid = store("x").uuid
    (path,) = roots_of(layer)
    path.write_bytes(path.read_bytes() + end.encode())
    assert kept(layer) == {uuid}


@pytest.mark.parametrize(
    ("start", "stop", "whole"),
    [
        (0, 1, {1, 2, 3}),
        (10, 12, {1, 2, 3}),
        (10, 60, {2, 3}),
        (38, 39, {2, 3}),
        (39, 78, {0, 3}),
        (117, 156, {0, 1, 2}),
    ],
)
def test_lines_that_another_client_does_not_see_yet_are_no_damage(layer, start, stop, whole):
    """NFS may send later lines first: what is not there yet reads as NUL. The others count, but for the next line."""
    with layer.keeping("sweep", ttl="1d"):
        uuids = [store(value).uuid for value in range(4)]
    (path,) = roots_of(layer)
    head, _, lines = path.read_bytes().partition(b"\n")
    assert len(lines) == 4 * 39
    path.write_bytes(head + b"\n" + lines[:start] + bytes(stop - start) + lines[stop:])
    assert kept(layer) == {uuids[number] for number in whole}


@pytest.mark.parametrize("damage", [b"", b"{}\n", b"7\n", b"\n\n"])
def test_a_damaged_file_is_not_taken_for_one_that_keeps_nothing(layer, damage):
    """What to keep is unknown then, and nothing is collected."""
    with layer.keeping("sweep", ttl="1d"):
        store("x")
    (path,) = roots_of(layer)
    head, _, lines = path.read_bytes().partition(b"\n")
    path.write_bytes(damage if damage == b"" else head + b"\n" + damage + lines)
    with pytest.raises(ana.UntrustedStoreError, match="not a root"):
        maintenance.gc(layer.home, Scope(unreachable=True))


def test_an_older_version_does_not_collect_beside_it(layer):
    """It reads one JSON object, whose UUIDs give the file's name: neither is so here, and it refuses to guess."""
    with layer.keeping("sweep", ttl="1d"):
        (path,) = roots_of(layer)
        assert not path.name.endswith(f".{roots._path('sweep', []).split('.')[-2]}.json")
        store("x")
    with pytest.raises(json.JSONDecodeError, match="Extra data"):
        json.loads(path.read_bytes())


class Rooted(stores.RecordStore):
    """A store of one's own that collects, and so has roots."""

    supports_roots = True

    def __init__(self):
        super().__init__("rooted:/one")
        self.records, self.roots = {}, []

    def read_record(self, key):
        return self.records[key]

    def write_record(self, key, data, *, replace):
        self.records[key] = data
        return True

    def keep(self, name, keys, *, ttl_seconds=math.inf):
        self.roots.append((name, *keys, ttl_seconds))
        return []


def test_a_store_of_ones_own_is_asked_to_keep_each_state(monkeypatch):
    """Signs of life are calls without a state; whatever it does then, `keep` is all that it needs."""
    monkeypatch.setattr(keeping, "BEAT_SECONDS", 0.02)
    own = Rooted()
    with ana.using_dl(store=own) as layer, layer.keeping("sweep", ttl="1d"):
        uuid = store("x").uuid
        wait_for(lambda: own.roots.count(("sweep", 86400.0)) >= 3)
    assert ("sweep", uuid, 86400.0) in own.roots
    assert layer.keep("other", A(["y"]), ttl="2d")
    assert own.roots[-1][0] == "other"
    assert own.roots[-1][2] == 2 * 86400.0


def test_a_root_that_cannot_be_written_is_an_error(layer):
    """What is not kept does not count as stored."""
    folder = processes.Path(layer.home) / ".ana" / "roots"
    folder.parent.mkdir(exist_ok=True)
    folder.write_bytes(b"in the way")
    with pytest.raises(ana.ANAError, match="roots"), layer.keeping("sweep", ttl="1d"):
        pytest.fail("it was entered")
