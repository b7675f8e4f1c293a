"""The fixture around every test: it finds each kind of leak, and nothing where there is none."""

import fnmatch
import shutil
import sys
from pathlib import Path

import pytest
from support import wheels

pytest_plugins = ["pytester"]

HERE = Path(__file__).parent

LEAKS = """
import os, subprocess, sys, threading, time
from support import leaks
import pytest

leaks.GRACE_SECONDS = 0.2
kept = []


def test_file_descriptor():
    kept.append(os.open("/dev/null", os.O_RDONLY))


def test_thread():
    thread = threading.Thread(target=time.sleep, args=(30,), name="a thread left alone", daemon=True)
    thread.start()


def test_child():
    kept.append(subprocess.Popen(["sleep", "30"]))


def test_zombie():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def test_child_of_a_thread():
    start = lambda: kept.append(subprocess.Popen(["sleep", "31"]))
    thread = threading.Thread(target=start)
    thread.start()
    thread.join()


def test_temporary(tmp_path):
    (tmp_path / "5f").mkdir()
    (tmp_path / "5f" / ".tmp-host-1-abc").write_bytes(b"")


def test_variable():
    os.environ["ANA_PICKLE_DIR"] = "/nowhere"


def test_folder(tmp_path):
    os.chdir(tmp_path)


def test_recursion_limit():
    sys.setrecursionlimit(5000)


def teardown_module():
    os.close(kept.pop(0))
    for child in kept:
        child.kill()
        child.wait()
"""

NAMED = {
    "file_descriptor": "file descriptor: * -> /dev/null",
    "thread": "thread: a thread left alone",
    "child": "child process: * sleep",
    "zombie": "child process: * (a zombie: nobody waited for it)",
    "child_of_a_thread": "child process: * sleep",
    "temporary": "temporary file: */5f/.tmp-host-1-abc",
    "variable": "setting: ANA_PICKLE_DIR=/nowhere",
    "folder": "setting: current folder: *test_folder*",
    "recursion_limit": "setting: recursion limit: 5000",
}

CLEAN = """
import multiprocessing, os, threading, time, weakref
import pytest
import ana


def test_threads_and_files_that_end(tmp_path, monkeypatch):
    monkeypatch.setenv("ANA_PICKLE_DIR", "/nowhere")
    monkeypatch.chdir(tmp_path)
    thread = threading.Thread(target=time.sleep, args=(0.05,))
    thread.start()
    (tmp_path / "final").write_bytes(b"x")


def test_a_file_in_a_cycle():
    class Node:
        pass
    node = Node()
    node.itself, node.pipe = node, os.pipe()
    assert node.pipe[1] == node.pipe[0] + 1
    weakref.finalize(node, os.closerange, node.pipe[0], node.pipe[1] + 1)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes(method):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(abs, [-1, -2]) == [1, 2]
        pool.close()
        pool.join()


def test_forkserver_is_a_new_one(monkeypatch):
    monkeypatch.setenv("ANA_TEST", "seen")
    context = multiprocessing.get_context("forkserver")
    with context.Pool(1) as pool:
        assert pool.apply(os.getenv, ("ANA_TEST",)) == "seen"
        pool.close()
        pool.join()


@pytest.mark.leaves_temporaries("stands for a writer that was killed")
def test_temporary_on_purpose(tmp_path):
    (tmp_path / ".tmp-host-1-abc").write_bytes(b"")


def test_variables_of_outside_are_hidden():
    assert "ANA_OUTSIDE" not in os.environ


def test_layer_is_set(tmp_path):
    kept_layers.append(ana.set_dl(pickle_dir=str(tmp_path)))


def test_layer_is_fresh():
    assert ana.get_dl() is not kept_layers.pop()


kept_layers = []
"""

INHERITED = """
import subprocess, sys


def test_nothing_is_inherited():
    program = (
        "import os, signal as s; "
        "print(s.getsignal(s.SIGHUP) == s.SIG_DFL, s.getsignal(s.SIGINT) == s.default_int_handler, "
        "os.getenv('PYTEST_ADDOPTS'))"
    )
    said = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert said.split() == ["True", "True", "None"]
"""

SKIPS = """
import pytest


def test_passes():
    pass


@pytest.mark.skip(reason="no such device")
def test_skipped():
    pass
"""

SKIPPED = """
import pytest
@pytest.mark.skip(reason={1!r})
def test_{0}():
    pass
"""

