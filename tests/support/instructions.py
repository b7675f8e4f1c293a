"""Counts the processor's instructions for small operations, of ana and of plain pickle, under valgrind's callgrind.

The count does not depend on the machine's load: two runs differ by a few millionths. What is compared is the ratio to
a plain program that is Python and C in about the same parts. On a processor without AVX2, for which the C library has
other functions, a ratio changes by 1.3 % at the most. With how Python was compiled it changes by up to 6 % (Debian's
3.11 and one of pyenv, which is not optimised by profile), so builds of distributions have baselines of their own.

`python tests/support/instructions.py` prints the ratios, and with `--record` they become the baseline of this build of
Python. `.ci/record-instructions` records those of all Pythons that CI runs.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
BASELINE = ROOT / "tests" / "data" / "instructions.json"
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
_CONFIGURED = sysconfig.get_config_var("CONFIG_ARGS") or ""
BUILD = f"{VERSION}, distribution" if "'--prefix=/usr'" in _CONFIGURED else VERSION
"""What a baseline is for: a version of Python, and whether a distribution has built it."""
RECORD = ".ci/record-instructions"
ALLOWED = 1.05
"""How many times the baseline an operation may cost."""
PATIENCE_SECONDS = 300
REPEAT = 200
"""So many that what happens once (a table that grows) hardly counts."""

MARK = "getsid"
"""A function of the C library that nobody else calls: callgrind writes down what it has counted, and begins anew."""

HEAD = """
import gc, os, sys
folder, repeat = sys.argv[1], int(sys.argv[2])

def begin():
    gc.collect()
    os.getsid(0)

def end():
    os.getsid(0)

# When a collection comes depends on what was made before.
gc.disable()
begin()
"""

PLAIN = """
import argparse, configparser, csv, email.message, html.parser, logging, optparse, plistlib, string, tarfile, textwrap
end()
import pickle, weakref

def dump(value, path):
    with open(path, "wb") as file:
        pickle._dump(value, file, protocol=5)

def load(path):
    with open(path, "rb") as file:
        return pickle._load(file)

values = [{"number": number, "text": "x" * 1000} for number in range(repeat)]
paths = [f"{folder}/{number}" for number in range(repeat)]
dump(values[0], f"{folder}/warm-up")

begin()
for value, path in zip(values, paths):
    dump(value, path)
end()

begin()
for path in paths:
    load(path)
end()

class Plain:
    def __reduce_ex__(self, protocol):
        return find, (Plain, names[self])

def find(cls, name):
    found = objects.get(name)
    return found if isinstance(found, cls) else None

objects = weakref.WeakValueDictionary()
names = weakref.WeakKeyDictionary()
plain = [Plain() for _ in range(repeat)]
for number, obj in enumerate(plain):
    name = f"{number:036}"
    objects[name] = obj
    names[obj] = name

begin()
for obj in plain:
    pickle.dumps(obj)
end()

pickles = [pickle.dumps(obj) for obj in plain]
begin()
for data in pickles:
    pickle.loads(data)
end()
"""
"""pickle's own Python code, which is compiled as ana's is; and the shortest class that pickles into a name."""

PLAIN_OPERATIONS = ("import", "dump", "load", "dumps", "loads")

ANA = """
import ana
end()
import pickle

def states():
    return [os.path.join(parent, name) for parent, _, names in os.walk(folder) for name in names if name[-4:] == ".zst"]

def refs():
    return [ana.Ref({"number": number, "text": "x" * 1000}) for number in range(repeat)]

def layer():
    return ana.set_dl(pickle_dir=folder, durable=False)

def warm_up():
    ref = ana.Ref("warm up")
    pickle.loads(pickle.dumps(ref))
    ana.Ref("warm up").make_uuid()
    uuid = ref.uuid
    del ref
    layer()
    return ana.Ref.ana_load(uuid).value

# Their folders stay.
layer()
made = refs()
for ref in made:
    ref.make_uuid()
for path in states():
    os.unlink(path)

layer()
warm_up()
made = refs()
begin()
for ref in made:
    ref.make_uuid(){extra}
end()

# What others wrote a moment ago is another matter.
for path in states():
    os.utime(path, (0, 0))

layer()
warm_up()
made = refs()
begin()
for ref in made:
    ref.make_uuid()
end()

uuids = [ref.uuid for ref in made]
ref = made = None
layer()
warm_up()
begin()
for uuid in uuids:
    ana.Ref.ana_load(uuid)
end()

made = [ana.Ref.ana_load(uuid) for uuid in uuids]
begin()
for ref in made:
    pickle.dumps(ref)
end()

pickles = [pickle.dumps(ref) for ref in made]
begin()
for data in pickles:
    pickle.loads(data)
end()
"""
PEERS = {
    "import ana": "import",
    "make_uuid of a new small state": "dump",
    "make_uuid of a state that is there": "dump",
    "ana_load, cold": "load",
    "pickle.dumps of what is stored": "dumps",
    "pickle.loads of what is alive": "loads",
}
"""ana's operations in the order of the program, each with the plain one that it is compared to.

