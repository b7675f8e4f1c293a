#!/usr/bin/env python
"""claripy 8.18.10.25, the last release that kept its expressions and solvers in ANA, as it came from PyPI."""
import collections
import collections.abc
import gc
import multiprocessing
import os
import pickle
import subprocess
import sys

collections.MutableSet = collections.abc.MutableSet  # where claripy looks for it; Python 3.10 took it away

import ana
import backends
import claripy

SOLVERS = [claripy.Solver, claripy.SolverCacheless, claripy.SolverReplacement, claripy.SolverComposite]


class Taint(claripy.Annotation):
    def __init__(self, source):
        self.source = source

    @property
    def eliminatable(self):
        return False


def samples():
    x = claripy.BVS('x', 32)
    y = claripy.BVS('y', 32, explicit_name=True)
    f = claripy.FPS('f', claripy.FSORT_DOUBLE)
    return [
        x,
        claripy.BVV(0x1337, 64),
        x + y,
        claripy.If(x > y, x, y)[15:8],
        claripy.And(x.ULT(10), claripy.Or(y == 3, x != y)),
        claripy.true,
        f * 2.0 > f,
        x.raw_to_fp(),
        claripy.SI('si', 32, lower_bound=0, upper_bound=100, stride=2),
        (x ^ y).annotate(Taint('network')),
        tower(x, 60),
    ]


def tower(x, height):
    e = x
    for i in range(height):
        e = (e + i) * x
    return e


def hash_is_identity():
    x = claripy.BVS('x', 32)
    assert x + 1 is x + 1
    e = (x + 1) * x
    assert getattr(e, '_ana_uuid', None) is None
    assert e.uuid == e.ana_uuid == e.make_uuid() == str(e._hash)
    assert ana.get_dl().uuid_cache[e.uuid] is e
    assert {e.cache_key: 1}[pickle.loads(pickle.dumps(e)).cache_key] == 1


def asts():
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        for e in samples():
            bare = pickle.loads(pickle.dumps(e, protocol))
            assert bare.cache_key == e.cache_key
            assert type(bare) is type(e)
            e.make_uuid()
            assert pickle.loads(pickle.dumps(e, protocol)) is e
            both = pickle.loads(pickle.dumps([e, {'again': e}], protocol))
            assert both[0] is both[1]['again']
            assert both[0] is e


def asts_coming_back():
    # small values are cached by claripy for ever, the others go when nobody holds them
    described, pickles = [], []
    for e in samples():
        described.append((type(e), e.ana_store(), str(e), e.length, sorted(e.variables), e._hash))
        pickles.append(pickle.dumps(e, -1))
    del e
    gc.collect()
    for (cls, uuid, text, length, variables, h), pickled in zip(described, pickles):
        e = cls.ana_load(uuid)
        assert (type(e), e.uuid, str(e)) == (cls, uuid, text)
        assert (e.length, sorted(e.variables), e._hash) == (length, variables, h)
        assert pickle.loads(pickled) is e
    tainted = claripy.ast.BV.ana_load(described[9][1])
    assert [a.source for a in tainted.annotations] == ['network']


def shared_children():
    x = claripy.BVS('x', 32)
    x.make_uuid()
    left, right = x + 1, x * 2
    uuids = left.ana_store(), right.ana_store()
    x_uuid = x.uuid
    del x, left, right
    gc.collect()
    left, right = [claripy.ast.BV.ana_load(u) for u in uuids]
    x = claripy.ast.BV.ana_load(x_uuid)
    assert left.args[0] is right.args[0] is x
    # built upon what was loaded, found again
    assert x + 1 is left


def deep():
    # every node has a UUID, so the tree is stored in 300 states
    e = claripy.BVS('deep', 32)
    e.make_uuid()
    for i in range(300):
        e = e * 3 + i
        e.make_uuid()
    text, uuid, depth = str(e), e.ana_store(), e.depth
    del e
    gc.collect()
    e = claripy.ast.BV.ana_load(uuid)
    assert (str(e), e.uuid, e.depth) == (text, uuid, depth)


def constrained(cls):
    s = cls()
    x, y = claripy.BVS('x', 32), claripy.BVS('y', 32)
    s.add([x.UGT(10), x.ULT(14), y == x * 2])
    return s, x, y


def check(s, x, y):
    assert s.satisfiable()
    assert sorted(s.eval(x, 10)) == [11, 12, 13]
    assert (s.min(y), s.max(y)) == (22, 26)
    assert not s.satisfiable(extra_constraints=[x == 1])


def solvers():
    for cls in SOLVERS:
        s, x, y = constrained(cls)
        check(s, x, y)
        copy = pickle.loads(pickle.dumps(s, -1))
        assert copy is not s
        check(copy, x, y)
        s, x, y = constrained(cls)
        s.make_uuid()
        assert s.uuid == s.ana_uuid
        assert pickle.loads(pickle.dumps(s, -1)) is s
        branch = s.branch()
        branch.add(x == 12)
        assert branch.satisfiable(extra_constraints=[y == 24])
        assert not branch.satisfiable(extra_constraints=[x == 11])
        assert branch.uuid != s.uuid
        check(s, x, y)


