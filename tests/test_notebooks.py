"""Notebooks: what they show of ANA's objects, cells that are run again, and errors that fit on a screen."""

import concurrent.futures
import errno
import json
import pickle
import threading
import traceback

import pytest
from support import extras, processes

import ana
from ana.stores.directory.store import DirectoryStore


class Model(ana.Storable):
    """An object that can be loaded lazily."""

    def __init__(self):
        self.x = 1


def missing(tmp_path, obj):
    """Store an object, remove its state, and return what its reference unpickles into."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    uuid = obj.make_uuid()
    data = pickle.dumps(obj)
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    next((tmp_path / "store").rglob(f"{uuid}.pkl.zst")).unlink()
    del obj
    return uuid, data


def frames_of(error):
    """Return the files of an error's frames."""
    return [frame.filename for frame in traceback.extract_tb(error.__traceback__)]


def test_a_ref_is_shown_without_loading(tmp_path):
    """A Ref shows its value's type and size, and its UUID; one that is not loaded is not loaded for that."""
    ref = ana.Ref([1, 2, 3])
    assert "list, length 3" in ref._repr_html_()
    assert "none yet" in ref._repr_html_()
    dl = ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    data = pickle.dumps(ref)
    uuid = ref.uuid
    assert uuid in ref._repr_html_()
    del ref
    again = pickle.loads(data)
    assert "not loaded" in again._repr_html_()
    assert uuid in again._repr_html_()
    assert dl.home in again._repr_html_()
    assert dl.stats().from_store == 0
    assert "not loaded" in repr(again)


def test_a_layer_and_its_stats_are_shown(tmp_path):
    """Both show what was stored and loaded, with units; nothing that did not happen."""
    dl = ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    assert "nothing stored" in dl.stats()._repr_html_()
    ana.Ref(bytes(2_000_000)).make_uuid()
    for shown in (dl._repr_html_(), dl.stats()._repr_html_()):
        assert "<th" in shown
        assert "stored</th>" in shown
        assert "2.00 MB" in shown
        assert "node cache" not in shown
    assert dl.home in dl._repr_html_()
    assert "ana.DataLayer" in ana.DataLayer()._repr_html_()


def test_html_is_escaped(tmp_path):
    """Names of classes and folders cannot bring HTML into the page."""
    ana.set_dl(pickle_dir=tmp_path / "<b>store", durable=False)
    harmful = type("<script>alert(1)</script>", (), {})
    for shown in (ana.Ref(harmful())._repr_html_(), ana.get_dl()._repr_html_()):
        assert "<script>" not in shown
        assert "<b>" not in shown
        assert "&lt;" in shown


ACCESSES = {
    "a Ref's value": (ana.Ref, [[1, 2]], lambda uuid, data: pickle.loads(data).value),
    "an attribute": (Model, [], lambda uuid, data: pickle.loads(data).x),
    "ana.load": (Model, [], lambda uuid, data: ana.load(uuid)),
    "ana_load": (Model, [], lambda uuid, data: Model.ana_load(uuid)),
    "load_many": (Model, [], lambda uuid, data: ana.get_dl().load_many([uuid])),
}


@pytest.mark.parametrize("how", ACCESSES)
def test_errors_do_not_show_how_ana_found_out(tmp_path, how):
    """The traceback of a missing state ends where ANA was called: two frames of ANA's at most, and one error."""
    cls, arguments, access = ACCESSES[how]
    uuid, data = missing(tmp_path, cls(*arguments))
    with pytest.raises(ana.StateNotFoundError) as caught:
        access(uuid, data)
    assert caught.value.__context__ is None
    files = frames_of(caught.value)
    assert files[1] == __file__
    assert len(files) <= 4
    assert len("".join(traceback.format_exception(caught.value)).splitlines()) <= 16


