"""What a layer refuses to load: globals that are not allowed, and states that are too large."""

import collections
import datetime as dt
import decimal
import fractions
import pathlib
import pickle
import subprocess
import sys
import textwrap
import uuid

import numpy as np
import pytest

import ana
from ana.format import record
from ana.objects import restricted
from ana.runtime import cgroups


class A(ana.Storable):
    """A class of this module, which is `tests`' own."""


def plant(layer, stream, class_name="", key="planted"):
    """Put a record into a layer's store whose pickle stream is `stream`: whole, and stored by nobody's program."""
    content = record.content(class_name, [memoryview(stream)])
    layer.store.put(key, content, (), repair=False)
    return key


class Touch:
    """Pickles into a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture
def folder(tmp_path):
    """Where a store may be made."""
    return tmp_path / "store"


@pytest.fixture
def sentinel(tmp_path):
    """The file that a planted pickle would make."""
    return tmp_path / "touched"


def fenced(folder, *modules):
    """Open a store whose states may name these modules."""
    return ana.DirDataLayer(folder, allowed=modules, durable=False)


def test_a_planted_call_is_refused_and_not_made(folder, sentinel):
    """The sentinel that the planted pickle would make is not there; the error names what was asked for."""
    state = {"x": Touch(pathlib.Path.touch, pathlib.Path(sentinel))}
    layer = ana.set_dl(fenced(folder, __name__))
    plant(layer, pickle.dumps(Touch(subprocess.call, ["touch", str(sentinel)]), 5), f"{__name__}:A")
    with pytest.raises(
        ana.StateLoadError, match=r"subprocess\.call, which allowed= does not include: add 'subprocess'"
    ):
        A.ana_load("planted")
    with pytest.raises(pickle.UnpicklingError):
        layer.load_state("planted")
    plant(layer, pickle.dumps(state, 5), f"{__name__}:A", "another")
    with pytest.raises(ana.StateLoadError, match=r"pathlib(\._local)?\.Path\.touch"):
        A.ana_load("another")
    assert not sentinel.exists()
    # And without the restriction it is made: the trap is a real one.
    ana.set_dl(ana.DirDataLayer(folder, durable=False))
    with pytest.raises(ana.StateLoadError):
        A.ana_load("planted")
    assert sentinel.exists()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("numpyx", "anything"),
        # What an allowed module has imported is not its own.
        ("fenced_package.helpers", "system"),
        ("fenced_package.helpers", "run"),
        ("fenced_package.helpers", "os"),
        ("fenced_package.helpers", "os.system"),
        ("fenced_package.helpers", "Thing.__init__.__globals__"),
        ("fenced_package.helpers", "Thing.imported"),
        ("fenced_package.helpers", "__builtins__.get"),
    ],
)
def test_what_is_refused(module, name, tmp_path, monkeypatch):
    """By name, by the path to it, and by where it was made."""
    package = tmp_path / "fenced_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "helpers.py").write_text(
        "import os\nfrom os import system\nfrom subprocess import run\n\nclass Thing:\n    imported = system\n"
        "    def __init__(self):\n        pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        stream = (
            b"\x80\x05" + b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name)) + b"\x93."
        )
        with pytest.raises(restricted.ForbiddenGlobalError, match=module.partition(".")[0]):
            restricted.AllowedGlobals(["fenced_package", "numpy"]).load(stream)
        good = stream.replace(b"\x8c" + bytes([len(name)]) + name.encode(), b"\x8c\x05Thing")
        if module == "fenced_package.helpers":
            assert restricted.AllowedGlobals(["fenced_package"]).load(good).__name__ == "Thing"
    finally:
        for loaded in [loaded for loaded in sys.modules if loaded.startswith("fenced_package")]:
            del sys.modules[loaded]


@pytest.mark.parametrize(
    "value",
    [
        {"a": [1, 2.5, "x", b"y", None, True, (1,), {2}, frozenset({3}), bytearray(b"z"), 1j, range(3), slice(1)]},
        collections.OrderedDict(a=1),
        collections.defaultdict(list, a=[1]),
        collections.Counter("aab"),
        collections.deque([1], 3),
        dt.datetime(2026, 1, 2, 3, tzinfo=dt.UTC),
        dt.timedelta(1),
        decimal.Decimal("1.5"),
        fractions.Fraction(1, 3),
        uuid.UUID(int=5),
        pathlib.Path("a/b"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_data_needs_no_permission(value, folder):
    """What only holds data loads though nothing is allowed."""
    ref = ana.Ref(value)
    ana.set_dl(fenced(folder))
    address = ref.make_uuid()
    ana.set_dl(fenced(folder))
    assert ana.Ref.ana_load(address).value == value


def test_an_allowed_package_loads_with_all_below_it(folder):
    """Arrays of numpy, dtypes and scalars, in a state with children of an allowed class."""
    ana.set_dl(fenced(folder, "numpy", __name__))
    parent, child = A(), A()
    child.x = np.arange(5000.0)
    parent.child, parent.y, parent.z = child, np.float32(2), np.zeros(3, [("a", "i4"), ("b", "U3")])
    child.make_uuid()
    address = parent.make_uuid()
    del parent, child
    ana.set_dl(fenced(folder, "numpy", __name__))
    found = A.ana_load(address)
    assert (found.child.x == np.arange(5000.0)).all()
    assert found.y == 2
    assert found.z.dtype.names == ("a", "b")


def test_numpy_has_to_be_allowed(folder):
    """The error says what to add."""
    ana.set_dl(fenced(folder))
    address = ana.Ref(np.arange(10)).make_uuid()
    ana.set_dl(fenced(folder))
    with pytest.raises(ana.StateLoadError, match="add 'numpy' if you trust it"):
        _ = ana.Ref.ana_load(address).value


def test_a_header_imports_no_module_that_is_not_allowed(folder, tmp_path, sentinel, monkeypatch):
    """The class that a header names is looked for only in allowed modules: importing runs code, too."""
    (tmp_path / "trap_module.py").write_text(
        f"import pathlib\npathlib.Path({str(sentinel)!r}).touch()\nclass A: pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    layer = ana.set_dl(fenced(folder, __name__))
    plant(layer, pickle.dumps({}, 5), "trap_module:A")
    with pytest.raises(ana.StateLoadError, match="not found here"):
        ana.Ref.ana_load("planted")
    with pytest.raises(ana.StateLoadError):
        layer.load_many(["planted"])
    assert not sentinel.exists()
    ana.set_dl(ana.DirDataLayer(folder))
    with pytest.raises(ana.StateLoadError):
        ana.Ref.ana_load("planted")
    assert sentinel.exists()
    sys.modules.pop("trap_module", None)


def test_classes_of_a_script_have_to_be_allowed_by_name(folder, tmp_path):
    """`__main__` is a module like any other."""
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
            import sys, ana
            class B(ana.Storable): pass
            class C: pass
            def run(*allowed):
                ana.set_dl(pickle_dir=sys.argv[1], allowed=allowed)
                b = B(); b.c = C(); u = b.make_uuid(); del b
                ana.set_dl(pickle_dir=sys.argv[1], allowed=allowed)
                return type(B.ana_load(u).c).__name__
            try:
                run("numpy")
            except ana.StateLoadError as error:
                print("refused", "allowed=" in str(error))
            print(run("__main__", "cloudpickle", "types", "builtins"))
        """)
    )
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.split() == ["refused", "True", "C"], done.stderr


