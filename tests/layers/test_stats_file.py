"""ANA_STATS: one file per process, however it ends; their sums; and that nothing of it is the program's affair."""

import dataclasses
import json
import os
import re
import stat
import subprocess
import sys
import time

import pytest
from support import processes

import ana
from ana import units
from ana.layers import statistics
from ana.layers.statistics import Stats

PATIENCE_SECONDS = 120

HEAD = """
import concurrent.futures, multiprocessing, os, pickle, signal, sys, time
import ana; from support import classes
store = sys.argv[1]
"""


def _environment(folder, **variables):
    return processes.environment(ANA_STATS=str(folder / "stats"), **variables)


def _run(folder, program, *arguments, **variables):
    """Run a program with ANA_STATS, and return the sum of what its processes wrote, and what it printed."""
    said = processes.run_program(
        HEAD + program, folder / "store", *arguments, env=_environment(folder, **variables), cwd=folder
    )
    return _summary(folder), said


def _summary(folder):
    place = folder / "stats"
    return statistics.summarize(place) if place.exists() else statistics.Summary(folder=str(place))


def _documents(folder):
    return [json.loads(path.read_text()) for path in (folder / "stats").iterdir()]


def _counts(summary):
    return summary.total.stored, summary.total.found, summary.total.from_memory, summary.total.from_store


MAKE = """
ana.set_dl(pickle_dir=store)
obj = classes.A(b"x" * 1000)
obj.make_uuid()
"""


# What is written


def test_a_process_writes_what_it_did(tmp_path):
    """One file: which process of which job it was, when, and by store the same numbers as `stats()`."""
    started = time.time()
    program = MAKE + "import json, dataclasses; print(json.dumps(dataclasses.asdict(ana.get_dl().stats())))"
    summary, said = _run(tmp_path, program, SLURM_JOB_ID="17", SLURM_ARRAY_TASK_ID="3", LSB_JOBID="x")
    (document,) = _documents(tmp_path)
    assert document["stores"] == {str(tmp_path / "store"): json.loads(said)}
    assert document["jobs"] == {"SLURM_JOB_ID": "17", "SLURM_ARRAY_TASK_ID": "3", "LSB_JOBID": "x"}
    assert (document["format"], document["ana"], document["argv0"]) == (1, ana.__version__, "-c")
    assert (document["host"], document["final"]) == (os.uname().nodename, True)
    assert started <= document["started"] <= document["ended"] <= time.time()
    (name,) = os.listdir(tmp_path / "stats")
    assert re.fullmatch(rf"ana-{os.uname().nodename}-{document['pid']}-[0-9a-f]{{16}}\.json", name)
    assert (summary.processes, summary.unfinished, summary.unreadable) == (1, 0, 0)
    assert summary.jobs == ("LSB_JOBID=x", "SLURM_ARRAY_TASK_ID=3", "SLURM_JOB_ID=17")
    assert summary.total == Stats(**json.loads(said))
    assert (summary.started, summary.ended) == (document["started"], document["ended"])


def test_a_process_that_did_nothing_writes_nothing(tmp_path):
    """Not even the folder is made."""
    summary, _ = _run(tmp_path, "ana.set_dl(pickle_dir=store)")
    assert summary.processes == 0
    assert not (tmp_path / "stats").exists()


def test_without_the_variable_nothing_is_written(tmp_path):
    """As ever."""
    processes.run_program(HEAD + MAKE, tmp_path / "store", cwd=tmp_path)
    assert os.listdir(tmp_path) == ["store"]


def test_all_that_came_after_the_first_file_is_in_the_last(tmp_path):
    """There is one file at any time, and in the end it has everything; also of stores in memory and that are gone."""
    program = (
        MAKE
        + """
reference = pickle.dumps(obj)
assert len(os.listdir("stats")) == 1
for _ in range(7):
    pickle.loads(reference)
for number in range(3):
    with ana.using_dl():
        classes.A(number).make_uuid()
"""
    )
    summary, _ = _run(tmp_path, program)
    assert summary.processes == 1
    assert summary.stores[str(tmp_path / "store")].from_memory == 7
    assert summary.stores["memory"].stored == 3
    assert _counts(summary) == (4, 0, 7, 0)


