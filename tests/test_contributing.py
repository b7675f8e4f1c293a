"""What a contributor finds: one command for the checks, light extras, and one version of everything."""

import configparser
import os
import re
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from ana._version import __version__

pytestmark = pytest.mark.once

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


def text(name):
    """Return a file of this tree."""
    return (ROOT / name).read_text(encoding="utf-8")


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
    readme = re.search(r"bin/python -m (pytest .*)", text("README.md"))[1]
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
    lines = text(".ci/run").splitlines()
    assert any(line.startswith('step "checks"') and line.endswith(".ci/check") for line in lines)
    assert not [line for line in lines for tool in ("ruff", "mypy", "lint-imports") if f"bin/{tool}" in line]


def test_the_tests_need_no_heavy_library():
    """The extra `test` leaves out what is large; `ci` brings all that a test can use, `docs` what builds the site."""
    found = extras()
    assert not found["test"] & HEAVY
    assert found["ci"] >= HEAVY
    assert found["ci"] | found["docs"] == set.union(*found.values())


def test_one_version_of_ruff():
    """pip, ruff itself and pre-commit have the same version: each formats as the others do."""
    (pinned,) = re.findall(r"^\s+ruff == (\S+)$", text("setup.cfg"), re.MULTILINE)
    assert tomllib.loads(text("pyproject.toml"))["tool"]["ruff"]["required-version"] == f"=={pinned}"
    hooks = re.search(r"ruff-pre-commit\n +rev: v(\S+)", text(".pre-commit-config.yaml"))
    assert hooks[1] == pinned


def test_one_version_of_ana():
    """The changelog's first section and the citation are of the version that `ana/_version.py` says."""
    version = Version(__version__)
    name, date = re.findall(r"^## \[(.+)\] - (.+)$", text("CHANGELOG.md"), re.MULTILINE)[0]
    assert name == version.base_version
    assert bool(re.fullmatch(r"\d{4}-\d\d-\d\d", date)) is not version.is_prerelease
    citation = dict(re.findall(r"^([\w-]+): (.+)$", text("CITATION.cff"), re.MULTILINE))
    assert (citation["cff-version"], citation["version"]) == ("1.2.0", __version__)
    assert citation.get("date-released") == (None if version.is_prerelease else date)


def test_the_changelog_is_kept():
    """Each version has the groups of Keep a Changelog, each once; versions fall and dates are dates."""
    sections = re.split(r"^## ", text("CHANGELOG.md"), flags=re.MULTILINE)[1:]
    versions = [Version(re.match(r"\[(.+?)\]", section)[1]) for section in sections]
    assert versions == sorted(versions, reverse=True)
    for section in sections:
        groups = re.findall(r"^### (\w+)", section, re.MULTILINE)
        assert len(groups) == len(set(groups))
        assert set(groups) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize(
    "name", ["CONTRIBUTING.md", ".github/PULL_REQUEST_TEMPLATE.md", ".github/ISSUE_TEMPLATE/bug.yml"]
)
def test_what_a_contributor_is_sent_to_is_there(name):
    """Each file and folder of this tree that the text names."""
    named = re.findall(r"[(` ]((?:\.ci|ana|docs|examples|tests)/[\w./-]*[\w/]|[A-Z]+\.\w+)", text(name))
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_a_bug_report_has_what_is_asked_for_first():
    """The form asks for the command's own examination of the store, versions and filesystem, and insists on them."""
    form = text(".github/ISSUE_TEMPLATE/bug.yml")
    for wanted in ("ana -d STORE info", "python -VV; ana --version", "findmnt -T STORE"):
        body = form.split(wanted)[1].split("  - type")[0]
        assert "required: true" in body
