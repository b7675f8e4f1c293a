"""The public interface as a type checker sees it: checked by mypy --strict, and run, in tests/test_house.py.

A line with `type: ignore` is a misuse: mypy complains if it finds nothing wrong there.
"""

import pickle
from collections.abc import Iterator, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, assert_type

import ana
from ana import maintenance, statistics
from ana.integrations.multiprocessing import preload


class Model(ana.Storable):
    """An ordinary class, with the default state."""

    def __init__(self, weights: list[float]) -> None:
        self.weights = weights


class Mesh(ana.Storable):
    """A class that says itself what its state is, and how it looks as a literal."""

    __slots__ = ("points",)

    def __init__(self, points: tuple[int, ...]) -> None:
        self.points = points

    def _ana_getstate(self) -> tuple[int, ...]:
        return self.points

    def _ana_setstate(self, s: Any) -> None:
        self.points = s

    def _ana_getliteral(self) -> list[int]:
        return list(self.points)


class Table(ana.StorableABC, MutableMapping[str, int]):
    """An abstract class among the bases: the metaclasses agree."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}

    def __getitem__(self, key: str) -> int:
        return self.rows[key]

    def __setitem__(self, key: str, value: int) -> None:
        self.rows[key] = value

    def __delitem__(self, key: str) -> None:
        del self.rows[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)


class Named(ana.Storable):
    """An old program's class: the UUID is its own affair."""

    def make_uuid(self, uuid: str | None = None) -> str:
        return super().make_uuid(uuid=uuid or "a name")


def identity() -> None:
    """UUIDs are strings, and what is loaded is of the class that was asked."""
    model = Model([1.0, 2.0])
    assert_type(model.make_uuid(), str)
    assert_type(model.ana_uuid, str)
    assert_type(model.ana_store(), str)
    assert_type(Model.ana_load(model.ana_uuid), Model)
    assert_type(ana.load(model.ana_uuid), Any)
    assert_type(ana.load(model.ana_uuid, Model), Model)
    assert_type(Mesh((1, 2)).make_uuid("an explicit one"), str)
    assert_type(Table().make_uuid(), str)
    assert_type(Named().make_uuid(), str)
    assert_type(model.to_literal(), dict[str, Any])
    uuid: str | None = model.uuid
    assert uuid == model.ana_uuid
    assert pickle.loads(pickle.dumps(model)) is model


def references() -> None:
    """A Ref knows the type of what it refers to."""
    ref = ana.Ref({"a": [1, 2]})
    assert_type(ref, ana.Ref[dict[str, list[int]]])
    assert_type(ref.value, dict[str, list[int]])
    assert_type(ref.make_uuid(), str)


def layers(pickle_dir: str) -> None:
    """Each way to set a layer returns it; each backend is a DataLayer."""
    assert_type(ana.set_dl(), ana.DataLayer)
    assert_type(ana.set_dl(pickle_dir=pickle_dir).keep("mine", Model([1.0])), list[str])
    assert_type(ana.set_dl(pickle_dir=pickle_dir, keep_bytes=0, errors="raise", durable=False), ana.DataLayer)
    assert_type(ana.set_dl(pickle_dir, keep_bytes="2GiB", recheck_seconds="10m"), ana.DataLayer)
    assert_type(ana.get_dl(), ana.DataLayer)
    backing: dict[str, bytes] = {}
    each: list[ana.DataLayer] = [
        ana.DataLayer(pickle_dir=pickle_dir, node_cache="auto", node_cache_bytes=1 << 30),
        ana.DirDataLayer(pickle_dir=pickle_dir),
        ana.DictDataLayer(the_dict=backing),
        ana.SimpleDataLayer(),
    ]
    for layer in each:
        with ana.using_dl(layer) as current:
            assert_type(current, ana.DataLayer)
            assert_type(current.home, str)
            assert_type(current.uuid, str)
            assert_type(current.uuid_cache, MutableMapping[str, Any])
    refs = [ana.Ref(1), ana.Ref(2)]
    uuids = each[0].store_many(refs)
    assert_type(uuids, list[str])
    assert_type(each[0].load_many(uuids, ana.Ref), list[ana.Ref[Any]])
    assert_type(each[0].load_many(uuids), list[Any])
    ana.prefetch([*refs, *uuids])
    stats = each[0].stats()
    assert_type(stats, ana.Stats)
    assert_type(stats + stats, ana.Stats)
    assert_type((stats.stored, stats.wait_seconds, stats.spared_bytes), tuple[int, float, int])
    each[0].store_state("any string", {"state": 1})
    assert each[0].load_state("any string") == {"state": 1}
    assert_type(ana.dl, ana.DataLayer)
    ana.dl = ana.DataLayer()
    ana.set_dl()


@ana.unwrap
def count(words: list[str]) -> int:
    """Be a task for any engine."""
    return len(words)