@pytest.mark.slow
def test_the_folder_is_meant_where_the_program_began(tmp_path):
    """A relative path is not lost when the program goes elsewhere; `~` is the user's home."""
    (tmp_path / "elsewhere").mkdir()
    program = 'ana.get_dl(); os.chdir("elsewhere")' + MAKE
    environment = processes.environment(ANA_STATS="stats")
    processes.run_program(HEAD + program, tmp_path / "store", env=environment, cwd=tmp_path)
    assert _summary(tmp_path).processes == 1
    environment = processes.environment(ANA_STATS="~/stats", HOME=str(tmp_path / "elsewhere"))
    processes.run_program(HEAD + MAKE, tmp_path / "store", env=environment, cwd=tmp_path)
    assert _summary(tmp_path / "elsewhere").processes == 1


@pytest.mark.parametrize(("umask", "mode"), [(0o002, 0o664), (0o022, 0o644)])
def test_others_can_read_it(tmp_path, umask, mode):
    """Files of a group's members can be summed up by one of them: the umask says who reads them."""
    processes.run_program(HEAD + MAKE, tmp_path / "store", env=_environment(tmp_path), cwd=tmp_path, umask=umask)
    (path,) = (tmp_path / "stats").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == mode


# How processes end


POOLS = {
    "pool": """
with context.Pool(2) as pool:
    assert set(pool.map(work, [obj] * 40, chunksize=1)) == {1000}
    pool.close()
    pool.join()
""",
    "executor": """
with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
    assert set(pool.map(work, [obj] * 40)) == {1000}
""",
    "processes": """
workers = [context.Process(target=work_many, args=(pickle.dumps(obj), 20)) for _ in range(2)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
    assert worker.exitcode == 0
""",
}

WORK = (
    HEAD
    + """
def work(obj):
    return len(obj.x)

def work_many(reference, times):
    for _ in range(times):
        work(pickle.loads(reference))

if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[2])
    ana.set_dl(pickle_dir=store)
    obj = classes.A(b"x" * 1000)
    obj.make_uuid()
"""
)


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_write_though_they_leave_by_exit(tmp_path, method, pool):
    """Each of 40 references is counted once, by the worker that unpickled it; and none of the parent's twice."""
    indented = POOLS[pool].replace("\n", "\n    ")
    (tmp_path / "program.py").write_text(WORK + indented, encoding="utf-8")
    processes.run(sys.executable, "program.py", tmp_path / "store", method, env=_environment(tmp_path), cwd=tmp_path)
    summary = _summary(tmp_path)
    stored, found, from_memory, from_store = _counts(summary)
    assert (stored, found) == (1, 0)
    assert from_memory + from_store == 40
    # Two workers at the most had tasks; one perhaps did them all.
    assert from_store <= (0 if method == "fork" else 2)
    assert summary.processes in ({2, 3} if pool != "processes" else {3})
    assert summary.unfinished == 0
    assert len({document["pid"] for document in _documents(tmp_path)}) == summary.processes


@pytest.mark.leaves_temporaries("a worker may be killed while it writes")
def test_a_pool_that_kills_its_workers_leaves_what_they_did_first(tmp_path):
    """The end of Pool's `with` block is a SIGTERM: what a worker loaded is known, and that it had no last word."""
    program = (
        WORK
        + """
    with context.Pool(1) as pool:
        assert set(pool.map(work, [obj] * 40, chunksize=1)) == {1000}
"""
    )
    (tmp_path / "program.py").write_text(program, encoding="utf-8")
    environment = _environment(tmp_path)
    processes.run(sys.executable, "program.py", tmp_path / "store", "forkserver", env=environment, cwd=tmp_path)
    summary = _summary(tmp_path)
    assert summary.processes == 2
    assert summary.total.from_store == 1
    assert summary.unfinished <= 1


