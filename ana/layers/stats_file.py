"""One small JSON file per process, with what it did: written at its end, where the environment's `ANA_STATS` says.

Also while it runs: after the first state that it stores or loads, and again after one each minute. So of a
process that is killed (a batch system's limit, `multiprocessing.Pool` at the end of its `with` block) most is known.
Nothing that goes wrong here is the program's affair: it is logged, once. `docs/observing.md` describes the file.
"""

import atexit
import json
import logging
import os
import sys
import threading
import time
from functools import cache
from typing import Any

from ana import settings
from ana._version import __version__
from ana.errors import StoreError
from ana.fs import atomic, paths
from ana.runtime import counters

__all__ = ["FORMAT", "begin", "is_report"]

FORMAT = 1
PERIOD_SECONDS = 60.0
LAST_WAIT_SECONDS = 1.0
JOBS = ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID", "PBS_JOBID", "PBS_ARRAY_INDEX", "LSB_JOBID")

_PREFIX, _SUFFIX = "ana-", ".json"
_log = logging.getLogger("ana.reporting")


class _Reporter:
    """Writes this process's file, and writes it again. Safe between threads; renewed in a forked child."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.renew()
        self.known_to_multiprocessing = False

    def renew(self) -> None:
        """Begin anew, as a process of its own."""
        self.name = f"{_PREFIX}{os.uname().nodename[:64]}-{os.getpid()}-{os.urandom(8).hex()}{_SUFFIX}"
        self.started = time.time()
        self.written: dict[str, dict[str, float]] = {}
        self.final = False
        self.failed = False
        self.next = 0.0
        self.lock = threading.Lock()

    def note_event(self) -> None:
        """Write the file if it is time for that."""
        if time.monotonic() >= self.next:
            self.write(final=False)

    def end(self, _: object = None) -> None:
        """Write the file for the last time, as far as one can know."""
        self.write(final=True)

    def write(self, *, final: bool) -> None:
        """Write the file, unless it says all that already or another thread is at it."""
        # Never for long: a daemon thread may be stuck at it, on a server that is away.
        if not (self.lock.acquire(timeout=LAST_WAIT_SECONDS) if final else self.lock.acquire(blocking=False)):
            return
        try:
            self.next = time.monotonic() + PERIOD_SECONDS
            stores = {home: values for home, values in counters.snapshot().items() if any(values.values())}
            if stores == self.written and (self.final or not stores):
                return
            self._replace(stores, final=final)
            self.written, self.final = stores, final
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not become the program's
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

    def tell_multiprocessing(self) -> None:
        """Have its processes write before they leave by os._exit; and those that it will fork, which forget that."""
        util: Any = sys.modules.get("multiprocessing.util")
        if util is None or self.known_to_multiprocessing:
            return
        self.known_to_multiprocessing = True
        util.register_after_fork(self, _Reporter.finish_with_multiprocessing)
        self.finish_with_multiprocessing()

    def finish_with_multiprocessing(self) -> None:
        """Have a process of multiprocessing write after everything else that it does at its end."""
        sys.modules["multiprocessing.util"].Finalize(None, self.end, exitpriority=-1000)


_reporter: _Reporter | None = None
_begin_lock = threading.Lock()


def begin() -> None:
    """Report on this process from now on, if the environment says so. Called with each new layer; only once counts."""
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
        atexit.register(_reporter.end)
        counters.on_event(_reporter.note_event)
        _reporter.tell_multiprocessing()
        os.register_at_fork(before=_reporter.tell_multiprocessing, after_in_child=_reporter.renew)


@cache
def _place(folder: str) -> str:
    """Return a folder's absolute path, as the program may go elsewhere; "" if there is none, which is logged once."""
    try:
        return paths.absolute(folder)
    except StoreError as error:
        _log.warning("no statistics of this process in %s: %s", folder, error)
        return ""


def is_report(name: str) -> bool:
    """Say whether a file's name is one that is given here."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


def _after_fork() -> None:
    global _begin_lock  # noqa: PLW0603 - one per process, replaced after fork
    _begin_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
