"""What an operation is handed beside its features: refused by name before a kernel reads it, or read as it is."""

import pytest
import torch

import cvkernels.functional as F

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
