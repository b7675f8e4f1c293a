"""torch's modules and tensors as states. `conftest.py` leaves this out where torch is missing."""

from concurrent.futures import ThreadPoolExecutor

import torch
from support import classes, processes

import ana
from ana.tasks import depot

TORCH = """
import ana, sys, torch
torch.manual_seed(0)
ana.set_dl(pickle_dir=sys.argv[1])
net = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.BatchNorm1d(100))
view = torch.arange(10_000.0).view(100, 100).t()[:50]
value = [net, view, torch.ones(5000, dtype=torch.bfloat16), torch.empty(0), torch.eye(3).to_sparse()]
print(ana.Ref(value).make_uuid())
"""


def test_a_torch_module_has_the_same_address_in_every_run(tmp_path):
    """By its tensors, which go beside the pickle; strides, types and gradients come back."""
    (uuid,) = {processes.run_program(TORCH, tmp_path).strip() for _ in range(2)}
    assert len(classes.states(tmp_path)) == 1
    ana.set_dl(pickle_dir=tmp_path)
    net, view, half, empty, sparse = ana.Ref.ana_load(uuid).value
    assert isinstance(net[0].weight, torch.nn.Parameter)
    assert net[0].weight.requires_grad
    net[0].weight.data.add_(1)
    assert torch.equal(view, torch.arange(10_000.0).view(100, 100).t()[:50])
    assert view.stride() == (1, 100)
    assert torch.equal(half, torch.ones(5000, dtype=torch.bfloat16))
    assert empty.shape == (0,)
    assert torch.equal(sparse.to_dense(), torch.eye(3))


def _total(net, view):
    """Be a task."""
    net[0].weight.data.add_(1)
    return float(view.sum()), float(net[0].weight.detach().sum())


def test_an_executor_ships_a_module_by_reference(tmp_path):
    """Tensors of a module and in a closure travel by reference; each task may write to its own."""
    ana.set_dl(pickle_dir=tmp_path)
    net = torch.nn.Sequential(torch.nn.Linear(500, 500))
    view = torch.arange(250_000.0).view(500, 500).t()[:250]
    with ThreadPoolExecutor(1) as pool, ana.Executor(pool) as executor:
        first, second = (executor.submit(_total, net, view).result() for _ in range(2))
        assert first == second
        assert first[0] == float(view.sum())
        assert torch.equal(executor.submit(lambda: view + 1).result(), view + 1)
        assert len(executor._begin().packer.pack(net)[1]) == 1
    depot._by_home.clear()
