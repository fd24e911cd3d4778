"""What an operation is handed beside its features: refused by name before a kernel reads it, or read as it is."""

import pytest
import torch

import cvkernels.functional as F
from tests.close import assert_close

N, C = 3, 4
META = torch.device("meta")


def features(dtype=torch.float32):
    return torch.randn(N, 2, C, 5, 5, dtype=dtype)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    "sums, error, words",
    [
        (torch.zeros(1), ValueError, r"`power_sums` must be \[4\].*got \[1\]"),
        (torch.zeros(99), ValueError, r"`power_sums` must be \[4\].*got \[99\]"),
        (torch.zeros(C, dtype=torch.int32), TypeError, "`power_sums` must be a real floating-point.*int32"),
        (torch.zeros(C, dtype=torch.float64), TypeError, "`power_sums` must be torch.float32.*float64"),
        (torch.zeros(C, device=META), ValueError, "`power_sums` must be on the device of `z` cpu, got meta"),
        ([0.0] * C, TypeError, "`power_sums` must be a tensor"),
    ],
    ids=["short", "long", "integer", "wide", "device", "list"],
)
def test_power_sums_are_checked_whoever_reads_them(backend, training, sums, error, words):
    z = features().to(backend.device)
    if isinstance(sums, torch.Tensor) and sums.device != META:
        sums = sums.to(backend.device)
    with pytest.raises(error, match=words.replace("cpu", str(z.device))):
        F.batch_norm_relu(z, torch.ones(C, device=z.device), training=training, power_sums=sums)


@pytest.mark.parametrize("fn, size", [(F.linear, (8, 2, 16)), (F.conv2d, (8, 2, 16, 4, 4))], ids=["linear", "conv2d"])
@pytest.mark.parametrize("n", [1, 8])
def test_a_part_of_a_weight_may_be_negative_lazily(fn, size, n):
    z, w = torch.randn(n, *size[1:]), torch.randn(5, 16, *(3,) * (len(size) - 3), dtype=torch.complex64)
    assert_close(fn(z, (w.real, w.conj().imag)), fn(z, (w.real.clone(), -w.imag)))


# --- the vectors of a norm --------------------------------------------------------------------------------------------

VECTORS = {
    "sliced": lambda v: torch.stack((v, v + 1), 1).flatten()[::2],
    "negative": lambda v: torch._neg_view(-v),
    "column": lambda v: torch.stack((v, v + 1), 1)[:, 0],
}
NORMS = {
    "magnitude_batch_norm": (F.magnitude_batch_norm, ("running_power",), ("weight",)),
    "batch_norm_relu": (F.batch_norm_relu, ("running_power",), ("weight",)),
    "real_batch_norm_relu": (F.real_batch_norm_relu, ("running_mean", "running_var"), ("weight", "bias")),
}


def of_norm(op, dtype, device):
    """Drawn features, the statistics and the parameters of a norm."""
    fn, statistics, parameters = NORMS[op]
    z = torch.randn(N, *(() if "real" in op else (2,)), C, 4, 5).to(device, dtype)
    kept = torch.promote_types(dtype, torch.float32)
    drawn = {name: torch.rand(C).to(device, kept) + 0.5 for name in (*statistics, *parameters)}
    return fn, z, {n: drawn[n] for n in statistics}, {n: drawn[n] for n in parameters}


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("strides", [*VECTORS.values(), lambda v: v[:1].expand(C)], ids=[*VECTORS, "expanded"])
@pytest.mark.parametrize("op", NORMS)
def test_the_vectors_of_a_norm_may_lie_anyhow(backend, op, strides, training):
    """Values, gradients, and the running statistics written where they came from."""
    if training and strides(torch.ones(C)).stride() == (0,):
        pytest.skip("a statistic of which all channels are one number cannot move")
    fn, z, statistics, parameters = of_norm(op, torch.float32, backend.device)
    found = []
    for lay in (strides, lambda v: strides(v).resolve_neg().contiguous()):
        leaves = {name: v.clone().requires_grad_() for name, v in {"z": z, **parameters}.items()}
        held = {name: lay(v.clone()) for name, v in statistics.items()}
        given = {name: lay(v) if name != "z" else v for name, v in leaves.items()}
        y = fn(given.pop("z"), **held, **given, training=training)
        grads = torch.autograd.grad(y, list(leaves.values()), torch.ones_like(y).cumsum(-1))
        found.append((y, *held.values(), *grads))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("lay", [VECTORS["sliced"], torch.clone], ids=["sliced", "contiguous"])
@pytest.mark.parametrize("op", NORMS)
def test_a_statistic_that_lies_anyhow_moves_in_a_compiled_step(kernel, op, lay):
    fn, z, statistics, _ = of_norm(op, torch.float32, kernel.device)
    found = []
    for run in (fn, torch.compile(fn, fullgraph=True, backend="aot_eager")):
        held = {name: lay(v) for name, v in statistics.items()}
        found.append((run(z, **held, training=True), *held.values()))
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)
    assert not torch.equal(found[0][1], next(iter(statistics.values())))


def test_power_sums_may_lie_anyhow(backend):
    z = features().to(backend.device)
    sums = F.magnitude_power(z)
    for lay in VECTORS.values():
        assert torch.equal(
            F.batch_norm_relu(z, training=True, power_sums=lay(sums)),
            F.batch_norm_relu(z, training=True, power_sums=sums),
        )


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("op", NORMS)
def test_a_count_of_batches_is_one_a_kernel_can_read(backend, op, training):
    fn, z, statistics, _ = of_norm(op, torch.float32, backend.device)
    for dtype in (torch.int64, torch.float32, torch.float64):
        fn(z, **statistics, training=training, momentum=torch.ones((), dtype=dtype, device=z.device))
    for dtype in (torch.bool, torch.int32, torch.float16, torch.complex64):
        with pytest.raises(TypeError, match="`momentum` as a count of batches must be int64.*long()"):
            fn(z, **statistics, training=training, momentum=torch.ones((), dtype=dtype, device=z.device))
    with pytest.raises(ValueError, match="`momentum` must be on the device of `[zx]` .*, got meta"):
        fn(z, **statistics, training=training, momentum=torch.ones((), device=META))
