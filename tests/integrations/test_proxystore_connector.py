"""The ProxyStore connector: each clause of ProxyStore's protocol, and what ANA adds to it."""

import json
import multiprocessing
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor

import pytest
from support import care, engines

import ana

pytest.importorskip("proxystore", reason="pip install proxystore")
from proxystore.connectors.file import FileConnector
from proxystore.connectors.protocols import Connector, DeferrableConnector
from proxystore.proxy import ProxyResolveError
from proxystore.store import Store, get_store, unregister_store

from ana.integrations.proxystore import AnaConnector, AnaKey

BYTES = b"the bytes of a proxy " * 50


@pytest.fixture
def connector(tmp_path):
    """A connector over a new store."""
    return AnaConnector(str(tmp_path / "store"), durable=False)


@pytest.fixture
def store(connector, request):
    """A registered store of ProxyStore over it."""
    name = request.node.name
    with Store(name, connector, register=True) as made:
        yield made


def file_of(tmp_path, key):
    """Return the file of a key's state."""
    (found,) = (tmp_path / "store").rglob(f"{key.uuid}.pkl.zst")
    return found


def flip_a_byte(path, where):
    """Damage a file."""
    data = bytearray(path.read_bytes())
    data[where] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)


def test_it_is_a_connector(connector):
    """ProxyStore recognises it, with new_key and set."""
    assert isinstance(connector, Connector)
    assert isinstance(connector, DeferrableConnector)
    assert str(connector._depot.store.home) in repr(connector)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 5_000, 9 << 20])
def test_put_and_get(connector, tmp_path, kind, size):
    """What is put comes back as bytes: also nothing, and what would be a part of an object."""
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    key = connector.put(kind(data))
    assert connector.get(key) == data
    assert type(connector.get(key)) is bytes
    assert len(list((tmp_path / "store").rglob("*.pkl.zst"))) == 1


def test_keys_are_small_named_tuples(connector):
    """A key is a tuple by type and by value, and pickles into little."""
    key = connector.put(BYTES)
    assert isinstance(key, tuple)
    assert AnaKey(*key) == key
    assert pickle.loads(pickle.dumps(key)) == key
    assert len(pickle.dumps(key)) < 150


def test_batches(connector):
    """Many are put and got in order, and a missing one is None."""
    keys = connector.put_batch([b"one", b"two", b"three", b"two"])
    connector.evict(keys[1])
    never = AnaKey("00000000-0000-4000-8000-000000000000", "", 1)
    assert connector.get_batch([*keys, never]) == [b"one", None, b"three", b"two", None]
    assert connector.put_batch([]) == connector.get_batch([]) == []


def test_evict(connector):
    """An evicted key is gone for this connector, and evicting it again, or one that never was, is no error."""
    key = connector.put(BYTES)
    assert connector.exists(key)
    for _ in range(2):
        connector.evict(key)
        assert not connector.exists(key)
        assert connector.get(key) is None
    assert not connector.exists(AnaKey("00000000-0000-4000-8000-000000000000", "", 1))


def test_evict_takes_nothing_from_another_key(connector, tmp_path):
    """Two puts of equal bytes share a state. Evicting one key leaves the other, also one that is put later."""
    first, second = connector.put(BYTES), connector.put(BYTES)
    assert first.uuid == second.uuid
    assert first != second
    connector.evict(first)
    assert connector.get(second) == BYTES
    assert connector.get(connector.put(BYTES)) == BYTES
    assert AnaConnector(str(tmp_path / "store")).get(first) == BYTES


def test_config_leads_to_the_same_store(connector, tmp_path, monkeypatch):
    """The configuration is plain data, and makes a connector that finds the objects from any folder."""
    monkeypatch.chdir(tmp_path)
    relative = AnaConnector("store", durable=False)
    config = json.loads(json.dumps(relative.config()))
    assert config == connector.config() == {"pickle_dir": str(tmp_path / "store"), "durable": False}
    monkeypatch.chdir("/")
    again = AnaConnector.from_config(config)
    assert again.get(connector.put(BYTES)) == BYTES
    with pytest.raises(TypeError, match="no option clear"):
        AnaConnector(str(tmp_path), clear=True)


def test_close_leaves_the_objects(connector):
    """Closing, twice, removes nothing, unlike FileConnector, which removes its folder."""
    with connector:
        key = connector.put(BYTES)
    connector.close()
    assert connector.get(key) == BYTES


def test_set_later(connector):
    """A key can be made before its bytes are there. The first writer wins."""
    key = connector.new_key()
    assert not connector.exists(key)
    assert connector.get(key) is None
    connector.set(key, BYTES)
    connector.set(key, b"too late")
    assert connector.get(key) == BYTES
    assert connector.new_key() != key


