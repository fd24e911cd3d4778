"""Gradients mapped over many incoming ones: as one by one, or by autograd's older vmap refused by name."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import backend as house
from cvkernels.ops.common import autograd

from .harness import PLANAR

# functorch's loop over an operator
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")

N, C = 2, 2
THETA = torch.rand(N, dtype=torch.float64)
A = torch.randn(2, 3, C, 2, 2, dtype=torch.float64)
OPS = {  # of planar features, or with `real` of their real part
    "magnitude_relu": F.magnitude_relu,
    "magnitude_relu-mean": lambda z: F.magnitude_relu(z, "channel_mean"),
    "magnitude_batch_norm": lambda z: F.magnitude_batch_norm(z, training=True),
    "batch_norm_relu": lambda z: F.batch_norm_relu(z, training=True),
    "real_batch_norm_relu": lambda z: F.real_batch_norm_relu(z[:, 0], training=True),
    "magnitude_power": F.magnitude_power,
    "rotate": lambda z: F.rotate(z[:, 0], z[:, 1], THETA.to(z.device)),
    "rotate_phase": lambda z: F.rotate_phase(z, THETA.to(z.device)),
    "unrotate": lambda z: F.unrotate(z, THETA.to(z.device)),
    "magnitude_max_pool2d": lambda z: F.magnitude_max_pool2d(z, 2),
    "avg_pool2d": lambda z: F.avg_pool2d(z, 2),
    "conv2d": lambda z: F.conv2d(z, tuple(A.to(z.device))),
    "conv2d-real": lambda z: F.conv2d(z, A[0].to(z.device)),
    "linear": lambda z: F.linear(z[..., 0, 0], tuple(A[..., 0, 0].to(z.device))),
    "pack_weights": lambda z: F.pack_weights([(z[:, 0], z[:, 1])])[0],
}
LATER = {"as-it-comes": lambda y: y, "sum": lambda y: y.sum(-1)}  # a gradient that has strides of its own, or not
LAYOUTS = {name: PLANAR[name] for name in ("contiguous", "channels-last")}


@pytest.fixture(params=OPS)
def name(request):
    return request.param


@pytest.fixture
def z(backend):
    torch.manual_seed(1)
    return torch.randn(N, 2, C, 3, 3, dtype=torch.float64).to(backend.device)


def one_by_one(f, z):
    z = z.clone().requires_grad_()
    y = f(z)
    return torch.stack([torch.autograd.grad(v, z, retain_graph=True)[0] for v in y.flatten()])


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_jacrev(backend, name, z, layout, later):
    f = lambda z: later(OPS[name](layout(z)))  # noqa: E731
    want = one_by_one(f, z)
    torch.testing.assert_close(torch.func.jacrev(f)(z).view(want.shape), want)


@pytest.mark.parametrize("later", LATER.values(), ids=LATER)
def test_autograds_own_vmap(kernel, name, later, monkeypatch):
    monkeypatch.setattr(house, "nodes", lambda: None)  # the Functions themselves
    monkeypatch.setattr(autograd, "_NODES", {})
    monkeypatch.setattr(autograd, "_SHORT", {})
    z = torch.randn(N, 2, C, 3, 3, dtype=torch.float64, device=kernel.device)
    f = lambda z: later(OPS[name](z))  # noqa: E731
    want, leaf = one_by_one(f, z), z.clone().requires_grad_()
    y = f(leaf)
    every = torch.eye(y.numel(), dtype=y.dtype, device=y.device).view(-1, *y.shape)
    try:
        (got,) = torch.autograd.grad(y, leaf, every, is_grads_batched=True)
    except RuntimeError as refused:
        operation = name.partition("-")[0]
        assert f"{operation} does not differentiate with is_grads_batched" in str(refused)
        return
    torch.testing.assert_close(got.view(want.shape), want)


def test_a_mapped_first_derivative_still_refuses_a_second(kernel):
    z = torch.randn(N, 2, C, 3, 3, dtype=torch.float64, device=kernel.device)

    def loss(z):
        rows = torch.func.jacrev(F.magnitude_batch_norm)(z)
        return rows.square().sum()

    with pytest.raises(RuntimeError, match="magnitude_batch_norm is differentiable once"):
        torch.func.grad(loss)(z)
