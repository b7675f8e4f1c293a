"""submitit's Slurm jobs take a model by reference.

python examples/submitit_slurm.py

Needs sbatch.
"""

import submitit

import ana


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    model = Model(list(range(100_000)))
    model.make_uuid()

    executor = submitit.AutoExecutor(folder="jobs", cluster="slurm")
    executor.update_parameters(timeout_min=5, slurm_array_parallelism=4)
    jobs = executor.map_array(model.predict, range(8))
    print("sum of results:", sum(job.result() for job in jobs))
