"""mpi4py.futures takes a model by reference.

mpiexec -n 3 python -m mpi4py.futures examples/mpi_futures.py
"""

from functools import partial

from mpi4py.futures import MPIPoolExecutor

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

    with MPIPoolExecutor() as pool:
        results = list(pool.map(partial(Model.predict, model), range(100)))
    print("sum of results:", sum(results))
