"""Ctrl-C, SIGTERM and SIGHUP at any moment of the command, from its first import to the interpreter's end."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support import care, processes, raw_tree
from support.care import numbered, put
from support.terminal import environment

import ana
from ana import maintenance
from ana.runtime import interrupts

SENDER = '''
import os, signal, sys
moment, number = int(os.environ["MOMENT"]), int(os.environ["SIGNAL"])
seen = 0
def hook(event, arguments):
    """Send the signal at an event of that number since the package's first module was there."""
    global seen
    if seen or ("ana.runtime.interrupts" in sys.modules and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL):
        seen += 1
        if seen == moment:
            os.kill(os.getpid(), number)
sys.addaudithook(hook)
def count():
    with open(os.environ["COUNT"], "w") as file:
        file.write(str(seen))
import atexit; atexit.register(count)
'''
"""What runs before the command: moments are events that Python tells its audit hooks of (imports, opened files ...)."""

DESTRUCTOR = """
import os, signal, sys, time
from ana.runtime import interrupts
class Thing:
    def __del__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
def work():
    thing = Thing()
    del thing
    time.sleep(3600)
interrupts.answer()
sys.exit(interrupts.run(work))
"""

IN_EVAL = """
import os, signal, sys
from ana.runtime import interrupts
interrupts.answer()
sys.exit(interrupts.run(lambda: eval("os.kill(os.getpid(), signal.SIGINT)")))
"""

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store, and a folder with what runs before the command."""
    folder = tmp_path_factory.mktemp("signals")
    (folder / "sitecustomize.py").write_text(SENDER)
    store = care.store(folder / "store")
    for number in range(20):
        put(store, numbered(number))
    return folder


def ended(place, moment, number=signal.SIGINT, words=("verify",)):
    """Run a command that gets a signal at a moment; return its exit code and what it said."""
    changed = environment(
        MOMENT=str(moment), SIGNAL=str(int(number)), COUNT=str(place / "count"), ANA_PICKLE_DIR=str(place / "store")
    )
    changed["PYTHONPATH"] = f"{place}:{changed['PYTHONPATH']}"
    command = [sys.executable, "-m", "ana", *words]
    done = subprocess.run(
        command, env=changed, capture_output=True, text=True, check=False, timeout=processes.PATIENCE_SECONDS
    )
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def moments(place):
    """How many moments there are in a command that nobody interrupts."""
    assert ended(place, -1) == (0, "")
    return int((place / "count").read_text())


def check(place, moment, number):
    """See that a signal at a moment gives the documented code, or comes too late; and at most a line."""
    code, err = ended(place, moment, number)
    assert (code, err) in {(CODES[number], "ana: interrupted\n" if number == signal.SIGINT else ""), (0, "")}, moment


@pytest.mark.parametrize("share", range(0, 100, 9))
def test_a_signal_at_some_moments(place, moments, share):
    """Wherever in the command a signal comes, the exit code is the documented one, and there is no traceback."""
    assert moments > 500
    check(place, 1 + moments * share // 100, [signal.SIGINT, signal.SIGTERM, signal.SIGHUP][share % 3])


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES)
def test_a_signal_at_many_moments(place, moments, number):
    """The same, at forty moments, those of the end among them."""
    for moment in {*range(1, moments, moments // 25), *range(moments - 10, moments + 5)}:
        check(place, moment, number)


@pytest.mark.parametrize("number", CODES)
def test_a_signal_in_a_destructor_is_not_lost(number):
    """What Python would only report, and go on, ends the command a moment later."""
    command = [sys.executable, "-c", DESTRUCTOR, str(int(number))]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=processes.PATIENCE_SECONDS
    )
    assert done.returncode == CODES[number]
    assert done.stderr == ("ana: interrupted\n" if number == signal.SIGINT else "")


def test_a_signal_in_code_of_a_string():
    """Python would end the process by the signal, though it was handled."""
    command = [sys.executable, "-c", IN_EVAL]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, check=False, timeout=processes.PATIENCE_SECONDS
    )
    assert (done.returncode, done.stderr) == (130, "ana: interrupted\n")


def test_a_second_signal_ends_it_at_once():
    """Who presses Ctrl-C twice does not wait for anything to be cleaned up."""
    program = IN_EVAL.replace('lambda: eval("os.kill(os.getpid(), signal.SIGINT)")', "work").replace(
        "interrupts.answer()",
        "interrupts.answer()\ndef work():\n    try: os.kill(os.getpid(), 2)\n"
        "    finally: os.kill(os.getpid(), 2); print('late')",
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=processes.PATIENCE_SECONDS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "ana: interrupted\n")


@pytest.mark.slow
def test_ignored_signals_stay_ignored(place):
    """Under nohup, and in the background of a script, the command goes on."""
    for number in CODES:
        before = signal.signal(number, signal.SIG_IGN)
        try:
            assert ended(place, 300, number) == (0, "")
        finally:
            signal.signal(number, before)


@pytest.mark.parametrize("how", ["-c", "-m", "a script"])
def test_other_programs_keep_their_handlers(how, tmp_path):
    """Only the command's own process answers signals so: no program that imports the package, whatever it is called."""
    text = "import ana, signal; assert signal.getsignal(2) is signal.default_int_handler; print('kept')"
    (tmp_path / "ana").write_text(text)
    (tmp_path / "other.py").write_text(text)
    command = {"-c": ["-c", text, "ana"], "-m": ["-m", "other", "ana"], "a script": [str(tmp_path / "ana")]}[how]
    changed = environment()
    changed["PYTHONPATH"] += f":{tmp_path}"
    done = subprocess.run([sys.executable, *command], env=changed, capture_output=True, text=True, check=False, cwd="/")
    assert (done.stdout, done.stderr) == ("kept\n", "")


def test_within_a_program_handlers_come_back():
    """`main([...])` leaves a program's handlers as they were, and ends with the code of the signal."""
    before = {number: signal.getsignal(number) for number in CODES}
    for number, code in CODES.items():
        assert interrupts.run_within(lambda number=number: os.kill(os.getpid(), number) or 0) == code
    assert {number: signal.getsignal(number) for number in CODES} == before


@pytest.mark.slow
def test_an_interrupted_import_leaves_no_temporaries(place, tmp_path):
    """A command that writes can be interrupted, and run again: nothing half done is left."""
    maintenance.export_states(place / "store", [numbered(number) for number in range(20)], tmp_path / "all.ana")
    for moment in range(900, 1500, 200):
        there = tmp_path / f"there{moment}"
        code, err = ended(place, moment, words=("-d", str(there), "import", str(tmp_path / "all.ana")))
        assert (code, err) in {(130, "ana: interrupted\n"), (0, "")}
        assert not there.exists() or raw_tree.strangers(there) == []
        done = maintenance.import_file(there, tmp_path / "all.ana")
        assert len(done.imported) + done.present == 20
    assert Path(ana.__file__).exists()
