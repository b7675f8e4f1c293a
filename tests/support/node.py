"""A node for the tests of the node-local tier: a tree, a local folder, and processes that work there."""

import subprocess
import sys
from pathlib import Path

import numpy as np

import ana
from support import processes

MIB = 1 << 20


def noise(number, size_bytes=MIB):
    """An array that no other number gives."""
    return np.random.default_rng(number).standard_normal(size_bytes // 8)


class Node:
    """A tree, and a node's local folder."""

    def __init__(self, folder):
        self.tree = folder / "tree"
        self.cache = folder / "cache"

    def layer(self, **options):
        """Return a new layer that knows no object, as another process has."""
        return ana.DirDataLayer(self.tree, **{"node_cache": self.cache, "durable": False, **options})

    def store(self, value, **options):
        """Store a value in the tree alone; return its UUID."""
        with ana.using_dl(ana.DirDataLayer(self.tree, durable=False)):
            ref = ana.Ref(value)
            ref.make_uuid(**options)
            return ref.ana_store()

    def load(self, uuid, **options):
        """Load it as another process would."""
        with ana.using_dl(self.layer(**options)):
            return ana.Ref.ana_load(uuid).value

    def entries(self):
        """The complete entries."""
        return sorted(path for path in self.cache.rglob("*") if path.is_file() and not path.name.startswith("."))

    def leftovers(self):
        """What is neither a folder nor an entry."""
        return sorted(path for path in self.cache.rglob("*") if path.is_file() and path.name.startswith("."))

    def size_bytes(self):
        """What lies there, all in all."""
        return sum(path.stat().st_size for path in [*self.entries(), *self.leftovers()])


def is_mapped(array, path):
    """Whether an array's memory is that of a file, mapped shared and read-only."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text(encoding="ascii").splitlines():
        start, end = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < end:
            return line.split()[1] == "r--s" and line.split()[-1] == str(path)
    return False


class Children:
    """Processes that do the same thing together, step by step."""

    def __init__(self, count, program, *arguments, wrapper=(), **options):
        words = [*map(str, wrapper), sys.executable, "-c", program, *map(str, arguments)]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": processes.environment()}
        self.all = [subprocess.Popen(words, **pipes, **options) for _ in range(count)]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for child in self.all:
            child.stdin.close()
            child.kill() if sys.exc_info()[0] else None
            child.wait()
            child.stdout.close()

    def answers(self):
        """Return a line of each."""
        found = [child.stdout.readline().strip() for child in self.all]
        assert all(found)
        return found

    def step(self):
        """Let all go on at once."""
        for child in self.all:
            child.stdin.write("\n")
            child.stdin.flush()
