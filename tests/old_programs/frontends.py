#!/usr/bin/env python
"""Solvers the way claripy composed them: mixins that wrap each other's states around None, blank copies without __init__."""
import gc
import pickle
import sys

import ana
import backends


class Frontend(ana.Storable):
    def __init__(self):
        pass

    def branch(self):
        c = self.__class__.__new__(self.__class__)
        self._copy(c)
        return c

    def _copy(self, c):
        return

    @property
    def uuid(self):
        return self.ana_uuid

    def _ana_getstate(self):
        return None

    def _ana_setstate(self, s):
        pass


class Constrained(Frontend):
    def __init__(self):
        Frontend.__init__(self)
        self.constraints = []
        self.finalized = False

    def add(self, c):
        if self.finalized:
            raise ValueError("finalized")
        self.constraints.append(c)

    def _copy(self, c):
        super(Constrained, self)._copy(c)
        self.finalized = True
        c.constraints, c.finalized = list(self.constraints), False

    def _ana_getstate(self):
        self.finalized = True
        return self.constraints, Frontend._ana_getstate(self)

    def _ana_setstate(self, s):
        self.constraints, base_state = s
        Frontend._ana_setstate(self, base_state)
        self.finalized = True


class CacheMixin(object):
    def __init__(self, *args, **kwargs):
        super(CacheMixin, self).__init__(*args, **kwargs)
        self._cache = {}

    def _copy(self, c):
        super(CacheMixin, self)._copy(c)
        c._cache = dict(self._cache)

    def sum(self):
        return self._cache.setdefault(len(self.constraints), sum(self.constraints))

    def _ana_getstate(self):
        return self._cache, super(CacheMixin, self)._ana_getstate()

    def _ana_setstate(self, s):
        self._cache, base_state = s
        super(CacheMixin, self)._ana_setstate(base_state)


class Solver(CacheMixin, Constrained):
    pass


class Composite(Frontend):
    def __init__(self, solvers):
        self._solvers = solvers

    def _ana_getstate(self):
        return self._solvers, super(Composite, self)._ana_getstate()

    def _ana_setstate(self, s):
        self._solvers, base_state = s
        super(Composite, self)._ana_setstate(base_state)


class Nothing(ana.Storable):
    """Answers None, and is content with None."""

    def _ana_getstate(self):
        return None

    def _ana_setstate(self, s):
        assert s is None
        self.restored = True


def solver(*constraints):
    s = Solver()
    for c in constraints:
        s.add(c)
    return s


def branches():
    s = solver(1, 2)
    assert s.uuid == s.ana_uuid
    t = s.branch()
    t.add(3)
    assert getattr(t, '_ana_uuid', None) is None
    assert (s.sum(), t.sum()) == (3, 6)
    assert t.uuid != s.uuid
    assert pickle.loads(pickle.dumps(t)) is t
    assert pickle.loads(pickle.dumps(s)) is s


def without_uuid():
    s = solver(10, 20)
    s.sum()
    copy = pickle.loads(pickle.dumps(s, -1))
    assert copy is not s
    assert (copy.constraints, copy._cache, copy.finalized) == ([10, 20], {2: 30}, True)


def coming_back():
    solvers = {'a': solver(100), 'b': solver(200)}
    solvers['a'].make_uuid()
    composite = Composite(solvers)
    uuid, a_uuid = composite.ana_store(), solvers['a'].uuid
    del composite, solvers
    gc.collect()
    composite = Composite.ana_load(uuid)
    assert composite._solvers['a'] is Solver.ana_load(a_uuid)
    assert [s.sum() for s in (composite._solvers['a'], composite._solvers['b'])] == [100, 200]
    assert composite._solvers['a'].finalized


def nothing():
    n = Nothing()
    try:
        pickled = pickle.dumps(n)
        assert pickle.loads(pickled).restored
    except ana.errors.ANAError:
        pass  # a blank UUID and a blank state were refused once
    uuid = n.ana_store()
    assert pickle.loads(pickle.dumps(n)) is n
    del n
    gc.collect()
    assert Nothing.ana_load(uuid).restored


if __name__ == '__main__':
    kind = backends.choose(sys.argv)
    branches()
    without_uuid()
    if kind != 'simple':
        coming_back()
        nothing()
    print("all held")
