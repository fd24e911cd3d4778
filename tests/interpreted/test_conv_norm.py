"""The convolution with the norm and the ReLU after it, in Triton's interpreter, watched: what its epilogues are for."""

import pytest
import torch

from cvkernels import nn, use_backend
from tests.close import assert_close

from .test_conv2d import forced, wide


def layer_and_twin(**settings):
    """The fused layer, and a convolution and a norm with the same parameters."""
    fused = nn.ComplexConvBatchNormReLU2d(2, 5, 3, padding=1, c=0.9, **settings)
    apart = nn.ComplexConvBatchNormReLU2d(2, 5, 3, padding=1, c=0.9, **settings).double()
    fused.norm_act.running_power.uniform_(0.5, 1.5)
    apart.load_state_dict(fused.state_dict())
    return fused, apart


@pytest.mark.parametrize("weights", ["complex", "real"])
@pytest.mark.parametrize("affine", [False, True], ids=["", "affine"])
def test_a_training_step_takes_the_sums_from_the_convolution(weights, affine):
    fused, apart = layer_and_twin(weights=weights, affine=affine)
    z = torch.randn(3, 2, 2, 5, 4, requires_grad=True)
    r, g = torch.randn(2, 3, 2, 5, 5, 4)
    z_ = wide(z)
    y, launches = forced(lambda: fused(z, r))
    assert launches == ["conv2d_kernel", "conv2d_sum_kernel", "norm_forward_kernel"]
    with use_backend("reference"):
        want = apart(z_, r.double())
    forced(lambda: y.backward(g))
    want.backward(g.double())
    assert_close(y, want, kind="network")
    assert_close(z.grad, z_.grad, kind="network", name="grad of z")
    for (name, p), q in zip(fused.named_parameters(), apart.parameters(), strict=True):
        assert_close(p.grad, q.grad, kind="network", name=f"grad of {name}")
    assert_close(fused.norm_act.running_power, apart.norm_act.running_power, name="running power")
    assert fused.norm_act.num_batches_tracked == 1


@pytest.mark.parametrize("residual", [False, True], ids=["", "residual"])
def test_inference_is_one_launch(residual):
    fused, apart = (layer.eval() for layer in layer_and_twin(affine=True))
    z, r = torch.randn(2, 2, 2, 5, 4), torch.randn(2, 2, 5, 5, 4) if residual else None
    with torch.no_grad():
        y, launches = forced(lambda: fused(z, r))
        with use_backend("reference"):
            want = apart(z.double(), None if r is None else r.double())
    assert launches == ["conv2d_kernel"]
    assert_close(y, want)


def test_what_needs_the_layers_apart_has_them_apart():
    fused, _ = layer_and_twin()
    fused.eval()
    z, seen = torch.randn(1, 2, 2, 3, 3), []
    apart = ["conv2d_kernel", "norm_forward_kernel"]
    assert forced(lambda: fused(z))[1] == apart  # a gradient may be asked for
    fused.norm_act.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        assert forced(lambda: fused(z))[1] == apart and seen


def test_traced_whole_by_torch_compile():
    given = torch.randn(2, 2, 2, 4, 4)
    found = []
    for compiled in (False, True):
        torch.manual_seed(5)
        layer = nn.ComplexConvBatchNormReLU2d(2, 3, 3)
        run = torch.compile(layer, fullgraph=True, backend="aot_eager") if compiled else layer
        z = given.clone().requires_grad_()
        with use_backend("triton"):
            y = run(z)
            y.square().sum().backward()
            layer.eval()
            with torch.no_grad():
                after = run(z)
        found.append((y, z.grad, layer.conv.weight_im.grad, layer.norm_act.running_power, after))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)
