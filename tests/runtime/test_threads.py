"""Threads for one piece of work: all of it is done, errors come out, nothing is left."""

import os
import subprocess
import sys
import threading

import pytest
from support.processes import ask_python, run_program

from ana import maintenance
from ana.cli.common import Output
from ana.cli.progress import progress
from ana.errors import ANAError
from ana.runtime import threads


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_every_item_is_worked_on_once(count):
    """Whatever the number of threads, and never on more than were asked for."""
    done, on = [], set()

    def work(item):
        on.add(threading.get_ident())
        done.append(item)

    threads.run(work, range(500), count)
    assert sorted(done) == list(range(500))
    assert len(on) <= count


def test_items_overlap():
    """Two items wait for each other: both are under way at once."""
    barrier = threading.Barrier(2, timeout=120)
    threads.run(lambda _: barrier.wait(), range(2), 2)


@pytest.mark.parametrize("count", [1, 4])
def test_the_earliest_error_is_raised(count):
    """After it nothing new is begun."""
    begun = []

    def work(item):
        begun.append(item)
        if item >= 10:
            raise ValueError(item)

    with pytest.raises(ValueError, match="10") as caught:
        threads.run(work, range(100_000), count)
    assert caught.value.args == (10,)
    assert len(begun) < 1000


def test_without_threads_the_caller_does_it_all(monkeypatch):
    """A process limit (ulimit -u) costs time, not the result."""

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    done = []
    threads.run(done.append, range(10), 4)
    assert done == list(range(10))


def test_threads_are_capped_by_the_environment(monkeypatch):
    """ANA_THREADS lowers the number, never raises it."""
    usual = threads.available()
    assert 1 <= usual <= os.cpu_count()
    monkeypatch.setenv("ANA_THREADS", "1")
    assert threads.available() == 1
    monkeypatch.setenv("ANA_THREADS", "100000")
    assert threads.available() == usual


@pytest.mark.parametrize("said", ["0", "-1", "many", "1.5", "²"])
def test_nonsense_in_the_environment(monkeypatch, said):
    """It is an error that names the variable."""
    monkeypatch.setenv("ANA_THREADS", said)
    with pytest.raises(ANAError, match="ANA_THREADS"):
        threads.available()


def test_threads_follow_the_affinity():
    """A process that is bound to one CPU uses one thread."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert threads.available() == 1
    finally:
        os.sched_setaffinity(0, before)


@pytest.mark.parametrize("broken", ["work", "handler"])
def test_who_waits_for_another_thread_is_woken(broken):
    """An error in the work, and one that a signal handler raises between two items, ends the others' waiting."""
    caller = threading.get_ident()
    waits, given_up = threading.Event(), threading.Event()

    class Items(list):
        def __len__(self):
            if broken == "handler" and waits.is_set() and threading.get_ident() == caller:
                raise KeyboardInterrupt
            return super().__len__()

    def work(item):
        if threading.get_ident() != caller:
            waits.set()
            assert given_up.wait(120)
        elif waits.wait(120) and broken == "work":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        threads.run(work, Items(range(1000)), 2, give_up=given_up.set)
    assert given_up.is_set()


INTERRUPTED = """
import os, signal, threading, time
from ana.runtime import threads

class Signal(BaseException):
    pass

def handler(*_):
    raise Signal

active, escaped, interrupted = {}, 0, 0

def work(item):
    active[item] = threading.get_ident()
    time.sleep(0.0003)
    del active[item]

signal.signal(signal.SIGALRM, handler)
for number in range(300):
    active.clear()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.00002 * number)
        threads.run(work, range(40), 8)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except Signal:
        interrupted += 1
        # What was interrupted in this thread has left its mark.
        escaped += any(thread != threading.get_ident() for thread in active.values())
print(interrupted > 50, escaped, flush=True)
os._exit(0)
"""


@pytest.mark.slow
def test_whenever_a_signal_handler_raises_no_work_goes_on_after_the_call():
    """Not while threads are started, nor while they are waited for: what they do has ended when the error comes out."""
    # In a process of its own: at some moments `threading` itself is left with a thread that never begins.
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["True", "0"]


NO_MORE_THREADS = """
import json, os, sys
import ana, ana.cli
from ana.__main__ import main
from support.classes import A
from support import limits

def stored_and_loaded(folder, size):
    content = os.urandom(size)
    ana.set_dl(pickle_dir=folder)
    uuid = A(content).make_uuid()
    ana.set_dl(pickle_dir=folder)
    return A.ana_load(uuid).x == content

folder = sys.argv[1]
# So that nobody has to import what root alone may read.
stored_and_loaded(folder + "-warm", 3 << 20)
os.umask(0)
COMMANDS = [["gc", "--older-than", "1d"], ["verify"], ["stats"], ["info"]]
for words in COMMANDS:
    main(["-q", "-d", folder + "-warm", *words])
limits.no_more_threads()
sizes = {size: stored_and_loaded(folder, size) for size in (1000, 600_000, 3 << 20, 12 << 20)}
layer = ana.set_dl(pickle_dir=folder)
many = len(layer.load_many(layer.store_many([A(number) for number in range(50)])))
print(json.dumps([list(sizes.values()), many, [main(["-q", "-d", folder, *words]) for words in COMMANDS]]))
"""


@pytest.mark.slow
def test_where_no_thread_can_be_had_all_of_it_works(short_folder):
    """Under RLIMIT_NPROC, small and large states are stored and loaded, and the commands do their work."""
    short_folder.chmod(0o777)
    found = ask_python(NO_MORE_THREADS, short_folder / "s", cwd=short_folder)
    assert found == [[True] * 4, 50, [0, 0, 0, 0]]


def test_a_terminal_without_threads_gets_lines(monkeypatch, capfd):
    """Progress bars move in a thread: where there is none, they are left out."""
    monkeypatch.setattr(threads, "start", lambda _: False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress(Output(), "verify") as on_progress:
        on_progress(maintenance.Progress("reading", 1, 2))
    assert capfd.readouterr().err == ""


AT_THE_END = """
import atexit, os, sys, threading, time
import ana
from support.classes import A

ana.set_dl(pickle_dir=sys.argv[1])

def save():
    for size in (1000, 3 << 20, 12 << 20):
        uuid = A(os.urandom(size)).make_uuid()
        os.write(1, b"%d " % (len(A.ana_load(uuid).x) == size))

class Last:
    def __del__(self, save=save):
        save()

def after_main():
    threading.main_thread().join()
    save()

if sys.argv[2] == "atexit":
    atexit.register(save)
elif sys.argv[2] == "thread":
    threading.Thread(target=after_main).start()
else:
    A(os.urandom(3 << 20)).make_uuid()
    # Goes as the first of this module's names, when the interpreter takes itself apart.
    _last = Last()
"""


@pytest.mark.parametrize("when", ["atexit", "thread", "destructor"])
def test_at_the_interpreters_end_states_are_stored_and_loaded(tmp_path, when):
    """By an exit handler, a thread that outlives the main one, or a destructor while modules go: nothing hangs."""
    assert run_program(AT_THE_END, tmp_path / "s", when).split() == ["1"] * 3
