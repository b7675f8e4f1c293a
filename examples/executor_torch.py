"""A process pool takes a torch model by reference; its tasks know nothing of ANA.

python examples/executor_torch.py
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch

import ana


def predict(net, batch):
    with torch.inference_mode():
        return float(net(batch).sum())


if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    net = torch.nn.Linear(1000, 100, bias=False)
    torch.nn.init.ones_(net.weight)
    batches = [torch.full((1, 1000), float(x)) for x in range(8)]

    # torch has threads, so its workers are spawned, not forked.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool, ana.Executor(pool) as executor:
        results = list(executor.map(predict, [net] * 8, batches))
    print("sum of results:", sum(results))