def test_errors_of_a_users_own_code_show_it(tmp_path):
    """A class that cannot take its state: its error is the cause, with the line that raised it."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    uuid = Refusing().make_uuid()
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    with pytest.raises(ana.StateLoadError) as caught:
        Refusing.ana_load(uuid)
    assert "raise ValueError" in "".join(traceback.format_exception(caught.value))


class Asking(ana.Storable):
    """A class that needs another object to take its state, through a function of the user."""

    def __init__(self, other):
        self.other = ana.Ref(other)

    def _ana_setstate(self, s):
        self.other = value_of(s["other"])


def value_of(ref):
    """Load what a hook needs."""
    return ref.value


OUTER = {
    "an attribute": (Asking, lambda uuid, data: pickle.loads(data).other),
    "a Ref's value": (lambda other: ana.Ref(Asking(other)), lambda uuid, data: pickle.loads(data).value),
    "ana.load": (Asking, lambda uuid, data: ana.load(uuid)),
    "ana_load": (Asking, lambda uuid, data: Asking.ana_load(uuid)),
    "load_many": (Asking, lambda uuid, data: ana.get_dl().load_many([uuid])),
}


@pytest.mark.parametrize("how", OUTER)
def test_frames_of_a_users_own_code_stay(tmp_path, how):
    """An error of ANA's that comes out of a user's hook shows the hook's lines: the caller never heard of that UUID."""
    make, access = OUTER[how]
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    inner = ana.Ref([1, 2]).make_uuid()
    obj = make([1, 2])
    uuid, data = obj.make_uuid(), pickle.dumps(obj)
    del obj
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    next((tmp_path / "store").rglob(f"{inner}.pkl.zst")).unlink()
    with pytest.raises(ana.StateNotFoundError, match=inner) as caught:
        access(uuid, data)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert [name for name in names if name in ("_ana_setstate", "value_of")] == ["_ana_setstate", "value_of"]
    assert len(names) <= 8


STORING = {
    "make_uuid": lambda obj: obj.make_uuid(),
    "ana_uuid": lambda obj: obj.ana_uuid,
    "ana_store": lambda obj: obj.ana_store(),
    "pickle": lambda obj: pickle.dumps([ana.Ref(obj)]),
    "a Ref in a Ref": lambda obj: pickle.dumps(ana.Ref([ana.Ref([ana.Ref(obj)])])),
    "given a UUID": lambda obj: obj.make_uuid(uuid="given") and pickle.dumps(obj),
    "store_many": lambda obj: ana.get_dl().store_many([ana.Ref(1), obj]),
    "keep": lambda obj: ana.get_dl().keep("name", obj),
    "store_state": lambda obj: ana.get_dl().store_state("bare", {"x": obj}),
    "in a thread": lambda obj: from_thread(obj.make_uuid),
}


def from_thread(act):
    """Call a function in a thread that runs nothing else, and raise what it raises."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        return pool.submit(act).result()


@pytest.mark.parametrize("how", STORING)
def test_errors_of_storing_do_not_show_how_ana_stores(tmp_path, how):
    """The traceback of what cannot be pickled ends where ANA was called, however deep it lies."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    obj = Model()
    obj.x = threading.Lock()
    with pytest.raises(TypeError, match="cannot pickle '_thread") as caught:
        STORING[how](obj)
    assert ours(caught.value) == []
    assert caught.value.__context__ is None
    lines = "".join(traceback.format_exception(caught.value)).splitlines()
    # Pickle's own, since Python 3.14.
    lines = [line for line in lines if not line.startswith("when serializing ")]
    assert len(lines) <= (30 if "thread" in how else 12)


def ours(error):
    """Return the names of ANA's functions in an error's traceback."""
    frames = traceback.extract_tb(error.__traceback__)
    return [frame.name for frame in frames if f"{processes.ROOT}/ana/" in frame.filename]


class OwnHook(ana.Storable):
    """Its state is made by a function of the user, which does not work."""

    def _ana_getstate(self):
        return fails()


class PickleHook(ana.Storable):
    def __getstate__(self):
        return fails()


class Reducing(ana.Storable):
    def __reduce__(self):
        return fails()


class Holding(Model):
    """Holds an ordinary object that fails."""

    def __init__(self):
        self.x = [Unwilling()]


def fails():
    """Raise an error, as a mistake in a user's code does."""
    raise ValueError("not today")


@pytest.mark.parametrize("how", STORING)
@pytest.mark.parametrize("kind", [OwnHook, PickleHook, Reducing, Holding])
def test_frames_of_a_users_own_hooks_stay(tmp_path, kind, how):
    """An error of a user's own `_ana_getstate`, `__getstate__` or `__reduce__` shows its lines, and none of ANA's."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    with pytest.raises(ValueError, match="not today") as caught:
        STORING[how](kind())
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-1] == "fails" if kind is not Holding else "__reduce__" in names
    assert {"_ana_getstate", "__getstate__", "__reduce__"} & set(names)
    assert ours(caught.value) == []


def test_errors_of_the_disk_do_not_show_how_ana_stores(tmp_path, monkeypatch):
    """A full disk: the error is ANA's, and its traceback ends where ANA was called."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)

    def full(*_, **__):
        raise ana.StoreError(str(tmp_path), errno.ENOSPC)

    monkeypatch.setattr(DirectoryStore, "put", full)
    with pytest.raises(ana.StoreError) as caught:
        Model().make_uuid()
    assert ours(caught.value) == []


