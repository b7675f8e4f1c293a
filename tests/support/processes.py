"""Runs things in processes of their own: with little memory, as another user, and so that death is seen."""

import json
import os
import subprocess
import sys
from pathlib import Path
from subprocess import STDOUT

import ana

__all__ = ["STDOUT", "ask_python", "environment", "run", "run_module", "run_program"]

ROOT = Path(ana.__file__).parents[1]
TESTS = Path(__file__).parents[1]
PATIENCE_SECONDS = 120
"""Only a process that hangs takes that long."""


def environment(**changes: str) -> dict[str, str]:
    """Return this process's environment, with ana and the tests' modules importable anywhere."""
    paths = [str(ROOT), str(TESTS), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **changes}


def run(*command: object, **options: object) -> str:
    """Run a command to its end and return what it printed; a failure shows what it said."""
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(), "timeout": PATIENCE_SECONDS}
    words = [str(word) for word in command]
    done = subprocess.run(words, text=True, check=False, **{**defaults, **options})
    assert done.returncode == 0, f"{words[0]}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def run_module(module: str, *arguments: object, **options: object) -> str:
    """Run `python -m MODULE` and return what it printed."""
    return run(sys.executable, "-m", module, *arguments, **options)


def run_program(program: str, *arguments: object, **options: object) -> str:
    """Run the text of a Python program and return what it printed."""
    return run(sys.executable, "-c", program, *arguments, **options)


def ask_python(program: str, *arguments: object, **options: object) -> object:
    """Run the text of a Python program and return the JSON that it printed."""
    return json.loads(run_program(program, *arguments, **options))
