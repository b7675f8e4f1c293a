"""Values whose own pickle depends on the version of Python or on the run have one address in states all the same."""

import pathlib
import pickle
import sys

import pytest

import ana
from ana.objects import pickling, restricted

PATHS = {
    "where": pathlib.PurePosixPath("/a/b"),
    "relative": [pathlib.PureWindowsPath("C:/a"), pathlib.PurePosixPath("a")],
}
PATHS_UUID = "bf137e5d-a71d-8a4d-95af-e6fbcb5be750"
WRITTEN_BY_3_13 = (
    b"\x80\x05\x95+\0\0\0\0\0\0\0\x8c\x0epathlib._local\x94\x8c\x09PosixPath\x94\x93\x94\x8c\x04/a/b\x94\x85\x94R\x94."
)


def test_a_path_has_the_same_address_in_every_version_of_python():
    """As version 1.0 wrote it in Python 3.11 and 3.12; and it comes back."""
    layer = ana.set_dl(ana.DictDataLayer({}))
    assert ana.Ref(PATHS).make_uuid() == PATHS_UUID
    ana.set_dl(ana.DictDataLayer(layer.store.mapping))
    assert ana.Ref.ana_load(PATHS_UUID).value == PATHS


@pytest.mark.parametrize("allowed", [None, restricted.AllowedGlobals(["classes"])])
def test_a_path_that_python_3_13_wrote_loads_in_every_version(allowed):
    """Its module's name is not known to 3.11 and 3.12; with restricted globals, too."""
    assert pickling.load([WRITTEN_BY_3_13], allowed) == pathlib.PosixPath("/a/b")


def test_other_missing_modules_are_errors():
    """A state that names one does not load."""
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        pickling.load([b"\x80\x05\x8c\x0eno_such_module\x8c\x01a\x93."])


class Held:
    """Has a reducer that a program registered."""


def test_reducers_of_users_come_first(monkeypatch):
    """What a program has registered by copyreg is not replaced."""
    monkeypatch.setattr("ana.objects.pickling._OTHER_PATHS", True)
    monkeypatch.setattr("ana.objects.reducers.table", lambda: {Held: lambda _: (str, ("ours",))})
    assert ana.Ref(Held())._ana_getstate()
    ana.set_dl(ana.DictDataLayer({}))
    data = pickle.dumps(ana.Ref([Held()]))
    ana.set_dl(ana.DictDataLayer(ana.get_dl().store.mapping))
    assert pickle.loads(data).value == ["ours"]
    monkeypatch.setitem(sys.modules["copyreg"].dispatch_table, Held, lambda _: (str, ("theirs",)))
    data = pickle.dumps(ana.Ref([Held()]))
    ana.set_dl(ana.DictDataLayer(ana.get_dl().store.mapping))
    assert pickle.loads(data).value == ["theirs"]