@pytest.mark.parametrize("wrong", ["numpy", [3], ["a b"], [""], ["a..b"], ["os/system"]])
def test_nonsense_is_no_list_of_modules(wrong, folder):
    """One string above all: it would allow modules of one letter."""
    with pytest.raises((TypeError, ValueError), match="modules"):
        ana.DirDataLayer(folder, allowed=wrong)
    assert not folder.exists()


# Size


def test_a_state_larger_than_allowed_is_refused_before_memory_is_taken(folder):
    """By its header; a smaller one loads, and a reference to the large one raises when it is used."""
    ana.set_dl(pickle_dir=folder)
    small, large = ana.Ref(bytes(900)).make_uuid(), ana.Ref(bytes(3_000_000)).make_uuid()
    reference = pickle.dumps(ana.Ref(bytes(3_000_000)))
    layer = ana.set_dl(pickle_dir=folder, max_state_bytes=1000)
    assert ana.Ref.ana_load(small).value == bytes(900)
    with pytest.raises(ana.StateLoadError, match=r"its 30\d+ bytes are more than the 1000 bytes of max_state_bytes"):
        _ = ana.Ref.ana_load(large).value
    with pytest.raises(ana.StateLoadError, match="max_state_bytes"):
        layer.load_state(large)
    found = pickle.loads(reference)
    with pytest.raises(ana.StateLoadError, match="max_state_bytes"):
        _ = found.value


def test_the_default_is_the_memory_that_there_is(folder, monkeypatch):
    """Of the machine or the cgroup; asked for large states only."""
    ana.set_dl(pickle_dir=folder)
    small, large = ana.Ref(bytes(900)).make_uuid(), ana.Ref(bytes(3_000_000)).make_uuid()
    monkeypatch.setattr(cgroups, "memory_bytes", lambda: 2_000_000)
    ana.set_dl(pickle_dir=folder)
    assert ana.Ref.ana_load(small).value == bytes(900)
    with pytest.raises(ana.StateLoadError, match="the 2000000 bytes of the memory of this machine or cgroup"):
        _ = ana.Ref.ana_load(large).value


@pytest.mark.parametrize("wrong", [0, -1])
def test_nonsense_is_no_size(wrong, folder):
    """Nothing is made then."""
    with pytest.raises(ValueError, match="max_state_bytes"):
        ana.DirDataLayer(folder, max_state_bytes=wrong)
    assert not folder.exists()
