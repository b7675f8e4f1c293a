"""Ray tasks take a model by reference.

python examples/ray_tasks.py
"""

import ray

import ana
import ana.integrations.ray


class Model(ana.Storable):
    """A large object that never changes."""

    def __init__(self, weights):
        self.weights = weights

    def predict(self, x):
        return x * sum(self.weights)


@ray.remote
def task(model, x):
    return model.predict(x)


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    model = Model(list(range(100_000)))
    model.make_uuid()

    ray.init(num_cpus=2, include_dashboard=False, runtime_env=ana.integrations.ray.runtime_env())
    results = ray.get([task.remote(model, x) for x in range(100)])
    print("sum of results:", sum(results))
    ray.shutdown()