def solvers_coming_back():
    for cls in SOLVERS:
        s, x, y = constrained(cls)
        check(s, x, y)
        s.finalize()
        text, variables = sorted(map(str, s.constraints)), sorted(s.variables)
        for e in (x, y):
            e.make_uuid()
        uuid, pickled = s.ana_store(), pickle.dumps((s, x, y), -1)
        del s
        gc.collect()
        s = cls.ana_load(uuid)
        assert (sorted(map(str, s.constraints)), sorted(s.variables)) == (text, variables)
        check(s, x, y)
        del s, x, y, e
        gc.collect()
        s, x, y = pickle.loads(pickled)
        check(s, x, y)
        # goes on where it was
        s.add(y != 24)
        assert sorted(s.eval(x, 10)) == [11, 13]


def hybrids():
    s = claripy.SolverHybrid()
    x = claripy.BVS('x', 32)
    s.add(x.ULT(3))
    x.make_uuid()
    copy = pickle.loads(pickle.dumps(s, -1))
    assert sorted(copy.eval(x, 10)) == [0, 1, 2]
    uuid = s.ana_store()
    del s
    gc.collect()
    s = claripy.SolverHybrid.ana_load(uuid)
    assert sorted(s.eval(x, 10)) == [0, 1, 2]
    assert type(s._approximate_frontend) is claripy.SolverReplacement


def another_layer(folder):
    ana.set_dl(ana.DirDataLayer(folder))
    a = claripy.BVV(1, 32)
    b = claripy.BVS("x", 32)
    c = a + b
    d = c
    for _ in range(50):
        d = d + b
    a.ana_store()
    uuids = [c.ana_store(), d.ana_store()]

    # the same folder, but no live objects
    ana.set_dl(ana.DirDataLayer(folder))
    assert [str(claripy.ast.BV.ana_load(u)) for u in uuids] == [str(c), str(d)]
    s, x, y = constrained(claripy.SolverComposite)
    s.finalize()
    ss = claripy.SolverComposite.ana_load(s.ana_store())
    check(ss, x, y)

    # an empty one knows none of them, and takes them when they are pickled next
    ana.set_dl(ana.DictDataLayer())
    try:
        claripy.ast.BV.ana_load(uuids[0])
    except KeyError:
        pass
    else:
        raise AssertionError("loaded from an empty dict")
    pickled = pickle.dumps(d, -1)
    assert str(pickle.loads(pickled)) == str(d)


def other_process(kind, folder):
    s, x, y = constrained(claripy.Solver)
    for o in (s, x, y):
        o.make_uuid()
    with open(folder + '-solver.p', 'wb') as f:
        pickle.dump((s, x, y), f, -1)
    assert os.path.getsize(folder + '-solver.p') < 1000
    for process in range(2):
        text = subprocess.check_output([sys.executable, __file__, 'read', kind, folder])
        assert text.decode().split() == ['11', '12', '13', s.uuid]


def read(folder):
    with open(folder + '-solver.p', 'rb') as f:
        s, x, y = pickle.load(f)
    check(s, x, y)
    assert claripy.Solver.ana_load(s.uuid) is s
    for v in sorted(s.eval(x, 10)):
        print(v)
    print(s.uuid)


def solve(task):
    s, e = task
    return e, s.eval(e, 1)[0], e + 1


def pools():
    s, x, y = constrained(claripy.Solver)
    es = [y - x + i for i in range(20)]
    s.add(x == 12)
    for o in [s, x, y] + es:
        o.make_uuid()
    for method in ('fork', 'spawn'):
        pool = multiprocessing.get_context(method).Pool(2)
        try:
            answers = pool.map(solve, [(s, e) for e in es], chunksize=1)
        finally:
            pool.close()
            pool.join()
        assert all(e is answer[0] for e, answer in zip(es, answers))
        assert [value for _, value, _ in answers] == [12 + i for i in range(20)]
        assert [s.eval(plus, 1)[0] for _, _, plus in answers] == [13 + i for i in range(20)]


def main(argv):
    kind = backends.choose(argv)
    hash_is_identity()
    asts()
    solvers()
    if kind == 'simple':
        return
    asts_coming_back()
    shared_children()
    deep()
    solvers_coming_back()
    hybrids()
    if len(argv) > 2:
        other_process(kind, argv[2])
        pools()
        another_layer(argv[2] + '-another')


if __name__ == '__main__':
    if sys.argv[1] == 'read':
        backends.choose(sys.argv[1:])
        read(sys.argv[3])
    else:
        main(sys.argv)
        print("all held")
elif __name__ == '__mp_main__':
    backends.choose(sys.argv)  # a spawned worker
