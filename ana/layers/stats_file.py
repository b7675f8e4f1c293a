"""One small JSON file of counts per process, written when it ends, into the folder named by `ANA_STATS`.

The file is also written after the first state that the process stores, finds or loads, and then after one state each
minute. So most counts of a killed process survive (a batch system's limit, `multiprocessing.Pool` at the end of its
`with` block). Errors never reach the program: they are logged, once. `docs/observing.md` describes the file.
"""

import json
import logging
import os
import sys
import threading
import time
from functools import cache

from ana import settings
from ana._version import __version__
from ana.errors import StoreError
from ana.fs import atomic, paths
from ana.runtime import counters, process_end

__all__ = ["FORMAT", "begin", "is_report"]

FORMAT = 1
PERIOD_SECONDS = 60.0
LAST_WAIT_SECONDS = 1.0
JOBS = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "PBS_JOBID", "PBS_ARRAY_INDEX", "LSB_JOBID")

_PREFIX, _SUFFIX = "ana-", ".json"
_log = logging.getLogger("ana.reporting")


class _Reporter:
    """Writes and rewrites this process's file. Safe between threads; renewed in a forked child."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.renew()

    def renew(self) -> None:
        """Start again, as a new process."""
        self.name = f"{_PREFIX}{os.uname().nodename[:64]}-{os.getpid()}-{os.urandom(8).hex()}{_SUFFIX}"
        self.started = time.time()
        self.written: dict[str, dict[str, float]] = {}
        self.final = False
        self.failed = False
        self.next = 0.0
        self.lock = threading.Lock()

    def note_event(self) -> None:
        """Write the file if it is due."""
        if time.monotonic() >= self.next:
            self.write(final=False)

    def end(self) -> None:
        """Write the file at the end of the process."""
        self.write(final=True)

    def write(self, *, final: bool) -> None:
        """Write the file, unless it is up to date or another thread is writing it."""
        # Never waits long: a daemon thread may hang in the write, if its server is away.
        if not (self.lock.acquire(timeout=LAST_WAIT_SECONDS) if final else self.lock.acquire(blocking=False)):
            return
        try:
            self.next = time.monotonic() + PERIOD_SECONDS
            stores = {home: values for home, values in counters.snapshot().items() if any(values.values())}
            if stores == self.written and (self.final or not stores):
                return
            self._replace(stores, final=final)
            self.written, self.final = stores, final
        except Exception as error:  # noqa: BLE001 - no error may reach the program
            if not self.failed:
                _log.warning("no statistics of this process in %s: %s", self.folder, error)
            self.failed = True
        finally:
            self.lock.release()

    def _replace(self, stores: dict[str, dict[str, float]], *, final: bool) -> None:
        data = json.dumps(
            {
                "format": FORMAT,
                "ana": __version__,
                "python": ".".join(map(str, sys.version_info[:3])),
                "host": os.uname().nodename,
                "pid": os.getpid(),
                "argv0": sys.argv[0] if sys.argv else "",
                "jobs": {name: os.environ[name] for name in JOBS if name in os.environ},
                "started": self.started,
                "ended": time.time(),
                "final": final,
                "stores": stores,
            }
        )
        atomic.replace(f"{self.folder}/{self.name}", data.encode() + b"\n", make_folder_too=True)


_reporter: _Reporter | None = None
_begin_lock = threading.Lock()


def begin() -> None:
    """Start writing this process's file, if `ANA_STATS` is set. Repeated calls do nothing."""
    folder = settings.STATS.value()
    if folder:
        _begin(folder)


def _begin(folder: str) -> None:
    global _reporter  # noqa: PLW0603 - one per process
    with _begin_lock:
        if _reporter is not None:
            return
        place = _place(folder)
        if not place:
            return
        _reporter = _Reporter(place)
        process_end.call(_reporter.end)
        counters.on_event(_reporter.note_event)
        os.register_at_fork(after_in_child=_reporter.renew)


@cache
def _place(folder: str) -> str:
    """Return a folder's absolute path, as the working folder may change; "" if there is none, which is logged once."""
    try:
        return paths.absolute(folder)
    except StoreError as error:
        _log.warning("no statistics of this process in %s: %s", folder, error)
        return ""


def is_report(name: str) -> bool:
    """Return whether a file's name has the form of these files."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _after_fork() -> None:
    global _begin_lock  # noqa: PLW0603 - one per process, replaced after fork
    _begin_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
