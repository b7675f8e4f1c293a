"""Unpickling never raises for a missing or damaged state: the object raises when it is used, until it heals."""

import asyncio
import concurrent.futures
import contextlib
import copy
import json
import math
import multiprocessing
import operator
import os
import pickle
import sys
import threading

import pytest
from support import classes, engines

import ana
from ana.objects import ghost_classes


@pytest.fixture
def folder(tmp_path):
    """Return a store's folder, with a layer over it."""
    ana.set_dl(pickle_dir=tmp_path / "s")
    return tmp_path / "s"


class Missing:
    """An object whose state is away, in a process that has only the reference; and how to bring it back."""

    def __init__(self, folder, obj):
        self.uuid = obj._ana_uuid or obj.make_uuid()
        self.reference = pickle.dumps(obj)
        self.file = classes.file_of(folder, self.uuid)
        self.raw = self.file.read_bytes()
        self.file.unlink()
        ana.set_dl(pickle_dir=folder)
        self.obj = pickle.loads(self.reference)

    def bring_back(self):
        self.file.write_bytes(self.raw)


USES = {
    "attribute": lambda obj: obj.x,
    "unknown attribute": lambda obj: obj.no_such_thing,
    "hasattr": lambda obj: hasattr(obj, "x"),
    "getattr with default": lambda obj: getattr(obj, "x", None),
    "vars": vars,
    "dir": dir,
    "setattr": lambda obj: setattr(obj, "x", 1),
    "delattr": lambda obj: delattr(obj, "x"),
    "bool": bool,
    "if": lambda obj: 1 if obj else 2,
    "not": operator.not_,
    "len": len,
    "iter": iter,
    "next": next,
    "list": list,
    "tuple": tuple,
    "sorted": sorted,
    "sum": sum,
    "any": any,
    "unpacking": lambda obj: [*obj],
    "star arguments": lambda obj: print(*obj),
    "assignment to several": lambda obj: exec("a, b = obj", {"obj": obj}),
    "reversed": reversed,
    "contains": lambda obj: 1 in obj,
    "getitem": lambda obj: obj[0],
    "slice": lambda obj: obj[1:],
    "setitem": lambda obj: operator.setitem(obj, 0, 1),
    "delitem": lambda obj: operator.delitem(obj, 0),
    "call": lambda obj: obj(),
    "call with arguments": lambda obj: obj(1, k=2),
    "with": lambda obj: obj.__enter__(),
    "with statement": lambda obj: contextlib.ExitStack().enter_context(obj),
    "await": lambda obj: asyncio.run(awaiting(obj)),
    "async for": lambda obj: asyncio.run(async_for(obj)),
    "async with": lambda obj: asyncio.run(async_with(obj)),
    "str": str,
    "format": lambda obj: f"{obj}",
    "format with a code": lambda obj: f"{obj:>10}",
    "bytes": bytes,
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "round": round,
    "trunc": math.trunc,
    "floor": math.floor,
    "ceil": math.ceil,
    "fspath": os.fspath,
    "neg": operator.neg,
    "pos": operator.pos,
    "abs": abs,
    "invert": operator.invert,
    "divmod": lambda obj: divmod(obj, 2),
    "reflected divmod": lambda obj: divmod(2, obj),
    "pow with modulus": lambda obj: pow(obj, 2, 3),
    "eq": lambda obj: obj == 1,
    "reflected eq": lambda obj: 1 == obj,  # noqa: SIM300 - the other way round is what is tested
    "ne": lambda obj: obj != 1,
    "lt": lambda obj: obj < 1,
    "le": lambda obj: obj <= 1,
    "gt": lambda obj: obj > 1,
    "ge": lambda obj: obj >= 1,
    "method": lambda obj: obj._ana_getstate(),
}
for _name in "add sub mul matmul truediv floordiv mod pow lshift rshift and_ or_ xor".split():  # noqa: SIM905 - readable
    _operation = getattr(operator, _name)
    _in_place = getattr(operator, f"i{_name.rstrip('_')}")
    USES[_name] = lambda obj, operation=_operation: operation(obj, 1)
    USES[f"reflected {_name}"] = lambda obj, operation=_operation: operation(1, obj)
    USES[f"i{_name}"] = lambda obj, operation=_in_place: operation(obj, 1)


async def awaiting(obj):
    """Await an object."""
    return await obj


