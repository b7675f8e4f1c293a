#!/usr/bin/env python
"""angr 8.18.10.25, as it came from PyPI: machine code run symbolically, its states spilled to ANA and fetched again."""
import collections
import collections.abc
import gc
import inspect
import logging
import pickle
import struct
import subprocess
import sys
import tempfile

# What Python has taken away since 2018.
for name in ('Callable', 'Iterable', 'Mapping', 'MutableMapping', 'MutableSet', 'Sequence', 'Set'):
    setattr(collections, name, getattr(collections.abc, name))
ArgSpec = collections.namedtuple('ArgSpec', 'args varargs keywords defaults')
inspect.getargspec = lambda f: ArgSpec(*inspect.getfullargspec(f)[:4])

import ana
import angr
import backends
import claripy
from angr.exploration_techniques import Spiller
from angr.exploration_techniques.spiller import SpilledState

logging.getLogger('angr').setLevel('ERROR')

BASE = 0x400000
BITS = 4


def machine_code():
    """eax = the low bits of edi, found out one by one; then hlt."""
    code = b'\x31\xc0'  # xor eax, eax
    for bit in range(BITS):
        code += b'\xf7\xc7' + struct.pack('<I', 1 << bit)  # test edi, 1 << bit
        code += b'\x74\x03'  # jz over the next one
        code += b'\x83\xc0' + struct.pack('B', 1 << bit)  # add eax, 1 << bit
    return code + b'\xf4'


def symbolic_state():
    x = claripy.BVS('x', 64)
    s = angr.SimState(arch='AMD64', mode='symbolic')
    s.regs.rip = BASE
    s.regs.rax = x
    s.solver.add(x.ULT(5))
    s.memory.store(0x1000, claripy.BVV(0x41424344, 32))
    return s


def states():
    s = symbolic_state()
    uuid = s.ana_uuid
    assert pickle.loads(pickle.dumps(s, -1)) is s
    c = s.copy()
    c.regs.rbx = 7
    c.solver.add(c.regs.rax == 3)
    assert c.ana_uuid != uuid

    wrappers = [SpilledState(state) for state in (s, c)]
    for w in wrappers:
        w.make_uuid()
    pids = [w.ana_store() for w in wrappers]
    del s, c, w, wrappers
    gc.collect()
    s, c = [SpilledState.ana_load(pid).state for pid in pids]
    assert s.ana_uuid == uuid
    assert sorted(s.solver.eval_upto(s.regs.rax, 10)) == [0, 1, 2, 3, 4]
    assert c.solver.eval_upto(c.regs.rax, 10) == [3]
    assert (s.addr, c.addr, c.solver.eval(c.regs.rbx)) == (BASE, BASE, 7)
    assert s.solver.eval(s.memory.load(0x1000, 4)) == 0x41424344
    # they live on, each for itself
    s.solver.add(s.regs.rax > 3)
    assert s.solver.eval_upto(s.regs.rax, 10) == [4]
    assert c.solver.satisfiable()


def spilling():
    with tempfile.NamedTemporaryFile(suffix='.bin') as f:
        f.write(machine_code())
        f.flush()
        run_spilling(f.name)


def run_spilling(path):
    project = angr.Project(path, load_options={
        'main_opts': {'backend': 'blob', 'arch': 'AMD64', 'base_addr': BASE, 'entry_point': BASE}
    })
    start = project.factory.blank_state(addr=BASE)
    x = claripy.BVS('edi', 64)
    start.regs.rdi = x
    manager = project.factory.simgr(start)
    spiller = Spiller(min=1, max=2, staging_min=1, staging_max=2)
    manager.use_technique(spiller)
    manager.explore(find=BASE + len(machine_code()) - 1, num_find=2 ** BITS)
    assert spiller._ever_pickled > 0
    assert spiller._ever_unpickled == spiller._ever_pickled
    found = [(s.solver.eval_one(s.regs.rax), s.solver.eval(x) % 2 ** BITS) for s in manager.found]
    assert sorted(found) == [(n, n) for n in range(2 ** BITS)]


def other_process(kind, folder):
    pid = SpilledState(symbolic_state()).ana_store()
    text = subprocess.check_output([sys.executable, __file__, kind, folder, pid])
    assert text.decode() == '0x400000: [0, 1, 2, 3, 4]\n'


def read(pid):
    s = SpilledState.ana_load(pid).state
    print('%#x: %s' % (s.addr, sorted(s.solver.eval_upto(s.regs.rax, 10))))


def main(argv):
    kind = backends.choose(argv)
    if len(argv) > 3:
        return read(argv[3])
    states()
    spilling()
    if len(argv) > 2:
        other_process(kind, argv[2])
    print("all held")


if __name__ == '__main__':
    main(sys.argv)
