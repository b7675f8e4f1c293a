"""joblib.hash, joblib.Memory, dask's tokenize: of an object with a UUID they depend on it alone, and store nothing."""

import dataclasses
import pickle
import signal
import threading

import joblib
import pytest
from support import classes
from support.engines import import_tokenize, require

import ana

tokenize = import_tokenize()

HASHES = pytest.mark.parametrize("digest", [joblib.hash, tokenize])


class Plain:
    """No Storable, but holds one."""

    def __init__(self, held):
        self.held = held


@dataclasses.dataclass
class Record(ana.Storable):
    """A dataclass: dask has its own way with these."""

    x: int


class OwnReduce(ana.Storable):
    """Has its own way to pickle, around ours."""

    def __init__(self, x):
        self.x = x

    def __reduce_ex__(self, protocol):
        return super().__reduce_ex__(protocol)


class Picky(ana.Storable):
    """Cannot take a state on without using it: dask unpickles what it hashes."""

    def __init__(self, child):
        self.double = child.x * 2
        self.child = child

    def _ana_getstate(self):
        return self.child

    def _ana_setstate(self, s):
        self.__init__(s)


class Packed(ana.Storable):
    """Makes a pickle itself for its state."""

    def _ana_getstate(self):
        self.made.append(pickle.dumps(self.child))
        return self.made[-1]

    def _ana_setstate(self, s):
        pass


MAKERS = {
    "plain": lambda: classes.A([1, 2, 3]),
    "ref": lambda: ana.Ref([1, 2, 3]),
    "dataclass": lambda: Record(3),
    "own reduce": lambda: OwnReduce(3),
    "slots": lambda: classes.Slotted(1, 2),
}
MADE = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@HASHES
@MADE
def test_hash_of_an_addressed_object_depends_on_its_uuid_alone(tmp_path, digest, make):
    """Not on the store's path, nor on whether the object is loaded; another UUID is another hash."""
    found = set()
    for name in ("one", "two"):
        ana.set_dl(pickle_dir=tmp_path / name)
        obj = make()
        obj.make_uuid()
        found.add(digest(obj))
    assert len(found) == 1
    other = make()
    other.make_uuid(uuid="another")
    assert digest(other) not in found
    alike = classes.B(0)
    alike.make_uuid(uuid="another")
    assert digest(other) == digest(alike)


@HASHES
@MADE
def test_hashing_stores_nothing_and_gives_no_uuid(tmp_path, digest, make):
    """Neither the object's state, if it has none there yet, nor those of what it holds."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    given, bare = make(), make()
    given.make_uuid(uuid="not stored yet")
    before = classes.tree(tmp_path / "s")
    for value in (
        given,
        bare,
        [given, bare],
        {"k": given},
        Plain(given),
        Plain(bare),
        classes.A(given),
        classes.A(bare),
    ):
        digest(value)
    assert classes.tree(tmp_path / "s") == before
    assert bare.uuid is None
    assert pickle.loads(pickle.dumps(given)) is given
    assert classes.states(tmp_path / "s") != []


@HASHES
@MADE
def test_hash_of_an_object_without_a_uuid_is_by_value(digest, make):
    """As for any other object: equal content, equal hash; and it differs from what its UUID would give."""
    one, same = make(), make()
    assert digest(one) == digest(same)
    assert digest(classes.A([1])) != digest(classes.A([2]))
    same.make_uuid()
    # A Ref that is pickled gets its address; dask's token says so before.
    assert (digest(one) == digest(same)) is (isinstance(one, ana.Ref) and digest is tokenize)


class Counting:
    """Counts how often it is pickled."""

    pickled = 0

    def __reduce__(self):
        Counting.pickled += 1
        return Counting, ()


def test_the_token_of_a_ref_without_a_uuid_is_its_address(tmp_path, monkeypatch):
    """It is hashed once, however many tasks take it, within other objects, too; nothing is stored, no UUID given."""
    ana.set_dl(tmp_path / "s")
    monkeypatch.setattr(Counting, "pickled", 0)
    ref = ana.Ref([Counting()])
    tokens = [(tokenize(ref), tokenize([ref]), tokenize(Plain(ref))) for _ in range(10)]
    assert (Counting.pickled, len(set(tokens)), ref.uuid) == (1, 1, None)
    assert classes.states(tmp_path / "s") == []
    uuid = pickle.loads(pickle.dumps(ref)).uuid
    assert (tokenize(ref), tokenize([ref]), tokenize(Plain(ref))) == tokens[0]
    assert classes.states(tmp_path / "s") == [f"{uuid}.pkl.zst"]
    assert tokenize(ana.Ref([Counting()])) == tokens[0][0] != tokenize(ana.Ref([Counting(), 1]))


OF_A_SCRIPT = """
import ana
from dask.base import tokenize
class Plain:
    def __init__(self, x): self.x = x
