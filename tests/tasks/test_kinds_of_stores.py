"""Tasks that ship through signed stores, and through stores with a node cache."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
from support.tasks import double, total

import ana
from ana import maintenance


@pytest.fixture
def keyed(tmp_path, monkeypatch):
    """A signed store, whose key all processes of the program find by its variable."""
    found = maintenance.init(tmp_path / "keyed", keyed=True, key_file=tmp_path / "key")
    monkeypatch.setenv("ANA_KEY_FILE", str(found.key_file))
    return tmp_path / "keyed"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_signed_store(keyed, method):
    """What is shipped is signed, both ways; a state that is no longer what was signed fails in its task alone."""
    data = np.arange(200_000.0)
    ana.set_dl(pickle_dir=keyed)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool, ana.Executor(pool) as executor:
        assert executor.submit(total, data).result() == data.sum()
        assert np.array_equal(executor.submit(double, data).result(), 2 * data)
        assert maintenance.verify(keyed).problems == []
        other = data + 1
        sent = ana.Ref(other)
        sent.make_uuid()
        for path in keyed.rglob(f"{sent.uuid}.pkl.zst"):
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        with pytest.raises(ana.CorruptedStateError):
            executor.submit(total, sent).result()
        assert executor.submit(total, data).result() == data.sum()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_node_cache(tmp_path, monkeypatch, method):
    """Workers map what is large from the node's cache, once for all of them."""
    monkeypatch.setenv("ANA_NODE_CACHE", str(tmp_path / "cache"))
    ana.set_dl(pickle_dir=tmp_path / "store")
    data = np.random.default_rng(1).random(2_000_000)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool, ana.Executor(pool) as executor:
        assert list(executor.map(total, [data] * 4)) == [data.sum()] * 4
        assert np.array_equal(executor.submit(double, data).result(), 2 * data)
    assert any(path.stat().st_size >= data.nbytes for path in (tmp_path / "cache").rglob("*"))
