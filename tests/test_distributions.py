"""What is released: an sdist that is the whole tree, whose tests run, and a wheel with the package and nothing else."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MADE = {"PKG-INFO", "ana.egg-info"}
"""What the build adds to an sdist."""
LEFT_OUT = shutil.ignore_patterns(
    ".git", ".venv", ".hypothesis", ".*cache*", "__pycache__", "*.egg-info", "build", "dist"
)
SAMPLE = ["tests/test_ref.py", "tests/format/test_format_document.py", "tests/test_contributing.py"]
"""Tests that read the package, the documents and what CI runs."""

pytestmark = pytest.mark.slow


def run(*command, cwd):
    """Run a command; a failure shows what it said."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files(folder):
    """Return the paths of all files below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Return a new environment's interpreter, with what pyproject.toml says a build needs."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]["requires"]
    run(sys.executable, "-m", "venv", str(folder), cwd=ROOT)
    run(folder / "bin" / "python", "-m", "pip", "install", "-q", *wanted, cwd=ROOT)
    return folder / "bin" / "python"


@pytest.fixture
def tree(tmp_path):
    """Return a copy of this tree as it is checked out, or as it was unpacked."""
    folder = tmp_path / "tree"
    if not (ROOT / ".git").exists():
        shutil.copytree(ROOT, folder, ignore=LEFT_OUT)
        return folder
    for name in run("git", "ls-files", "-z", cwd=ROOT).split("\0"):
        if name and (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def built(python, kind, tree):
    """Build an sdist or a wheel of a tree, as pip and build do, and return its path."""
    program = f"from setuptools import build_meta; print(build_meta.build_{kind}('dist'))"
    return tree / "dist" / run(python, "-c", program, cwd=tree).splitlines()[-1]


def test_an_sdist_is_complete_and_its_tests_run(python, tree, tmp_path):
    """It holds each file of the tree and no others; a sample of its tests passes; its wheel is the package alone."""
    expected = files(tree)
    assert {".ci/run", "benchmarks/__main__.py", "docs/format.md", "examples/futures_pool.py"} < expected
    assert any(name.startswith("tests/data/tree-1/") for name in expected)
    # Not tarfile, which warns without the filter that it has from 3.11.4 on.
    run("tar", "-xzf", built(python, "sdist", tree), cwd=tmp_path)
    (unpacked,) = tmp_path.glob("ana-*")
    found = {name for name in files(unpacked) if name.split("/")[0] not in MADE}
    assert found == expected
    assert {name for name in found if os.access(unpacked / name, os.X_OK)} >= {".ci/check", ".ci/run", "tests/nfs/lab"}

    where = "import ana; print(ana.__file__)"
    assert run(sys.executable, "-c", where, cwd=unpacked).strip() == str(unpacked / "ana" / "__init__.py")
    run(sys.executable, "-m", "pytest", "-q", *SAMPLE, cwd=unpacked)

    wheel = built(python, "wheel", unpacked)
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names == {f"ana/{name}" for name in files(tree / "ana")}


def test_a_wheel_holds_nothing_of_earlier_builds(python, tree, tmp_path):
    """A module that was removed or renamed since is not in it, though `build/` still has it."""
    gone = tree / "build" / "lib" / "ana" / "gone.py"
    gone.parent.mkdir(parents=True)
    gone.touch()
    run(python, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, tree, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "ana/gone.py" not in names
    assert "ana/reference.py" in names
