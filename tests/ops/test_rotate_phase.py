"""z e^{iθ}, an angle for each sample."""

import pytest
import torch

import cvkernels.functional as F
from tests.close import as_planar, assert_close

from .harness import ODD, turning, wide
from .suite import KernelSuite, form

OP = "rotate_phase"


class TestRotatePhase(KernelSuite):
    OP = OP
    FORMS = {"theta": form("z", "theta")}
    TWICE = True
    fn = staticmethod(F.rotate_phase)
    eased = turning

    def test_angle_of_another_dtype(self, backend, dtype):
        """Sine and cosine are taken in the wider of the two; the angle's gradient has the angle's dtype."""
        tensors = self.tensors(self.FORMS["theta"], ODD, dtype, backend.device)
        other = torch.float32 if dtype == torch.float64 else torch.float64
        tensors["theta"] = tensors["theta"].to(other)
        self.agrees(self.FORMS["theta"], tensors, dtype)


def test_definition(backend, dtype):
    z = torch.randn(4, 3, 5, dtype=torch.complex128)
    theta = torch.tensor([0, torch.pi / 2, -7.0, 100.0], dtype=torch.float64)
    want = torch.stack(
        [row * complex(t.cos(), t.sin()) for row, t in zip(z, theta.to(wide(dtype)).double(), strict=True)]
    )
    given = as_planar(z).to(backend.device, dtype)
    got = F.rotate_phase(given, theta.to(backend.device, wide(dtype)))
    assert_close(got, want, dtype)
    assert torch.equal(got[0], given[0]), "an angle of 0 changes nothing"


def test_a_nan_angle_spoils_its_own_sample_only(backend):
    z = torch.randn(3, 2, 4, 5, device=backend.device)
    y = F.rotate_phase(z, torch.tensor([0.5, torch.nan, 1.0], device=backend.device))
    assert y[1].isnan().all() and y[[0, 2]].isfinite().all()


def test_rotations_add(backend, dtype):
    z = torch.randn(3, 2, 4, 5, dtype=dtype, device=backend.device)
    s, t = torch.rand(2, 3, dtype=wide(dtype), device=backend.device)
    assert_close(F.rotate_phase(F.rotate_phase(z, s), t), F.rotate_phase(z, s + t), dtype)


@pytest.mark.parametrize("shape", [(), (2,), (4,), (3, 1)], ids=str)
def test_one_angle_a_sample(shape):
    with pytest.raises(ValueError, match="`theta` must be .3., one angle a sample"):
        F.rotate_phase(torch.zeros(3, 2, 4), torch.zeros(shape))
