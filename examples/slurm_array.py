"""A Slurm job array: one script stores the model, submits itself, and collects the results by name.

python examples/slurm_array.py

Needs sbatch.
"""

import os
import subprocess
import sys

import ana


class Model(ana.Storable):
    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


if __name__ == "__main__" and "SLURM_ARRAY_TASK_ID" in os.environ:
    uuid, number = sys.argv[1], int(os.environ["SLURM_ARRAY_TASK_ID"])
    model = Model.ana_load(uuid)
    result = ana.Ref({"model": model, "value": model.predict(number)})
    result.make_uuid(f"{uuid}/{number}")  # a name that the collector knows
    result.ana_store()
elif __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")  # on a filesystem that the nodes see
    model = Model(list(range(100_000)))
    uuid = model.make_uuid()
    command = f"'{sys.executable}' '{os.path.abspath(__file__)}' {uuid}"
    job = f"#!/bin/bash\nexport ANA_PICKLE_DIR='{ana.get_dl().home}'\nexec {command}\n"
    array = ["sbatch", "--wait", "--array=0-7", "--export=NONE", "--output=%a.log"]
    subprocess.run(array, input=job, text=True, check=True)
    results = [ana.Ref.ana_load(f"{uuid}/{number}").value for number in range(8)]
    print("sum of results:", sum(result["value"] for result in results))
    print("of the same model:", all(result["model"] is model for result in results))
