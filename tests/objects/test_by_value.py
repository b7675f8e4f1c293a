"""Classes and functions that other processes cannot import: they travel by value, or an error says why not."""

import pickle
import sys
import types

import pytest
from support import classes

import ana

WITHOUT_CLOUDPICKLE = """
import sys
sys.modules["cloudpickle"] = None  # as if it were not installed
"""

OWN_CLASS = """
import concurrent.futures, multiprocessing, pickle, sys, ana

class Own(ana.Storable):
    def __init__(self, x):
        self.x = x

def use(own):
    return own.x

if __name__ == "__main__":
    ana.set_dl(pickle_dir=sys.argv[1])
    own = Own([1])
    own.make_uuid()
    assert pickle.loads(pickle.dumps(own)) is own
    for method in ("fork", "spawn", "forkserver"):
        with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            print(pool.submit(use, own).result(60))
    print(own.uuid)
"""


@pytest.mark.parametrize("prefix", ["", WITHOUT_CLOUDPICKLE], ids=["with", "without"])
def test_a_scripts_own_class_in_pools(tmp_path, prefix):
    """Workers of multiprocessing have the script's class themselves: cloudpickle is not needed for that."""
    *values, uuid = classes.run(prefix + OWN_CLASS, str(tmp_path / "s"), cwd=tmp_path).splitlines()
    assert values == ["[1]"] * 3
    assert classes.states(tmp_path / "s") == [f"{uuid}.pkl.zst"]


@pytest.mark.slow
def test_a_scripts_own_class_has_the_same_uuid_in_each_run(tmp_path):
    """A rerun of a script stores nothing again."""
    first = classes.run(OWN_CLASS, str(tmp_path / "s"), cwd=tmp_path)
    before = classes.tree(tmp_path / "s")
    assert classes.run(OWN_CLASS, str(tmp_path / "s"), cwd=tmp_path) == first
    assert classes.tree(tmp_path / "s") == before


HANDED = """
import cloudpickle, sys, ana

class Own(ana.Storable):
    def __init__(self, x):
        self.x = x
    def double(self):
        return [self.x, self.x]

class Plain:
    word = "plain"

def helper(x):
    return x + 1

ana.set_dl(pickle_dir=sys.argv[1])
child = Own("child")
child.make_uuid()
own = Own([child, Plain(), Plain, lambda x: helper(x) * 2])
own.make_uuid()
with open(sys.argv[2], "wb") as file:
    cloudpickle.dump(own, file)
"""

HANDED_WORKER = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    own = pickle.load(file)
child, plain, plain_class, function = own.x
print(child.double(), plain.word, isinstance(plain, plain_class), function(3), type(child) is type(own))
"""


def test_a_scripts_own_class_in_a_worker_that_does_not_have_it(tmp_path):
    """Class and state travel by cloudpickle: children, plain objects, classes, lambdas of the script."""
    handed = str(tmp_path / "handed")
    classes.run(HANDED, str(tmp_path / "s"), handed, cwd=tmp_path)
    answer = classes.run(HANDED_WORKER, handed, cwd=tmp_path)
    assert answer == "['child', 'child'] plain True 8 True"


LAMBDA = """
import pickle, sys, ana; from support import classes
ana.set_dl(pickle_dir=sys.argv[1])
obj = classes.A(lambda x: x + 1)
try:
    obj.make_uuid()
except Exception as error:
    print(type(error).__name__, "cloudpickle" in str(error), obj.uuid)
else:
    with open(sys.argv[2], "wb") as file:
        pickle.dump(obj, file)
    print("stored")
"""


def test_a_lambda_in_a_script(tmp_path):
    """With cloudpickle a script's lambda is stored by value, and any worker can call it."""
    handed = str(tmp_path / "handed")
    assert classes.run(LAMBDA, str(tmp_path / "s"), handed, cwd=tmp_path) == "stored"
    worker = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb')).x(1))"
    assert classes.run(worker, handed, cwd=tmp_path) == "2"


def test_a_lambda_in_a_script_without_cloudpickle(tmp_path):
    """A pickling error; nothing is stored, and the object has no UUID."""
    answer = classes.run(WITHOUT_CLOUDPICKLE + LAMBDA, str(tmp_path / "s"), "handed", cwd=tmp_path)
    assert answer in {"PicklingError True None", "AttributeError True None"}
    assert classes.tree(tmp_path / "s").keys() == {"ana.json"}


