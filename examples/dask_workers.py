"""dask.distributed, on one machine: python examples/dask_workers.py.

With your own workers, started by commands:

    export ANA_PICKLE_DIR=/shared/pickles
    dask scheduler --scheduler-file contact.json --preload ana.integrations.dask
    dask worker --scheduler-file contact.json --nworkers 2 --nthreads 1 --preload ana.integrations.dask
    python examples/dask_workers.py contact.json
"""

import sys

from distributed import Client, LocalCluster

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


def half(model):
    made = Model([weight / 2 for weight in model.weights])
    made.make_uuid()  # the result stays in the store, and a reference is returned
    return made


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    model = Model(list(range(100_000)))
    model.make_uuid()

    if len(sys.argv) > 1:
        client = Client(scheduler_file=sys.argv[1])
    else:
        client = Client(LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None))
    with client:
        client.register_plugin(AnaPlugin())
        results = client.gather(client.map(task, [model] * 100, range(100)))
        print("sum of results:", sum(results))
        print("of a half:", client.submit(half, model).result().predict(1))
        if len(sys.argv) == 1:
            client.cluster.close()
