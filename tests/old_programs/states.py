#!/usr/bin/env python
"""Program states the way angr kept them: a UUID in the middle of __init__, plugins that point back, states spilled and fetched."""
import gc
import pickle
import subprocess
import sys
import weakref

import ana
import backends


class Plugin(ana.Storable):
    def __init__(self, **content):
        self.content = content
        self.state = None

    def set_state(self, state):
        self.state = weakref.proxy(state)

    def copy(self):
        return Plugin(**self.content)

    def _ana_getstate(self):
        s = dict(ana.Storable._ana_getstate(self))
        s['state'] = None
        return s


class Hub(object):
    def __init__(self):
        super(Hub, self).__init__()
        self._active_plugins = {}

    def register_plugin(self, name, plugin):
        self._active_plugins[name] = plugin
        setattr(self, name, plugin)
        plugin.set_state(self)


class State(Hub, ana.Storable):
    def __init__(self, arch='AMD64', plugins=None):
        super(State, self).__init__()
        self.arch = arch
        for name, plugin in (plugins or {}).items():
            self.register_plugin(name, plugin)
        if 'regs' not in self._active_plugins:
            self.register_plugin('regs', Plugin())

        # states are big, so they get their UUID right away
        self.make_uuid()

        self.handler = None
        self.ip_constraints = []

    def copy(self):
        c = State(arch=self.arch, plugins=dict((n, p.copy()) for n, p in self._active_plugins.items()))
        c.handler = self.handler
        c.ip_constraints = list(self.ip_constraints)
        return c

    def _ana_getstate(self):
        s = dict(ana.Storable._ana_getstate(self))
        s = dict((k, v) for k, v in s.items() if k not in ('inspect',))
        s['_active_plugins'] = dict((k, v) for k, v in s['_active_plugins'].items() if k not in ('inspect',))
        return s

    def _ana_setstate(self, s):
        ana.Storable._ana_setstate(self, s)
        for p in self._active_plugins.values():
            p.set_state(self)


class SpilledState(ana.Storable):
    def __init__(self, state):
        self.state = state

    def _ana_getstate(self):
        return (self.state,)

    def _ana_setstate(self, s):
        self.state = s[0]


class Spiller(object):
    def __init__(self):
        self._pickled_states = []

    def pickle(self, states):
        wrappers = [SpilledState(state) for state in states]
        for w in wrappers:
            w.make_uuid()
        self._pickled_states += [(w.state.handler, w.ana_store()) for w in wrappers]

    def unpickle(self, n):
        self._pickled_states.sort()
        unpickled = [SpilledState.ana_load(pid).state for _, pid in self._pickled_states[:n]]
        self._pickled_states[:n] = []
        return unpickled


class Manager(ana.Storable):
    def __init__(self, **stashes):
        self._stashes = stashes

    def __getattr__(self, item):
        try:
            return object.__getattribute__(self, item)
        except AttributeError:
            if item.startswith('_'):
                raise
            return self._stashes[item]


def busy_state(handler):
    s = State()
    s.handler = handler
    s.ip_constraints.append(handler)
    s.register_plugin('inspect', Plugin(lost=True))
    s.register_plugin('memory', Plugin(page=handler))
    return s


def set_after_make_uuid():
    s = busy_state('late')
    uuid = s.ana_uuid
    assert pickle.loads(pickle.dumps(s, -1)) is s
    pickled = pickle.dumps(s, -1)
    del s
    gc.collect()
    s = pickle.loads(pickled)
    assert s.ana_uuid == uuid
    assert (s.handler, s.ip_constraints) == ('late', ['late'])
    assert s.memory.content == {'page': 'late'}
    assert s.memory.state.handler == 'late'
    assert not hasattr(s, 'inspect')


def alike_at_first():
    # the same until make_uuid(), different afterwards
    one, two = State(), State()
    one.handler, two.handler = 'one', 'two'
    assert one.ana_uuid != two.ana_uuid
    pickled = pickle.dumps([one, two], -1)
    assert [s.handler for s in pickle.loads(pickled)] == ['one', 'two']
    assert pickle.loads(pickled)[1] is two
    del one, two
    gc.collect()
    assert [s.handler for s in pickle.loads(pickled)] == ['one', 'two']


def copies():
    s = busy_state('original')
    c = s.copy()
    c.handler = 'copy'
    c.memory.content['page'] = 'copied'
    assert c.ana_uuid != s.ana_uuid
    pickled = pickle.dumps((s, c), -1)
    del s, c
    gc.collect()
    s, c = pickle.loads(pickled)
    assert (s.handler, s.memory.content['page']) == ('original', 'original')
    assert (c.handler, c.memory.content['page']) == ('copy', 'copied')


def spilling():
    spiller = Spiller()
    states = [busy_state('spilled %d' % i) for i in range(10)]
    refs = list(map(weakref.ref, states))
    spiller.pickle(states)
    del states
    gc.collect()
    assert [r() for r in refs] == [None] * 10
    states = spiller.unpickle(4)
    assert [s.handler for s in states] == ['spilled %d' % i for i in range(4)]
    assert [s.memory.state.arch for s in states] == ['AMD64'] * 4

    # a fetched state steps on and is spilled again, as a new state
    stepped = states[0].copy()
    stepped.handler = 'spilled 0 stepped'
    spiller.pickle([stepped])
    del states, stepped
    gc.collect()
    fetched = spiller.unpickle(1)[0]
    assert fetched.handler == 'spilled 0 stepped'
    assert fetched.ip_constraints == ['spilled 0']
    assert [s.handler for s in spiller.unpickle(10)] == ['spilled %d' % i for i in range(4, 10)]


def managers():
    active = [busy_state('active %d' % i) for i in range(3)]
    m = Manager(active=active, dead=[])
    copy = pickle.loads(pickle.dumps(m, -1))
    assert copy is not m
    assert all(x is y for x, y in zip(copy.active, active))
    m.make_uuid()
    assert pickle.loads(pickle.dumps(m, -1)) is m
    uuid = m.ana_store()
    del m, copy, active
    gc.collect()
    m = Manager.ana_load(uuid)
    assert [s.ip_constraints for s in m.active] == [['active 0'], ['active 1'], ['active 2']]
    assert m.dead == []


def read(folder, uuid):
    ana.set_dl(ana.DirDataLayer(pickle_dir=folder))
    m = Manager.ana_load(uuid)
    print(' '.join('%s/%s' % (s.handler, s.memory.content['page']) for s in m.active))


def other_process(folder):
    m = Manager(active=[busy_state(h) for h in ('a', 'b')])
    text = subprocess.check_output([sys.executable, __file__, 'read', folder, m.ana_store()])
    assert text.decode().strip() == 'a/a b/b'


def main(argv):
    if argv[1] == 'read':
        read(*argv[2:])
        return
    kind = backends.choose(argv)
    if kind == 'simple':
        s = busy_state('simple')
        assert pickle.loads(pickle.dumps(s, -1)) is s
    else:
        set_after_make_uuid()
        alike_at_first()
        copies()
        spilling()
        managers()
    if kind.startswith('dir'):
        other_process(argv[2])
    print("all held")


if __name__ == '__main__':
    import states  # its classes have to be where other processes can import them
    states.main(sys.argv)
