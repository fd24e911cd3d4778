"""Slices, zeros around them, and rows by an index, in the layout of their input: torch's values and gradients."""

import pytest
import torch
from torch.nn.functional import pad

from models.layout import narrower_wider, taken

LAYOUTS = {
    "contiguous": lambda x: x,
    "channels-last": lambda x: x.movedim((1, 2), (-2, -1)).contiguous().movedim((-2, -1), (1, 2)),
    "planes": lambda x: x.movedim(2, -1).contiguous().movedim(-1, 2),
    "expanded": lambda x: x[:1].expand_as(x),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("added", [4, 5])
def test_the_shortcut_is_a_slice_between_zeros_in_the_layout_of_its_input(layout, added):
    def plain(x):
        return pad(x[..., ::2, ::2], (0, 0, 0, 0, added // 2, added - added // 2))

    x = layout(torch.randn(3, 2, 4, 5, 6, dtype=torch.float64)).requires_grad_()
    y = narrower_wider(x, 2, added)
    grad = torch.randn_like(y)
    (got,), (want,) = (torch.autograd.grad(f, x, grad) for f in (y, plain(x)))
    assert torch.equal(y, plain(x)) and torch.equal(got, want)
    order = sorted(range(5), key=lambda axis: (-x.stride()[axis], axis))
    assert y.permute(order).is_contiguous() and got.permute(order).is_contiguous()
    if layout is not LAYOUTS["expanded"]:  # gradcheck moves one element at a time
        assert torch.autograd.gradgradcheck(lambda x: narrower_wider(x, 2, added), x)
    each = torch.vmap(lambda x: narrower_wider(x, 2, added))(x)
    assert torch.equal(each, plain(x))


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("index", [[2, 0, 1], [1, 1, 0, 2], [0]], ids=str)
def test_rows_by_an_index_are_taken_in_the_layout_of_the_input(layout, index):
    index = torch.tensor(index)
    x = layout(torch.randn(3, 2, 4, 5, 6, dtype=torch.float64)).requires_grad_()
    y = taken(x, index)
    grad = torch.randn_like(y)
    (got,), (want,) = (torch.autograd.grad(f, x, grad) for f in (y, x[index]))
    assert torch.equal(y, x[index])
    torch.testing.assert_close(got, want)
    if layout is not LAYOUTS["expanded"]:
        assert got.stride() == x.stride() and y.stride()[1:] == x.stride()[1:]
        assert torch.autograd.gradgradcheck(lambda x: taken(x, index), x)
