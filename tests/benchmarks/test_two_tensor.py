"""The naive baseline computes what the reference computes, in values and in gradients: else a ratio means nothing."""

import pytest
import torch

from benchmarks import two_tensor
from cvkernels import functional as F
from cvkernels import use_backend
from tests.close import assert_close

N, C, H, W = 3, 4, 6, 5


def feature(*shape):
    return torch.randn(shape, dtype=torch.float64)


def weights(*shape):
    return tuple(feature(*shape) / 3 for _ in range(2))


def case_rotate():
    theta = feature(N)
    return (
        [feature(N, C, H, W), feature(N, C, H, W)],
        lambda a, b: F.rotate(a, b, theta),
        (lambda a, b: two_tensor.rotate(a, b, theta)),
    )


def case_rotate_phase():
    theta = feature(N)
    return (
        [feature(N, 2, C, H, W)],
        lambda z: F.rotate_phase(z, theta),
        (lambda z: two_tensor.rotate_phase(*z.unbind(1), theta)),
    )


def case_unrotate():
    theta = feature(N)
    return (
        [feature(N, 2, C, H, W)],
        lambda h: F.unrotate(h, theta),
        (lambda h: two_tensor.unrotate(*h.unbind(1), theta)),
    )


def case_unrotate_fakes():
    theta = feature(N, 3)
    return (
        [feature(N, 2, C, H, W)],
        lambda h: F.unrotate(h, theta),
        (lambda h: two_tensor.unrotate(*h.unbind(1), theta)),
    )


def case_magnitude_relu():
    return [feature(N, 2, C, H, W)], F.magnitude_relu, lambda z: two_tensor.magnitude_relu(*z.unbind(1))


def case_magnitude_batch_norm():
    return (
        [feature(N, 2, C, H, W)],
        lambda z: F.magnitude_batch_norm(z, torch.ones(C).double(), training=True),
        (lambda z: two_tensor.magnitude_batch_norm(*z.unbind(1), torch.ones(C).double())),
    )


def case_magnitude_batch_norm_inference():
    power = torch.linspace(0.5, 2, C, dtype=torch.float64)
    return (
        [feature(N, 2, C, H, W)],
        lambda z: F.magnitude_batch_norm(z, power),
        (lambda z: two_tensor.magnitude_batch_norm(*z.unbind(1), power, training=False)),
    )


def case_magnitude_power():
    return [feature(N, 2, C, H, W)], F.magnitude_power, lambda z: two_tensor.magnitude_power(*z.unbind(1))


def case_batch_norm_relu():
    return (
        [feature(N, 2, C, H, W)],
        lambda z: F.batch_norm_relu(z, training=True),
        (lambda z: two_tensor.batch_norm_relu(*z.unbind(1), torch.ones(C).double())),
    )


def case_batch_norm_relu_residual():
    return (
        [feature(N, 2, C, H, W), feature(N, 2, C, H, W)],
        (lambda z, r: F.batch_norm_relu(z, residual=r, training=True)),
        lambda z, r: two_tensor.batch_norm_relu(*z.unbind(1), torch.ones(C).double(), r.unbind(1)),
    )


def case_magnitude_max_pool2d():
    return (
        [feature(N, 2, C, H, W)],
        lambda z: F.magnitude_max_pool2d(z, 2),
        (lambda z: two_tensor.magnitude_max_pool2d(*z.unbind(1), 2)),
    )


def case_conv2d_complex():
    return (
        [feature(N, 2, C, H, W), *weights(5, C, 3, 3)],
        (lambda z, a, b: F.conv2d(z, (a, b), stride=2, padding=1)),
        lambda z, a, b: two_tensor.conv2d(*z.unbind(1), a, b, stride=2, padding=1),
    )


def case_conv2d_real():
    return (
        [feature(N, 2, C, H, W), feature(5, C, 3, 3)],
        lambda z, a: F.conv2d(z, a, padding=1),
        (lambda z, a: two_tensor.conv2d(*z.unbind(1), a, padding=1)),
    )


def case_linear_complex():
    return (
        [feature(N, 2, C), *weights(5, C)],
        lambda z, a, b: F.linear(z, (a, b)),
        (lambda z, a, b: two_tensor.linear(*z.unbind(1), a, b)),
    )


def case_linear_real():
    return [feature(N, 2, C), feature(5, C)], F.linear, lambda z, a: two_tensor.linear(*z.unbind(1), a)


def case_block():
    first, second = weights(C, C, 3, 3), weights(C, C, 3, 3)

    def reference(z, *w):
        y = F.batch_norm_relu(F.conv2d(z, w[:2], padding=1), training=True)
        return F.batch_norm_relu(F.conv2d(y, w[2:], padding=1), residual=z, training=True)

    def naive(z, *w):
        powers = tuple(torch.ones(C).double() for _ in range(2))
        return two_tensor.block(*z.unbind(1), w[:2], w[2:], powers)

    return [feature(N, 2, C, H, W), *first, *second], reference, naive


CASES = {name.removeprefix("case_"): build for name, build in list(globals().items()) if name.startswith("case_")}


@pytest.mark.parametrize("build", CASES.values(), ids=CASES)
def test_equals_the_reference(build):
    leaves, reference, naive = build()
    kind = "network" if build is case_block else "op"
    leaves = [leaf.requires_grad_() for leaf in leaves]
    with use_backend("reference"):
        want = reference(*leaves)
        grad = torch.randn_like(want)
        want_grads = torch.autograd.grad(want, leaves, grad)
    got = naive(*leaves)
    got = got if isinstance(got, torch.Tensor) else torch.stack(got, 1)
    assert_close(got, want, kind=kind)
    for i, (g, w) in enumerate(zip(torch.autograd.grad(got, leaves, grad), want_grads, strict=True)):
        assert_close(g, w, kind=kind, name=f"gradient {i}")


def test_running_power_moves_as_the_reference_moves_it():
    z, naive, want = feature(N, 2, C, H, W), torch.ones(C).double(), torch.ones(C).double()
    two_tensor.magnitude_batch_norm(*z.unbind(1), naive)
    with use_backend("reference"):
        F.magnitude_batch_norm(z, want, training=True)
    assert_close(naive, want)


def test_no_nan_at_zero():
    z = torch.zeros(1, 2, 1, 2, 2, requires_grad=True)
    re, im = two_tensor.magnitude_relu(*z.unbind(1))
    assert not re.any() and torch.autograd.grad((re + im).sum(), z)[0].isfinite().all()