refs = [ana.Ref([ana.Ref(Plain(x))]) for x in (1, 2, 1)]
tokens = [tokenize(ref) for ref in refs]
print(tokens[0] != tokens[1], [ref.uuid for ref in refs])
"""


def test_the_token_of_a_ref_that_will_have_no_address(tmp_path):
    """In memory, what holds objects of a script's own classes gets a random UUID: each has a token of its own."""
    require("dask")
    assert classes.run(OF_A_SCRIPT, cwd=tmp_path) == "True [None, None, None]"


def test_the_token_of_refs_in_refs(tmp_path):
    """Those inside have theirs for it, and nothing is stored."""
    ana.set_dl(tmp_path / "s")
    inner = ana.Ref([1])
    outer = ana.Ref([inner, classes.A(inner)])
    token = tokenize(outer)
    assert (inner.uuid, outer.uuid, classes.states(tmp_path / "s")) == (None, None, [])
    outer.make_uuid()
    assert tokenize(outer) == token
    deep = ana.Ref(0)
    for _ in range(100):
        deep = ana.Ref(deep)
    assert tokenize(deep)
    assert len(classes.states(tmp_path / "s")) == 2


IN_REFS = """
import threading, ana
from dask.base import tokenize
class Plain:
    def __init__(self, x): self.x = x
def chain(inner, length):
    for _ in range(length):
        inner = ana.Ref([inner])
    return inner
def ring(length):
    first = ana.Ref([])
    first.value.append(chain(first, length - 1))
    return first
def ladder(inner, length):
    for _ in range(length):
        inner = ana.Ref([ana.Ref([inner, 1]), ana.Ref([inner, 2])])
    return inner
ana.set_dl("s")
for make in (%s):
    one, other = make(), make()
    tokens = [tokenize(one), tokenize([one]), tokenize(Plain(one))]
    assert tokens == [tokenize(one), tokenize([one]), tokenize(Plain(one))]
    assert (tokenize(other) == tokens[0]) is %s
    assert one.uuid is None
    if %s:
        one.make_uuid()
        assert tokenize(one) == tokens[0]
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("makes", "equal"),
    [
        ("lambda: chain(threading.Lock(), 50), lambda: ladder(threading.Lock(), 20)", False),
        ("lambda: ring(1), lambda: ring(2), lambda: ring(300), lambda: chain(ring(30), 30)", False),
        ("lambda: chain(1, 20), lambda: chain(2, 21), lambda: chain(3, 200), lambda: ladder(1, 12)", True),
    ],
)
def test_the_token_of_many_refs_in_each_other(tmp_path, makes, equal):
    """It takes linear time: where there is no address to foresee, each Ref has one of its own, which stays."""
    require("dask")
    assert classes.run(IN_REFS % (makes, equal, equal), cwd=tmp_path) == "done"


@pytest.mark.parametrize("make", [lambda ref: ref, Plain], ids=["itself", "held"])
def test_a_token_of_its_own_is_not_deterministic(tmp_path, make):
    """Dask refuses it where it insists on that."""
    ana.set_dl(tmp_path / "s")
    held = make(ana.Ref([ana.Ref(threading.Lock())]))
    assert tokenize(held) == tokenize(held)
    with pytest.raises(RuntimeError, match="determinis"):
        tokenize(held, ensure_deterministic=True)


class StopError(Exception):
    """What a program's signal handler raises."""


class Slow:
    """Gets a signal whenever it is pickled."""

    def __reduce__(self):
        signal.raise_signal(signal.SIGUSR1)
        return Slow, ()


@pytest.mark.parametrize("do", [tokenize, pickle.dumps])
@pytest.mark.parametrize("depth", [1, 2])
def test_what_a_signal_handler_raises_ends_a_pickling(tmp_path, do, depth):
    """It is not taken for a failure of pickling, after which another way is tried."""

    def stop(_number, _frame):
        raise StopError

    ana.set_dl(tmp_path / "s")
    ref = Slow()
    for _ in range(depth):
        ref = ana.Ref([ref])
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(StopError):
            do(ref)
    finally:
        signal.signal(signal.SIGUSR1, before)


