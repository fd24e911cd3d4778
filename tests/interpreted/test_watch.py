"""The tracker itself: it must see what the interpreter hides, and be silent about what is sound."""

import pytest
import torch
import triton
import triton.language as tl

from tests.watch import rounding_bfloat16, watch

BLOCK = 16


@triton.jit
def copy_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=0.0), mask=i < n)


@triton.jit
def unmasked_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i), mask=i < n)


@triton.jit
def overrunning_store_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=0.0))


@triton.jit
def undefined_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n), mask=i < n)


@triton.jit
def racy_sum_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    some = tl.sum(tl.load(x + i, mask=i < n, other=0.0), 0)
    tl.store(out, tl.load(out) + some)


@triton.jit
def atomic_sum_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out, tl.sum(tl.load(x + i, mask=i < n, other=0.0), 0))


@triton.jit
def atomic_then_read_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.atomic_add(out, tl.sum(tl.load(x + i, mask=i < n, other=0.0), 0))
    tl.store(x + i, tl.load(out) + tl.zeros((BLOCK,), tl.float32), mask=i < n)


@triton.jit
def in_place_neighbour_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(out + i + 1, mask=i + 1 < n, other=0.0), mask=i < n)


@triton.jit
def crowded_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i // 2, tl.load(x + i, mask=i < n, other=0.0), mask=i < n)


def launch(kernel, n=41, x=None, out=None):
    x = torch.arange(float(n)) if x is None else x
    out = torch.zeros(n) if out is None else out
    with watch() as seen:
        kernel[(triton.cdiv(n, BLOCK),)](x, out, n, BLOCK=BLOCK)
    return x, out, seen


@pytest.mark.parametrize(
    ("faulty", "complaint"),
    [
        (unmasked_kernel, "load outside the tensors"),
        (overrunning_store_kernel, "store outside the tensors"),
        (undefined_kernel, "a masked load without other="),
        (racy_sum_kernel, "race: its load meets the store of another"),
        (atomic_then_read_kernel, "race: its load meets the atomic of another"),
        (in_place_neighbour_kernel, "race: its store meets the load of another"),
        (crowded_kernel, "two lanes store to one address"),
    ],
    ids=lambda v: v.__name__ if hasattr(v, "__name__") else "",
)
def test_it_finds(faulty, complaint):
    with pytest.raises(AssertionError, match=complaint):
        launch(faulty)


def test_it_passes_a_clean_kernel_and_sees_what_was_written():
    x, out, seen = launch(copy_kernel)
    assert torch.equal(out, x) and seen.unwritten(out) == 0 and seen.unwritten(x) == x.numel()
    assert seen.launches == ["copy_kernel"]


def test_it_passes_atomics():
    x, out, _ = launch(atomic_sum_kernel)
    assert out[0] == x.sum()


def test_the_gaps_of_a_view_are_outside():
    with pytest.raises(AssertionError, match="load outside the tensors"):
        launch(copy_kernel, x=torch.arange(82.0)[::2])


def test_a_store_outside_is_reported_and_not_made():
    room = torch.zeros(64)
    with pytest.raises(AssertionError, match="store outside"):
        launch(overrunning_store_kernel, out=room[:41])
    assert not room[41:].any()


def test_launches_are_apart():
    """What one launch stored the next may read: the statistics of a norm."""
    x, out = torch.arange(41.0), torch.zeros(41)
    with watch():
        for _ in range(2):
            copy_kernel[(3,)](x, out, 41, BLOCK=BLOCK)
            copy_kernel[(3,)](out, x, 41, BLOCK=BLOCK)


def test_an_empty_tensor_holds_no_address():
    with pytest.raises(AssertionError, match="outside the tensors"):
        launch(copy_kernel, x=torch.empty(0))


@triton.jit
def to_bfloat16_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n, other=0.0).to(tl.bfloat16), mask=i < n)


def test_bfloat16_is_rounded_as_torch_rounds_it():
    x = torch.cat((torch.randn(10), torch.tensor([1.00390625, 1.01171875, -3.3e38, torch.inf, torch.nan, 1e-40])))
    with rounding_bfloat16():
        _, out, _ = launch(to_bfloat16_kernel, n=16, x=x, out=torch.zeros(16, dtype=torch.bfloat16))
    assert torch.equal(out.view(torch.int16)[:14], x.bfloat16().view(torch.int16)[:14]) and out[14].isnan()
