"""Around every test: a fresh layer, no ANA_* variables, and nothing left behind."""

import importlib.util
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from support import leaks, wheels

import ana
from ana.layers import opening, resolve  # noqa: F401 - opening: a test that is another user may not be able to import it

# No deadline, and no complaint about slow examples: how long one takes is the machine's affair, not a promise.
# In CI the same examples every time: a red run can be repeated.
in_ci = bool(os.environ.get("CI"))
hypothesis.settings.register_profile(
    "ana",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    print_blob=True,
    derandomize=in_ci,
)
hypothesis.settings.load_profile("ana")


# Its wheel on PyPI brings 2 GB of CUDA with it: who wants this says `pip install torch`; CI takes one without, where
# its index has one.
collect_ignore = [] if importlib.util.find_spec("torch") else ["docs/test_docs_torch.py", "objects/test_torch.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --fail-on-skip, for CI: a machine that cannot run a test has not checked it."""
    parser.addoption("--fail-on-skip", action="store_true", help="a skipped test fails the run")


def pytest_configure() -> None:
    """Let what the tests start begin as from a terminal, also where this run is in the background of a job."""
    # Options of this run, not of the runs of pytest that tests start.
    os.environ.pop("PYTEST_ADDOPTS", None)
    # A shell's background and nohup ignore these, which programs inherit; a handler they do not inherit.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _go_on)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Turn a run with skipped tests into a failed one; -ra has listed them with their reasons.

    A package that setup.cfg leaves out on this Python, because it has no wheel, is the one reason that is accepted.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter else []
    skipped = [report for report in skipped if not wheels.are_missing(report.longrepr[2])]
    if skipped and session.config.option.fail_on_skip and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        for report in skipped:
            reporter.write_line(f"skipped, and skips are failures here: {report.nodeid}", red=True)


@pytest.fixture(autouse=True)
def _nothing_is_left(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Fail a test that leaves files open, threads, processes, temporaries or settings behind."""
    with leaks.settings_restored():
        _forget_layers()
        before = leaks.picture()
        yield
        _forget_layers()
        left = leaks.left_since(before)
        leaks.stop_forkserver()
    if request.node.get_closest_marker("leaves_temporaries") is None:
        left += leaks.temporaries(tmp_path)
    if left:
        pytest.fail("\n".join(["the test left behind", *left]), pytrace=False)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Return an empty folder with a short path: engines make sockets in it."""
    with tempfile.TemporaryDirectory(prefix="ana-") as folder:
        yield Path(folder)


def _forget_layers() -> None:
    """Begin with an empty layer in memory, and with no layer that a reference of another test led to."""
    resolve._met.clear()
    ana.set_dl()


def _go_on(*_: object) -> None:
    """Ignore a signal as nohup asked, in this process alone."""
