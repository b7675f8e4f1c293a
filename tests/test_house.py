"""The house rules that no linter knows: what an import costs, who calls the system, what is said of installing."""

import ast
import importlib.util
import io
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import tokenize
from importlib import metadata
from pathlib import Path

import pytest
from support import code_blocks, extras

from ana._version import __version__

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ana"
README = ROOT / "README.md"
MAP = ROOT / "docs" / "architecture.md"
CI = ROOT / ".ci" / "run"

COMMANDS = {"__main__", "cli", "demo"}
"""Programs on top of the package: they talk to terminals and processes, not to stores."""

MODULES = {path.relative_to(PACKAGE).with_suffix("").as_posix(): path for path in PACKAGE.rglob("*.py")}
CORE = sorted(name for name in MODULES if name.split("/")[0] not in {*COMMANDS, "__init__"})

CALLERS = {
    "fs/append_file",
    "fs/atomic",
    "fs/linux_calls",
    "fs/files",
    "fs/locks",
    "fs/mounts",
    "fs/node_lock",
    "fs/paths",
    "fs/permissions",
    "fs/probes",
    "fs/temporary",
    "runtime/buffers",
    "runtime/cgroups",
    "runtime/interrupts",
    "runtime/stdio",
    "runtime/threads",
    "stores/directory/keyring",
    "stores/directory/trash",
    "stores/node_cache/node_folder",
}
"""The modules that make the system calls."""

SYSTEM = {
    "ctypes",
    "fcntl",
    "filelock",
    "glob",
    "io",
    "mmap",
    "multiprocessing",
    "os",
    "pathlib",
    "resource",
    "select",
    "shutil",
    "signal",
    "socket",
    "subprocess",
    "tempfile",
}
"""Modules whose functions call the system."""

PURE = {"io.BytesIO", "os.PathLike", "os.fsdecode", "os.fsencode", "os.fspath", "os.register_at_fork"}
"""What may be used from them anywhere: it only computes."""

ALLOWED = {
    # What another thread of this process waits for: /proc/self/task.
    "runtime/thread_progress": {"open"},
    # Whose exceptions are not to be swallowed.
    "persist/addressing": {"signal.getsignal", "signal.valid_signals"},
    # A message says on which host and in which process something happened.
    "errors": {"os.getpid", "os.strerror", "os.uname"},
    # Open files are not pickled; those in memory are.
    "objects/pickling": {"io.IOBase", "io.StringIO"},
    # A layer has an id of its own.
    "layers/layer": {"os.urandom"},
    # Every ANA_* variable.
    "settings": {"os.environ", "os.path", "os.pathsep"},
    # Who this process is, and which users its namespace knows.
    "fs/ownership": {"open", "os.geteuid", "os.stat_result"},
    # How a fork server is started, and what it is told by its environment.
    "integrations/multiprocessing": {
        "multiprocessing._forkserver",
        "multiprocessing.ensure_running",
        "multiprocessing.forkserver",
        "multiprocessing.get_preparation_data",
        "multiprocessing.set_forkserver_preload",
        "multiprocessing.spawn",
        "os.environ",
    },
    "integrations/fork_server": {
        "multiprocessing.current_process",
        "multiprocessing.prepare",
        "multiprocessing.process",
        "multiprocessing.spawn",
        "os.environ",
    },
    # Folders for the stores that are checked.
    "testing/contract": {"pathlib.Path"},
    # The folder that a file goes into.
    "maintenance/common": {"os.path"},
    # What was found out is true of the host that it was found out on.
    "maintenance/doctor": {"os.uname"},
    # Which process of which job on which host it is.
    "layers/stats_file": {"os.environ", "os.getpid", "os.uname", "os.urandom"},
    # joblib's own files: which results there are, and when they were last used.
    "integrations/joblib": {"open", "os.path", "os.stat", "os.utime", "os.walk", "pathlib.Path"},
    # A mapped path, in its normal form.
    "layers/path_map": {"os.path"},
}
"""Everything else that is used outside of those two, named here one by one."""

NEEDLESS = {
    "asyncio",
    "click",
    "cloudpickle",
    "dataclasses",
    "filelock",
    "inspect",
    "multiprocessing",
    "numpy",
    "random",
    "rich",
    "socket",
    "ssl",
    "unittest",
}
"""Modules that `import ana` must not cost anyone; filelock's audit hook also slows every unpickling down."""

