"""joblib's workers take a model by reference, and joblib.Memory knows it by its UUID.

python examples/joblib_loky.py
"""

import joblib

import ana


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


def run():
    ana.set_dl(pickle_dir="pickles")
    model = Model(list(range(100_000)))
    model.make_uuid()

    results = joblib.Parallel(n_jobs=2)(joblib.delayed(model.predict)(x) for x in range(100))
    print("sum of results:", sum(results))

    # Memory caches results on disk. The model's part of the key is its UUID, wherever the store is.
    predict = joblib.Memory("cache", verbose=0).cache(Model.predict)
    predict(model, 7)
    print("in the cache:", predict.check_call_in_cache(model, 7))


if __name__ == "__main__":
    run()
