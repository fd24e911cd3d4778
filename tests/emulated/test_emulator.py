"""The emulator itself: it must see what is wrong, and be silent about what is sound."""

import os
import subprocess
import sys

import pytest
import torch

from . import library
from .orders import in_order

RACE, SOUND, OUTSIDE, OUTSIDE_SHARED, MISALIGNED, APART, NOTHING = range(7)


def run(which, x=None):
    return torch.ops.cvkernels_emulated_faults.run(torch.zeros(8) if x is None else x, which)


def test_a_race_is_seen_in_the_order_of_threads():
    forward, reverse = (in_order(order, run, RACE) for order in ("forward", "reverse"))
    assert not torch.equal(forward, reverse)
    forward, reverse = (in_order(order, run, SOUND) for order in ("forward", "reverse"))
    assert torch.equal(forward, reverse) and torch.equal(forward, torch.arange(64.0).roll(-1))


def test_what_nobody_wrote_is_nan():
    assert run(NOTHING).isnan().all()


def test_threads_that_wait_at_different_barriers():
    with pytest.raises(RuntimeError, match="threads wait at different barriers"):
        run(APART)


@pytest.mark.parametrize(
    ("which", "said"),
    [
        (OUTSIDE, "heap-buffer-overflow"),
        (OUTSIDE_SHARED, "global-buffer-overflow"),
        (MISALIGNED, "misaligned address"),
    ],
    ids=["outside", "outside-shared", "misaligned"],
)
def test_an_address_that_is_not_its_own_ends_the_process(which, said):
    code = (
        f"import torch\ntorch.ops.load_library({str(library.build())!r})\n"
        f"torch.ops.cvkernels_emulated_faults.run(torch.zeros(8), {which})"
    )
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True)
    assert done.returncode != 0 and said in done.stderr
