"""concurrent.futures takes a model by reference, in a partial.

python examples/futures_pool.py
"""

from concurrent.futures import ProcessPoolExecutor
from functools import partial

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

    with ProcessPoolExecutor(2) as pool:
        results = list(pool.map(partial(Model.predict, model), range(100)))
    print("sum of results:", sum(results))