NEEDED_ANYWAY = "import logging, sys; print(*(name for name in sys.modules if '.' not in name))"
"""What logging alone costs: from Python 3.14 on it brings dataclasses and inspect."""

DEPENDENCIES = {"blake3", "filelock", "zstandard"}

NOQA = re.compile(r"#\s*(noqa|type:\s*ignore)\b")
REASONED = re.compile(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)* - \S|# type: ignore\[[a-z-]+(, [a-z-]+)*\]  # \S")


def run_python(*arguments, cwd, **variables):
    """Run this interpreter somewhere else, and return what it printed; a failure shows what it said."""
    command = [sys.executable, *arguments]
    environment = os.environ | variables
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def readme_commands():
    """Return the README's commands that start from nothing: the demo's and the tests'."""
    text = "".join(block.text for block in code_blocks.blocks(README) if block.language in ("sh", "console"))
    return [line.removeprefix("$ ") for line in text.splitlines() if "python3 -m venv" in line]


def imported(tree):
    """Yield (module, name or None, local name) for each import of a syntax tree."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((name.name, None, name.asname or name.name.split(".")[0]) for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module, name.name, name.asname or name.name) for name in node.names)


def system_names(tree):
    """Return what a module uses of the modules that call the system, as "os.getpid"; and `open`."""
    used, local = set(), {}
    for module, name, alias in imported(tree):
        if module.split(".")[0] in SYSTEM:
            local[alias] = module
            if name is not None:
                used.add(f"{module}.{name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in local:
            used.add(f"{local[node.value.id]}.{node.attr}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            used.add("open")
    return used


@pytest.mark.once
def test_readme_has_two_commands_and_ci_runs_them():
    """The README's way to the demo and to the tests is, to the letter, what CI does."""
    demo, tests = readme_commands()
    assert demo.endswith("ana demo")
    assert "-m pytest" in tests
    lines = CI.read_text(encoding="utf-8").splitlines()
    assert f'readme_demo="{demo}"' in lines
    assert f'readme_tests="{tests}"' in lines


BY_NAME = re.compile(r"pip3?\s+(?:install|download|wheel)\s+(?:-{1,2}[\w-]+\s+)*['\"]?ana\b(?!/)")
"""A command that gets the original of 2019: PyPI has it under this name."""
SHOWN = [".github", "ana", "benchmarks", "docs", "examples"]
"""Folders of what users see."""


def shown_to_users():
    """Return the files that users see: documents, docstrings and messages, examples, and what files are made from."""
    files = [*ROOT.glob("*.md"), ROOT / "setup.cfg", ROOT / "pyproject.toml"]
    for folder in SHOWN:
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".md", ".yml", ".rst", ".html"}]
    return files


@pytest.mark.once
def test_nobody_is_sent_to_the_original_on_pypi():
    """No line that users see installs `ana` by its name: from a clone it is `pip install .`, or a wheel's path."""
    assert BY_NAME.search("pip install ana")
    assert BY_NAME.search("pip install -q 'ana[cli]'")
    assert not BY_NAME.search("pip install dist/ana-2.0.0-py3-none-any.whl")
    files = shown_to_users()
    assert len(files) > 150
    assert [str(path) for path in files if BY_NAME.search(path.read_text("utf-8"))] == []


@pytest.mark.once
def test_the_readme_is_short():
    """A newcomer reads at most 120 lines."""
    assert len(README.read_text("utf-8").splitlines()) <= 120


@pytest.mark.once
def test_ci_is_executable():
    """`.ci/run` can be started as it is checked out."""
    assert os.access(CI, os.X_OK)


def test_import_costs_nothing_needless(tmp_path):
    """`import ana` imports no optional library, no filelock, starts no thread, and touches no store."""
    store = tmp_path / "store"
    program = (
        "import sys, threading, ana; "
        "print(threading.active_count()); print(*(name for name in sys.modules if '.' not in name))"
    )
    threads, modules = run_python("-c", program, cwd=tmp_path, ANA_PICKLE_DIR=str(store)).splitlines()
    assert threads == "1"
    logging = set(run_python("-c", NEEDED_ANYWAY, cwd=tmp_path).split())
    assert not ((NEEDLESS | {"uuid"}) - logging) & set(modules.split())
    assert list(tmp_path.iterdir()) == []