def tasks(pickle_dir: str) -> None:
    """An executor's futures have the type of the function's result; so has an unwrapped function."""
    ana.set_dl(pickle_dir=pickle_dir)
    with ThreadPoolExecutor(1) as pool, ana.Executor(pool, min_bytes="1MB", results="value") as executor:
        assert_type(executor.submit(len, "abc"), Future[int])
        assert_type(executor.submit(len, ana.Ref("abc")).result(), int)
        assert_type(list(executor.map(len, ["abc"], chunksize=2)), list[int])
    with ThreadPoolExecutor(1) as pool, ana.Executor(pool, results="ref") as stays:
        assert_type(stays.submit(len, "abc"), Future[ana.Ref[int]])
        assert_type(stays.submit(len, "abc").result().value, int)
        assert_type(list(stays.map(len, ["abc"])), list[ana.Ref[int]])
    assert_type(count(ana.Ref(["a"])), int)
    ana.set_dl()


def fork_server(ref: ana.Ref[int]) -> None:
    """Only a program that starts a fork server may call this."""
    preload([ref])


def care(pickle_dir: str) -> None:
    """What keeps states, counts them and looks after them has results with typed fields."""
    layer = ana.set_dl(pickle_dir=pickle_dir)
    with layer.keeping("a sweep", ttl="14d"):
        ref = ana.Ref([1])
        uuid = ref.make_uuid()
    assert_type(layer.keep("mine", ref, ttl=60.0), list[str])
    states = list(maintenance.ls(pickle_dir))
    assert_type(states, list[maintenance.StateInfo])
    assert_type((states[0].uuid, states[0].size_bytes, states[0].age_seconds), tuple[str, int, float])
    assert_type(maintenance.show(pickle_dir, uuid).summary, str)
    assert_type(maintenance.roots(pickle_dir), list[maintenance.RootInfo])
    assert_type(maintenance.verify(pickle_dir, sample=0.5).problems, list[maintenance.Problem])
    assert_type(maintenance.gc(pickle_dir, maintenance.Scope(unreachable=True), dry_run=True), maintenance.Collected)
    assert_type(maintenance.stats(pickle_dir), maintenance.StoreStats)
    assert_type(statistics.summarize(pickle_dir), statistics.Summary)
    ana.set_dl()


def errors() -> None:
    """Errors carry what they are about, and are what their built-in relatives are."""
    try:
        Model.ana_load("nowhere")
    except ana.StateNotFoundError as error:
        assert_type(error.uuid, str)
        assert_type(error.store, str)
        also: KeyError = error
        assert isinstance(also, ana.ANAError)


def attributes(error: Exception) -> None:
    """Each error's own attributes."""
    match error:
        case ana.CorruptedStateError():
            assert_type((error.uuid, error.path, error.reason), tuple[str, str, str])
        case ana.StateLoadError():
            assert_type((error.uuid, error.class_name, error.path), tuple[str, str, str])
        case ana.UntrustedStoreError():
            assert_type((error.path, error.reason), tuple[str, str])
        case ana.LockTimeoutError():
            assert_type((error.path, error.seconds), tuple[str, float])
            waited: TimeoutError = error
            assert waited is error
        case ana.StoreError():
            assert_type((error.path, error.hint), tuple[str, str])
            failed: OSError = error
            assert failed.errno
        case ana.UUIDConflictError():
            assert_type(error.uuid, str)
        case ana.UnsupportedFormatError():
            assert_type(error.path, str)
        case _:
            changed(error)


def changed(error: Exception) -> None:
    """The attributes of one more."""
    if isinstance(error, ana.StateChangedError):
        assert_type((error.uuid, error.class_name, error.what), tuple[str, str, str])


def misuses(model: Model, ref: ana.Ref[int]) -> None:
    """What a type checker has to refuse; never called."""
    model.make_uuid(3)  # type: ignore[arg-type]  # a UUID is a string
    Model.ana_load(b"bytes")  # type: ignore[arg-type]  # the same
    Model.ana_load("uuid").points  # type: ignore[attr-defined]  # an attribute of Mesh, not of Model
    ref.value.upper()  # type: ignore[attr-defined]  # it refers to an int
    ref.value = 3  # type: ignore[misc]  # what is referred to does not change
    ana.DictDataLayer([])  # type: ignore[arg-type]  # a list is no mapping
    ana.DataLayer(keep_bytes=[1])  # type: ignore[arg-type]  # a number of bytes, or a text
    ana.set_dl(pickel_dir="x")  # type: ignore[call-arg]  # it is pickle_dir
    ana.set_dl("x", errors="explode")  # type: ignore[arg-type]  # "defer" or "raise"
    ana.DataLayer("x", trusted_uid=[1])  # type: ignore[call-arg]  # it is trusted_uids
    ana.DictDataLayer({}, durable=True)  # type: ignore[call-arg]  # an option of folders
    ana.using_dl(node_cache=3)  # type: ignore[arg-type]  # a path
    ana.get_dl().home = "elsewhere"  # type: ignore[misc]  # a layer stays where it is
    ana.get_dl().stats().stored = 1  # type: ignore[misc]  # what was counted is not changed
    ana.Stat  # type: ignore[attr-defined]  # no public name
    ana.set_dl(3)  # type: ignore[arg-type]  # neither layer nor path
    ana.Executor(3)  # type: ignore[call-overload]  # an executor
    ana.unwrap(3)  # type: ignore[arg-type]  # a function