FORK = (
    MAKE
    + """
reference = pickle.dumps(obj)
if os.fork() == 0:
    pickle.loads(reference)
    classes.A("child's").make_uuid()
    {end}
os.wait()
"""
)


@pytest.mark.parametrize(
    ("end", "from_memory", "unfinished"),
    [("sys.exit()", 2, 0), ("os._exit(0)", 1, 1), ("os.kill(os.getpid(), signal.SIGKILL)", 1, 1)],
)
def test_a_forked_child_writes_its_own(tmp_path, end, from_memory, unfinished):
    """Never the parent's numbers; one that is killed has written what it did until it first stored something."""
    program = FORK.format(end=f"pickle.loads(reference); {end}")
    summary, _ = _run(tmp_path, program)
    assert summary.processes == 2
    assert _counts(summary) == (2, 0, from_memory, 0)
    assert summary.unfinished == unfinished


def test_it_is_written_again_after_a_while(tmp_path):
    """What a process does after the period is known, though it is killed then."""
    program = (
        MAKE
        + """
from ana.layers import stats_file as reporting
reporting._reporter.next = 0.0  # as if a minute had passed
classes.A(1).make_uuid()
classes.A(2).make_uuid()
os._exit(0)
"""
    )
    summary, _ = _run(tmp_path, program)
    assert (summary.processes, summary.unfinished, summary.total.stored) == (1, 1, 2)