IN_ANOTHER_INTERPRETER = """
from concurrent import interpreters
other = interpreters.create()
try:
    other.exec("import ana")
except interpreters.ExecutionFailed as error:
    print(error)
other.close()
"""
AS_IF_IN_ANOTHER = """
import sys
class Refusing:
    def find_spec(self, name, *_):
        if name == "blake3":
            raise ImportError("module blake3.blake3 does not support loading in subinterpreters")
sys.meta_path.insert(0, Refusing())
try:
    import ana
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize("program", [AS_IF_IN_ANOTHER, *[IN_ANOTHER_INTERPRETER] * (sys.version_info >= (3, 14))])
def test_a_subinterpreter_is_told_what_to_use(program, tmp_path):
    """`import ana` in a subinterpreter (Python 3.14's InterpreterPoolExecutor) is an error with a cure."""
    said = run_python("-c", program, cwd=tmp_path)
    assert "ana does not run in subinterpreters" in said
    assert "use threads or processes" in said


def test_small_states_cost_nothing_needless(tmp_path):
    """Storing and loading a small state in a folder needs no lock library, no thread and no other library."""
    (tmp_path / "thing.py").write_text("import ana\nclass Thing(ana.Storable):\n    pass\n", encoding="utf-8")
    program = (
        "import sys, threading, thing, ana; "
        "a = thing.Thing(); a.n = 1; u = a.make_uuid(); del a; ana.set_dl(pickle_dir='store'); "
        "assert thing.Thing.ana_load(u).n == 1; "
        "print(threading.active_count()); print(*(name for name in sys.modules if '.' not in name))"
    ).replace("a = thing", "ana.set_dl(pickle_dir='store'); a = thing")
    threads, modules = run_python("-c", program, cwd=tmp_path).splitlines()
    assert threads == "1"
    logging = set(run_python("-c", NEEDED_ANYWAY, cwd=tmp_path).split())
    assert not (NEEDLESS - logging) & set(modules.split())


@pytest.mark.once
@pytest.mark.parametrize("name", [name for name in CORE if name not in CALLERS])
def test_only_files_and_locks_call_the_system(name):
    """A module that is not there to call the system uses exactly those system functions that are listed for it."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    assert system_names(tree) - PURE == ALLOWED.get(name, set())


@pytest.mark.once
@pytest.mark.parametrize("name", CORE)
def test_hard_links_are_of_the_file_itself(name):
    """Each `os.link` says that it does not follow a symbolic link: from Python 3.14 on it does, unless told."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "os.link"]
    assert all("follow_symlinks=False" in ast.unparse(call) for call in calls)


OWNERS = {"Mark": "objects/identity", "Load": "persist/inflight", "Session": "persist/inflight"}
"""Classes whose objects other modules read, and their own module alone changes."""
OTHERS = {"_asking.obj", "batch.number", "made.children", "made.layer", "plan.number", "state.depth", "target.uuid"}
"""Fields of the same names, of other objects."""


def fields_of(name):
    """Return the attributes of a class in OWNERS: those that its module annotates or assigns in it."""
    body = next(node for node in ast.parse(MODULES[OWNERS[name]].read_text()).body if getattr(node, "name", "") == name)
    annotated = {node.target.id for node in body.body if isinstance(node, ast.AnnAssign)}
    assigned = {node.attr for node in ast.walk(body) if isinstance(node, ast.Attribute) and _is_changed(node)}
    return annotated | assigned


def _is_changed(node):
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del)


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("owned", OWNERS)
def test_only_its_own_module_changes_an_object(owned):
    """No other module assigns to a field of a Mark, a Load or a Session: their methods are the state machine."""
    fields = fields_of(owned)
    assert len(fields) > 8
    for name, path in MODULES.items():
        if name == OWNERS[owned]:
            continue
        changed = [node for node in ast.walk(ast.parse(path.read_text())) if _is_changed(node) and node.attr in fields]
        # `self` is an object of that module's own.
        names = {ast.unparse(node) for node in changed if ast.unparse(node.value) != "self"}
        assert names <= OTHERS, name


@pytest.mark.once
@pytest.mark.parametrize("name", CORE)
def test_no_module_imports_the_face(name):
    """The package's own modules import each other, never the re-exports of `ana/__init__.py`: no cycles."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    inside = {(module, what) for module, what, _ in imported(tree) if module == "ana"}
    assert {what for _, what in inside} <= {module.split("/")[0] for module in MODULES}


@pytest.mark.slow
@pytest.mark.once
@pytest.mark.parametrize("folder", ["ana", "benchmarks", "examples", "tests"])
def test_exceptions_from_the_linters_have_reasons(folder):
    """Each noqa and each type: ignore names its code and says why."""
    bare = []
    for path in sorted((ROOT / folder).rglob("*.py")):
        source = io.StringIO(path.read_text(encoding="utf-8"))
        bare += [
            f"{path.relative_to(ROOT)}:{token.start[0]}: {token.string}"
            for token in tokenize.generate_tokens(source.readline)
            if token.type == tokenize.COMMENT and NOQA.match(token.string) and not REASONED.match(token.string)
        ]
    assert bare == []


@pytest.mark.slow
@pytest.mark.once
def test_public_interface_is_typed():
    """A program that uses each public name passes mypy --strict, and its marked misuses do not."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "tests/typing"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.once
