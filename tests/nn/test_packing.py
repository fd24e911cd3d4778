"""pack_weights: layers use what it made, only while it holds, and gradients pass through it."""

import copy
import io

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad

import cvkernels.functional as F
import cvkernels.nn as cnn
from cvkernels import use_conv_form
from tests.close import assert_close

Z = torch.randn(3, 2, 4, 6, 5, generator=torch.Generator().manual_seed(0))


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        cnn.ComplexConv2d(4, 6, 3, padding=1, dtype=dtype),
        cnn.MagnitudeReLU(),
        cnn.ComplexConv2d(6, 4, 3, groups=2, dtype=dtype),
        cnn.ComplexConv2d(4, 4, 1, weights="real", dtype=dtype),
        cnn.ComplexFlatten(),
        cnn.ComplexLinear(48, 3, dtype=dtype),
    )


@pytest.fixture(autouse=True)
def _block_weights():
    with use_conv_form("block-last"):
        yield


def used(layer) -> bool:
    return len(layer.kernel()) == 3


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16], ids=str)
def test_equals_the_network_without(half):
    plain, packed = network(), network()
    with torch.autocast("cpu", half, enabled=half is not None):
        want, got = plain(Z), cnn.pack_weights(packed)(Z)
    assert used(packed[0]) and used(packed[5]) and packed[0].kernel().block.dtype == (half or torch.float32)
    assert not used(packed[2]) and isinstance(packed[3].kernel(), torch.Tensor)
    assert got.dtype == want.dtype and torch.equal(got, want)
    for p, q in zip(plain.parameters(), packed.parameters(), strict=True):
        (g,) = torch.autograd.grad(want.float().sin().sum(), p, retain_graph=True)
        (h,) = torch.autograd.grad(got.float().sin().sum(), q, retain_graph=True)
        assert_close(h, g)


def test_one_launch_for_the_network():
    from tests.ops.suite import Recorder

    with Recorder() as seen:
        cnn.pack_weights(network())
    assert len(seen.calls) <= 1


ENDS = {
    "optimiser": lambda m: torch.optim.SGD(m.parameters(), 0.1).step(),
    "adam": lambda m: torch.optim.Adam(m.parameters(), 0.1, fused=True).step(),
    "load_state_dict": lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
    "in-place": lambda m: [p.mul_(2) for p in m.parameters()],
    "data": lambda m: [setattr(p, "data", p.data.clone()) for p in m.parameters()],
    "other-parameter": lambda m: [
        setattr(l, n, nn.Parameter(getattr(l, n).clone())) for l in (m[0], m[5]) for n in ("weight_re", "weight_im")
    ],
    "double": lambda m: m.double(),
    "there-and-back": lambda m: m.double().float(),
    "reset": lambda m: [l.reset_parameters() for l in (m[0], m[5])],
}


@pytest.mark.parametrize("change", ENDS.values(), ids=ENDS)
def test_a_stale_pack_is_not_used(change):
    model = network()
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    with torch.no_grad():
        cnn.pack_weights(model)
        assert used(model[0]) and used(model[5])
        change(model)
        assert not used(model[0]) and not used(model[5])
        fresh = network(next(model.parameters()).dtype)
        fresh.load_state_dict(model.state_dict())
        z = Z.to(next(model.parameters()).dtype)
        assert torch.equal(model(z), fresh(z))
        assert used(cnn.pack_weights(model)[0])


def test_made_without_gradients_it_serves_inference_only():
    model = network()
    with torch.no_grad():
        cnn.pack_weights(model)
        assert used(model[0])
    assert not used(model[0])
    model(Z).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert not used(model.requires_grad_(True)[0]) and used(model.requires_grad_(False)[0])


def test_another_dtype_than_the_features_is_not_used():
    model, plain = network(), network()
    assert torch.equal(cnn.pack_weights(model, torch.bfloat16)(Z), plain(Z))


def test_copies_and_checkpoints_leave_it_behind():
    model = cnn.pack_weights(network())
    copied = copy.deepcopy(model)
    assert used(model[0]) and not used(copied[0]) and copied(Z).isfinite().all()
    torch.save(model, io.BytesIO())
    assert model.state_dict().keys() == network().state_dict().keys()


def test_compiled_networks_make_their_own():
    model = cnn.pack_weights(network())
    torch._dynamo.reset()
    assert_close(torch.compile(model, fullgraph=True, backend="aot_eager")(Z), network()(Z))


def test_nothing_to_pack():
    model = nn.Sequential(cnn.MagnitudeReLU())
    assert cnn.pack_weights(model) is model


def test_parameters_of_inference_mode_have_no_version_to_trust():
    with torch.inference_mode():
        model = network()
        cnn.pack_weights(model)
        assert not used(model[0])
        before = model(Z)
        model[0].weight_re.mul_(2)
        assert not torch.equal(model(Z), before)


def test_a_pack_made_in_inference_mode_serves_there_alone():
    model = network().requires_grad_(False)
    with torch.inference_mode():
        cnn.pack_weights(model)
        assert used(model[0])
    assert not used(model[0])
    z = Z.clone().requires_grad_()
    model(z).sum().backward()
    assert z.grad.isfinite().all()


def test_a_tangent_of_packed_weights_is_not_dropped():
    layer = cnn.ComplexLinear(3, 2).requires_grad_(False)
    cnn.pack_weights(layer)
    z, tangents = torch.randn(2, 2, 3), [torch.randn(2, 3) for _ in range(2)]
    with forward_ad.dual_level():
        pairs = zip(("weight_re", "weight_im"), tangents, strict=True)
        dual = {name: forward_ad.make_dual(getattr(layer, name), t) for name, t in pairs}
        _, got = forward_ad.unpack_dual(torch.func.functional_call(layer, dual, (z,)))
    assert_close(got, F.linear(z, tuple(tangents)))
    conv = cnn.ComplexConv2d(3, 2, 1).requires_grad_(False)
    cnn.pack_weights(conv)
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward mode AD"):
        dual = {"weight_re": forward_ad.make_dual(conv.weight_re, torch.ones_like(conv.weight_re))}
        torch.func.functional_call(conv, dual, (torch.randn(2, 2, 3, 4, 4),))
