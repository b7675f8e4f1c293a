"""Classes and functions that other processes cannot import: they travel by value, or an error says why not."""

import pickle
import sys
import types

import classes
import pytest

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
import pickle, sys, ana, classes
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
import pickle, sys, ana, classes

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
import sys, ana, classes
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
    cloudpickle = pytest.importorskip("cloudpickle")
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
