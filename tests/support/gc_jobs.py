"""The processes of tests/maintenance/test_gc_jobs.py: writers, readers and collectors of one store."""

import contextlib
import json
import os
import random
import sys
import time
from pathlib import Path

import ana
from ana import maintenance
from ana.maintenance import Scope, collecting
from support.classes import A, Node

VALUES = 25
"""So few that what was collected is stored again all the time."""
ROOTS = 30
STOP = "stop"
"""The name of the file, beside the logs, that ends the jobs."""


def leaf_value(number):
    """Return a leaf's content: some small, some large enough for locks and threads."""
    return [number, "x" * (1000 if number % 8 else 1_200_000)]


class Log:
    """Lines of JSON that one process appends, and others read."""

    def __init__(self, path):
        self.path = path

    def append(self, *fields):
        """Write a line down, whole."""
        with self.path.open("a") as file:
            file.write(json.dumps(fields) + "\n")

    def read(self):
        """Return all whole lines so far."""
        if not self.path.exists():
            return []
        return [json.loads(line) for line in self.path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def kept_now(logs):
    """Return what all writers have kept and not let go of: UUID to (its number, its leaves' numbers)."""
    kept = {}
    for path in sorted(logs.glob("writer-*")):
        gone = {name for kind, name, *_ in Log(path).read() if kind == "forgets"}
        for kind, name, uuid, leaves in (line for line in Log(path).read() if line[0] == "keeps"):
            if name not in gone:
                kept[uuid] = kind, name, leaves
    return kept


def write(store, logs, seed, grace):
    """Store parents of shared leaves, keep most of them under names, and forget the oldest names."""
    chance = random.Random(seed)
    log = Log(logs / f"writer-{seed}")
    names = []
    number = 0
    while not (logs / STOP).exists():
        number += 1
        layer = ana.set_dl(pickle_dir=store, durable=False, recheck_seconds=grace / 8)
        leaves = chance.sample(range(VALUES), 3)
        children = [A(leaf_value(leaf)) for leaf in leaves]
        for child in children:
            child.make_uuid()
        # A parent is stored while the collectors run; what it relies on was seen a moment ago.
        parent = Node([seed, number], children)
        if number % 5 == 0:
            parent.make_uuid()
            continue
        name = f"root-{seed}-{number}"
        (uuid,) = layer.keep(name, parent)
        log.append("keeps", name, uuid, leaves)
        names.append(name)
        if len(names) > ROOTS:
            log.append("forgets", names[0])
            maintenance.forget(store, names.pop(0))
        time.sleep(chance.random() * 0.02)


def check(uuid, leaves):
    """Load a parent and its leaves, and compare all of it."""
    parent = Node.ana_load(uuid)
    assert [child.x for child in parent.after] == [leaf_value(leaf) for leaf in leaves]


def read(store, logs, seed, grace):
    """Load what is kept; a reader that comes too late for what was let go of is no failure."""
    chance = random.Random(seed)
    loads = 0
    while not (logs / STOP).exists():
        kept = kept_now(logs)
        for uuid in chance.sample(sorted(kept), min(5, len(kept))):
            ana.set_dl(pickle_dir=store, errors="raise", keep_bytes=0)
            try:
                check(uuid, kept[uuid][2])
            except ana.ANAError:
                if uuid in kept_now(logs):
                    raise
            loads += 1
        time.sleep(0.01)
    print(json.dumps({"loads": loads}))


def collect(store, logs, seed, grace):
    """Collect again and again, with locks that exclude nobody."""
    collecting.locked = lambda *_: contextlib.nullcontext()
    chance = random.Random(seed + os.getpid())
    log = Log(logs / f"collector-{seed}")
    while not (logs / STOP).exists():
        scope = chance.choice([Scope(unreachable=True), Scope(older_than_seconds=grace), Scope(max_files=40)])
        done = maintenance.gc(store, scope, grace_seconds=grace)
        assert not done.refused, done.problems
        log.append("collects", len(done.trashed), len(done.deleted), len(done.brought_back))
        time.sleep(chance.random() * 0.1)


if __name__ == "__main__":
    role, place, log_folder, number, grace_seconds = sys.argv[1:]
    work = {"write": write, "read": read, "collect": collect}[role]
    work(Path(place), Path(log_folder), int(number), float(grace_seconds))
