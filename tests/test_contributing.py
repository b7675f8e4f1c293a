"""What a contributor finds: one command for the checks, extras of a bearable size, and one version of everything."""

import configparser
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
CHECKS = ["ruff check", "ruff format --check", "mypy", "lint-imports"]
HEAVY = {
    "atheris",
    "dask",
    "distributed",
    "matplotlib",
    "mpi4py",
    "openmpi",
    "pandas",
    "parsl",
    "pyarrow",
    "ray",
    "scipy",
}
"""Each brings more than 10 MB, or a compiler's work."""


def extras():
    """Return each extra of setup.cfg with the names of all packages that it brings, directly or by another extra."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    table = {
        name: [Requirement(line) for line in lines.split("\n") if line and not line.startswith("#")]
        for name, lines in config["options.extras_require"].items()
    }

    def packages(extra):
        for wanted in table[extra]:
            if wanted.name == "ana":
                for inner in wanted.extras:
                    yield from packages(inner)
            else:
                yield wanted.name

    return {extra: set(packages(extra)) for extra in table}


@pytest.fixture
def checks(tmp_path):
    """Return a function that runs `.ci/check` where each tool is a script that notes its words, and may fail."""
    tree, tools, noted = tmp_path / "tree", tmp_path / "tools", tmp_path / "noted"
    (tree / ".ci").mkdir(parents=True)
    tools.mkdir()
    shutil.copy2(ROOT / ".ci" / "check", tree / ".ci")

    def run(*words, failing="", tools_there=("ruff", "mypy", "lint-imports", "python")):
        for name in tools_there:
            script = tools / name
            script.write_text(
                f'#!/bin/sh\necho {name} "$@" >>{noted}\ncase "{name} $*" in {failing or "-"}) exit 3;; esac\n'
            )
            script.chmod(stat.S_IRWXU)
        noted.write_text("")
        environment = {"PATH": f"{tools}{os.pathsep}/usr/bin{os.pathsep}/bin"}
        command = [tree / ".ci" / "check", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        return done, noted.read_text().splitlines()

    return run


def test_one_command_checks_all(checks):
    """`.ci/check` runs the linter, the formatter, the type checker and the import rules, from any folder."""
    done, noted = checks()
    assert (done.returncode, [line.strip() for line in noted]) == (0, CHECKS)


@pytest.mark.parametrize("failing", CHECKS)
def test_a_failed_check_stops_none_of_the_others(checks, failing):
    """All run, the summary names the one that failed, and the exit code is 1."""
    done, noted = checks(failing=f'"{failing}"*' if " " not in failing else f'"{failing}"')
    assert (done.returncode, len(noted)) == (1, len(CHECKS))
    summary = done.stdout.split("=== checks\n")[1]
    assert re.findall(r"^(.*?) +FAILED", summary, re.MULTILINE) == [failing]
    assert summary.count(" ok ") == len(CHECKS) - 1


def test_the_checks_can_run_the_tests(checks):
    """With `tests`, those of the README's command, or those that are chosen."""
    readme = re.search(r"bin/python -m (pytest .*)", (ROOT / "README.md").read_text(encoding="utf-8"))[1]
    assert checks("tests")[1][-1] == f"python -m {readme}"
    assert checks("tests", "tests/fs", "-k", "a or b")[1][-1] == "python -m pytest tests/fs -k a or b"
    assert checks("tests", failing='"python -m"*')[0].returncode == 1


def test_the_checks_explain_themselves(checks):
    """`--help` prints the usage and runs nothing; an unknown word is wrong usage."""
    done, noted = checks("--help")
    assert (done.returncode, noted, done.stderr) == (0, [], "")
    assert done.stdout.startswith("Usage: .ci/check")
    done, noted = checks("test")
    assert (done.returncode, noted, done.stdout) == (2, [], "")
    assert "Usage: .ci/check" in done.stderr


def test_a_missing_tool_comes_with_its_command(checks):
    """Nothing runs half: the first line says what is missing and how to get it."""
    done, noted = checks(tools_there=("ruff",))
    assert (done.returncode, noted) == (1, [])
    assert "mypy is missing" in done.stderr
    assert "pip install -e '.[test]'" in done.stderr


def test_ci_runs_the_checks():
    """CI has no checks of its own: it calls the command that contributors call."""
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith('step "checks"') and line.endswith(".ci/check") for line in lines)
    assert not [line for line in lines for tool in ("ruff", "mypy", "lint-imports") if f"bin/{tool}" in line]


def test_the_tests_need_no_heavy_library():
    """The README's extra `test` leaves out what is large; `ci` brings what any test can use."""
    found = extras()
    assert not found["test"] & HEAVY
    assert found["ci"] >= HEAVY
    assert found["ci"] == set.union(*found.values())
