"""Every kernel in every dtype and layout: equal to the reference, and the same bits whatever thread comes first."""

import sys

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend
from cvkernels.backend import OPS
from tests.close import assert_close
from tests.ops.harness import PLANAR, leaves, outputs, plain, two_rings

from .orders import in_order

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
HALVES = DTYPES[2:]
SIZES = {
    "one": (1, 1, 1, 1),
    "odd": (3, 5, 7, 6),
    "packs": (5, 16, 4, 8),  # what a 16-byte load asks for, in every dtype and layout
    "wide": (2, 40, 12, 12),  # several blocks of channels, several tiles of a plane
    "flat": (21, 9),
    "flat-packs": (9, 48),
}
LAYOUTS = {
    **{name: PLANAR[name] for name in ("contiguous", "channels-last", "off-by-one")},
    "interleaved": lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1),
}


def real(x):
    """Of a planar feature the real one, channels-last where that is."""
    last = x.ndim == 5 and x.stride(2) == 1 and x.shape[2] > 1
    return x[:, 0].contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.fixture
def through_every_door(monkeypatch):
    """A planar feature with alternating parts is a complex tensor's view: handed in as it is, it would be copied."""
    for name in OPS:
        room = sys.modules.get(f"cvkernels.ops.{name}.function")
        if hasattr(room, "enter"):
            monkeypatch.setattr(room, "enter", lambda z, *_, **__: (z, False))


# With a residual the moduli are anything; c lies beyond them, for at c the gradient has a step.
# name: (arguments beside the features, call); a, z and r are features
CASES = {
    "rotate": ("theta", lambda z, r, theta: F.rotate(real(z), real(r), theta)),
    "rotate_phase": ("theta", lambda z, r, theta: F.rotate_phase(z, theta)),
    "unrotate": ("theta", lambda z, r, theta: F.unrotate(z, theta)),
    "unrotate-fakes": ("fakes", lambda z, r, fakes: F.unrotate(z, fakes)),
    "magnitude_relu": ("", lambda z, r: F.magnitude_relu(z, 0.9)),
    "magnitude_relu-channel_mean": ("", lambda z, r: F.magnitude_relu(z, "channel_mean")),
    "magnitude_relu-batch_channel_mean": ("", lambda z, r: F.magnitude_relu(z, "batch_channel_mean")),
    "magnitude_relu-mean": ("", lambda z, r: F.magnitude_relu(z, "mean")),
    "magnitude_batch_norm": (
        "running weight", lambda z, r, running, weight: F.magnitude_batch_norm(z, running, weight, True),
    ),
    "magnitude_batch_norm-frozen": ("running", lambda z, r, running: F.magnitude_batch_norm(z, running)),
    "magnitude_power": ("", lambda z, r: F.magnitude_power(z)),
    "batch_norm_relu": ("running", lambda z, r, running: F.batch_norm_relu(z, running, training=True)),
    "batch_norm_relu-all": (
        "running weight", lambda z, r, running, weight: F.batch_norm_relu(z, running, weight, r, 20.0, True),
    ),
    "batch_norm_relu-frozen": ("running", lambda z, r, running: F.batch_norm_relu(z, running, residual=r, c=20.0)),
    "real_batch_norm_relu": (
        "mean running weight bias",
        lambda z, r, mean, running, weight, bias: F.real_batch_norm_relu(
            real(z), mean, running, weight, bias, real(r), True
        ),
    ),
    "real_batch_norm_relu-frozen": (
        "mean running", lambda z, r, mean, running: F.real_batch_norm_relu(real(z), mean, running),
    ),
    "magnitude_max_pool2d": ("", lambda z, r: F.magnitude_max_pool2d(z, 3, 2, 1)),
    "magnitude_max_pool2d-dilated": ("", lambda z, r: F.magnitude_max_pool2d(z, 2, 1, 1, 2, True)),
}  # fmt: skip
FIXED = ("mean", "running")


