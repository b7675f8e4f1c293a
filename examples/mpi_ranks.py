"""MPI ranks share a model: one rank of each node reads it first.

mpiexec -n 4 python examples/mpi_ranks.py
"""

from mpi4py import MPI

import ana
import ana.integrations.mpi


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


comm = MPI.COMM_WORLD
model = None
if comm.rank == 0:
    ana.set_dl(pickle_dir="pickles")
    model = Model(list(range(100_000)))
    model.make_uuid()

# Sends a reference to all ranks; one rank per node loads first.
model = ana.integrations.mpi.bcast(model)
result = sum(model.predict(x) for x in range(comm.rank, 100, comm.size))
results = comm.gather(result)
if comm.rank == 0:
    print("sum of results:", sum(results))
