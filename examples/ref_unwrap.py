"""A Ref takes any object by reference through a pool that is no executor: here schwimmbad's, for emcee.

python examples/ref_unwrap.py

`@ana.unwrap` passes the function what its Refs refer to.
"""

import emcee
import numpy as np
import schwimmbad

import ana


@ana.unwrap
def log_probability(line, data):
    slope, offset = line
    return -500 * float(np.mean((slope * data["x"] + offset - data["y"]) ** 2))


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    x = np.linspace(0, 1, 100_000)
    data = ana.Ref({"x": x, "y": 2 * x + 1})
    start = np.random.default_rng(0).normal([2, 1], 0.1, (16, 2))

    with schwimmbad.MultiPool(2) as pool:
        sampler = emcee.EnsembleSampler(16, 2, log_probability, args=[data], pool=pool)
        sampler.run_mcmc(start, 20)
    print("chain:", sampler.get_chain().shape)
