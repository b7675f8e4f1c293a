"""Parsl's HighThroughputExecutor takes a model by reference.

python examples/parsl_htex.py

Needs Parsl's scripts on PATH.
"""

import parsl

import ana
import ana.integrations.parsl


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


@parsl.python_app
def task(model, x):
    return model.predict(x)


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    model = Model(list(range(100_000)))
    model.make_uuid()

    executor = parsl.HighThroughputExecutor(max_workers_per_node=2, cores_per_worker=0.5, address="127.0.0.1")
    with parsl.load(parsl.Config(executors=[executor])):
        futures = [task(model, x) for x in range(100)]
        print("sum of results:", sum(future.result() for future in futures))