def test_an_error_or_a_signal_at_the_end_is_an_end(tmp_path):
    """An exception, sys.exit, and Ctrl-C run atexit, so the file is whole."""
    for number, end in enumerate(["1 / 0", "sys.exit(3)", "signal.raise_signal(signal.SIGINT)"]):
        done = subprocess.run(
            [sys.executable, "-c", HEAD + MAKE + end, str(tmp_path / str(number))],
            env=_environment(tmp_path),
            capture_output=True,
            check=False,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode != 0
        assert (_summary(tmp_path).processes, _summary(tmp_path).unfinished) == (number + 1, 0)


def test_threads_that_begin_at_once_write_one_file(tmp_path):
    """However many threads make the first layer."""
    program = """
import threading
start = threading.Barrier(8)
def work(number):
    start.wait()
    ana.DirDataLayer(store).store_state(str(number), number)
threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""
    summary, _ = _run(tmp_path, program)
    assert (summary.processes, summary.total.stored) == (1, 8)


# What goes wrong


@pytest.mark.parametrize("obstacle", ["a file", "below a file", "no permission"])
def test_what_goes_wrong_is_a_line_in_the_log(tmp_path, obstacle):
    """The program does not notice; the log says it once, with the folder."""
    place = tmp_path / "stats"
    if obstacle == "no permission":
        # Not even root makes folders there.
        place = "/proc/stats"
    else:
        place.write_text("")
        place = place / "below" if obstacle == "below a file" else place
    program = (
        HEAD
        + "import logging; logging.basicConfig()\n"
        + MAKE
        + """
from ana.layers import stats_file as reporting
reporting._reporter.next = 0.0
classes.A(2).make_uuid()
"""
    )
    environment = processes.environment(ANA_STATS=str(place))
    said = processes.run_program(program, tmp_path / "store", env=environment, stderr=processes.STDOUT)
    assert said.count("WARNING:ana.reporting:") == 1
    assert said.startswith(f"WARNING:ana.reporting:no statistics of this process in {place}:")
    assert len(said.splitlines()) == 1


def test_without_a_log_it_is_not_said(tmp_path):
    """Quiet by default: nothing on stderr."""
    (tmp_path / "stats").write_text("")
    environment = _environment(tmp_path)
    assert processes.run_program(HEAD + MAKE, tmp_path / "store", env=environment, stderr=processes.STDOUT) == ""


# The sum


def test_what_is_no_report_is_passed_over_or_counted(tmp_path):
    """Foreign files are not touched; files of that name that hold something else are counted as unreadable."""
    _run(tmp_path, MAKE)
    (path,) = (tmp_path / "stats").iterdir()
    document = json.loads(path.read_text())
    place = tmp_path / "stats"
    for number, text in enumerate(
        [
            "",
            "{",
            "[]",
            "null",
            "[" * 100_000,
            path.read_text()[:-40],
            json.dumps({**document, "format": 2}),
            json.dumps({**document, "stores": {"a": {"stored": "1"}}}),
            json.dumps({**document, "jobs": 1}),
        ]
    ):
        (place / f"ana-{number}.json").write_text(text)
    (place / "ana-folder.json").mkdir()
    (place / "notes.txt").write_text("mine")
    (place / "ana-host-1-5f.json.swp").write_text("")
    summary = statistics.summarize(place)
    assert (summary.processes, summary.unreadable, summary.total.stored) == (1, 10, 1)


def test_a_later_version_may_count_more(tmp_path):
    """Names that this version does not know are passed over."""
    _run(tmp_path, MAKE)
    (path,) = (tmp_path / "stats").iterdir()
    document = json.loads(path.read_text())
    for numbers in document["stores"].values():
        numbers["new"] = 5
    path.write_text(json.dumps({**document, "new": 1}))
    assert statistics.summarize(tmp_path / "stats").total.stored == 1


def test_a_folder_that_is_not_there(tmp_path):
    """StoreError, which names it."""
    with pytest.raises(ana.StoreError, match="nowhere"):
        statistics.summarize(tmp_path / "nowhere")


def test_an_empty_folder_sums_up_to_nothing(tmp_path):
    """No processes, no stores, all zero."""
    assert statistics.summarize(tmp_path) == statistics.Summary(folder=str(tmp_path))


# The command


def _command(*arguments, **variables):
    command = [sys.executable, "-m", "ana", *map(str, arguments)]
    environment = {**processes.environment(COLUMNS="200"), **variables}
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )


@pytest.fixture
def two(tmp_path):
    """The files of two processes, of which one found what the other had stored, and was killed."""
    _run(tmp_path, MAKE)
    _run(tmp_path, MAKE + "os._exit(0)")
    return tmp_path


def test_ana_stats_prints_sums_as_json(two):
    """`--json` is one document: the fields of Summary, with the sums."""
    done = _command("stats", "--jobs", two / "stats", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    summary = statistics.summarize(two / "stats")
    assert document["processes"] == 2
    assert document["unfinished"] == 1
    total = document["total"]
    assert (total["stored"], total["found"]) == (1, 1)
    assert total == document["stores"][str(two / "store")]
    assert total["spared_bytes"] == summary.total.spared_bytes == total["stored_raw_bytes"]
    assert total["moved_bytes"] == summary.total.moved_bytes > 0
    assert {each.name for each in dataclasses.fields(summary)} | {"total"} == document.keys()


def test_ana_stats_draws_a_table(two):
    """The store, how often, how much, and that a process had no last word; below the store's own numbers."""
    done = _command("-d", two / "store", "stats", ANA_STATS=str(two / "stats"))
    assert (done.returncode, done.stderr) == (0, "")
    raw_bytes = statistics.summarize(two / "stats").total.stored_raw_bytes
    size = units.size(raw_bytes)
    assert str(two / "store") in done.stdout
    assert "2 processes on 1 host," in done.stdout
    for line in (
        "stored 1 " + size,
        "found there already 1 " + size,
        "loaded from the store 0 0 B",
        f"spared {size}",
    ):
        assert line in re.sub(" +", " ", done.stdout)
    assert "1 process was killed, or still running" in done.stdout


def test_ana_stats_says_what_is_wrong(tmp_path):
    """A folder that is not there: one line, exit code 1."""
    done = _command("stats", "--jobs", tmp_path / "nowhere")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "nowhere") in done.stderr


def test_ana_stats_can_be_quiet(two):
    """`-q` prints nothing."""
    done = _command("-q", "stats", "--jobs", two / "stats")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
