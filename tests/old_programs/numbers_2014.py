#!/usr/bin/env python
"""How programs of 2014 used ANA: `set_dl(pickle_dir=...)`, `ana.dl = ana.DataLayer(...)`, a dict by default."""
import gc
import logging
import os
import pickle
import sys

import ana

l = logging.getLogger("numbers")


class A(ana.Storable):
    def __init__(self, n):
        assert not hasattr(self, 'n'), "__init__ ran twice"
        self.n = n
        l.debug("%s.__init__", self)

    def __repr__(self):
        return "<A %s>" % str(self.n)

    def _ana_getstate(self):
        return (self.n,)

    def _ana_setstate(self, s):
        self.n = s[0]

    def is_stored(self):
        return ana.get_dl().load_state(self.ana_uuid) is not None


class B(A):
    pass


def identity(cls):
    one = cls(1)
    two = cls(2)
    one.make_uuid()

    one_copy = pickle.loads(pickle.dumps(one, pickle.HIGHEST_PROTOCOL))
    two_copy = pickle.loads(pickle.dumps(two, pickle.HIGHEST_PROTOCOL))
    assert one_copy is one
    assert two_copy is not two
    assert str(two_copy) == str(two)

    assert cls.ana_load(one.ana_store()) is one
    assert cls.ana_load(two.ana_store()) is two
    two_again = pickle.loads(pickle.dumps(two, pickle.HIGHEST_PROTOCOL))
    assert two_again is two


def coming_back(cls):
    three = cls(3)
    three_uuid = three.ana_store()
    assert three.ana_uuid == three_uuid
    del three
    gc.collect()
    assert three_uuid not in ana.get_dl().uuid_cache
    three_copy = cls.ana_load(three_uuid)
    assert three_copy.ana_uuid == three_uuid
    assert three_copy.n == 3
    assert type(three_copy) is cls
    assert pickle.loads(pickle.dumps(three_copy, -1)) is three_copy


def many(cls):
    numbers = [cls(i) for i in range(100, 200)]
    uuids = [n.ana_store() for n in numbers]
    assert len(set(uuids)) == 100
    pickled = pickle.dumps({'numbers': numbers}, -1)
    assert all(x is y for x, y in zip(pickle.loads(pickled)['numbers'], numbers))
    del numbers
    gc.collect()
    assert [cls.ana_load(u).n for u in uuids] == list(range(100, 200))
    assert [n.n for n in pickle.loads(pickled)['numbers']] == list(range(100, 200))


def explicit():
    a = A(4)
    assert a.make_uuid(uuid='the fourth') == 'the fourth'
    assert a.make_uuid() == a.make_uuid('something else') == a.ana_uuid == 'the fourth'
    assert pickle.loads(pickle.dumps(a)) is a
    del a
    gc.collect()
    assert A.ana_load('the fourth').n == 4


def nested():
    inner = A('inner')
    outer = A([inner, {'again': inner}])
    inner.make_uuid()
    uuid = outer.ana_store()
    del inner, outer
    gc.collect()
    outer = A.ana_load(uuid)
    assert outer.n[0] is outer.n[1]['again']
    assert outer.n[0].n == 'inner'
    assert outer.is_stored()
    assert outer.n[0].is_stored()


def store_by_hand():
    dl = ana.get_dl()
    dl.store_state('by hand', ('state', 5))
    assert dl.load_state('by hand') == ('state', 5)
    assert A.ana_load('by hand').n == 'state'


def choose():
    folder = sys.argv[2] if len(sys.argv) > 2 else None
    if sys.argv[1] == 'dl':
        ana.dl = ana.DataLayer(pickle_dir=folder)
    elif sys.argv[1] == 'set_dl':
        ana.set_dl(pickle_dir=folder)
    elif sys.argv[1] == 'set_dl_positional':
        ana.set_dl(folder)
    elif sys.argv[1] == 'set_dl_none':
        ana.set_dl()
    assert ana.get_dl() is ana.dl
    return folder


if __name__ == '__main__':
    where = choose()
    for the_class in (A, B):
        identity(the_class)
        coming_back(the_class)
        many(the_class)
    explicit()
    nested()
    store_by_hand()
    if where is not None:
        assert os.listdir(where)
    print("all held")
