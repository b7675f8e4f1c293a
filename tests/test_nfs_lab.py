"""Real NFS: the lab boots, and the tests in tests/nfs pass in it; it leaves nothing behind on this machine."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "tests" / "nfs" / "lab"
INSTALL = "apt-get install user-mode-linux nfs-kernel-server kmod gcc iproute2"
CANNOT_RUN = 125
needs_lab = pytest.mark.skipif(
    os.geteuid() != 0 or not all(map(shutil.which, ("linux.uml", "rpc.nfsd", "depmod", "gcc", "tc"))),
    reason=f"the NFS lab needs root and: {INSTALL}",
)


def run_lab(*words, **variables):
    """Run the lab; returns the finished process with its output."""
    return subprocess.run(
        [LAB, *words], capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | variables
    )


@pytest.mark.slow
@needs_lab
def test_the_nfs_tests_pass_in_the_lab(pytestconfig):
    """Everything in tests/nfs passes on NFSv4.2 and NFSv3, with nothing skipped."""
    # A little less than pytest's own limit for one test.
    seconds = float(pytestconfig.getini("faulthandler_timeout")) - 20
    done = run_lab(
        f"--seconds={seconds}",
        *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", "--fail-on-skip", "tests/nfs"),
        PYTHONPATH=str(ROOT),
        PYTHONDONTWRITEBYTECODE="1",
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@needs_lab
def test_the_lab_exits_with_the_commands_status_and_shows_its_output():
    """Standard output, standard error, the folder, the environment and the status are the command's."""
    done = run_lab("sh", "-c", 'echo "$GREETING from $PWD"; echo and a complaint >&2; exit 7', GREETING="hello")
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.splitlines() == [f"hello from {ROOT}", "and a complaint"]


@pytest.mark.slow
@needs_lab
@pytest.mark.parametrize(
    ("number", "started"),
    [
        (signal.SIGINT, False),
        (signal.SIGTERM, False),
        (signal.SIGKILL, False),
        (signal.SIGTERM, True),
        (signal.SIGKILL, True),
    ],
)
def test_an_interrupted_lab_leaves_nothing_behind(tmp_path, number, started):
    """No process and no folder is left, whenever and however it is stopped."""
    with subprocess.Popen(
        [LAB, "sh", "-c", "echo started; sleep 600"], stdout=subprocess.PIPE, env=os.environ | {"TMPDIR": str(tmp_path)}
    ) as lab:
        wait_until(lambda: any(tmp_path.iterdir()))
        if started:
            assert lab.stdout.readline() == b"started\n"
        lab.send_signal(number)
        # The end of the output is the end of the last process that holds it.
        assert lab.stdout.read() == b""
    wait_until(lambda: not any(tmp_path.iterdir()))
    assert not processes_that_mention(str(tmp_path))


@pytest.mark.slow
@needs_lab
def test_the_lab_ends_a_command_that_takes_too_long():
    """After its time the command is ended, and the status says so, as with `timeout`."""
    done = run_lab("--seconds=5", "sleep", "600")
    assert done.returncode == 124
    assert "did not end within 5 s" in done.stderr


def test_the_lab_says_what_is_missing(tmp_path):
    """Without its packages the lab names them and how to install them."""
    for name in ("sh", "python3", "dirname", "readlink"):
        (tmp_path / name).symlink_to(sys.executable if name == "python3" else shutil.which(name))
    done = run_lab("true", PATH=str(tmp_path))
    assert done.returncode == CANNOT_RUN
    assert INSTALL in done.stderr
    assert "linux.uml" in done.stderr


def test_the_lab_explains_itself():
    """`--help` says what a command finds in the lab, and what the lab needs."""
    done = run_lab("--help")
    assert done.returncode == 0
    assert "ANA_TEST_MOUNTS" in done.stdout
    assert INSTALL in done.stdout


@pytest.mark.slow
def test_the_nfs_tests_say_what_they_need():
    """Asked for by name where there is no shared filesystem, they skip and say how to get one."""
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/nfs/test_writers.py"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANA_")}
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ANA_TEST_MOUNTS=/mnt/a:/mnt/b" in done.stdout
    assert "passed" not in done.stdout


def wait_until(condition):
    """Wait for a condition; the time limit is far beyond what it takes."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def processes_that_mention(text):
    """List the processes with a text in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if text.encode() in words:
            found.append(words)
    return found
