"""emcee and dynesty run on a pool, and a likelihood with large data travels once.

python examples/executor_samplers.py

A sampler pickles its likelihood into each call of `pool.map`. By value that takes most of the time.
"""

from concurrent.futures import ProcessPoolExecutor

import dynesty
import emcee
import numpy as np

import ana


class Likelihood:
    def __init__(self, count):
        self.x = np.linspace(0, 1, count)
        self.y = 2 * self.x + 1

    def __call__(self, line):
        slope, offset = line
        return -500 * float(np.mean((slope * self.x[::100] + offset - self.y[::100]) ** 2))


def prior(cube):
    return 10 * cube - 5


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    likelihood = Likelihood(500_000)
    with ProcessPoolExecutor(2) as pool, ana.Executor(pool) as executor:
        sampler = emcee.EnsembleSampler(16, 2, likelihood, pool=executor)
        sampler.run_mcmc(np.random.default_rng(0).normal([2, 1], 0.1, (16, 2)), 100)
        print("emcee:", sampler.get_chain().shape)
        nested = dynesty.NestedSampler(likelihood, prior, 2, nlive=50, pool=executor, queue_size=2)
        nested.run_nested(dlogz=1, print_progress=False)
        print("dynesty:", nested.results.samples.shape[1])
