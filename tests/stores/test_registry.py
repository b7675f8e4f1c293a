"""Homes and the stores behind them: registered, installed, unknown, given by hand."""

import pickle
import sys
import threading

import pytest
from support.classes import A

import ana
from ana import stores
from ana.layers import kinds
from ana.stores import registry


@pytest.fixture(autouse=True)
def _kinds(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_openers", dict(registry._openers))


class Shelf(stores.RecordStore):
    """A store over one of the dicts of this process."""

    shelves = {}  # noqa: RUF012 - all that there is

    def read_record(self, key):
        return self.shelves[self.home][key]

    def write_record(self, key, data, *, replace):
        self.shelves[self.home][key] = data
        return True


def open_shelf(home):
    """Open a shelf that is there."""
    if home not in Shelf.shelves:
        raise ana.StoreError(home, 2, "no such shelf")
    return Shelf(home)


@pytest.fixture
def home():
    """The home of an empty shelf."""
    Shelf.shelves = {"shelf:/one": {}}
    return "shelf:/one"


def test_a_reference_leads_to_a_store_of_a_registered_kind(home):
    """Objects in a store of one's own are loaded by their references' home, whichever layer is current."""
    stores.register("shelf", open_shelf)
    layer = ana.set_dl(store=Shelf(home))
    obj = A([1, 2])
    obj.make_uuid()
    sent = pickle.dumps(obj)
    assert obj.uuid in Shelf.shelves[home]
    assert home.encode() in sent
    del obj, layer
    ana.set_dl()
    kinds_of_layers_forget(home)
    assert pickle.loads(sent).x == [1, 2]


def kinds_of_layers_forget(home):
    """Have the layer of a home, and the objects in it, gone."""
    from ana.layers import layer

    layer.by_home.pop(home, None)


def test_a_home_of_a_registered_kind_is_a_place_for_a_layer(home):
    """`set_dl` takes it as it takes a folder, and children of the process take it over."""
    from ana.layers import current

    stores.register("shelf", open_shelf)
    assert ana.set_dl(home).home == home
    assert ana.set_dl(pickle_dir=home).home == home
    assert current._home_to_hand_down() == home
    with pytest.raises(ana.StoreError, match="no such shelf"):
        ana.set_dl("shelf:/two")


def test_an_unknown_kind_says_what_to_do(tmp_path, monkeypatch):
    """A home that nobody has registered is an error that names the cure, not a new folder of that name."""
    monkeypatch.chdir(tmp_path)
    for attempt in (ana.set_dl, kinds.open_home):
        with pytest.raises(ana.StoreError, match=r"ana\.stores\.register") as caught:
            attempt("cupboard:/shared/x")
        assert caught.value.path == "cupboard:/shared/x"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_have_a_colon_in_its_name(tmp_path, monkeypatch):
    """What is no scheme before a slash is a folder's name, as ever."""
    monkeypatch.chdir(tmp_path)
    assert ana.set_dl("runs:2024").home == str(tmp_path / "runs:2024")


def test_installed_packages_bring_kinds(home, tmp_path, monkeypatch):
    """An entry point names what opens a scheme: nobody has to import its module."""
    (tmp_path / "shelves.py").write_text(
        "import ana.stores\n"
        "class Shelf(ana.stores.RecordStore):\n"
        "    def read_record(self, key):\n"
        "        raise KeyError(key)\n"
        "    write_record = None\n"
    )
    info = tmp_path / "shelves-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelves\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[ana.stores]\nshelf = shelves:Shelf\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert type(kinds.open_home(home)).__name__ == "Shelf"
    sys.modules.pop("shelves")


@pytest.mark.parametrize("scheme", ["", "x", "Shelf", "she lf", "shelf:", "/shelf", "1shelf", "shélf"])
def test_a_bad_scheme_is_refused(scheme):
    """ValueError names it; nothing is registered."""
    before = dict(registry._openers)
    with pytest.raises(ValueError, match="scheme"):
        stores.register(scheme, open_shelf)
    assert registry._openers == before


@pytest.mark.parametrize(("scheme", "opener"), [(b"shelf", open_shelf), ("shelf", None), ("shelf", "name")])
def test_what_is_no_scheme_or_function_is_refused(scheme, opener):
    """TypeError, whatever else is right."""
    with pytest.raises(TypeError, match="scheme"):
        stores.register(scheme, opener)


def test_a_scheme_has_one_owner(home):
    """Another function, or ana's own scheme, is a clash; the same function of a reloaded module is not."""
    stores.register("shelf", open_shelf)
    with pytest.raises(ValueError, match=r"'shelf' belongs to .*open_shelf"):
        stores.register("shelf", Shelf)
    with pytest.raises(ValueError, match="'memory' belongs to ana"):
        stores.register("memory", open_shelf)

    def again(home):
        return Shelf(home)

    again.__module__, again.__qualname__ = open_shelf.__module__, open_shelf.__qualname__
    stores.register("shelf", again)
    assert registry._openers["shelf"] is again
    assert kinds.open_home(home).home == home


def test_a_layer_takes_one_store_and_nothing_else(tmp_path, home):
    """TypeError for a folder besides, for options of folders, and for what is no store."""
    with pytest.raises(TypeError, match="two stores"):
        ana.set_dl(tmp_path / "s", store=Shelf(home))
    with pytest.raises(TypeError, match="durable= is for a folder"):
        ana.set_dl(store=Shelf(home), durable=False)
    with pytest.raises(TypeError, match="DictDataLayer"):
        ana.set_dl(store={})
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_roots_keeps_all(home):
    """`keep` only stores where nothing is collected; asked itself, the store says that it has no roots."""
    layer = ana.set_dl(store=Shelf(home))
    obj = A([3])
    assert layer.keep("run", obj) == [obj.uuid]
    assert obj.uuid in Shelf.shelves[home]
    assert not layer.store.supports_roots
    with pytest.raises(ana.StoreError, match="no roots"):
        layer.store.keep("run", [obj.uuid])


def test_a_store_says_whether_many_calls_pay_off(home):
    """Threads load and store many states where the store says that each call waits, and nowhere else."""
    company = threading.Event()

    class Far(Shelf):
        high_latency = True
        callers = set()  # noqa: RUF012 - what was seen

        def read_record(self, key):
            self.callers.add(threading.get_ident())
            if len(self.callers) > 1:
                company.set()
            company.wait(0.5)
            return super().read_record(key)

    for kind, threaded in ((Shelf, False), (Far, True)):
        layer = ana.set_dl(store=kind(home))
        uuids = layer.store_many([A(number) for number in range(40)])
        ana.set_dl()
        callers = Far.callers
        callers.clear()
        company.clear()
        other = ana.set_dl(store=kind(home))
        assert [obj.x for obj in other.load_many(uuids)] == list(range(40))
        assert (len(callers) > 1) is threaded