NO_WHEELS = {
    "3.11": set(),
    "3.13": set(),
    "3.14": set(),
    "3.15": {"atheris", "executorlib", "lmdb", "ray", "termtosvg-ng", "zstandard"},
}
"""What the tests do without on a Python, until its makers publish a wheel."""

INI = """
[pytest]
addopts = -p no:cacheprovider
filterwarnings =
    error
    ignore:This process .* is multi-threaded, use of fork:DeprecationWarning
markers = leaves_temporaries(reason): as in setup.cfg
"""


@pytest.fixture
def project(pytester):
    """A folder with this project's conftest in which pytest runs as a process of its own."""
    shutil.copy(HERE / "conftest.py", pytester.path)
    pytester.mkpydir("support")
    for name in ("leaks.py", "wheels.py"):
        shutil.copy(HERE / "support" / name, pytester.path / "support")
    pytester.makeini(INI)
    return pytester


@pytest.fixture(scope="module")
def leaking_run():
    """What a run of the leaking tests said; filled by the first test that asks."""
    return {}


def lines_about(output, name):
    """Cut the part about one test's teardown out of pytest's report."""
    _, _, after = output.partition(f"ERROR at teardown of test_{name} ___")
    return after.partition("\n___")[0].splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMED)
def test_a_leak_fails_its_test(name, project, leaking_run):
    """Each kind of leak turns its own test into an error, and is named in it."""
    if not leaking_run:
        project.makepyfile(test_leaks=LEAKS)
        result = project.runpytest_subprocess()
        leaking_run.update(outcomes=result.parseoutcomes(), output=result.stdout.str())
    assert leaking_run["outcomes"] == {"passed": len(NAMED), "errors": len(NAMED)}
    told = lines_about(leaking_run["output"], name)
    assert told[1] == "the test left behind"
    assert fnmatch.fnmatchcase(told[2], NAMED[name])


@pytest.mark.slow
def test_what_is_cleaned_up_is_no_leak(project, monkeypatch):
    """Ending threads, joined pools, garbage and monkeypatches pass; each test starts fresh."""
    monkeypatch.setenv("ANA_OUTSIDE", "hidden")
    project.makepyfile(test_clean=CLEAN)
    result = project.runpytest_subprocess()
    result.assert_outcomes(passed=10)


@pytest.mark.slow
def test_skips_fail_only_where_asked(project):
    """With --fail-on-skip a skipped test fails the run and is listed; without, it is only skipped."""
    project.makepyfile(test_skips=SKIPS)
    assert project.runpytest_subprocess().ret == pytest.ExitCode.OK
    strict = project.runpytest_subprocess("--fail-on-skip")
    assert strict.ret == pytest.ExitCode.TESTS_FAILED
    strict.stdout.fnmatch_lines(["*skips are failures here: *test_skips.py*"])


@pytest.mark.slow
def test_what_has_no_wheel_may_be_skipped(project):
    """With --fail-on-skip a test may want a package that setup.cfg leaves out on this Python, and no other one."""
    left_out = sorted(wheels.left_out({"python_version": "3.15"}))
    reasons = [f"no {name}: pip install {name}" for name in left_out]
    project.makepyfile(test_skips="".join(SKIPPED.format(n, reason) for n, reason in enumerate(reasons)))
    expected = pytest.ExitCode.OK if left_out == sorted(wheels.left_out()) else pytest.ExitCode.TESTS_FAILED
    assert project.runpytest_subprocess("--fail-on-skip").ret == expected


@pytest.mark.parametrize(("version", "names"), NO_WHEELS.items(), ids=NO_WHEELS)
def test_which_packages_have_no_wheel(version, names):
    """Nothing is left out but what is named here, and tests may be skipped for want of each of these."""
    machine = {"platform_machine": "x86_64", "sys_platform": "linux"}
    python = {"python_version": version, **machine}
    assert wheels.left_out(python) == names
    skipped = [f"Skipped: no {name}: pip install {name}" for name in NO_WHEELS["3.15"]]
    assert [wheels.are_missing(reason, python) for reason in skipped] == [version == "3.15"] * len(skipped)


@pytest.mark.slow
def test_a_run_in_the_background_tests_as_one_in_front(project):
    """Ignored signals and options of the run are not handed on to the programs that tests start."""
    project.makepyfile(test_inherited=INHERITED)
    command = f"trap '' INT HUP; PYTEST_ADDOPTS=--fail-on-skip exec {sys.executable} -m pytest"
    result = project.run("sh", "-c", command)
    result.assert_outcomes(passed=1)
