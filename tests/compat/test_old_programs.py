"""Programs written against the ANA of 2014 and of 2019 run unchanged: the README's, small ones, claripy, and angr.

Each runs as its author started it, in a process of its own. Where the original ANA is there (see
`OLD_PACKAGES`), the same programs run against it, too: that shows that they are true to it.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import ana

PROGRAMS = Path(__file__).parents[1] / "old_programs"
PIP_LINES = """
pip install --no-deps --target $OLD_PACKAGES/ana ana==0.6 future==1.0.0
pip install --no-deps --target $OLD_PACKAGES/claripy claripy==8.18.10.25 z3-solver==4.5.1.0.post2 \
  future==1.0.0 setuptools==67.4.0
pip install --no-deps --target $OLD_PACKAGES/angr angr==8.18.10.25 ailment==8.18.10.25 archinfo==8.18.10.25 \
  cle==8.18.10.25 pyvex==8.18.10.25 bitstring==3.1.9 cachetools==5.5.2 capstone==5.0.6 cffi==1.17.1 cooldict==1.4 \
  mulpyplexer==0.9 networkx==3.4.2 pefile==2023.2.7 progressbar==2.5 pycparser==2.18 pyelftools==0.31 \
  sortedcontainers==2.4.0
"""
OLD_PACKAGES = os.environ.get("OLD_PACKAGES", "")

in_memory = ["none", "simple", "dict", "the_dict"]
in_folder = ["dir FOLDER", "dir_positional FOLDER", "set_dl FOLDER", "set_dl_positional FOLDER", "dl FOLDER"]
of_2014 = ["set_dl_none", "set_dl FOLDER", "set_dl_positional FOLDER", "dl FOLDER"]
of_2019 = ["simple", "dict", "the_dict", "dir FOLDER", "dir_positional FOLDER"]
stored = [kind for kind in in_memory + in_folder if kind != "simple"]
start_methods = [f"dir FOLDER {method}" for method in ("fork", "spawn", "forkserver")]

SAME_IN_2019 = [
    *[("numbers_2019", kind) for kind in ("simple", "dict", "the_dict", "dir FOLDER")],
    *[(name, kind) for name in ("trees", "states", "frontends") for kind in of_2019],
    *[("shipping", kind) for kind in start_methods],
    ("workspace", "dict FOLDER"),
]
ONLY_NEW = [
    *[("numbers_2014", kind) for kind in of_2014],  # true to the ANA of 2014, which needs Python 2
    *[(name, kind) for name in ("trees", "states", "frontends") for kind in ["none", *in_folder[2:]]],
    *[("storable_dict", kind) for kind in stored],
]

README_BACKENDS = {
    "as it comes": "",
    "none": "ana.set_dl()",
    "dict": "ana.set_dl(ana.DictDataLayer(the_dict={}))",
    "pickle_dir": "ana.set_dl(pickle_dir=FOLDER)",
    "DirDataLayer": "ana.set_dl(ana.DirDataLayer(FOLDER))",
    "DirDataLayer, $PWD/pickles": "ana.set_dl(ana.DirDataLayer())",
    "ana.dl": "ana.dl = ana.DataLayer(pickle_dir=FOLDER)",
}
ADVANCED = "# There are also functions that provide easy storing"
"""Where the README's example begins to need a backend that stores."""

PRETENDED = "# in this case, the literal value would be, with an example UUID:"
FIRST_UUID, SECOND_UUID = "142be0d1-e3b4-4d7e-a2ce-9842285f3b18", "fbda537c-38f0-4db7-b5f2-3e3d8afe7c1f"
CORRECTIONS = [
    # A method that never was,
    ("a._get_state()", "a._ana_getstate()"),
    # punctuation that Python wants,
    ("'objects': { }\n", "'objects': { },\n"),
    (f"'{SECOND_UUID}'\n\t\t}},", f"'{SECOND_UUID}' }}\n\t\t}},"),
    ("\t\t}\n\t}\n\t'value'", "\t\t}\n\t},\n\t'value'"),
    # and the UUIDs that it asks the reader to pretend.
    ("a = A(10)\n", f"a = A(10)\na.make_uuid('{FIRST_UUID}')\n"),
    ("b = A(20)\n", f"b = A(20)\nb.make_uuid('{SECOND_UUID}')\n"),
]


