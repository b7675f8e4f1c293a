"""Fifty configurations share one large array, which is stored once.

python examples/sweep_shared_array.py
"""

from multiprocessing import Pool

import numpy as np

import ana


class Simulation(ana.Storable):
    def __init__(self, mesh, viscosity):
        self.mesh = mesh
        self.viscosity = viscosity

    def run(self):
        return float(self.mesh.sum()) * self.viscosity


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    mesh = np.ones(2_500_000)  # 20 MB
    sweep = [Simulation(mesh, viscosity) for viscosity in range(50)]
    ana.get_dl().store_many(sweep)

    with Pool(2) as pool:
        results = pool.map(Simulation.run, sweep)
    print("sum of results:", sum(results))
    print("stored:", ana.get_dl().stats().stored_raw_bytes // 1_000_000, "MB")
