"""States that a fork server loads before it forks: no worker loads them again."""

import json
import sys

import pytest
from support import processes

PROGRAM = """
import json, multiprocessing, os, sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
import ana
from ana.integrations.multiprocessing import preload

SIZE = 32 << 20

class Model(ana.Storable):
    def __init__(self, data):
        self.data = data

def private_bytes():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Private_"))

def look(thing):
    data = thing.value if isinstance(thing, ana.Ref) else thing.data
    return os.getpid(), len(data), data[-1], ana.get_dl().stats().from_store, private_bytes() < SIZE // 2

def failing(thing):
    try:
        return look(thing)
    except ana.StateNotFoundError:
        return "missing"

def main():
    ana.set_dl(pickle_dir=sys.argv[1])
    model, ref = Model(bytearray(SIZE) + b"m"), ana.Ref(bytearray(SIZE) + b"r")
    lost = ana.Ref("lost")
    lost.make_uuid()
    next(Path(sys.argv[1]).rglob(f"{lost.uuid}.pkl.zst")).unlink()
    preload([lost, model, ref])
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("forkserver")) as pool:
        found = list(pool.map(look, [model, ref] * 4)) if len(sys.argv) == 2 else []
        missing = pool.submit(failing, lost).result()
        after = pool.submit(look, model).result()
    try:
        preload([model])
    except RuntimeError as error:
        again = str(error)
    print(json.dumps([found, missing, after, again]))

if __name__ == "__main__":
    main()
"""


@pytest.mark.slow
def test_workers_find_what_their_fork_server_has_loaded(tmp_path):
    """Nothing is read again, their memory is the server's; what is missing raises in its task, and the pool goes on."""
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    said = processes.run(sys.executable, script, tmp_path / "tree", env=processes.environment(ANA_WAIT="0"))
    found, missing, after, again = json.loads(said)
    assert [seen[1:] for seen in found] == [[(32 << 20) + 1, ord(end), 0, True] for end in "mr"] * 4
    assert missing == "missing"
    assert after[3] == 0
    assert "the fork server runs already" in again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("['text']", "TypeError: str is no Storable: wrap it in ana.Ref"),
        ("[ana.Ref(1)]", "ValueError: the fork server could not reach this process's memory"),
        ("[ana.Ref(n) for n in range(2000)], True", "ValueError: the references to 2,000 objects are too large"),
    ],
)
def test_what_cannot_be_preloaded_is_refused_before_the_server_starts(tmp_path, given, error):
    """With the reason and a cure."""
    program = (
        "import sys, ana\n"
        "from multiprocessing import forkserver\n"
        "from ana.integrations.multiprocessing import preload\n"
        "def attempt(objects, folder=False):\n"
        "    if folder:\n"
        "        ana.set_dl(pickle_dir=sys.argv[1], durable=False)\n"
        "    try:\n"
        "        preload(objects)\n"
        "    except (TypeError, ValueError) as error:\n"
        "        print(f'{type(error).__name__}: {error}', forkserver._forkserver._forkserver_pid)\n"
        f"attempt({given})\n"
    )
    said = processes.run_program(program, tmp_path / "tree")
    assert said.startswith(error)
    assert said.endswith(" None\n")
