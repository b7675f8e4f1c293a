"""A multiprocessing pool takes a model by reference, however its workers start.

python examples/multiprocessing_pool.py

To use another start method, name it: `fork`, `spawn` or `forkserver`.
"""

import multiprocessing
import sys

import ana


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


def task(argument):
    model, x = argument
    return model.predict(x)


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    model = Model(list(range(100_000)))
    model.make_uuid()  # stored; from now on it travels as a reference

    method = sys.argv[1] if len(sys.argv) > 1 else None
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.map(task, [(model, x) for x in range(100)])
    print("sum of results:", sum(results))
