"""`ana.load(uuid)`: an object by its UUID alone; and what an error says where the class is the wrong one."""

import importlib
import pickle
import sys

import pytest
from support import classes

import ana


@pytest.fixture(params=["folder", "memory"])
def layer(request, tmp_path):
    """Return a layer of each kind."""
    return ana.set_dl(tmp_path / "s", durable=False) if request.param == "folder" else ana.set_dl()


def test_an_object_by_its_uuid_alone(layer):
    """The live one, or one of the class that was stored; Refs, too."""
    for make in (lambda: classes.A([1]), lambda: classes.DictFirst(a=1), lambda: ana.Ref([2]), lambda: classes.Node(1)):
        obj = make()
        cls, uuid = type(obj), obj.make_uuid()
        assert ana.load(uuid) is obj
        assert ana.load(uuid, cls) is obj
        del obj
        found = ana.load(uuid)
        assert type(found) is cls
        assert pickle.loads(pickle.dumps(found)) is found
        assert ana.load(uuid, ana.Storable) is found
        layer.live.forget_kept()


def test_what_is_asked_for(layer):
    """A class that the object is of, or one of its bases; generic ones, too. Anything else is an error."""
    uuid = ana.Ref([2]).make_uuid()
    assert ana.load(uuid, ana.Ref[list]).value == [2]
    with pytest.raises(ana.StateLoadError, match="classes:A"):
        ana.load(uuid, classes.A)
    with pytest.raises(TypeError, match="cls is a class, not 'wrong'"):
        ana.load(uuid, "wrong")
    for wrong in (None, 3, b"x", [uuid]):
        with pytest.raises(TypeError):
            ana.load(wrong)
    with pytest.raises(ValueError, match="1 to 200"):
        ana.load("")
    with pytest.raises(ana.StateNotFoundError, match="not there"):
        ana.load("not there")


def test_an_environment_names_the_folder(tmp_path, monkeypatch):
    """As for `ana_load`: ANA_PICKLE_DIR is looked at, too."""
    ana.set_dl(tmp_path / "s", durable=False)
    uuid = ana.Ref([2]).make_uuid()
    ana.set_dl()
    monkeypatch.setenv("ANA_PICKLE_DIR", str(tmp_path / "s"))
    assert ana.load(uuid).value == [2]


def test_a_wrong_class_names_the_right_call(layer):
    """Whether the object is alive, or loaded for it."""
    obj = classes.A([1])
    uuid = obj.make_uuid()
    for _ in range(2):
        for attempt in (lambda: classes.Node.ana_load(uuid), lambda: ana.load(uuid, classes.Node)):
            with pytest.raises(ana.StateLoadError) as raised:
                attempt()
            assert f"call ana.load('{uuid}'), or support.classes.A.ana_load('{uuid}')" in str(raised.value)
        obj = None
        layer.live.forget_kept()
    assert ana.load(uuid).x == [1]


def test_a_bare_state_names_the_right_call(layer):
    """What `store_state` stored is no object."""
    layer.store_state("bare", [1, 2])
    with pytest.raises(ana.StateLoadError, match=r"get_dl\(\)\.load_state\('bare'\)"):
        ana.load("bare")
    assert ana.get_dl().load_state("bare") == [1, 2]


OF_A_SCRIPT = """
import sys, ana
class Own(ana.Storable):
    def __init__(self, x): self.x = x
class Another(ana.Storable):
    pass
ana.set_dl(sys.argv[1])
own = Own(3)
uuid = own.make_uuid()
print(ana.load(uuid) is own)
del own
for attempt in (lambda: ana.load(uuid), lambda: Another.ana_load(uuid)):
    try:
        attempt()
    except ana.StateLoadError as error:
        print(f"call Own.ana_load({uuid!r})" in str(error))
print(ana.load(uuid, Own).x, Own.ana_load(uuid).x)
"""


def test_classes_of_a_script(tmp_path):
    """Another script may have one of the same name: the class has to be given, and the error says so."""
    assert classes.run(OF_A_SCRIPT, str(tmp_path / "s"), cwd=tmp_path).split() == ["True", "True", "True", "3", "3"]


MOVED = """
import pickle, ana
try:
    pickle.load(open("saved", "rb")).value
except ana.StateNotFoundError as error:
    print(error)
"""


def test_a_state_that_is_not_there_names_the_place_and_the_cure(tmp_path):
    """By UUID, by the beginning of one, in a process without a folder, and by a reference to a store that moved."""
    layer = ana.set_dl(tmp_path / "s", durable=False)
    missing = "c819f7bc-c55c-8067-8599-38fea03effb3"
    for wanted, cure in ((missing, "pickle_dir, ANA_PICKLE_DIR"), ("c819f7bc", f"`ana -d {layer.home} show c819f7bc`")):
        with pytest.raises(ana.StateNotFoundError) as raised:
            ana.load(wanted)
        assert f"{wanted!r} in {layer.home} (host" in str(raised.value)
        assert cure in str(raised.value)
    (tmp_path / "saved").write_bytes(pickle.dumps(ana.Ref(1)))
    (tmp_path / "s").rename(tmp_path / "moved")
    said = classes.run(MOVED, cwd=tmp_path)
    assert f"in {layer.home} (there is no ANA store at this path on this host) (host" in said
    assert "set ANA_PICKLE_DIR" in said
    assert "memory:" not in said
    assert said.count("(host") == 1
    ana.set_dl()
    with pytest.raises(ana.StateNotFoundError, match=r"choose its folder with set_dl\(pickle_dir=...\)"):
        ana.load(missing)


def test_a_class_that_is_not_there_says_why(tmp_path, monkeypatch):
    """A module that is missing or lacks the class: the error of the import is named, and no call that fails again."""
    ana.set_dl(tmp_path / "s", durable=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "of_users.py").write_text("import ana\nclass Own(ana.Storable): pass\n")
    uuid = importlib.import_module("of_users").Own().make_uuid()
    for source, why in (
        ("", "has no attribute 'Own'"),
        (None, "No module named 'of_users'"),
        ("Own = 1", "is of type int, not a class"),
    ):
        monkeypatch.delitem(sys.modules, "of_users", raising=False)
        if source is None:
            (tmp_path / "of_users.py").unlink()
        else:
            (tmp_path / "of_users.py").write_text(source)
        importlib.invalidate_caches()
        with pytest.raises(ana.StateLoadError, match=f"{why}.*make of_users importable here") as raised:
            ana.load(uuid)
        assert "call " not in str(raised.value)


def test_a_folder_that_cannot_be_made_is_told_on_one_screen(tmp_path):
    """Not in twelve frames of ANA, nor twice."""
    (tmp_path / "file").touch()
    with pytest.raises(AssertionError) as raised:
        classes.run(f"import ana\nana.set_dl({str(tmp_path / 'file' / 'deep' / 's')!r})", cwd=tmp_path)
    said = str(raised.value)
    assert len(said.splitlines()) < 20, said
    assert "During handling" not in said