def test_public_interface_is_typed_for_pyright():
    """The same program passes pyright, strict, which finds no marked misuse right; so editors know the types, too."""
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("no basedpyright: pip install -e '.[ci]'")
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable],
        cwd=ROOT,
        # It does not follow the import hook of an editable install.
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 errors, 0 warnings" in done.stdout


def test_public_interface_example_runs(tmp_path):
    """The program that is checked by mypy also does what it says."""
    folder = str(tmp_path / "s")
    calls = f"e.identity(); e.references(); e.layers({folder!r}); e.tasks({folder!r}); e.care({folder!r}); e.errors()"
    program = f"import example as e; {calls}"
    run_python("-W", "error", "-c", program, cwd=ROOT / "tests" / "typing")


def test_metadata():
    """The version has one home, and a plain install needs three libraries, no more."""
    assert metadata.version("ana") == __version__, "installed as another version: pip install -e . again"
    plain = {line for line in metadata.requires("ana") if "extra ==" not in line}
    assert {re.match(r"\w+", line)[0] for line in plain} == DEPENDENCIES


@pytest.mark.slow
def test_a_stranger_installs_it(tmp_path):
    """A plain install has types and three libraries, works, and says what the `ana` command needs."""
    source, python = tmp_path / "source", tmp_path / "venv" / "bin" / "python"
    left_out = shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__", "pickles")
    shutil.copytree(ROOT, source, ignore=left_out)
    run_python("-m", "venv", str(tmp_path / "venv"), cwd=tmp_path)
    subprocess.run([python, "-m", "pip", "install", "-q", str(source)], check=True, cwd=tmp_path)
    program = (
        "import ana, importlib.metadata as m, importlib.resources as r; "
        "assert (r.files('ana') / 'py.typed').is_file(); assert ana.Ref(3).value == 3; "
        "print(*sorted(d.name for d in m.distributions()))"
    )
    listed = subprocess.run([python, "-c", program], check=True, cwd=tmp_path, stdout=subprocess.PIPE)
    installed = set(listed.stdout.decode().split())
    assert installed >= DEPENDENCIES
    assert not installed & {"click", "cloudpickle", "numpy", "rich"}
    command = subprocess.run([python, "-m", "ana"], check=False, cwd=tmp_path, capture_output=True, text=True)
    assert command.returncode != 0
    assert "pip install click rich" in command.stderr


@pytest.mark.once
def test_proofs_of_the_promises_exist():
    """Each test that docs/reliability.md calls a proof is there."""
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8"))
    assert len(named) > 20
    missing = [f"{path}::{name}" for path, name in named if f"def {name}(" not in (ROOT / path).read_text("utf-8")]
    assert missing == []


ROOMS = sorted({name.split("/")[0] for name in MODULES if not name.startswith("_")})


def names_on_the_map():
    """Return what the map names in backticks that begins with a room, as "persist.saving.make_address"."""
    return sorted(set(re.findall(rf"`\(?((?:{'|'.join(ROOMS)})\.\w[\w.]*)", MAP.read_text(encoding="utf-8"))))


@pytest.mark.once
@pytest.mark.parametrize("name", names_on_the_map())
def test_names_on_the_map_exist(name):
    """Each module, class and function that docs/architecture.md names is where it says."""
    if name.startswith("integrations."):
        extras.require(name.split(".")[1])
    assert pkgutil.resolve_name(f"ana.{name}") is not None


@pytest.mark.once
def test_each_room_is_on_the_map():
    """docs/architecture.md has each package in its picture and in its table, and names many of their modules."""
    text = MAP.read_text(encoding="utf-8")
    picture = text.split("```")[1]
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert {name for name in packages if f"\n| `{name}` |" not in text or name not in picture} == set()
    assert len(names_on_the_map()) > 25


def test_no_two_test_modules_have_one_name():
    """Workers that are started anew import a test's functions by the module's name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
