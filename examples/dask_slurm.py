"""Dask workers that are Slurm jobs (dask-jobqueue) take a model by reference.

python examples/dask_slurm.py

Needs sbatch.
"""

from dask_jobqueue.slurm import SLURMCluster
from distributed import Client

import ana
from ana.integrations.dask import AnaPlugin


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


def task(model, x):
    return model.predict(x)


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")  # on a filesystem that the nodes see
    model = Model(list(range(100_000)))
    model.make_uuid()

    with SLURMCluster(cores=1, processes=1, memory="400MB", log_directory="logs") as cluster, Client(cluster) as client:
        client.register_plugin(AnaPlugin())
        cluster.scale(jobs=2)
        results = client.gather(client.map(task, [model] * 100, range(100)))
    print("sum of results:", sum(results))
