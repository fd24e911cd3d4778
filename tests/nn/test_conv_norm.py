"""A convolution, a norm and a ReLU in one module: in inference held to what its parts hold a caller to."""

import pytest
import torch
from torch.nn.modules import module

from cvkernels import nn, use_backend

Z = torch.randn(2, 2, 16, 6, 6)


def block(**settings):
    return nn.ComplexConvBatchNormReLU2d(16, 16, 3, padding=1, **settings).eval()


@pytest.mark.parametrize("grad", [True, False], ids=["with-gradients", "fused"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(
    "residual, error, words",
    [
        (Z.to("meta"), ValueError, "`residual` must be on the device of `z` cpu, got meta"),
        (Z.double(), TypeError, "`residual` must have the dtype of `z` torch.float32, got torch.float64"),
        (Z.half(), TypeError, "`residual` must have the dtype of `z` torch.float32, got torch.float16"),
        (Z[:1], ValueError, r"`residual` must have the shape of .*\[2, 2, 16, 6, 6\], got \[1, 2, 16, 6, 6\]"),
        (torch.complex(*Z.unbind(1)), TypeError, "`residual` must be planar or complex as `z` is"),
        ("skip", TypeError, "`residual` must be .*str 'skip'"),
    ],
    ids=["device", "wide", "half", "shape", "form", "word"],
)
def test_a_residual_unlike_the_result_is_refused(residual, error, words, groups, grad):
    with torch.set_grad_enabled(grad), pytest.raises(error, match=words):
        block(groups=groups)(Z, residual)


def test_autocast_rounds_a_wide_residual_as_it_does_with_gradients():
    layer, found = block(), []
    for grad in (True, False):
        with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16):
            found.append(layer(Z, Z))
    assert found[0].dtype == found[1].dtype == torch.bfloat16
    torch.testing.assert_close(*found)


def test_the_reference_refuses_it_too():
    with use_backend("reference"), torch.no_grad(), pytest.raises(TypeError, match="`residual` must have the dtype"):
        block()(Z, Z.double())


HOOKS = {
    "forward": lambda layer, told: layer.register_forward_hook(lambda *_: told.append(layer)),
    "forward-pre": lambda layer, told: layer.register_forward_pre_hook(lambda *_: told.append(layer)),
    "backward": lambda layer, told: layer.register_full_backward_hook(lambda *_: told.append(layer)),
    "backward-pre": lambda layer, told: layer.register_full_backward_pre_hook(lambda *_: told.append(layer)),
}
GLOBAL = {
    "forward": module.register_module_forward_hook,
    "forward-pre": module.register_module_forward_pre_hook,
    "backward": module.register_module_full_backward_hook,
    "backward-pre": module.register_module_full_backward_pre_hook,
}


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("kind", HOOKS)
def test_hooks_of_its_parts_are_told(kind, training):
    z = Z.clone().requires_grad_()
    for part in ("conv", "norm_act"):
        layer, told = block().train(training), []
        HOOKS[kind](getattr(layer, part), told)
        _run(layer, z, kind, training)
        assert told == [getattr(layer, part)]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("kind", GLOBAL)
def test_hooks_of_all_modules_are_told_of_its_parts(kind, training):
    layer, told = block().train(training), []
    handle = GLOBAL[kind](lambda which, *_: told.append(which))
    try:
        _run(layer, Z.clone().requires_grad_(), kind, training)
    finally:
        handle.remove()
    assert {layer, layer.conv, layer.norm_act} == set(told)


def _run(layer, z, kind, training):
    with torch.set_grad_enabled(training or "backward" in kind):
        y = layer(z)
    if y.requires_grad:
        y.sum().backward()
