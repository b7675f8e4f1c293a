"""Starts programs of engines: in Slurm's lab, on ranks of MPI, with the interpreter's own commands on PATH."""

import copyreg
import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from support import extras, processes

LAB = Path(__file__).parents[1] / "slurm" / "lab"


def require(*modules, slurm=False, mpi=False):
    """Skip a test whose engine is not installed, and say how it is."""
    extras.require(*modules, extra="engines")
    if slurm and not (shutil.which("sbatch") and shutil.which("munged", path=f"{os.environ['PATH']}:/usr/sbin")):
        pytest.skip("no Slurm: apt-get install slurm-wlm munge")
    if mpi and mpiexec() is None:
        pytest.skip("no mpiexec: pip install -e '.[engines]'")


def mpiexec():
    """Return the path of the mpiexec that belongs to mpi4py's library: pip puts it beside the interpreter."""
    return shutil.which("mpiexec", path=scripts())


def scripts():
    """Return a PATH that begins with this interpreter's programs, as in a virtual environment that is activated."""
    return os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])


def on_ranks(count):
    """Return the command that starts ranks, more of them than there are cores if need be."""
    return [mpiexec(), "--allow-run-as-root", "--oversubscribe", "-n", str(count), sys.executable]


def run(*command, folder, timeout=processes.PATIENCE_SECONDS, **variables):
    """Run a command in a folder, where it leaves what it leaves; return what it printed on standard output.

    The folder's path has to be short: engines make sockets there.
    """
    private = {"TMPDIR": str(folder), "RAY_TMPDIR": str(folder), "RAY_USAGE_STATS_ENABLED": "0"}
    environment = processes.environment(PATH=scripts(), **private, **variables)
    return processes.run(*command, cwd=folder, env=environment, timeout=timeout)


def import_tokenize():
    """Import dask's tokenize, and take back what dask does to the pickling of exceptions in the whole process.

    Without dask it is a function that skips the test that calls it.
    """
    if importlib.util.find_spec("dask") is None:
        return _skip
    before = dict(copyreg.dispatch_table)
    from dask.base import tokenize

    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)
    return tokenize


def _skip(*_, **__):
    require("dask")