EVERY_DAY = {
    *(("trees", kind) for kind in (*of_2019, "none", *in_folder[2:])),
    *((name, kind) for name in ("states", "frontends", "storable_dict") for kind in ("none", "dict", "dir FOLDER")),
}
"""Each way to choose a layer with one program, and the others with a layer of each kind."""
WAYS = {name for name, _ in EVERY_DAY}


def each_day(program, arguments):
    """Mark what the slow run has and the everyday one has not."""
    slow = program in WAYS and (program, arguments) not in EVERY_DAY
    return pytest.param(program, arguments, marks=[pytest.mark.slow] if slow else [])


@pytest.mark.parametrize(("program", "arguments"), [each_day(*words) for words in SAME_IN_2019 + ONLY_NEW])
def test_program(program, arguments, tmp_path):
    """A program of 2014 or 2019 runs to its end, and says nothing but what it is meant to say."""
    _run(program, arguments, tmp_path)


@pytest.mark.parametrize("program", ["trees", "states", "workspace"])
def test_program_without_cloudpickle(program, tmp_path):
    """Classes that can be imported need nothing that the programs of the time did not have."""
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "cloudpickle.py").write_text("raise ImportError('not installed')")
    _run(program, "dict FOLDER" if program == "workspace" else "dir FOLDER", tmp_path, blocked, _new_ana())


@pytest.mark.slow
@pytest.mark.parametrize(("program", "arguments"), SAME_IN_2019)
def test_program_is_true_to_the_original(program, arguments, tmp_path):
    """The original ANA of 2019 runs the very same programs: they ask for nothing that it did not do."""
    _run(program, arguments, tmp_path, _old_packages("ana"))


@pytest.mark.parametrize("backend", README_BACKENDS)
def test_readme_example(backend, tmp_path):
    """The original README's example runs as written on each backend, and stores one state where it stores files."""
    _run_text(README_BACKENDS[backend], _section("Usage"), tmp_path)
    folders = {
        "DirDataLayer, $PWD/pickles": "pickles",
        "pickle_dir": "store",
        "DirDataLayer": "store",
        "ana.dl": "store",
    }
    states = list(tmp_path.rglob("*.pkl.zst"))
    assert len(states) == (backend in folders)
    assert all(path.is_relative_to(tmp_path / folders[backend]) for path in states)


def test_readme_example_where_only_the_environment_says(tmp_path):
    """ANA_PICKLE_DIR alone chooses the directory backend for the unchanged example."""
    folder = tmp_path / "from the environment"
    _run_text("", _section("Usage"), tmp_path, ANA_PICKLE_DIR=str(folder))
    assert len(list(folder.rglob("*.pkl.zst"))) == 1


def test_readme_example_with_plain_pickling(tmp_path):
    """With SimpleDataLayer the example runs up to where, by its own words, a storing backend is needed."""
    example = _section("Usage")
    assert example.count(ADVANCED) == 1
    _run_text("ana.set_dl(ana.SimpleDataLayer())", example.split(ADVANCED)[0], tmp_path)


@pytest.mark.parametrize(
    "backend",
    [pytest.param(name, marks=[] if name in {"dict", "pickle_dir"} else pytest.mark.slow) for name in README_BACKENDS],
)
def test_readme_json(backend, tmp_path):
    """The README's JSON section holds: first as it stands, then with the UUIDs that it asks to pretend."""
    as_it_stands, correct = _json_examples()
    definition = _section("Usage").split("# create an instance")[0]
    _run_text(README_BACKENDS[backend], definition + as_it_stands, tmp_path)
    _run_text(README_BACKENDS[backend], definition + correct, tmp_path)


@pytest.mark.once
def test_readme_is_true_to_the_original(tmp_path):
    """The original ANA runs the README's example (up to `a.uuid`, which it had lost by 2019) and its JSON section."""
    site = _old_packages("ana")
    example = _section("Usage")
    dictionary = "ana.set_dl(ana.DictDataLayer(the_dict={}))"
    _run_text(dictionary, example.replace("a.uuid\n", "a.ana_uuid\n"), tmp_path, path=site)
    for text in _json_examples():
        _run_text(dictionary, example.split("# create an instance")[0] + text, tmp_path, path=site)