def test_futures_of_a_store(store):
    """A proxy of a future resolves once the result is set."""
    future = store.future(polling_interval=0.01)
    proxy = future.proxy()
    future.set_result([1, 2, 3])
    assert list(proxy) == [1, 2, 3]


def test_proxies_of_equal_values_share_a_file(store, tmp_path):
    """Ten proxies of one value take one file, and each resolves."""
    proxies = [store.proxy("value" * 1_000, populate_target=False) for _ in range(10)]
    assert all(proxy == "value" * 1_000 for proxy in proxies)
    assert len(list((tmp_path / "store").rglob("*.pkl.zst"))) == 1
    once = store.proxy("value" * 1_000, evict=True, populate_target=False)
    assert once == proxies[0]


@pytest.mark.slow
def test_proxies_resolve_in_a_new_process(store):
    """A worker that was started anew makes the store from the proxy, and resolves it."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(sorted, store.proxy([3, 1, 2])).result() == [1, 2, 3]


IN_DASK = """
import sys
from distributed import Client, LocalCluster
from proxystore.store import Store
from ana.integrations.proxystore import AnaConnector

if __name__ == "__main__":
    with (
        Store("dask", AnaConnector(sys.argv[1]), register=True) as store,
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        print(client.submit(sorted, store.proxy([3, 1, 2]), pure=False).result())
"""


@pytest.mark.slow
def test_proxies_resolve_in_dask(short_folder):
    """A worker of Dask makes the store from the proxy, and resolves it."""
    engines.require("distributed")
    program = short_folder / "program.py"
    program.write_text(IN_DASK)
    assert engines.run(sys.executable, program, short_folder / "store", folder=short_folder) == "[1, 2, 3]\n"


def test_a_flipped_byte_raises(store, connector, tmp_path):
    """Damage is an error where the proxy is resolved. ProxyStore's own connector returns the wrong data."""
    theirs = FileConnector(str(tmp_path / "theirs"))
    their_key = theirs.put(BYTES)
    flip_a_byte(tmp_path / "theirs" / their_key.filename, 100)
    assert theirs.get(their_key) not in (BYTES, None)

    key = connector.put(BYTES)
    proxy = store.proxy_from_key(store.put("value" * 1_000))
    for each in (key, proxy.__proxy_factory__.key):
        path = file_of(tmp_path, each)
        flip_a_byte(path, path.stat().st_size // 2)
    with pytest.raises(ana.CorruptedStateError):
        connector.get(key)
    store.cache.evict(proxy.__proxy_factory__.key)
    with pytest.raises(ProxyResolveError) as caught:
        str(proxy)
    assert isinstance(caught.value.__cause__, ana.CorruptedStateError)


def test_commands_and_roots_know_the_objects(connector, tmp_path, capfd):
    """`ana` lists, shows and verifies them. A root keeps what is put in its block, and gc takes the rest."""
    tree = tmp_path / "store"
    dl = ana.set_dl(pickle_dir=tree)
    with dl.keeping("job"):
        kept, later = connector.put(BYTES), connector.new_key()
        connector.set(later, b"set later")
    lost = connector.put(b"kept by nobody")
    listed = [json.loads(line) for line in care.ran(capfd, "ls", "-d", tree, "--json").out.splitlines()]
    assert {kept.uuid, later.uuid, lost.uuid} == {one["uuid"] for one in listed}
    assert care.ran(capfd, "cat", "-d", tree, lost.uuid).out == "kept by nobody"
    assert care.ran(capfd, "verify", "-d", tree).code == 0
    for path in tree.rglob("*.pkl.zst"):
        care.make_older(path, 3)
    assert care.ran(capfd, "gc", "-d", tree, "--unreachable").code == 0
    names = {path.name for path in tree.rglob("*.pkl.zst") if not path.name.startswith(".trash-")}
    assert names == {f"{key.uuid}.pkl.zst" for key in (kept, later)}
    assert connector.get(kept) == BYTES


def test_small_objects_share_a_pack(tmp_path):
    """With `pack_bytes`, small objects go into one file, and keys say where they lie."""
    connector = AnaConnector(str(tmp_path / "store"), pack_bytes="64k")
    contents = [b"%d" % number for number in range(50)]
    keys = connector.put_batch(contents)
    assert all(key.hint for key in keys)
    assert not list((tmp_path / "store").rglob("*.pkl.zst"))
    assert AnaConnector.from_config(connector.config()).get_batch(keys) == contents


def test_a_worker_registers_the_store(store):
    """`get_store` finds the store by its name, and closing a store unregisters it and leaves the objects."""
    assert get_store(store.name) is store
    key = store.put([1])
    unregister_store(store.name)
    again = Store.from_config(store.config())
    assert again.get(key) == [1]
    assert get_store(store.name) is again
