"""A job array whose tasks read nothing from the shared store: the model is staged on each node.

python examples/staged_array.py            # needs sbatch
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import ana

TASKS = 200
LOCAL = os.environ.get("LOCAL_SCRATCH") or tempfile.gettempdir()  # on the node's own disk

JOB = """#!/bin/bash
export ANA_PICKLE_DIR='{store}' ANA_STATS='{folder}/counts'
export ANA_STAGED="{local}/sweep-{job}-$SLURMD_NODENAME.ana"

# The first task on a node copies the file, the others wait for it.
flock "$ANA_STAGED.lock" sh -c \
    'test -e "$1" || (cp "$0" "$1.part" && mv "$1.part" "$1")' '{folder}/sweep.ana' "$ANA_STAGED"

exec '{python}' '{script}' {uuid}
"""


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


def submit():
    model = Model(list(range(100_000)))
    ana.get_dl().keep("sweep", model)
    command = [sys.executable, "-m", "ana", "-q", "-d", "pickles"]
    subprocess.run([*command, "stage", "sweep", "-o", "sweep.ana"], check=True)

    folder, script = os.getcwd(), os.path.abspath(__file__)
    names = {"store": ana.get_dl().home, "folder": folder, "local": LOCAL, "job": os.getpid()}
    job = JOB.format(**names, python=sys.executable, script=script, uuid=model.uuid)
    array = ["sbatch", "--wait", f"--array=0-{TASKS - 1}", "--export=NONE", "--output=%a.log"]
    subprocess.run(array, input=job, text=True, check=True)

    print("sum of results:", sum(int(Path(f"{number}.log").read_text()) for number in range(TASKS)))
    told = subprocess.run([*command, "stats", "--jobs", "counts", "--json"], check=True, capture_output=True)
    counts = json.loads(told.stdout)["total"]
    print(f"loaded from the nodes: {counts['from_tier']}, from the store: {counts['from_store']}")


def task(uuid, number):
    model = Model.ana_load(uuid)
    print(model.predict(number))


if __name__ == "__main__":
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        task(sys.argv[1], int(os.environ["SLURM_ARRAY_TASK_ID"]))
    else:
        ana.set_dl(pickle_dir="pickles")
        submit()
