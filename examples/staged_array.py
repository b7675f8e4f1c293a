"""A job array whose 200 tasks read nothing from the shared store: the model is staged on each node.

python examples/staged_array.py

Needs sbatch. The job script is `staged_array.sh`, beside this file.
"""

import json
import subprocess
import sys
from pathlib import Path

import ana


class Model(ana.Storable):
    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__" and len(sys.argv) > 1:  # a task
    uuid, number = sys.argv[1:]
    print(Model.ana_load(uuid).predict(int(number)))
elif __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    model = Model(list(range(100_000)))
    ana.get_dl().keep("sweep", model)
    command = [sys.executable, "-m", "ana", "-d", "pickles"]
    run(*command, "stage", "sweep", "-o", "sweep.ana")
    run("sbatch", "--wait", Path(__file__).with_suffix(".sh"), sys.executable, __file__, model.uuid)
    print("sum of results:", sum(int(Path(f"{number}.log").read_text()) for number in range(200)))
    counts = json.loads(run(*command, "stats", "--jobs", "counts", "--json"))["total"]
    print(f"loaded from the nodes: {counts['from_tier']}, from the store: {counts['from_store']}")
