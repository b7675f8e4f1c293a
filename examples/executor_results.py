"""Large results stay in the store, and the next stage's tasks read them there.

python examples/executor_results.py

With `results="ref"` a task returns a Ref. This process never loads the arrays.
"""

from concurrent.futures import ProcessPoolExecutor

import numpy as np

import ana


def simulate(seed):
    return np.random.default_rng(seed).normal(size=1_000_000)


def summarize(field):  # gets the array, not the Ref
    return float(abs(field).mean())


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    with ProcessPoolExecutor(2) as pool, ana.Executor(pool, results="ref") as executor:
        fields = list(executor.map(simulate, range(4)))  # four Refs
        means = list(executor.map(summarize, fields))
        print("means:", [round(mean.value, 3) for mean in means])
    print("loaded here:", ana.get_dl().stats().from_store_raw_bytes, "of 32,000,000 bytes")