@pytest.mark.parametrize(
    "arguments",
    [
        "dir FOLDER",
        *[pytest.param(kind, marks=pytest.mark.slow) for kind in [*in_memory, "set_dl FOLDER", "dl FOLDER"]],
    ],
)
def test_claripy(arguments, tmp_path):
    """Unmodified, claripy of 2018 keeps its expressions and solvers in ANA: in memory, in a folder, in a pool."""
    ran = _run_real("claripy_2018", arguments, tmp_path, _new_ana(), "claripy")
    # Solvers that ana keeps for reuse are let go while z3 is still there to free them.
    assert "Exception ignored" not in ran.stderr, ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["simple", "dict", "dir FOLDER"])
def test_claripy_is_true_to_the_original(arguments, tmp_path):
    """The same use of claripy runs with the ANA that it was written for."""
    _run_real("claripy_2018", arguments, tmp_path, _old_packages("ana"), "claripy")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["dict", "dir FOLDER", "set_dl FOLDER"])
def test_angr(arguments, tmp_path):
    """Unmodified, angr of 2018 runs machine code symbolically and spills its states to ANA."""
    _run_real("angr_2018", arguments, tmp_path, _new_ana(), "claripy", "angr")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["dict", "dir FOLDER"])
def test_angr_is_true_to_the_original(arguments, tmp_path):
    """The same use of angr runs with the ANA that it was written for."""
    _run_real("angr_2018", arguments, tmp_path, _old_packages("ana"), "claripy", "angr")


def _run_real(program, arguments, tmp_path, ana_path, *names):
    """Run a program that uses old packages; what they warn of on standard error is their own affair."""
    path = [ana_path, *map(_old_packages, names)]
    ran = _start([PROGRAMS / f"{program}.py", *_words(arguments, tmp_path)], tmp_path, *path)
    _assert_held(ran)
    return ran


def _run(program, arguments, tmp_path, *path):
    ran = _start([PROGRAMS / f"{program}.py", *_words(arguments, tmp_path)], tmp_path, *(path or [_new_ana()]))
    _assert_held(ran)
    assert ran.stderr == ""


def _run_text(backend, text, tmp_path, path=None, **environment):
    """Run a text of the README as a script, with no more than what it needs before it."""
    folder = repr(str(tmp_path / "store"))
    before = f"import logging\nl = logging.getLogger('example')\nimport ana\n{backend.replace('FOLDER', folder)}\n"
    script = tmp_path / "example.py"
    script.write_text(f"{before}{text}\nprint('all held')\n")
    ran = _start([script], tmp_path, path or _new_ana(), **environment)
    _assert_held(ran)
    assert ran.stderr == ""


def _start(command, tmp_path, *path, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANA_")}
    # Timeout: a hang is a failure. Two slow cores need some seconds.
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**inherited, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONDONTWRITEBYTECODE": "1", **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def _assert_held(ran):
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "all held\n"


def _words(arguments, tmp_path):
    return [str(tmp_path / "store") if word == "FOLDER" else word for word in arguments.split()]


def _new_ana():
    return Path(ana.__file__).parents[1]


def _old_packages(name):
    folder = Path(OLD_PACKAGES) / name
    if not OLD_PACKAGES or not folder.is_dir():
        pytest.skip(f"the environment's OLD_PACKAGES names no folder with old packages; to make one:{PIP_LINES}")
    return folder


def _section(title):
    """Return the first block of Python in a section of the original README, as written."""
    text = (PROGRAMS / "original_readme.md").read_text()
    return re.search(rf"^## {title}$.*?^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL).group(1)


def _json_examples():
    """Return the JSON section's code as it stands (without what was never Python), and with its slips corrected."""
    text = _section("JSON")
    method, its_name = CORRECTIONS[0]
    as_it_stands = text.split(PRETENDED)[0].replace(method, its_name)
    for slip, correction in CORRECTIONS:
        assert text.count(slip) == 1, slip
        text = text.replace(slip, correction)
    return as_it_stands, text
