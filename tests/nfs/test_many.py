"""Many states at once on a real network filesystem: they overlap, and cost no more calls to the server."""

import os

import clients
from conftest import counted_mount
from mountstats import RoundTrips
from support.gauge import Gauge

import ana
from ana.stores.directory.store import DirectoryStore

COUNT = 100
AT_ONCE = 8
"""Calls that have to run at the same time; there are more."""
SLACK = 1.15
"""Threads that meet in one folder look it up each for themselves."""


def test_states_are_put_and_read_at_the_same_time(shared, monkeypatch):
    """`store_many`, `load_many`, and loading what refers to many, overlap; what comes out is what went in."""
    puts = Gauge(monkeypatch, DirectoryStore, "put", AT_ONCE)
    gets = Gauge(monkeypatch, DirectoryStore, "get", AT_ONCE)
    models = [clients.Model(os.urandom(100)) for _ in range(COUNT)]
    values = [model.value for model in models]
    uuids = ana.DirDataLayer(shared.near).store_many([*models, clients.Model(models)])
    assert puts.most >= AT_ONCE
    assert puts.calls == COUNT + 1
    del models
    assert [model.value for model in ana.DirDataLayer(shared.far).load_many(uuids[:-1])] == values
    assert gets.most >= AT_ONCE
    assert gets.calls == COUNT
    gets.most = gets.calls = 0
    with ana.using_dl(ana.DirDataLayer(shared.far)):
        assert [model.value for model in clients.Model.ana_load(uuids[-1]).value] == values
    assert gets.most >= AT_ONCE
    assert gets.calls == COUNT + 1


def test_many_cost_no_more_calls_than_one_by_one(shared):
    """The server has no more to do than it has for each by itself."""
    mount, far_mount = counted_mount(shared.near), counted_mount(shared.far)
    contents = [os.urandom(100) for _ in range(COUNT)]
    with ana.using_dl(ana.DirDataLayer(shared.near / "one")), RoundTrips(mount) as stored_one:
        uuids = [clients.Model(content).make_uuid() for content in contents]
    layer = ana.DirDataLayer(shared.near / "many")
    with RoundTrips(mount) as stored_many:
        layer.store_many([clients.Model(content) for content in contents])
    assert stored_many.total <= SLACK * stored_one.total, f"{stored_many}; one by one {stored_one}"
    with ana.using_dl(ana.DirDataLayer(shared.far / "one")), RoundTrips(far_mount) as loaded_one:
        assert [clients.Model.ana_load(uuid).value for uuid in uuids] == contents
    layer = ana.DirDataLayer(shared.far / "many")
    with RoundTrips(far_mount) as loaded_many:
        assert [model.value for model in layer.load_many(uuids, clients.Model)] == contents
    assert loaded_many.total <= SLACK * loaded_one.total, f"{loaded_many}; one by one {loaded_one}"


def test_prefetch_reads_references_at_the_same_time(shared, other, monkeypatch):
    """References that another client has stored are read at once; what is missing raises when it is used."""
    values = [os.urandom(100) for _ in range(COUNT)]
    uuids = other.call(clients.store_many, shared.far, values)
    layer = ana.DirDataLayer(shared.near)
    gets = Gauge(monkeypatch, DirectoryStore, "get", AT_ONCE)
    with ana.using_dl(layer):
        ana.prefetch(uuids)
        assert gets.most >= AT_ONCE
        assert gets.calls == COUNT
        assert [clients.Model.ana_load(uuid).value for uuid in uuids] == values
        assert gets.calls == COUNT
