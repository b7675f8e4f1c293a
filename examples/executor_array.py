"""A process pool takes a large array by reference; its tasks know nothing of ANA.

python examples/executor_array.py
"""

from concurrent.futures import ProcessPoolExecutor

import numpy as np

import ana


def simulate(mesh, factor):
    return mesh.sum() * factor


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    mesh = np.arange(100_000)

    with ProcessPoolExecutor(2) as pool, ana.Executor(pool) as executor:
        results = list(executor.map(simulate, [mesh] * 100, range(100)))
    print("sum of results:", sum(results))
