"""Dask workers take a model by reference, and return one that stays in the store.

python examples/dask_workers.py
"""

from distributed import Client, LocalCluster

import ana
from ana.integrations.dask import AnaPlugin


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


def half(model):
    made = Model([weight / 2 for weight in model.weights])
    made.make_uuid()  # stored by the worker, which returns a reference
    return made


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    model = Model(list(range(100_000)))
    model.make_uuid()

    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        client.register_plugin(AnaPlugin())  # Client(scheduler_file="contact.json"): your own workers
        results = client.gather([client.submit(model.predict, x) for x in range(100)])
        print("sum of results:", sum(results))
        print("of a half:", client.submit(half, model).result().predict(1))
