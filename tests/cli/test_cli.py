"""The command line as people and programs use it: real processes, pipes, terminals and signals."""

import contextlib
import dataclasses
import errno
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from support import wheels
from support.care import ran
from support.terminal import environment, on_a_terminal

import ana
from ana import demo
from ana.__main__ import main
from ana.cli import common
from ana.cli import demo as demo_cli

ROOT = Path(ana.__file__).parents[1]
TINY = ("demo", "--size", "2", "--tasks", "4", "--workers", "2")
TINIEST = ("demo", "--size", "1", "--tasks", "1", "--workers", "1")
POLL_SECONDS = 0.005
PATIENCE_SECONDS = 120
COLOUR = re.compile(r"\x1b\[[0-9;]*m")

CORE = {"blake3", "zstandard", "filelock"} - wheels.left_out()
CLI_EXTRA = ("click", "rich", "markdown_it", "mdurl", "pygments")


def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m ana` to its end."""
    command = [sys.executable, "-m", "ana", *arguments]
    return subprocess.run(command, env=environment(**changes), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def result(tmp_path_factory) -> demo.DemoResult:
    """One run of the demonstration, whose figures the tables have to show."""
    folder = tmp_path_factory.mktemp("demo")
    return demo.run(demo.Settings(size_bytes=2_000_000, tasks=4, workers=2, folder=folder))


# Programs


@pytest.mark.slow
def test_json_is_one_document_of_measurements(tmp_path):
    """`--json` prints one document, whose figures keep the promises."""
    done = run(*TINY, "--json", "--dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    value, reference = document["by_value"], document["by_reference"]
    assert document["passed"]
    assert all(document["checks"].values())
    assert reference["sent_bytes"] < value["sent_bytes"] / 100
    assert value["sent_bytes"] > 4 * document["object_bytes"]
    assert value["copies"] == 5
    assert reference["copies"] == reference["workers"] <= 2
    assert reference["disk_bytes"] > 0
    assert document["stored_again"]["files_changed"] == 0
    assert document["flipped_byte"]["error"] == "CorruptedStateError"
    assert document["uuid"] in document["flipped_byte"]["message"]
    assert document["flipped_byte"]["healed"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_small_is_a_size(tmp_path):
    """`--size small` is 4 MB."""
    done = run("demo", "--size", "small", "--tasks", "1", "--workers", "1", "--json", "--dir", str(tmp_path))
    assert json.loads(done.stdout)["settings"]["size_bytes"] == 4_000_000


def test_keep_keeps_the_store(tmp_path):
    """With `--keep` the folder stays, and the document (`--json` may come before the command) says where it is."""
    done = run("--json", *TINIEST, "--keep", "--dir", str(tmp_path))
    document = json.loads(done.stdout)
    (kept,) = tmp_path.rglob(f"{document['uuid']}*")
    assert kept.is_relative_to(document["pickle_dir"])


@pytest.mark.parametrize("arguments", [(*TINIEST, "-q"), ("--quiet", *TINIEST)])
def test_quiet_says_nothing(arguments, tmp_path):
    """With `-q`, before or after the command, a run that passes prints nothing at all."""
    done = run(*arguments, "--dir", str(tmp_path))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_version_and_help(capfd):
    """`--version` says the version; `--help` and `-h` name the commands, options and exit codes."""
    assert run("--version").stdout.split() == ["ana,", "version", ana.__version__]
    assert "demo" in ran(capfd, "--help").out
    assert "130  interrupted" in ran(capfd, "-h").out
    shown = ran(capfd, "demo", "-h").out
    assert all(option in shown for option in ("--size", "--tasks", "--workers", "--dir", "--keep", "--json", "-q"))
    assert "ana demo --json | jq" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("dmeo",), "No such command 'dmeo'. Is it 'demo'?"),
        (("xyz",), "No such command 'xyz'.\n"),
        (("demo", "--size", "huge"), "'huge' is neither a number of MB nor 'small'"),
        (("demo", "--size", "nan"), "'nan' is neither"),
        (("demo", "--size", "inf"), "'inf' is neither"),
        (("demo", "--size", "0"), "not between 1 and 100000 MB"),
        (("demo", "--size", "-5"), "not between"),
        (("demo", "--tasks", "0"), "--tasks"),
        (("demo", "--workers", "65"), "--workers"),
        (("demo", "--dir", "/nowhere/at/all"), "does not exist"),
        (("demo", "--dir", __file__), "is a file"),
        (("demo", "more"), "unexpected extra argument"),
        (("completion",), "\n    bash,\n    zsh,"),
    ],
)
def test_wrong_usage_exits_2_before_anything_is_done(arguments, said, capfd):
    """A wrong command line is answered on stderr, with exit code 2."""
    done = ran(capfd, *arguments)
    assert (done.code, done.out) == (2, "")
    assert said in done.err
    assert "Traceback" not in done.err


def test_no_command_shows_the_help():
    """`ana` alone is wrong usage, answered with the help."""
    done = run()
    assert done.returncode == 2
    assert "demo" in done.stdout + done.stderr


def test_main_takes_arguments_and_returns_the_code(capfd):
    """`ana.__main__.main` may be called with arguments, and returns instead of exiting."""
    assert main(["--version"]) == 0
    assert main(["dmeo"]) == 2
    assert ana.__version__ in capfd.readouterr().out


def test_a_failing_filesystem_is_one_line(tmp_path):
    """A disk that is full ends the command with a line that says so and exit code 1, and leaves nothing."""
    limit = "import resource,sys; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000));"
    code = f"{limit} from ana.__main__ import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *TINIEST, "--dir", str(tmp_path)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert os.strerror(errno.EFBIG) in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_crash(tmp_path):
    """`ana demo | true` ends without a traceback."""
    command = f"'{sys.executable}' -m ana {' '.join(TINIEST)} --dir '{tmp_path}' | true"
    done = subprocess.run(["sh", "-c", command], env=environment(), capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# A failed check


BROKEN = {
    "copies": ("by_reference", {"copies": 4}),
    "stored_again": ("stored_again", {"files_changed": 1}),
    "damage_caught": ("flipped_byte", {"error": "", "message": ""}),
}
"""A check, and a figure with which it fails."""


def broken(result: demo.DemoResult, check: str) -> demo.DemoResult:
    """Return the measurements with one figure that breaks its promise."""
    part, figures = BROKEN[check]
    return dataclasses.replace(result, **{part: dataclasses.replace(getattr(result, part), **figures)})


@pytest.mark.parametrize("check", BROKEN)
@pytest.mark.parametrize("mode", ["", "--json", "-q"])
def test_a_failed_check_is_named_and_exits_1(check, mode, result, monkeypatch, capsys):
    """A figure that breaks its promise is named on stderr in every mode, and the exit code is 1."""
    monkeypatch.setattr(demo, "run", lambda _settings, _progress: broken(result, check))
    assert main(["demo", *([mode] if mode else [])]) == 1
    said = capsys.readouterr()
    assert said.err == f"ana demo: failed: {check}\n"
    assert bool(said.out) == (mode != "-q")
    if mode == "--json":
        document = json.loads(said.out)
        assert [name for name, passed in document["checks"].items() if not passed] == [check]
        assert not document["passed"]


@pytest.mark.parametrize(
    ("check", "words"),
    [("copies", "copies made"), ("stored_again", "1 of"), ("damage_caught", "not noticed")],
)
def test_a_failed_check_turns_its_line_red(check, words, result):
    """Red is the line of the failed check, and no other."""
    red = [line for line in rendered(broken(result, check), colour=True).splitlines() if "\x1b[1;31m" in line]
    assert len(red) == 1
    assert words in COLOUR.sub("", red[0])
    assert "\x1b[1;31m" not in rendered(result, colour=True)


def rendered(result: demo.DemoResult, *, colour: bool = False, width: int = 200) -> str:
    """Render the tables as a terminal would get them."""
    console = Console(width=width, force_terminal=colour, color_system="standard" if colour else None, highlight=False)
    with console.capture() as captured:
        console.print(demo_cli._demo_view(result))
    return captured.get()


# People


def test_the_table_shows_the_measurements(result):
    """Each row has the run's own figures, as usual and by reference."""
    shown = rendered(result)
    value, reference = result.by_value, result.by_reference
    for words in (
        f"{result.points:,} points",
        f"{value.wall_seconds:.2f} s",
        f"{reference.wall_seconds:.2f} s",
        f"{reference.store_seconds:.2f} s",
        common.size(value.pipe_bytes),
        common.size(reference.pipe_bytes),
        common.size(reference.disk_bytes),
        f"{result.flipped_byte.offset:,}",
        "CorruptedStateError",
        result.uuid,
        f"0 of {result.stored_again.files_before} files changed",
    ):
        assert words in shown
    (copies,) = (line for line in shown.splitlines() if "copies made" in line)
    assert re.findall(r"\d+", copies)[:2] == [str(value.copies), str(reference.copies)]
    (back,) = (line for line in shown.splitlines() if "comes back" in line)
    assert back.split()[-2:] == ["no", "yes"]


@pytest.mark.parametrize("width", [80, 100])
def test_the_table_fits_a_terminal(result, width):
    """At 80 columns no line is wrapped or cut."""
    lines = [line.rstrip() for line in rendered(result, width=width).splitlines()]
    assert all(len(line) <= width for line in lines)
    assert not any("…" in line for line in lines)
    assert len(lines) == len(rendered(result).splitlines())
    for name in ("bytes through the pipe", "wall time", "same object in", "comes back"):
        assert sum(name in line for line in lines) == 1
    assert "".join(lines).count("times less") == 1


@pytest.mark.slow
def test_the_human_view_of_a_real_run(tmp_path):
    """In a pipe the tables come without colours, nothing is on stderr, and the folder is gone."""
    done = run(*TINY, "--dir", str(tmp_path))
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert done.stdout.count(" ok ") == 4
    assert "nothing is left on disk" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_output_in_an_encoding_without_box_characters(tmp_path):
    """An ASCII terminal gets ASCII, not a UnicodeEncodeError."""
    done = run(*TINIEST, "--dir", str(tmp_path), PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


@pytest.mark.slow
def test_a_terminal_gets_colours_and_progress(tmp_path):
    """On a terminal there are colours, and a bar that says which step runs and is gone in the end."""
    code, seen = on_a_terminal(*TINY, "--dir", str(tmp_path), COLUMNS="100")
    assert code == 0
    assert "by reference: starting 2 workers" in seen or "by reference: 4 tasks" in seen
    assert COLOUR.search(seen)
    assert "starting" not in seen[seen.index("A mesh of") :]


@pytest.mark.slow
def test_no_color_is_respected(tmp_path):
    """With NO_COLOR a terminal gets no colour: at most bold and dim."""
    code, seen = on_a_terminal(*TINIEST, "--dir", str(tmp_path), NO_COLOR="1", COLUMNS="100")
    assert code == 0
    codes = {part for found in COLOUR.findall(seen) for part in found[2:-1].split(";")}
    assert codes <= {"", "0", "1", "2"}


# Interruptions


def processes_of(session: int) -> set[int]:
    """Return the processes of a session that are there and not zombies."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.add(int(name))
    return found


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for something that has to come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def running(folder: Path, *, size: str, tasks: str = "200") -> Iterator[subprocess.Popen[str]]:
    """Start a long demonstration in a session of its own, whose temporary files all go below the folder."""
    command = [sys.executable, "-m", "ana", "demo", "--size", size, "--tasks", tasks, "--workers", "2"]
    with subprocess.Popen(
        command,
        env=environment(TMPDIR=str(folder)),
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def has_read(pid: int, size_bytes: int) -> bool:
    """Say whether a process has read as many bytes, from files and pipes."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/io").read_text().split()[1]) > size_bytes
    return False


MOMENTS = {
    "it builds": ("200", "200", lambda folder, _pids: any(folder.glob("ana-demo-*"))),
    "workers start": ("20", "200", lambda _folder, pids: len(pids) >= 3),
    "copies travel": ("20", "200", lambda _folder, pids: any(has_read(pid, 100_000_000) for pid in pids)),
    # So large that what is left to do takes most of a second.
    "references travel": ("60", "10", lambda folder, _pids: any(folder.rglob("*.pkl.zst"))),
}
"""Moments of a run: the object's size in MB, the number of tasks, and what is seen from outside then."""


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_ctrl_c_leaves_nothing(moment, tmp_path):
    """Ctrl-C, sent to all processes as a terminal does, leaves no folder and no process, and one line."""
    size, tasks, reached = MOMENTS[moment]
    with running(tmp_path, size=size, tasks=tasks) as process:
        wait_until(lambda: reached(tmp_path, processes_of(process.pid)))
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        wait_until(lambda: not processes_of(process.pid))
    assert (process.returncode, output) == (130, "")
    assert errors.strip() == "ana: interrupted"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_polite_kill_leaves_nothing(number, tmp_path):
    """SIGTERM and SIGHUP to the command alone end its workers and remove its folder, too."""
    with running(tmp_path, size="20") as process:
        wait_until(lambda: len(processes_of(process.pid)) >= 4)
        process.send_signal(number)
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
        wait_until(lambda: not processes_of(process.pid))
    assert (process.returncode, output, errors) == (128 + number, "", "")
    assert list(tmp_path.iterdir()) == []


# Installations


def installation(folder: Path, *packages: str) -> Path:
    """Make a folder that holds ana and these packages only, to be the whole of site-packages."""
    (folder / "ana").symlink_to(Path(ana.__file__).parent)
    for package in packages:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        (folder / package).symlink_to(Path(spec.origin).parent)
    return folder


def run_installed(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m ana` where only the folder's packages are to be found."""
    command = [sys.executable, "-S", "-m", "ana", *arguments]
    changed = environment(PYTHONPATH=str(folder))
    return subprocess.run(command, env=changed, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("present", "missing"), [((), "click"), (("click",), "rich")])
def test_without_its_libraries_it_says_what_to_install(present, missing, tmp_path):
    """Where click or rich is not installed, one line says what to do, and the exit code is 1."""
    done = run_installed(installation(tmp_path, *CORE, *present), "demo")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "ana: the command line needs click and rich: pip install click rich (the extra `cli`)\n"


def test_a_broken_library_is_not_taken_for_a_missing_one(tmp_path):
    """A module that is missing inside of a library raises, as it would anywhere."""
    folder = installation(tmp_path, *CORE)
    (folder / "click.py").write_text("import something_that_click_needs\n")
    done = run_installed(folder, "demo")
    assert done.returncode == 1
    assert "No module named 'something_that_click_needs'" in done.stderr


@pytest.mark.slow
def test_the_demo_needs_the_cli_extra_only(tmp_path):
    """The core's dependencies, click and rich are enough: no numpy."""
    site = tmp_path / "site"
    site.mkdir()
    done = run_installed(installation(site, *CORE, *CLI_EXTRA), *TINIEST, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["passed"]