STATE_OF_MAIN = """
import pickle, sys, ana; from support import classes

class Plain:
    pass

ana.set_dl(pickle_dir=sys.argv[1])
obj = classes.A([Plain()])
for attempt in (obj.make_uuid, lambda: ana.Ref(Plain).make_uuid(), lambda: pickle.dumps(ana.Ref(Plain()))):
    try:
        attempt()
    except pickle.PicklingError as error:
        print("pip install cloudpickle" in str(error) and "__main__" in str(error), obj.uuid)
"""


def test_a_class_of_main_in_a_state_without_cloudpickle(tmp_path):
    """An error that says what to install; nothing is stored, no UUID is given."""
    answer = classes.run(WITHOUT_CLOUDPICKLE + STATE_OF_MAIN, str(tmp_path / "s"), cwd=tmp_path)
    assert answer.splitlines() == ["True None"] * 3
    assert classes.tree(tmp_path / "s").keys() == {"ana.json"}


FALSE_POSITIVE = """
import sys, ana; from support import classes
ana.set_dl(pickle_dir=sys.argv[1])
obj = classes.A({"name": "__main__", "more": b"__main__", "__main__": ["cloudpickle"]})
print(obj.make_uuid())
"""


def test_the_word_main_in_data_is_no_class_of_main(tmp_path):
    """A string `__main__` in a state needs no cloudpickle, and does not change the address."""
    without = classes.run(WITHOUT_CLOUDPICKLE + FALSE_POSITIVE, str(tmp_path / "s"), cwd=tmp_path)
    assert classes.run(FALSE_POSITIVE, str(tmp_path / "s"), cwd=tmp_path) == without
    ana.set_dl(pickle_dir=tmp_path / "s")
    assert classes.A.ana_load(without).x["name"] == "__main__"


@pytest.fixture
def unimportable():
    """Return a module that exists in this process only, registered to go by value."""
    cloudpickle = pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    module = types.ModuleType("made_here")
    module.ana = ana
    code = (
        "class Plain:\n    def __init__(self, x): self.x = x\n"
        "class Own(ana.Storable):\n    def __init__(self, x): self.x = x\n"
        "def add(x): return x + 1\n"
    )
    exec(code, module.__dict__)
    sys.modules["made_here"] = module
    cloudpickle.register_pickle_by_value(module)
    yield module
    cloudpickle.unregister_pickle_by_value(module)
    del sys.modules["made_here"]


