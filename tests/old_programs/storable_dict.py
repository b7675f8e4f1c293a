#!/usr/bin/env python
"""The early README's second example, spelt out: an abstract base class among the bases."""
import collections.abc
import gc
import pickle
import sys

import ana
import backends


class StorableDict(ana.StorableABC, collections.abc.MutableMapping):
    def __init__(self, *args, **kwargs):
        self.d = dict(*args, **kwargs)

    def __getitem__(self, k):
        return self.d[k]

    def __setitem__(self, k, v):
        self.d[k] = v

    def __delitem__(self, k):
        del self.d[k]

    def __iter__(self):
        return iter(self.d)

    def __len__(self):
        return len(self.d)

    def _ana_getstate(self):
        return self.d

    def _ana_setstate(self, s):
        self.d = s


def identity():
    for d in (StorableDict(a=1), StorableDict()):
        copy = pickle.loads(pickle.dumps(d))
        assert copy is not d
        assert copy == d
        d.make_uuid()
        assert pickle.loads(pickle.dumps(d)) is d
        assert StorableDict.ana_load(d.ana_store()) is d


def coming_back():
    d = StorableDict(b=2)
    d['self'] = 3
    uuid = d.ana_store()
    pickled = pickle.dumps({'inside': d})
    del d
    gc.collect()
    d = StorableDict.ana_load(uuid)
    assert d == {'b': 2, 'self': 3}
    assert isinstance(d, collections.abc.Mapping)
    assert pickle.loads(pickled)['inside'] is d


if __name__ == '__main__':
    backends.choose(sys.argv)
    identity()
    coming_back()
    print("all held")
