"""executorlib's workers take a model by reference.

python examples/executorlib_pool.py
"""

from executorlib import SingleNodeExecutor

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

    # Keeps the workers: without block_allocation each task is a new process that loads the model again.
    with SingleNodeExecutor(max_workers=2, block_allocation=True) as executor:
        futures = [executor.submit(model.predict, x) for x in range(100)]
        print("sum of results:", sum(future.result() for future in futures))