def test_modules_that_are_registered_by_value(tmp_path, unimportable):
    """`cloudpickle.register_pickle_by_value`: what the module defines travels inside of the state."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    obj = classes.A([unimportable.Plain(4), unimportable.add])
    obj.make_uuid()
    (tmp_path / "handed").write_bytes(pickle.dumps(obj))
    worker = "import pickle, sys; plain, add = pickle.load(open(sys.argv[1], 'rb')).x; print(add(plain.x))"
    assert classes.run(worker, str(tmp_path / "handed"), cwd=tmp_path) == "5"


def test_a_storable_of_a_module_that_is_registered_by_value(tmp_path, unimportable):
    """Its references, pickled by cloudpickle, and those in other states carry the class."""
    import cloudpickle

    ana.set_dl(pickle_dir=tmp_path / "s")
    child = unimportable.Own("child")
    child.make_uuid()
    parent = classes.A([child])
    parent.make_uuid()
    (tmp_path / "handed").write_bytes(cloudpickle.dumps([child, parent]))
    worker = (
        "import pickle, sys; child, parent = pickle.load(open(sys.argv[1], 'rb'));print(child.x, parent.x[0] is child)"
    )
    assert classes.run(worker, str(tmp_path / "handed"), cwd=tmp_path) == "child True"


def make_local():
    """Return a function, an instance and a class that no module has under their names."""

    class Local:
        def __init__(self, x):
            self.x = x

    def twice(x):
        return 2 * x

    return twice, Local(3), Local


CLOUDPICKLED = {
    "lambda": (lambda: lambda x: x + 1, lambda found: found(1) == 2),
    "local": (make_local, lambda found: found[0](2) == 4 and isinstance(found[1], found[2]) and found[1].x == 3),
    "module": (lambda: types, lambda found: found is types),
    "dict views": ({"a": 1}.keys, lambda found: list(found) == ["a"]),
    "mapping proxy": (lambda: types.MappingProxyType({"a": 1}), lambda found: found["a"] == 1),
    "memoryview": (lambda: memoryview(b"abc"), lambda found: bytes(found) == b"abc"),
    "with children": (lambda: [ana.Ref([1]), lambda x: x], lambda found: found[0].value == [1] and found[1](2) == 2),
    "large": (
        lambda: [bytes(300_000), bytearray(300_000), lambda: 1],
        lambda found: len(found[0] + found[1]) == 600_000,
    ),
}


@pytest.mark.parametrize("what", CLOUDPICKLED)
@pytest.mark.parametrize("kind", [ana.Ref, classes.A])
def test_what_pickle_refuses_goes_by_cloudpickle(tmp_path, kind, what):
    """Where it is installed, and wherever the function or class was made."""
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    make, is_right = CLOUDPICKLED[what]
    ana.set_dl(pickle_dir=tmp_path)
    data = [pickle.dumps(kind(make())) if kind is ana.Ref else pickle.dumps(_stored(kind(make())))]
    ana.set_dl(pickle_dir=tmp_path)
    found = pickle.loads(data[0])
    assert is_right(found.value if kind is ana.Ref else found.x)


def _stored(obj):
    obj.make_uuid()
    return obj


def test_what_pickle_refuses_without_cloudpickle(tmp_path, monkeypatch):
    """The ordinary error, with a word on what to install."""
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    ana.set_dl(pickle_dir=tmp_path)
    with pytest.raises(
        (AttributeError, pickle.PicklingError), match=r"Ref\.value\[0\] is a function.*install cloudpickle"
    ):
        ana.Ref([lambda: 1]).make_uuid()


class Wants:
    """Its subclasses say a word, which cloudpickle forgets."""

    def __init_subclass__(cls, *, word):
        cls.word = word


class Meta(type):
    """As a metaclass."""

    def __new__(cls, name, bases, namespace, *, word):
        return super().__new__(cls, name, bases, namespace)

    def __init__(cls, name, bases, namespace, *, word):
        super().__init__(name, bases, namespace)


class Unreadable:
    """Refused by plain pickle through what it holds, and cannot be made again."""

    def __init__(self):
        self.function = lambda: 1

    def __setstate__(self, state):
        raise ZeroDivisionError("not with this state")


def make_unreadable():
    """Return values that cloudpickle writes, and no process can read."""

    class Child(Wants, word="x"):
        pass

    class OfMeta(metaclass=Meta, word="x"):
        pass

    return {"subclass": Child, "instance": [Child()], "metaclass": OfMeta, "state": Unreadable()}


@pytest.mark.parametrize("what", make_unreadable())
def test_what_cloudpickle_cannot_read_is_not_stored(tmp_path, what):
    """It is unpickled once, before it is published; and no class is made twice for that."""
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    ana.set_dl(pickle_dir=tmp_path)
    value = make_unreadable()[what]
    before = Wants.__subclasses__()
    with pytest.raises(pickle.PicklingError, match=r"cloudpickle wrote a state that it cannot read .*_ana_getstate"):
        ana.Ref(value).make_uuid()
    assert classes.states(tmp_path) == []
    assert Wants.__subclasses__() == before


def test_the_check_leaves_classes_as_they_are(tmp_path):
    """Their methods stay the very same functions, with the globals of their module."""
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    ana.set_dl(pickle_dir=tmp_path)
    _, obj, cls = make_local()
    before = cls.__init__
    ana.Ref(obj).make_uuid()
    assert cls.__init__ is before


def test_an_unpickled_check_does_not_touch_the_original(tmp_path):
    """What is made of the buffers for the check may write to them."""
    pytest.importorskip("cloudpickle", reason="pip install cloudpickle")
    ana.set_dl(pickle_dir=tmp_path)
    value = [Scribbler(bytearray(10_000)), lambda: 1]
    ana.Ref(value).make_uuid()
    assert value[0].content == bytearray(10_000)


class Scribbler:
    """Writes into its buffer when it is made again."""

    def __init__(self, content):
        self.content = content

    def __reduce_ex__(self, protocol):
        return _scribbled, (pickle.PickleBuffer(self.content),)


def _scribbled(content):
    memoryview(content)[:] = b"x" * 10_000
    return Scribbler(content)
