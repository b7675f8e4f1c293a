"""`ana.load(uuid)`: an object by its UUID alone; and what an error says where the class is the wrong one."""

import pickle

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
