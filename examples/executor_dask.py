"""Dask takes a DataFrame by reference; its tasks know nothing of ANA.

python examples/executor_dask.py
"""

import distributed
import numpy as np
import pandas as pd

import ana


def revenue(sales, factor):
    return (sales["price"] * sales["count"]).sum() * factor


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")  # a folder that all workers see
    sales = pd.DataFrame({"price": np.arange(100_000), "count": np.ones(100_000, dtype=int)})

    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
        ana.Executor(client.get_executor(pure=False)) as executor,
    ):
        futures = [executor.submit(revenue, sales, factor) for factor in range(100)]
        print("sum of results:", sum(int(future.result()) for future in futures))
