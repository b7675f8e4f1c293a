"""System calls that the real kernel makes fail, by strace's fault injection; and a budget of them."""

import os
import shutil
import subprocess
import sys

import pytest
from helpers.processes import environment

import ana

pytestmark = pytest.mark.slow

PROGRAM = """
import sys, ana
from classes import A
layer = ana.set_dl(pickle_dir=sys.argv[1])
# Above, the interpreter and its imports; below, the store. strace's -P follows the store's paths alone.
acknowledged, problems = [], []
for number in range(3):
    a = A([number, "x" * 2000])
    try:
        a.make_uuid()
    except ana.ANAError as error:
        assert a.uuid is None
        problems.append(str(error))
    else:
        acknowledged.append(a.uuid)
print(" ".join(acknowledged) or "-")
print(len(problems))
"""

FAULTS = [
    ("openat", "ENOSPC"),
    ("openat", "EMFILE"),
    ("openat", "EACCES"),
    ("writev", "ENOSPC"),
    ("writev", "EDQUOT"),
    ("writev", "EIO"),
    ("fsync", "EIO"),
    ("fsync", "ENOSPC"),
    ("link", "EIO"),
    ("link", "EACCES"),
    ("link", "EPERM"),
    ("link", "EROFS"),
    ("unlink", "EIO"),
    ("mkdir", "EROFS"),
    ("mkdir", "ENOSPC"),
    ("newfstatat", "ESTALE"),
    ("newfstatat", "EIO"),
]


def strace(*options, arguments):
    """Run a Python program under strace; return what it printed and what strace saw."""
    if shutil.which("strace") is None:
        pytest.skip("no strace: apt-get install strace")
    words = ["strace", "-f", "-qq", "-o", "trace", *options, sys.executable, "-c", *map(str, arguments)]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment(), cwd=arguments[1].parent, timeout=120
    )


def store_works(store, acknowledged):
    """Check, in a process without faults, that the acknowledged states are whole and the next store works."""
    layer = ana.set_dl(pickle_dir=store)
    for uuid in acknowledged:
        assert layer.load_state(uuid)["x"][1] == "x" * 2000
    layer.store_state("next", 1)
    assert layer.load_state("next") == 1


@pytest.mark.parametrize("when", ["1", "2", "3+"])
@pytest.mark.parametrize(("call", "error"), FAULTS, ids=lambda value: value)
def test_injected_faults(tmp_path, call, error, when):
    """The kernel refuses a call on the store's paths: a typed error or a success, and never a lost state."""
    store = tmp_path / "store"
    ana.set_dl(pickle_dir=store)
    # By path: descriptors that were opened below the store count as well.
    done = strace("-P", store, "-e", f"inject={call}:error={error}:when={when}", arguments=[PROGRAM, store])
    paths = [arg for folder, _, _ in os.walk(store) for arg in ("-P", folder)]
    assert done.returncode == 0 or "ana.errors" in done.stderr, done.stderr
    assert "-P" in paths
    acknowledged = [] if done.returncode else [uuid for uuid in done.stdout.split("\n")[0].split() if uuid != "-"]
    store_works(store, acknowledged)