async def async_for(obj):
    """Iterate over an object."""
    return [item async for item in obj]


async def async_with(obj):
    """Enter an object."""
    async with obj:
        return


KINDS = {
    "ordinary": lambda: classes.A(1),
    "slotted": lambda: classes.Slotted(1, 2),
    "abstract": lambda: classes.Mapping(a=1),
    "abstract sequence": lambda: classes.Sequence([1]),
    "everything": lambda: classes.Everything(3),
    "frozen": lambda: classes.FrozenSlotted(1),
    "metaclass": lambda: classes.WithMeta(1),
    "falsy": lambda: classes.Falsy(1),
    "raising": lambda: classes.Raising(1),
    "getattr": lambda: classes.Recursive(classes.A(1)),
    "slotted getattr": lambda: classes.SlottedProxy([1]),
    "dict": lambda: classes.DictFirst(a=1),
    "dict last": lambda: classes.DictLast(a=1),
    "ordered dict": lambda: classes.OrderedFirst(a=1),
    "list": lambda: classes.ListFirst([1, 2]),
    "set": lambda: classes.SetFirst([1, 2]),
    "deque": lambda: classes.DequeWithState([1, 2]),
    "exception": lambda: classes.Mistake("no"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_use_raises_the_typed_error(folder, kind):
    """Attributes, operators, len, iteration, calls ...: each raises the same error, for each kind of class."""
    missing = Missing(folder, KINDS[kind]())
    wrong = {}
    for name, use in USES.items():
        try:
            result = use(missing.obj)
        except ana.StateNotFoundError as error:
            wrong.update({name: error.uuid} if error.uuid != missing.uuid else {})
        except BaseException as error:
            wrong[name] = f"{type(error).__name__}: {error}"
        else:
            wrong[name] = f"gave a {type(result).__name__}"
    assert wrong == {}


@pytest.mark.parametrize("kind", KINDS)
def test_what_needs_no_state_works(folder, kind):
    """isinstance, its UUID, copies and the pickle of an object without its state."""
    made = KINDS[kind]()
    cls = type(made)
    missing = Missing(folder, made)
    obj = missing.obj
    assert isinstance(obj, cls)
    assert obj.__class__ is cls
    assert obj.ana_uuid == obj.make_uuid() == missing.uuid
    assert copy.copy(obj) is copy.deepcopy([obj])[0] is obj
    assert pickle.dumps(obj) == missing.reference
    assert pickle.loads(missing.reference) is obj
    assert repr(obj) == f"<support.classes.{cls.__qualname__} {missing.uuid[:8]}… not loaded>"


@pytest.mark.parametrize("kind", KINDS)
def test_it_heals_by_itself(folder, kind):
    """When the state appears later, the next use loads it, and the object is an ordinary one from then on."""
    made = KINDS[kind]()
    cls, state = type(made), made._ana_getstate()
    missing = Missing(folder, made)
    with pytest.raises(ana.StateNotFoundError):
        _ = missing.obj.x
    missing.bring_back()
    with contextlib.suppress(AttributeError):
        _ = missing.obj.x
    assert type(missing.obj) is cls
    if kind not in {"getattr", "raising"}:
        assert missing.obj._ana_getstate() == state
    assert pickle.loads(missing.reference) is missing.obj


HEALING = {
    "len": lambda obj: len(obj) == 3,
    "iter": lambda obj: list(obj) == [0, 1, 2],
    "add": lambda obj: obj + 1 == 4,
    "reflected add": lambda obj: 1 + obj == 4,
    "iadd": lambda obj: operator.iadd(obj, 1) == 4,
    "pow": lambda obj: obj**2 == 9,
    "pow with modulus": lambda obj: pow(obj, 2, 5) == 4,
    "getitem": lambda obj: obj["k"] == (3, "k"),
    "contains": lambda obj: 3 in obj,
    "call": lambda obj: obj(1) == (3, 1),
    "with": lambda obj: contextlib.ExitStack().enter_context(obj) == 3,
    "index": lambda obj: [0, 1, 2, "here"][obj] == "here",
    "eq": lambda obj: obj == classes.Everything(3),
    "reflected eq": lambda obj: classes.Everything(3) == obj,
    "hash": lambda obj: hash(obj) == hash(3),
    "repr": lambda obj: repr(obj) == "Everything(3)",
    "str": lambda obj: f"{obj}" == "Everything(3)",
    "bool": lambda obj: bool(obj) is True,
    "set": lambda obj: setattr(obj, "x", 4) is None and obj.x == 4,
    "delete": lambda obj: delattr(obj, "x") is None and not hasattr(obj, "x"),
    "vars": lambda obj: vars(obj) == {"x": 3},
    "explicit dunder": lambda obj: obj.__len__() == 3,
}


@pytest.mark.parametrize("use", HEALING)
def test_any_first_use_heals(folder, use):
    """Whatever the first use is, once the state is there it gives what an ordinary object would."""
    missing = Missing(folder, classes.Everything(3))
    missing.bring_back()
    assert HEALING[use](missing.obj)
    assert type(missing.obj) is classes.Everything


def test_hash_without_one_of_its_own(folder):
    """By identity, as before: needs no state, so that dicts and sets that hold the object can be made."""
    missing = Missing(folder, classes.A(1))
    assert hash(missing.obj) == object.__hash__(missing.obj)
    assert {missing.obj: 1}[missing.obj] == 1


@pytest.mark.parametrize("cls", [classes.Everything, classes.Raising])
def test_hash_of_its_own(folder, cls):
    """A hash that depends on the state raises the typed error while that is away."""
    missing = Missing(folder, cls(3))
    with pytest.raises(ana.StateNotFoundError):
        hash(missing.obj)


def test_hash_of_an_unhashable_class_raises(folder):
    """`__eq__` without `__hash__`: no hash, whatever becomes of the state."""
    missing = Missing(folder, classes.EqualNoHash(1))
    with pytest.raises((TypeError, ana.StateNotFoundError)):
        hash(missing.obj)
    missing.bring_back()
    with pytest.raises(TypeError):
        hash(missing.obj)


def matched(obj):
    """Match a mapping by pattern."""
    match obj:
        case {"a": found}:
            return found
    return None


def matched_sequence(obj):
    """Match a sequence by pattern."""
    match obj:
        case [first, *_]:
            return first
    return None


DICT_USES = {
    "json": json.dumps,
    "json inside": lambda obj: json.dumps({"k": [obj]}),
    "json indented": lambda obj: json.dumps(obj, indent=1),
    "dict": dict,
    "splat": lambda obj: {**obj},
    "keywords": lambda obj: dict(k=1, **obj),
    "union": lambda obj: {} | obj,
    "union in place": lambda obj: operator.ior({}, obj),
    "update": lambda obj: operator.methodcaller("update", obj)({}),
    "copy": lambda obj: obj.copy(),
    "items": lambda obj: list(obj.items()),
    "get": lambda obj: obj.get("a"),
    "eq": lambda obj: obj == {},
    "percent": lambda obj: "%(a)s" % obj,  # noqa: UP031 - the old way is what is tested
    "format_map": "{a}".format_map,
    "match": matched,
    "setdefault": lambda obj: obj.setdefault("b", 1),
    "clear": lambda obj: obj.clear(),
    "in": lambda obj: "a" in obj,
    "ordered": classes.collections.OrderedDict,
    "counter": classes.collections.Counter,
}


@pytest.mark.parametrize("make", [classes.DictFirst, classes.DictLast, classes.OrderedFirst, classes.OrderedLast])
@pytest.mark.parametrize("use", DICT_USES)
def test_a_dict_without_its_state_is_not_empty(folder, make, use):
    """C code that knows dicts by heart does not take the ghost for an empty dict, and heals it."""
    missing = Missing(folder, make(a=1))
    with pytest.raises(ana.StateNotFoundError):
        DICT_USES[use](missing.obj)
    missing.bring_back()
    DICT_USES[use](missing.obj)
    assert type(missing.obj) is make


LIST_USES = {
    "json": json.dumps,
    "json inside": lambda obj: json.dumps({"k": obj}),
    "list": list,
    "tuple": tuple,
    "extend": [].extend,
    "add": lambda obj: operator.add([1], obj),
    "iadd": lambda obj: operator.iadd([], obj),
    "slice assignment": lambda obj: operator.setitem([1], slice(0, 0), obj),
    "join": lambda obj: "".join(map(str, obj)),
    "join itself": ",".join,
    "eq": lambda obj: obj == [],
    "append": lambda obj: obj.append(1),
    "max": max,
    "zip": lambda obj: list(zip(obj, [1], strict=False)),
    "match": matched_sequence,
    "pop": lambda obj: obj.pop(),
    "sort": lambda obj: obj.sort(),
}


@pytest.mark.parametrize("make", [classes.ListFirst, classes.ListLast])
@pytest.mark.parametrize("use", LIST_USES)
def test_a_list_without_its_state_is_not_empty(folder, make, use):
    """C code that knows lists by heart does not take the ghost for a list of something else."""
    missing = Missing(folder, make(["a", "b"]))
    with pytest.raises(ana.StateNotFoundError):
        LIST_USES[use](missing.obj)
    missing.bring_back()
    LIST_USES[use](missing.obj)
    assert type(missing.obj) is make


SET_USES = {
    "set": set,
    "frozenset": frozenset,
    "splat": lambda obj: {*obj},
    "union": lambda obj: {1} | obj,
    # Fresh sets where they would be changed: a use must not depend on the one before.
    "union method": {1}.union,
    "union of empty": lambda obj: set().union(obj),
    "update": lambda obj: operator.methodcaller("update", obj)({1}),
    "intersection": lambda obj: {1} & obj,
    "intersection method": {1}.intersection,
    "difference": lambda obj: {1} - obj,
    "difference method": {1}.difference,
    "symmetric difference": lambda obj: {1} ^ obj,
    "disjoint": {1}.isdisjoint,
    "subset": {1}.issubset,
    "superset": {1}.issuperset,
    "le": lambda obj: {1} <= obj,
    "eq": lambda obj: {1} == obj,
    "add": lambda obj: obj.add(3),
    "in": lambda obj: 1 in obj,
    "in others": lambda obj: obj in [1, 2],
    "sorted": sorted,
    "list": list,
}


@pytest.mark.parametrize("make", [classes.SetFirst, classes.SetLast])
@pytest.mark.parametrize("use", SET_USES)
def test_a_set_without_its_state_is_not_empty(folder, make, use):
    """C code that knows sets by heart does not take the ghost for a set of something else."""
    missing = Missing(folder, make([1, 2]))
    with pytest.raises(ana.StateNotFoundError):
        SET_USES[use](missing.obj)
    missing.bring_back()
    SET_USES[use](missing.obj)
    assert type(missing.obj) is make


def test_a_damaged_state(folder):
    """Unpickles into an object that says what is wrong, and with which file; stored again, it heals."""
    a = classes.A(list(range(100)))
    uuid = a.make_uuid()
    data = pickle.dumps(a)
    file = classes.file_of(folder, uuid)
    classes.damage(file)
    ana.set_dl(pickle_dir=folder)
    found = pickle.loads(data)
    for _ in range(2):
        with pytest.raises(ana.CorruptedStateError) as raised:
            _ = found.x
        assert (raised.value.uuid, raised.value.path) == (uuid, str(file))
    assert file.exists()
    a.ana_store()
    assert found.x == list(range(100))


@pytest.mark.parametrize("keep", [0, 1, 100])
def test_a_truncated_state(folder, keep):
    """Of any length: a typed error at the first use."""
    a = classes.A(list(range(100)))
    uuid = a.make_uuid()
    data = pickle.dumps(a)
    file = classes.file_of(folder, uuid)
    file.chmod(0o644)
    os.truncate(file, keep)
    ana.set_dl(pickle_dir=folder)
    found = pickle.loads(data)
    with pytest.raises(ana.CorruptedStateError, match=uuid):
        _ = found.x
    with pytest.raises(ana.CorruptedStateError, match=uuid):
        classes.A.ana_load(uuid)


def test_ana_load_raises_at_once(folder):
    """What is asked for by UUID, in the task itself, is there or raises."""
    missing = Missing(folder, classes.A(1))
    del missing.obj
    with pytest.raises(ana.StateNotFoundError):
        classes.A.ana_load(missing.uuid)
    with pytest.raises(KeyError):
        classes.A.ana_load(missing.uuid)


def test_ana_load_of_an_object_that_waits(folder):
    """An object that was unpickled without its state counts as not there, too; and heals as the same object."""
    missing = Missing(folder, classes.A(1))
    with pytest.raises(ana.StateNotFoundError):
        classes.A.ana_load(missing.uuid)
    missing.bring_back()
    assert classes.A.ana_load(missing.uuid) is missing.obj
    assert type(missing.obj) is classes.A


def test_errors_raise(folder):
    """`set_dl(..., errors="raise")` raises while unpickling."""
    missing = Missing(folder, classes.A(1))
    del missing.obj
    ana.set_dl(pickle_dir=folder, errors="raise")
    with pytest.raises(ana.StateNotFoundError):
        pickle.loads(missing.reference)
    missing.bring_back()
    classes.damage(missing.file)
    with pytest.raises(ana.CorruptedStateError):
        pickle.loads(missing.reference)
    missing.file.write_bytes(missing.raw)
    assert pickle.loads(missing.reference).x == 1


def test_errors_raise_for_a_child(folder):
    """With `errors="raise"` a missing child is an error of the whole."""
    child = classes.A(1)
    uuid = child.make_uuid()
    parent = classes.A([child])
    data = [parent.make_uuid(), pickle.dumps(parent)][1]
    classes.file_of(folder, uuid).unlink()
    ana.set_dl(pickle_dir=folder, errors="raise")
    with pytest.raises(ana.ANAError, match=uuid):
        pickle.loads(data)


def family(folder):
    """Store a parent, its child and its grandchild; return their UUIDs and the parent's reference."""
    grandchild = classes.A("grandchild")
    child = classes.A([grandchild])
    parent = classes.A({"deep": [child]})
    uuids = [obj.make_uuid() for obj in (grandchild, child, parent)]
    return uuids, pickle.dumps(parent)


def test_a_missing_grandchild(folder):
    """What is there is loaded; only the use of what is missing raises, and heals."""
    (uuid, *_), data = family(folder)
    file = classes.file_of(folder, uuid)
    raw = file.read_bytes()
    file.unlink()
    ana.set_dl(pickle_dir=folder)
    found = pickle.loads(data).x["deep"][0].x[0]
    with pytest.raises(ana.StateNotFoundError, match=uuid):
        _ = found.x
    file.write_bytes(raw)
    assert found.x == "grandchild"


def test_a_missing_grandchild_heals_where_nobody_configured_a_store(folder, tmp_path):
    """The worker remembers which store the parent came from; a reference that it passes on does, too."""
    (uuid, *_), data = family(folder)
    file = classes.file_of(folder, uuid)
    aside = tmp_path / "aside"
    file.rename(aside)
    (tmp_path / "handed").write_bytes(data)
    code = (
        "import pickle, sys, os, ana\n"
        "_, handed, aside, file, out = sys.argv\n"
        "found = pickle.load(open(handed, 'rb')).x['deep'][0].x[0]\n"
        "try:\n"
        "    found.x\n"
        "except ana.StateNotFoundError as error:\n"
        "    print('missing', error.uuid, os.path.dirname(handed) in str(error))\n"
        "open(out, 'wb').write(pickle.dumps(found))\n"
        "os.rename(aside, file)\n"
        "print(found.x)\n"
    )
    arguments = [str(tmp_path / "handed"), str(aside), str(file), str(tmp_path / "out")]
    assert classes.run(code, *arguments, cwd=tmp_path) == f"missing {uuid} True\ngrandchild"
    ana.set_dl()
    assert pickle.loads((tmp_path / "out").read_bytes()).x == "grandchild"


@pytest.mark.parametrize("other", ["memory", "another folder", "environment"])
def test_a_missing_child_heals_where_another_layer_is_set(folder, tmp_path, monkeypatch, other):
    """A child is looked for where its parent's state came from, also later; passed on, it names that place."""
    (uuid, *_), data = family(folder)
    file = classes.file_of(folder, uuid)
    raw = file.read_bytes()
    file.unlink()
    if other == "environment":
        monkeypatch.setenv("ANA_PICKLE_DIR", str(tmp_path / "other"))
    ana.set_dl(**({"pickle_dir": tmp_path / "other"} if other == "another folder" else {}))
    found = pickle.loads(data).x["deep"][0].x[0]
    with pytest.raises(ana.StateNotFoundError) as raised:
        _ = found.x
    assert str(folder) in str(raised.value)
    assert str(folder).encode() in pickle.dumps(found)
    file.write_bytes(raw)
    assert found.x == "grandchild"


def test_an_object_that_waits_is_pickled_into_its_own_reference(folder, tmp_path):
    """Pickled again, also under another layer, the reference names the place where its state was said to be."""
    missing = Missing(folder, classes.A(1))
    ana.set_dl(pickle_dir=tmp_path / "other")
    assert pickle.dumps(missing.obj) == missing.reference
    assert classes.states(tmp_path / "other") == []


def test_an_object_that_waits_inside_of_a_state(folder):
    """A parent that holds an object without its state can be stored: by reference, the state is not needed."""
    missing = Missing(folder, classes.A(1))
    parent = classes.A([missing.obj])
    uuid = parent.make_uuid()
    missing.bring_back()
    ana.set_dl(pickle_dir=folder)
    assert classes.A.ana_load(uuid).x[0].x == 1


def test_uuid_of_an_object_that_waits(folder):
    """`uuid` needs no state, unless the class has one of its own."""
    missing = Missing(folder, classes.A(1))
    assert missing.obj.uuid == missing.uuid
    field = Missing(folder, classes.FieldUUID("mine"))
    with pytest.raises(ana.StateNotFoundError):
        _ = field.obj.uuid
    field.bring_back()
    assert field.obj.uuid == "mine"


def test_annotations_are_not_evaluated():
    """A field named `uuid` is seen where the class's annotations name what only a type checker knows."""
    future = "from __future__ import annotations\n" if sys.version_info < (3, 14) else ""
    made = {"ana": ana, "__name__": "made"}
    exec(future + "class Own(ana.Storable):\n    uuid: nowhere.Name\n    other: nowhere()", made)
    assert ghost_classes._defines_uuid(made["Own"])
    assert not ghost_classes._defines_uuid(classes.A)


def test_an_attribute_named_uuid_after_healing(folder):
    """An object's own attribute `uuid` is what it has when its state is there again."""
    missing = Missing(folder, classes.AttributeUUID("mine"))
    missing.bring_back()
    assert missing.obj.uuid == "mine"


def test_threads_use_one_object_that_waits(folder):
    """Many threads at once: all get the state, which is set once."""
    missing = Missing(folder, classes.Counted(list(range(100))))
    missing.bring_back()
    classes.Counted.loads = 0
    start = threading.Barrier(32)

    def use(_):
        start.wait()
        return len(missing.obj.x)

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(use, range(32))) == [100] * 32
    assert classes.Counted.loads == 1


def test_threads_use_one_object_that_stays_away(folder):
    """Many threads at once: each gets the error."""
    missing = Missing(folder, classes.A(1))
    start = threading.Barrier(16)

    def use(_):
        start.wait()
        with pytest.raises(ana.StateNotFoundError):
            _ = missing.obj.x
        return True

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        assert all(pool.map(use, range(16)))


@pytest.mark.parametrize("kind", ["missing", "damaged"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_multiprocessing_pool_survives(folder, kind, method):
    """The task fails with the typed error; the same worker does the next task."""
    bad, good = broken(folder, kind), classes.A("good")
    good.make_uuid()
    with multiprocessing.get_context(method).Pool(1) as pool:
        (pid,) = pool.map(pid_of, [good])
        result = pool.apply_async(classes.value_of, (bad,))
        with pytest.raises(ana.StateNotFoundError if kind == "missing" else ana.CorruptedStateError):
            result.get(60)
        assert pool.apply_async(classes.value_of, (good,)).get(60) == "good"
        assert pool.map(pid_of, [good]) == [pid]
        pool.close()
        pool.join()


@pytest.mark.parametrize("kind", ["missing", "damaged"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_pool_executor_survives(folder, kind, method):
    """The task fails with the typed error; the pool is not broken."""
    bad, good = broken(folder, kind), classes.A("good")
    good.make_uuid()
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
        with pytest.raises(ana.StateNotFoundError if kind == "missing" else ana.CorruptedStateError) as raised:
            pool.submit(classes.value_of, bad).result(60)
        assert raised.value.uuid == bad.ana_uuid
        assert pool.submit(classes.value_of, good).result(60) == "good"


@pytest.mark.parametrize("kind", ["missing", "damaged"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_survives_a_method_as_its_task(folder, kind, method):
    """`pool.map(obj.method, ...)`: a bound method is looked up while it is unpickled; only its call may raise."""
    bad, good = broken(folder, kind), classes.A("good")
    good.make_uuid()
    expected = ana.StateNotFoundError if kind == "missing" else ana.CorruptedStateError
    with multiprocessing.get_context(method).Pool(1) as pool:
        result = pool.apply_async(bad.shown, (1,))
        with pytest.raises(expected):
            result.get(60)
        assert pool.apply_async(classes.value_of, (good,)).get(60) == "good"
        pool.close()
        pool.join()


WITH_TBLIB = """
import pickle, sys, ana, tblib.pickling_support; from support import classes
tblib.pickling_support.install()
ana.set_dl(pickle_dir=sys.argv[1])
obj = classes.Mistake("away")
uuid, data = obj.make_uuid(), pickle.dumps(obj)
assert b"tblib" in data
classes.file_of(sys.argv[1], uuid).unlink()
del obj
ana.set_dl(pickle_dir=sys.argv[1])
found = pickle.loads(data)
try:
    found.args
except ana.StateNotFoundError as error:
    print(error.uuid == uuid)
"""


def test_an_exception_without_its_state_where_dask_is_imported(folder, tmp_path):
    """Dask has tblib set `__cause__` and the like on each exception that is unpickled: that may not raise."""
    engines.require("tblib")
    assert classes.run(WITH_TBLIB, str(folder), cwd=tmp_path) == "True"


def test_a_method_of_an_object_that_waits(folder):
    """It says which one it is, travels on, raises when it is called, and works once the state is there."""
    missing = Missing(folder, classes.A([1, 2]))
    method = missing.obj.shown
    assert method.__name__ == "shown"
    assert method.__self__ is missing.obj
    again = pickle.loads(pickle.dumps(method))
    for one in (method, again):
        with pytest.raises(ana.StateNotFoundError):
            one(1)
        with pytest.raises(ana.StateNotFoundError):
            one.__self__.x
    missing.bring_back()
    assert method(3) == again(3) == [1, 2, 1, 2, 1, 2]
    assert missing.obj.shown(times=1) == [1, 2]


def pid_of(_):
    """Be a worker's task: say who does it."""
    return os.getpid()


def broken(folder, kind):
    """Return an object that has its state in this process, while the stored one is missing or damaged."""
    missing = Missing(folder, classes.A(list(range(100))))
    if kind == "damaged":
        missing.bring_back()
        classes.damage(missing.file)
    return missing.obj


def test_a_mapping_that_fails_when_it_is_read():
    """A user's mapping may raise what it likes (a network's errors): unpickling does not, using the object does."""

    class Flaky(dict):
        down = False

        def __getitem__(self, key):
            if self.down:
                raise ConnectionError("the network is away")
            return super().__getitem__(key)

    mapping = Flaky()
    ana.set_dl(ana.DictDataLayer(mapping))
    a = classes.A(1)
    a.make_uuid()
    data = pickle.dumps(a)
    mapping.down = True
    ana.set_dl(ana.DictDataLayer(mapping))
    found = pickle.loads(data)
    with pytest.raises((ConnectionError, ana.ANAError), match="network"):
        _ = found.x
    mapping.down = False
    assert found.x == 1


@pytest.mark.parametrize("unusable", ["a file", "a foreign folder", "a newer store"])
def test_an_unusable_folder_in_the_environment_does_not_raise_while_unpickling(folder, tmp_path, unusable):
    """`ANA_PICKLE_DIR` that cannot be opened: the object comes from its home, or raises when it is used."""
    a = classes.A(1)
    a.make_uuid()
    data = pickle.dumps(a)
    bad = tmp_path / "bad"
    if unusable == "a file":
        bad.write_text("no folder")
    else:
        bad.mkdir()
        (bad / ("ana.json" if unusable == "a newer store" else "thesis.tex")).write_text('{"format": 99}')
    (tmp_path / "handed").write_bytes(data)
    code = (
        "import pickle, sys, ana\n"
        "found = pickle.load(open(sys.argv[1], 'rb'))\n"
        "print('unpickled')\n"
        "try:\n"
        "    print(found.x)\n"
        "except ana.ANAError as error:\n"
        "    print(1)\n"
    )
    answer = classes.run(code, str(tmp_path / "handed"), cwd=tmp_path, ANA_PICKLE_DIR=str(bad))
    assert answer == "unpickled\n1"
