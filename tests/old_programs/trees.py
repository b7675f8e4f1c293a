#!/usr/bin/env python
"""Expressions the way claripy kept them: one object per hash, the hash as UUID, slots, arguments demanded by __new__."""
import gc
import hashlib
import pickle
import subprocess
import sys
import weakref

import ana
import backends


class Node(ana.Storable):
    __slots__ = ['op', 'args', '_hash', 'depth', '_cached_text']
    _hash_cache = weakref.WeakValueDictionary()

    def __new__(cls, op, args, **kwargs):
        h = cls._calc_hash(op, args)
        self = cls._hash_cache.get(h, None)
        if self is None:
            self = super(Node, cls).__new__(cls)
            self._really_init(op, args, **kwargs)
            self._hash = h
            cls._hash_cache[h] = self
        return self

    def __init__(self, *args, **kwargs):
        pass

    @staticmethod
    def _calc_hash(op, args):
        text = repr((op, tuple(a._hash if isinstance(a, Node) else a for a in args)))
        return int(hashlib.md5(text.encode()).hexdigest()[:15], 16)

    def _really_init(self, op, args, depth=None):
        self.op = op
        self.args = args
        self.depth = 1 + max([a.depth for a in args if isinstance(a, Node)] or [0]) if depth is None else depth
        self._cached_text = None

    def make_uuid(self, uuid=None):
        u = getattr(self, '_ana_uuid', None)
        if u is None:
            u = str(self._hash) if uuid is None else uuid
            ana.get_dl().uuid_cache[u] = self
            setattr(self, '_ana_uuid', u)
        return u

    @property
    def uuid(self):
        return self.ana_uuid

    def __hash__(self):
        return self._hash

    def __eq__(self, other):
        return Sum('==', (self, other))

    def __bool__(self):
        raise TypeError("the truth of an expression is not known")

    __nonzero__ = __bool__

    def __repr__(self):
        if self._cached_text is None:
            self._cached_text = '(%s %s)' % (self.op, ' '.join(map(repr, self.args)))
        return self._cached_text

    def _ana_getstate(self):
        return self.op, self.args, self.depth, self._hash

    def _ana_setstate(self, state):
        op, args, depth, h = state
        Node._really_init(self, op, args, depth=depth)
        self._hash = h
        Node._hash_cache[h] = self


class Sum(Node):
    __slots__ = []

    def __add__(self, other):
        return Sum('+', (self, other))


def leaf(name):
    return Sum('leaf', (name,))


def tower(name, height):
    t = leaf(name)
    for i in range(height):
        t = t + leaf('%s_%d' % (name, i))
    return t


def hash_is_identity():
    assert leaf('x') + leaf('y') is leaf('x') + leaf('y')
    x = leaf('x')
    assert isinstance(x.uuid, str)
    assert x.uuid == x.ana_uuid == str(x._hash) == x.make_uuid()
    assert ana.get_dl().uuid_cache[x.uuid] is x
    assert pickle.loads(pickle.dumps(x, -1)) is x


def given_uuid():
    g = leaf('given')
    assert g.make_uuid(uuid='expression given') == 'expression given'
    assert g.uuid == 'expression given'
    assert pickle.loads(pickle.dumps(g, -1)) is g


def without_uuid():
    bare = leaf('bare')
    text = repr(bare)
    pickled = pickle.dumps(bare, -1)
    del bare
    gc.collect()
    bare = pickle.loads(pickled)
    assert repr(bare) == text
    assert leaf('bare') is bare


def coming_back():
    t = tower('t', 20)
    text, uuid, depth = repr(t), t.ana_store(), t.depth
    pickled = pickle.dumps(t, -1)
    del t
    gc.collect()
    t = Sum.ana_load(uuid)
    assert (repr(t), t.depth, t.uuid, type(t)) == (text, depth, uuid, Sum)
    assert pickle.loads(pickled) is t
    # whoever builds it anew meets the one that was loaded
    assert tower('t', 20) is t


def shared_leaves():
    x = leaf('shared')
    x.make_uuid()
    left, right = x + leaf('l'), x + leaf('r')
    uuids = left.ana_store(), right.ana_store()
    del x, left, right
    gc.collect()
    left, right = [Sum.ana_load(u) for u in uuids]
    assert left.args[0] is right.args[0]


def read(folder, uuids):
    ana.set_dl(ana.DirDataLayer(pickle_dir=folder))
    for uuid in uuids:
        t = Sum.ana_load(uuid)
        assert t.uuid == uuid
        print(repr(t))


def other_process(folder):
    trees = [tower(name, 5) for name in ('p', 'q')]
    uuids = [t.ana_store() for t in trees]
    text = subprocess.check_output([sys.executable, __file__, 'read', folder] + uuids)
    assert text.decode().split('\n') == [repr(t) for t in trees] + ['']


def main(argv):
    if argv[1] == 'read':
        read(argv[2], argv[3:])
        return
    kind = backends.choose(argv)
    hash_is_identity()
    without_uuid()
    given_uuid()
    if kind != 'simple':
        coming_back()
        shared_leaves()
    if kind.startswith('dir'):
        other_process(argv[2])
    print("all held")


if __name__ == '__main__':
    import trees  # its classes have to be where other processes can import them
    trees.main(sys.argv)