def test_a_mistake_of_anas_own_shows_where_it_is(tmp_path, monkeypatch):
    """What is neither of pickling nor of the store is for a bug report, with all frames."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    monkeypatch.setattr(DirectoryStore, "put", None)
    with pytest.raises(TypeError, match="not callable") as caught:
        Model().make_uuid()
    assert len(ours(caught.value)) > 5


def test_what_cannot_be_pickled_is_said_once(tmp_path):
    """Both pickle and cloudpickle fail with the same error: one traceback, with the user's line."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    with pytest.raises(ValueError, match="not today") as caught:
        ana.Ref(Unwilling()).make_uuid()
    assert caught.value.__context__ is None
    assert "__reduce__" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]


def test_the_cause_of_what_cannot_be_pickled_stays(tmp_path):
    """An error that a user's own code raised from another one keeps that one."""
    ana.set_dl(pickle_dir=tmp_path / "store", durable=False)
    with pytest.raises(ValueError, match="not today") as caught:
        ana.Ref(UnwillingForAReason()).make_uuid()
    assert isinstance(caught.value.__cause__, KeyError)


class Unwilling:
    """An object that does not pickle."""

    def __reduce__(self):
        raise ValueError("not today")


class UnwillingForAReason:
    """An object that does not pickle, because something is missing."""

    def __reduce__(self):
        try:
            return {}["missing"]
        except KeyError as error:
            raise ValueError("not today") from error


class Refusing(ana.Storable):
    """A class whose objects do not load."""

    def _ana_setstate(self, s):
        raise ValueError(s)


CELLS = [
    """
import os, pickle, pathlib
from concurrent.futures import ProcessPoolExecutor
import ana
dl = ana.set_dl(pickle_dir="store")
""",
    """
class Model(ana.Storable):
    def __init__(self, x):
        self.x = x
    def total(self):
        return sum(self.x) + EXTRA
EXTRA = 0
""",
    """
model = Model(list(range(1000)))
uuid = model.make_uuid()
print(uuid)
""",
    """
with dl.keeping("notebook"):
    ref = ana.Ref(b"x" * 500_000)
    ref.make_uuid()
dl.keep("notebook", model)
""",
    """
executor = ana.Executor(ProcessPoolExecutor(1))
print(executor.submit(len, ref.value).result(), executor.submit(Model.total, model).result())
executor.shutdown()
""",
    "ref",
    "dl",
    "dl.stats()",
    """
loaded = pickle.loads(pickle.dumps(model))
print(loaded is model, type(loaded) is Model, len(list(pathlib.Path("store").rglob("*.pkl.zst"))))
""",
    """
later = ana.Ref(b"gone")
data, gone = pickle.dumps(later), later.make_uuid()
del later
next(pathlib.Path("store").rglob(f"{gone}.pkl.zst")).unlink()
pickle.loads(data).value
""",
]


RUN = """
import json, sys, nbclient, nbformat
cells = [nbformat.v4.new_code_cell(cell) for cell in json.load(sys.stdin)]
notebook = nbformat.v4.new_notebook(cells=cells)
nbclient.NotebookClient(notebook, timeout=120, allow_errors=True).execute()
print(json.dumps([cell.outputs for cell in notebook.cells]))
"""


@pytest.mark.slow
@pytest.mark.once
def test_cells_can_be_run_again(short_folder):
    """In a real kernel, each cell may be run again, in order, and does the same; an error takes one screen."""
    extras.require("nbclient", "ipykernel", "cloudpickle")
    cells = short_folder / "cells.json"
    cells.write_text(json.dumps([*CELLS, *CELLS]))
    with cells.open() as file:
        found = processes.ask_python(RUN, cwd=short_folder, stdin=file)
    runs = [found[: len(CELLS)], found[len(CELLS) :]]
    for outputs in runs:
        errors = [one["ename"] for output in outputs[:-1] for one in output if one["output_type"] == "error"]
        assert errors == []
        assert outputs[2][0]["text"].strip()
        assert outputs[4][0]["text"] == "500000 499500\n"
        for number in (5, 6, 7):
            assert "<table>" in outputs[number][0]["data"]["text/html"]
            assert outputs[number][0]["data"]["text/plain"].startswith(("<ana.", "Stats("))
        assert outputs[8][0]["text"].startswith("True True ")
        assert outputs[9][0]["ename"] == "StateNotFoundError"
        assert len("\n".join(outputs[9][0]["traceback"]).splitlines()) <= 24
    # The same content has the same UUID, and is stored once, although the class was defined again.
    assert runs[0][2] == runs[1][2]
    assert runs[0][8] == runs[1][8]