`import ana` is compared to Python's own start together with some modules of the standard library.
"""


class Finding(NamedTuple):
    """What one operation cost, in instructions."""

    ana: float
    plain: float

    @property
    def ratio(self) -> float:
        """How often the plain operation fits into ana's."""
        return self.ana / self.plain


def missing() -> str | None:
    """Say what is missing for counting, if anything."""
    return None if shutil.which("valgrind") else "no valgrind: apt-get install valgrind"


def measure(folder: Path, *, extra: str = "") -> dict[str, Finding]:
    """Count all operations in an empty folder; `extra` is done in addition with each new state that is stored."""
    plain = _count(folder / "plain", PLAIN)
    start, modules, *operations = plain
    costs = dict(zip(PLAIN_OPERATIONS, (start + modules, *_measured(operations)), strict=True))
    _, own, *operations = _count(folder / "ana", ANA.replace("{extra}", extra))
    found = zip(PEERS.items(), (own, *_measured(operations)), strict=True)
    return {name: Finding(count, costs[peer]) for (name, peer), count in found}


def baseline() -> dict[str, float] | None:
    """Return the recorded ratios for this build of Python, if there are any."""
    return _recorded().get(BUILD)


def complaints(found: Mapping[str, Finding], recorded: Mapping[str, float]) -> list[str]:
    """Say which operations cost more than is allowed, by how much, and what to do."""
    return [
        f"{name}: {finding.ratio:.3f} times the plain one's instructions ({finding.ana:.0f} to {finding.plain:.0f}), "
        f"{finding.ratio / recorded[name] - 1:+.1%} against the baseline of {recorded[name]:.3f} for Python {BUILD}. "
        f"If that has to be, record it anew: {RECORD}"
        for name, finding in found.items()
        if finding.ratio > recorded[name] * ALLOWED
    ]


def hints(found: Mapping[str, Finding], recorded: Mapping[str, float]) -> list[str]:
    """Say which operations have become so much cheaper that the baseline should be recorded anew."""
    return [
        f"{name}: {finding.ratio:.3f}, the baseline of {recorded[name]:.3f} can be lowered: {RECORD}"
        for name, finding in found.items()
        if finding.ratio * ALLOWED < recorded[name]
    ]


def record(found: Mapping[str, Finding]) -> None:
    """Make these ratios the baseline for this build of Python."""
    recorded = {**_recorded(), BUILD: {name: round(finding.ratio, 3) for name, finding in found.items()}}
    BASELINE.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _recorded() -> dict[str, dict[str, float]]:
    recorded: dict[str, dict[str, float]] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    return recorded


def _measured(counts: list[int]) -> Iterator[float]:
    """Yield the instructions of one operation for each measured stretch; in between is what prepares it."""
    return (count / REPEAT for count in counts[1::2])


def _count(folder: Path, program: str) -> list[int]:
    """Run a program under callgrind; return the instructions from mark to mark, the first from the start."""
    folder.mkdir()
    script, cache, out = folder / "program.py", folder / "cache", folder / "callgrind.out"
    script.write_text(HEAD + program, encoding="utf-8")
    python = (sys.executable, "-S", "-X", f"pycache_prefix={cache}")
    # Once in full speed, to compile the modules.
    _run(*python, script, _made(folder / "first"), "1")
    valgrind = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", f"--dump-before={MARK}")
    _run(*valgrind, *python, "-B", script, _made(folder / "tree"), str(REPEAT))
    dumps = sorted(folder.glob(f"{out.name}.*"), key=lambda path: int(path.suffix[1:]))
    return [_summary(path) for path in dumps]


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _run(*command: object) -> None:
    """Run a command to its end, with nothing in its environment that could differ."""
    libraries = filter(None, map(importlib.util.find_spec, ("blake3", "zstandard")))
    needed = (ROOT, *(Path(library.origin or "").parents[1] for library in libraries))
    paths = os.pathsep.join(str(path) for path in dict.fromkeys(needed))
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONHASHSEED": "0", "PYTHONPATH": paths}
    words = [str(word) for word in command]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    if done.returncode != 0:
        msg = f"{' '.join(words)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        raise RuntimeError(msg)


def _summary(path: Path) -> int:
    """Read how many instructions a file of callgrind's is about."""
    with path.open(encoding="utf-8") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("summary:"))


def main() -> None:
    """Print the ratios, against the baseline; with `--record`, make them the baseline."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support import memory

    if (problem := missing()) is not None:
        sys.exit(problem)
    with memory.folder() as folder:
        found = measure(folder)
    recorded = baseline() or {}
    for name, finding in found.items():
        print(f"{name:<36} {finding.ana:>12.0f} {finding.plain:>12.0f} {finding.ratio:>9.3f} {recorded.get(name)!s:>9}")
    if sys.argv[1:] == ["--record"]:
        record(found)


if __name__ == "__main__":
    main()
