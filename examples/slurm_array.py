"""A Slurm job array: one script makes the object, submits the array, and collects the results.

python examples/slurm_array.py            # needs sbatch
"""

import os
import subprocess
import sys

import ana

TASKS = 8


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


class Result(ana.Storable):
    """The result of a task."""

    def __init__(self, model, value):
        self.model = model  # a reference in the result's state, too
        self.value = value


def submit():
    model = Model(list(range(100_000)))
    uuid = model.make_uuid()
    task = f"exec '{sys.executable}' '{os.path.abspath(__file__)}' {uuid}"
    job = f"#!/bin/bash\nexport ANA_PICKLE_DIR='{ana.get_dl().home}'\n{task}\n"
    array = ["sbatch", "--wait", f"--array=0-{TASKS - 1}", "--export=NONE", "--output=%a.log"]
    subprocess.run(array, input=job, text=True, check=True)

    results = [Result.ana_load(f"{uuid}/{number}") for number in range(TASKS)]
    print("sum of results:", sum(result.value for result in results))
    print("of the same model:", all(result.model is model for result in results))


def task(uuid, number):
    model = Model.ana_load(uuid)
    result = Result(model, model.predict(number))
    result.make_uuid(uuid=f"{uuid}/{number}")  # a name that the collector knows
    result.ana_store()


if __name__ == "__main__":
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        task(sys.argv[1], int(os.environ["SLURM_ARRAY_TASK_ID"]))
    else:
        ana.set_dl(pickle_dir="pickles")
        submit()
