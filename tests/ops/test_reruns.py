"""Under deterministic algorithms a rerun gives the same bits, both ways, or torch's own error says why not."""

import pytest
import torch

import cvkernels.functional as F

from .harness import PLANAR, REAL, gradients, leaves, outputs, same

REDUCTIONS = ("channel_mean", "batch_channel_mean", "mean")
SIZE = (4, 6, 61, 67)  # several chunks of every reduction, and threads that may come in any order
WEIGHT = (5, 6, 3, 3)


def norm(function, *statistics, residual=False, **settings):
    """Training and inference of a norm: (call, the tensors it is given)."""
    extra = {"weight": SIZE[1], **({"residual": None} if residual else {})}
    return lambda z, **t: function(z, **t, **settings), {**dict.fromkeys(statistics, SIZE[1]), **extra}


POWER, MOMENTS = ("running_power",), ("running_mean", "running_var")
# name -> (call, further tensors by shape; None: shaped as the features)
CALLS = {
    "rotate": (lambda z, theta: F.rotate(z[:, 0], z[:, 1], theta), {"theta": 4}),
    "rotate_phase": (F.rotate_phase, {"theta": 4}),
    "unrotate": (F.unrotate, {"theta": 4}),
    "unrotate-fakes": (F.unrotate, {"theta": (4, 3)}),
    "magnitude_relu": (F.magnitude_relu, {}),
    **{f"magnitude_relu-{c}": (lambda z, c=c: F.magnitude_relu(z, c), {}) for c in REDUCTIONS},
    "magnitude_batch_norm": norm(F.magnitude_batch_norm, *POWER, training=True),
    "magnitude_batch_norm-frozen": norm(F.magnitude_batch_norm, *POWER),
    "batch_norm_relu": norm(F.batch_norm_relu, *POWER, residual=True, training=True),
    "batch_norm_relu-frozen": norm(F.batch_norm_relu, *POWER, residual=True),
    "real_batch_norm_relu": norm(F.real_batch_norm_relu, *MOMENTS, residual=True, training=True),
    "real_batch_norm_relu-frozen": norm(F.real_batch_norm_relu, *MOMENTS, residual=True),
    "magnitude_power": (F.magnitude_power, {}),
    "magnitude_max_pool2d": (lambda z: F.magnitude_max_pool2d(z, 3, 2, 1), {}),
    "avg_pool2d": (lambda z: F.avg_pool2d(z, 3, 2, 1), {}),
    "adaptive_avg_pool2d": (lambda z: F.adaptive_avg_pool2d(z, 5), {}),
    "conv2d": (lambda z, re, im: F.conv2d(z, (re, im), padding=1), {"re": WEIGHT, "im": WEIGHT}),
    "conv2d-real": (lambda z, weight: F.conv2d(z, weight, 2), {"weight": WEIGHT}),
    "linear": (lambda z, re, im: F.linear(z[..., 0, 0], (re, im)), {"re": (5, 6), "im": (5, 6)}),
    "pack_weights": (lambda z, re, im: F.pack_weights([(re, im)])[0] * z.mean(), {"re": WEIGHT, "im": WEIGHT}),
    "dropout": (lambda z: F.dropout(z, 0.4), {}),
    "dropout2d": (lambda z: F.dropout2d(z, 0.4), {}),
}  # fmt: skip


def test_every_operation_is_here():
    assert {name.partition("-")[0] for name in CALLS} == set(F.__all__)


@pytest.mark.parametrize("layout", ["contiguous", "channels-last"])
@pytest.mark.parametrize("name", CALLS)
def test_a_rerun_gives_the_same_bits(backend, name, layout):
    call, others = CALLS[name]
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(2)
    real = name.startswith("real_")
    z = torch.randn(SIZE if real else (SIZE[0], 2, *SIZE[1:]))
    drawn = {k: torch.rand(z.shape if shape is None else shape) + 0.5 for k, shape in others.items()}
    features = (REAL if real else PLANAR)[layout]
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        given = leaves({k: v.to(backend.device) for k, v in {"z": z, **drawn}.items()}, (*POWER, *MOMENTS))
        laid_out = {k: features(v) if k in ("z", "residual") else v for k, v in given.items()}
        try:
            out = outputs(call(laid_out.pop("z"), **laid_out))
            grads = gradients(out, given)
        except RuntimeError as error:
            assert "deterministic" in str(error) and backend.device == "cuda", "torch's own refusal, and only there"
            return
        results.append([*out, *grads.values(), *(given[k] for k in (*POWER, *MOMENTS) if k in given)])
    assert len(results[0]) > 1 and all(map(same, *results))