def drawn(names: str, size: tuple, dtype) -> dict:
    n, c = size[:2]
    wide = torch.promote_types(dtype, torch.float32)
    extra = {
        "theta": lambda: torch.linspace(0.4, 6.0, n, dtype=wide),
        "fakes": lambda: (torch.rand(n, 33, dtype=torch.float64) * 12 - 6).to(wide),  # more than a block keeps
        "running": lambda: (torch.rand(c) + 0.5).to(wide),
        "mean": lambda: torch.randn(c).to(wide),
        "weight": lambda: (torch.rand(c) + 0.5).to(dtype),
        "bias": lambda: torch.randn(c).to(dtype),
    }
    features = {"z": two_rings(*size).to(dtype), "r": two_rings(*size).to(dtype)}
    return features | {name: extra[name]() for name in names.split()}


def once(call, tensors, layout, grads=None):
    """Outputs, gradients and running statistics of one call."""
    given = leaves(tensors, FIXED)
    outs = outputs(call(**{k: layout(v) if k in ("z", "r") else v for k, v in given.items()}))
    wanted = {k: v for k, v in given.items() if k not in FIXED}
    grads = [torch.randn(o.shape, dtype=torch.float64).to(o.dtype) for o in outs] if grads is None else grads
    got = torch.autograd.grad(outs, list(wanted.values()), grads, allow_unused=True)
    found = {f"output {i}": o.detach() for i, o in enumerate(outs)}
    found |= {f"gradient of {k}": g for k, g in zip(wanted, got, strict=True) if g is not None}
    return found | {k: given[k].detach() for k in FIXED if k in given}, grads


def skipped(case: str, name: str, layout: str) -> str | None:
    size = SIZES[name]
    if len(size) == 2 and ("pool2d" in case or layout == "channels-last"):
        return "no maps"
    if layout == "off-by-one" and "packs" not in name:
        return "nothing to align"
    if size == SIZES["one"] and ("norm" in case and "frozen" not in case or "pool2d" in case):
        return "one value a channel; a padded window of one"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("case", CASES)
def test_it_is_the_reference_whatever_thread_comes_first(case, size, layout, through_every_door):
    names, call = CASES[case]
    reason = skipped(case, size, layout)
    if reason:
        pytest.skip(reason)
    for dtype in DTYPES:
        tensors = drawn(names, SIZES[size], dtype)
        lay = LAYOUTS[layout]
        with use_backend("cuda"):
            got, grads = in_order("forward", once, call, tensors, lay)
            again, _ = in_order("reverse", once, call, tensors, lay, grads)
        wide = {k: v.double() for k, v in tensors.items()}
        with use_backend("reference"):
            want, _ = once(call, wide, lambda x: x, [plain(g) for g in grads])
        for name, value in got.items():
            same = (value == again[name]) | (value.isnan() & again[name].isnan())
            assert same.all(), f"{name} in {dtype}: another order of threads gives other bits"
            # a gradient worked out from an output that was rounded is rounded twice
            kind = "network" if dtype in HALVES and name.startswith("gradient") else "op"
            assert_close(value, want[name], kind=kind, name=f"{name} in {dtype}", computed_in=dtype)


def test_every_operation_is_here():
    elsewhere = {"pack_weights"}  # has weights and no layouts: tests/ops/test_pack_weights.py, which runs emulated too
    assert {name for name, op in OPS.items() if op.cuda} == {case.split("-")[0] for case in CASES} | elsewhere


@pytest.mark.parametrize("channels_last", [False, True])
def test_more_layers_than_one_launch_takes(channels_last):
    pairs = [(torch.randn(2, n % 3 + 1, 2, 1), torch.randn(2, n % 3 + 1, 2, 1)) for n in range(131)]
    with use_backend("cuda"):
        got = F.pack_weights(pairs, None, channels_last)
    with use_backend("reference"):
        want = F.pack_weights(pairs, None, channels_last)
    assert all(map(torch.equal, got, want))


@pytest.mark.parametrize("dtype", HALVES)
def test_scale_and_offset_in_float32_beside_half_precision(dtype):
    tensors = drawn("mean running weight bias", SIZES["packs"], dtype)
    tensors |= {k: v.float() for k, v in tensors.items() if k in ("weight", "bias")}
    for case in ("batch_norm_relu-all", "magnitude_batch_norm", "real_batch_norm_relu"):
        names, call = CASES[case]
        some = {k: v for k, v in tensors.items() if k in ("z", "r", *names.split())}
        with use_backend("cuda"):
            got, grads = once(call, some, lambda x: x)
        with use_backend("reference"):
            want, _ = once(call, {k: v.double() for k, v in some.items()}, lambda x: x, [plain(g) for g in grads])
        assert got["gradient of weight"].dtype == torch.float32
        for name, value in got.items():
            assert_close(value, want[name], kind="network", name=f"{case}, {name}", computed_in=dtype)