@HASHES
def test_what_holds_addressed_objects_hashes_them_by_their_uuids(tmp_path, digest):
    """Lists, plain objects and objects without a UUID: the same hash wherever the store is."""
    found = set()
    for name in ("one", "two"):
        ana.set_dl(pickle_dir=tmp_path / name)
        child = classes.A("child")
        child.make_uuid()
        found.add((digest([child]), digest(Plain(child)), digest(classes.A(child)), digest(Picky(child))))
    assert len(found) == 1


@HASHES
def test_hash_of_an_object_whose_state_is_missing(tmp_path, digest):
    """Which object it is can be said without its state: nothing is loaded, nothing raised."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    obj = classes.A([1])
    obj.make_uuid()
    expected, data = digest(obj), pickle.dumps(obj)
    classes.file_of(tmp_path / "s", obj.uuid).unlink()
    del obj
    found = pickle.loads(data)
    assert digest(found) == expected
    with pytest.raises(ana.StateNotFoundError):
        found.x


def test_a_token_is_deterministic(tmp_path):
    """Dask accepts it where it insists on that; a Ref that was not loaded stays so."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    ref = ana.Ref([1])
    data, token = pickle.dumps(ref), tokenize(ref, ensure_deterministic=True)
    del ref
    ana.set_dl(pickle_dir=tmp_path / "s")
    ref = pickle.loads(data)
    assert tokenize(ref, ensure_deterministic=True) == token
    assert tokenize(Picky(classes.A(1)), ensure_deterministic=True)
    assert "not loaded" in repr(ref)


@HASHES
def test_a_pickle_within_a_hash_is_an_ordinary_one(tmp_path, monkeypatch, digest):
    """A state that holds a pickle which its class makes itself can be unpickled elsewhere."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    child = classes.A([1])
    child.make_uuid()
    made = []
    monkeypatch.setattr(Packed, "made", made, raising=False)
    monkeypatch.setattr(Packed, "child", child, raising=False)
    digest(Packed())
    assert made
    assert all(pickle.loads(data) is child for data in made)
    assert all(str(tmp_path).encode() in data for data in made)


MEMORY = """
import sys, ana, joblib; from support import classes
ana.set_dl(pickle_dir=sys.argv[1])
big = classes.A(list(range(1000)))
big.make_uuid()

def total(obj):
    print("computed")
    return sum(obj.x)

class Told(classes.A):
    def _ana_getstate(self):
        print("by value")
        return super()._ana_getstate()

told = Told(3)
told.make_uuid()
print("made")
total.__module__ = "anywhere"
memory = joblib.Memory(sys.argv[2], verbose=0)
print(memory.cache(total)(big), memory.cache(total).check_call_in_cache(big), joblib.hash(told) != "")
"""


@pytest.mark.slow
def test_joblib_memory_finds_results_by_uuid(tmp_path):
    """A rerun with its store elsewhere computes nothing, and no state is pickled for the look-up."""
    script = tmp_path / "program.py"
    script.write_text(MEMORY, encoding="utf-8")
    answers = [
        classes.run_file(script, str(tmp_path / name), str(tmp_path / "cache"), cwd=tmp_path) for name in ("one", "two")
    ]
    assert "computed" in answers[0]
    assert "computed" not in answers[1]
    for answer in answers:
        assert answer.splitlines()[-1] == "499500 True True"
        assert "by value" not in answer.split("made\n")[1]


OF_OUR_OWN = """
import sys, ana, ana.integrations.dask, joblib
from support import classes
from dask.base import tokenize
for digest in (joblib.hash, tokenize):
    found = []
    for name in ("one", "two"):
        ana.set_dl(pickle_dir=sys.argv[1] + name)
        for cls in (classes.DictFirst, classes.DictLast, classes.ListFirst, classes.SetLast, classes.OrderedLast):
            obj, same = cls(), cls()
            assert digest(obj) == digest(same)
            obj.make_uuid(uuid=cls.__name__)
            found.append(digest(obj))
    assert found[:5] == found[5:]
    print(len(set(found)))
"""


@pytest.mark.slow
def test_dicts_and_lists_of_our_own(tmp_path):
    """What derives from dict, list or set is hashed by its UUID, too, once dask knows of us."""
    require("dask")
    assert classes.run(OF_OUR_OWN, str(tmp_path / "s"), cwd=tmp_path) == "5\n5"
