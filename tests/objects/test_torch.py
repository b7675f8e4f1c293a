"""torch's modules and tensors as states. `conftest.py` leaves this out where torch is missing."""

import torch
from support import classes, processes

import ana

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