@pytest.mark.parametrize("count", [torch.tensor(3), torch.tensor([4.0]), torch.tensor(5.0, dtype=torch.float64)])
def test_a_count_of_batches_in_each_of_its_types(count):
    tensors = drawn("mean running", SIZES["odd"], torch.float32)

    def both(z, r, mean, running):
        power = running.clone()
        F.magnitude_batch_norm(z, power, training=True, momentum=count)
        F.real_batch_norm_relu(real(z), mean, running, training=True, momentum=count)
        return power

    found = []
    for where, dtype in (("cuda", torch.float32), ("reference", torch.float64)):
        given = {k: v.to(dtype, copy=True) for k, v in tensors.items()}
        with use_backend(where), torch.no_grad():
            found.append((both(**given), given["mean"], given["running"]))
    for got, want in zip(*found, strict=True):
        assert_close(got, want)


def test_a_mean_far_from_zero_keeps_its_variance():
    """A difference of large sums would leave no digit of a variance of 1 around a mean of 30."""
    x = torch.randn(8, 3, 9, 9) + 30
    running, var = torch.zeros(3), torch.ones(3)
    with use_backend("cuda"):
        y = F.real_batch_norm_relu(x, running, var, training=True, momentum=1.0)
    want = x.double().var((0, 2, 3))
    assert_close(var, want)
    assert_close(running, x.double().mean((0, 2, 3)))
    with use_backend("reference"):
        wanted = F.real_batch_norm_relu(x.double(), None, None)
    assert_close(y, wanted, kind="network")


@pytest.mark.parametrize("angle", [0.0, 1e-30, 6.283185307179586, -3.0, 1e4, 1e8, float("nan"), float("inf")])
def test_angles(angle):
    theta = torch.tensor([angle], dtype=torch.float64)
    z = torch.randn(1, 2, 3, dtype=torch.float64)
    with use_backend("cuda"):
        got = F.rotate_phase(z, theta)
    cos, sin = theta.cos(), theta.sin()
    assert_close(got, torch.stack((z[:, 0] * cos - z[:, 1] * sin, z[:, 0] * sin + z[:, 1] * cos), 1))


@pytest.mark.parametrize("dtype", HALVES)
def test_the_largest_number_of_a_half_precision(dtype):
    """Its square is no number of its own type: nothing of it may become infinite on the way."""
    most = torch.finfo(dtype).max
    z = torch.tensor([[most, most, 1.0], [0.0, -most, 0.0]], dtype=dtype).view(1, 2, 3, 1, 1)
    with use_backend("cuda"):
        assert torch.equal(F.magnitude_relu(z), z)
        if dtype == torch.float16:
            assert torch.equal(F.magnitude_max_pool2d(z.view(1, 2, 1, 1, 3), (1, 3))[0, :, 0, 0, 0], z[0, :, 1, 0, 0])
            assert F.batch_norm_relu(z, torch.ones(3), c=2.0, eps=0.0).isfinite().all()
            assert F.magnitude_relu(z.view(1, 2, 1, 3), "channel_mean").isfinite().all()


def test_gradients_are_none_where_nobody_asked():
    operators = torch.ops.cvkernels_emulated
    z, theta, rstd, x = torch.randn(2, 2, 3, 4), torch.rand(2), torch.ones(3), torch.randn(2, 3, 4)
    grads = [
        operators.rotate_phase_backward(z, None, theta),
        operators.unrotate_backward(x, None, theta),
        operators.magnitude_batch_norm_backward(z, z, None, rstd, True),
        operators.batch_norm_relu_backward(z, z, None, None, None, rstd, True, 1.0),
        operators.real_batch_norm_relu_backward(x, x, x, None, rstd, rstd, True, False),
    ]
    assert all(first.numel() and not any(g.numel() for g in rest) for first, *rest in grads)
    assert operators.rotate_backward(z, None, theta)[2].numel() == 0
