"""What the helpers in `ana/integrations` do beyond the contract; and the Slurm that the tests run on."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.engines import LAB, on_ranks, require, run

RANKS = """
import sys, time
import ana, ana.integrations.mpi
from mpi4py import MPI

class Model(ana.Storable):
    def __init__(self, x):
        self.x = x
    def _ana_setstate(self, s):
        Model.began = time.monotonic()
        super()._ana_setstate(s)
        time.sleep(0.3)
        Model.ended = time.monotonic()

class Unpicklable:
    def __reduce__(self):
        raise ValueError("no pickle of this")

def failing(obj):
    try:
        return ana.integrations.mpi.bcast(obj).x.decode()
    except Exception as error:
        return type(error).__name__

comm = MPI.COMM_WORLD
root = comm.size - 1
given = missing = None
if comm.rank == root:
    ana.set_dl(pickle_dir=sys.argv[1])
    given = {"model": Model(b"x" * 1_000_000), "ref": ana.Ref([1])}
    given["model"].make_uuid()
    given["ref"].make_uuid()
model = ana.integrations.mpi.bcast(given, root)["model"]
times = comm.gather((getattr(Model, "began", None), getattr(Model, "ended", None), len(model.x)))

ref = ana.integrations.mpi.bcast(given and given["ref"], root)
loaded = comm.gather("not loaded" not in repr(ref))

if comm.rank == 0:
    import os, pathlib
    ana.set_dl(pickle_dir=sys.argv[1])
    missing = Model(b"missing")
    uuid = missing.make_uuid()
    next(pathlib.Path(sys.argv[1]).rglob(f"{uuid}.pkl.zst")).unlink()
first = comm.gather(failing(missing))
second = comm.gather(failing(Unpicklable() if comm.rank == 0 else None))
if comm.rank == 0:
    print(__import__("json").dumps([times, loaded, first, second]))
"""


@pytest.mark.slow
def test_mpi_one_rank_of_a_node_loads_first(short_folder):
    """The others begin when it has loaded; missing states and objects that don't pickle leave no rank waiting."""
    require("mpi4py", mpi=True)
    script = short_folder / "ranks.py"
    script.write_text(RANKS, encoding="utf-8")
    times, loaded, missing, unpicklable = json.loads(run(*on_ranks(4), script, short_folder / "s", folder=short_folder))
    # The last rank is the root, which has the object.
    (_, first_ended, _), *others = times[:3]
    assert all(began >= first_ended for began, _, _ in others)
    assert times[3][0] is None
    assert {size for _, _, size in times} == {1_000_000}
    assert loaded == [True] * 4
    assert missing == ["missing", *["StateNotFoundError"] * 3]
    assert unpicklable == ["ValueError"] * 4


DASK_PLUGIN = """
import sys, ana, distributed
from ana.integrations.dask import AnaPlugin
if __name__ == "__main__":
    try:
        AnaPlugin()
    except ValueError as error:
        print("pickle_dir=" in str(error))
    ana.set_dl(pickle_dir=sys.argv[1])
    cluster = distributed.LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        client.register_plugin(AnaPlugin(keep_bytes=7))
        cluster.scale(2)
        client.wait_for_workers(2)
        print(*client.run(lambda: (ana.get_dl().home, ana.get_dl().live.keep_bytes)).values())
"""


@pytest.mark.slow
def test_dask_plugin_reaches_workers_that_come_later(short_folder):
    """Folder and options are those of the program; a layer in memory is refused, for workers do not see it."""
    require("distributed")
    script = short_folder / "program.py"
    script.write_text(DASK_PLUGIN, encoding="utf-8")
    refused, workers = run(sys.executable, script, short_folder / "s", folder=short_folder).splitlines()
    assert refused == "True"
    assert workers == " ".join([str((str(short_folder / "s"), 7))] * 2)


@pytest.mark.slow
def test_slurm_lab_leaves_nothing_and_hands_the_status_on(short_folder):
    """Four nodes run a job; the lab's exit status is the command's; its daemons and its folder are gone afterwards."""
    require(slurm=True)
    program = "srun -N4 -l hostname; echo $SLURM_CONF; exit 7"
    done = subprocess.run([LAB, "sh", "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 7, done.stderr
    *nodes, conf = done.stdout.split("\n")[:-1]
    assert len(nodes) == 4
    assert not Path(conf).parent.exists()
    folder = str(Path(conf).parent)
    left = [pid for pid in os.listdir("/proc") if pid.isdigit() and folder in command_line(pid)]
    assert left == []


def command_line(pid):
    """Return a process's command and environment, as far as they can be read."""
    found = b""
    for name in ("cmdline", "environ"):
        with contextlib.suppress(OSError):
            found += Path(f"/proc/{pid}/{name}").read_bytes()
    return found.decode(errors="replace")
