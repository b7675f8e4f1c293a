#!/usr/bin/env python
"""How programs of 2019 used ANA: a layer class for each backend, literals for JSON, layers changed under live objects."""
import gc
import json
import pickle
import sys

import ana


class A(ana.Storable):
    def __init__(self, n):
        assert not hasattr(self, 'n')
        self.n = n

    def _ana_getstate(self):
        return (self.n,)

    def _ana_setstate(self, s):
        self.n = s[0]

    def _ana_getliteral(self):
        return {'n': self.n}


class Plain(ana.Storable):
    """Neither getstate nor setstate of its own."""

    def __init__(self, **kwargs):
        for k, v in kwargs.items():
            setattr(self, k, v)


class Foreign(object):
    """Not ANA's, but found inside an object that is."""

    def __init__(self):
        self.x = 1

    def __getstate__(self):
        return {'x': self.x}


class Slotted(ana.Storable):
    __slots__ = ['left', 'right']


class MoreSlotted(Slotted):
    __slots__ = ['middle']


def simple():
    ana.set_dl(ana.SimpleDataLayer())
    one = A(1)
    one.make_uuid()
    assert pickle.loads(pickle.dumps(one)) is one
    blank = A(1)
    assert pickle.loads(pickle.dumps(blank)) is not blank
    try:
        A.ana_load('nobody has this')
    except ana.errors.ANAError:
        pass
    else:
        raise AssertionError("loaded from nowhere")

    # here the pickle itself carries the state
    pickled = pickle.dumps(one)
    uuid = one.ana_uuid
    del one
    gc.collect()
    one = pickle.loads(pickled)
    assert (one.n, one.ana_uuid) == (1, uuid)


def storing():
    one = A(1)
    two = A(2)
    one.make_uuid()
    assert pickle.loads(pickle.dumps(one)) is one
    assert pickle.loads(pickle.dumps(two)) is not two
    assert A.ana_load(one.ana_store()) is one
    assert A.ana_load(two.ana_store()) is two

    three = A(3)
    uuid = three.ana_store()
    del three
    gc.collect()
    assert uuid not in ana.get_dl().uuid_cache
    three = A.ana_load(uuid)
    assert (three.n, three.ana_uuid) == (3, uuid)


def default_states():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        plain = Plain(a=1, b=[protocol])
        slotted = MoreSlotted()
        slotted.left, slotted.middle = protocol, plain
        assert plain._ana_getstate() == {'a': 1, 'b': [protocol]}
        for thing in (plain, slotted):
            uncached = pickle.loads(pickle.dumps(thing, protocol))
            assert uncached is not thing
            assert type(uncached) is type(thing)
        uuid = slotted.ana_store()
        pickled = pickle.dumps(slotted, protocol)
        assert pickle.loads(pickled) is slotted
        del plain, slotted, thing, uncached
        gc.collect()
        slotted = MoreSlotted.ana_load(uuid)
        assert slotted.left == protocol
        assert slotted.middle.b == [protocol]
        assert not hasattr(slotted, 'right')
        assert pickle.loads(pickled) is slotted


def literals():
    three = A(3)
    known = set()
    first = three.to_literal(known)
    assert known == {three.ana_uuid}
    assert first['objects'][three.ana_uuid] == {'class': 'A', 'object': {'n': 3}}
    assert first['value'] == {'ana_uuid': three.ana_uuid}
    second = three.to_literal(known)
    assert second == {'objects': {}, 'value': {'ana_uuid': three.ana_uuid}}

    tree = A([three, (1, 2.5, None, True), {'k': three}])
    literal = tree.to_literal()
    three_ref = {'ana_uuid': three.ana_uuid}
    assert literal['objects'][tree.ana_uuid]['object'] == {'n': [three_ref, [1, 2.5, None, True], {'k': three_ref}]}
    assert set(literal['objects']) == {tree.ana_uuid, three.ana_uuid}
    assert json.loads(json.dumps(literal)) == literal

    collected = {}
    three.to_literal(None, collected)
    tree.to_literal(objects=collected)
    assert set(collected) == {tree.ana_uuid, three.ana_uuid}

    assert Plain(f=Foreign()).to_literal()['objects'].popitem()[1] == {
        'class': 'Plain', 'object': {'f': {'class': 'Foreign', 'object': {'x': 1}}}
    }


def layers(folder):
    ana.dl = ana.DirDataLayer(pickle_dir=folder)
    one = A('layers')
    assert A.ana_load(one.ana_store()) is one
    uuid = one.ana_uuid

    # a new layer over the same folder knows no live objects
    ana.dl = ana.DirDataLayer(pickle_dir=folder)
    two = A.ana_load(uuid)
    assert two is not one
    assert (two.n, two.ana_uuid) == ('layers', uuid)

    # an empty one has no state either, until the object is stored there
    ana.set_dl(ana.DictDataLayer())
    try:
        A.ana_load(uuid)
    except KeyError:
        pass
    else:
        raise AssertionError("loaded from an empty dict")
    assert two.ana_store() == uuid
    del one, two
    gc.collect()
    assert A.ana_load(uuid).n == 'layers'

    # by pickling, too
    the_dict = {}
    ana.set_dl(ana.DictDataLayer(the_dict=the_dict))
    three = A('in two dicts')
    ana_uuid = three.ana_store()
    ana.set_dl(ana.DictDataLayer())
    pickled = pickle.dumps(three)
    del three
    gc.collect()
    assert pickle.loads(pickled).n == 'in two dicts'
    ana.set_dl(ana.DictDataLayer(the_dict))
    assert A.ana_load(ana_uuid).n == 'in two dicts'


if __name__ == '__main__':
    kind = sys.argv[1]
    if kind == 'simple':
        simple()
    else:
        if kind == 'dict':
            ana.set_dl(ana.DictDataLayer())
        elif kind == 'the_dict':
            ana.set_dl(ana.DictDataLayer(the_dict={}))
        elif kind == 'dir':
            ana.set_dl(ana.DirDataLayer(sys.argv[2]))
        storing()
        default_states()
        literals()
    if kind == 'dir':
        layers(sys.argv[2] + '-layers')
    print("all held")
