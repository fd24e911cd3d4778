"""Block weights of many layers in one buffer: values, gradients, both memory orders, every stored dtype."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels.backend import FLOATS
from tests.close import assert_close
from tests.conftest import HALVES

from .suite import Recorder

OP = "pack_weights"
# O, I, kH, kW: no multiple of 16 elements, sizes of 1, a linear layer between two convolutions
NETWORKS = {
    "one": [(1, 1, 1, 1)],
    "odd": [(5, 3, 3, 3), (7, 5), (3, 7, 2, 5), (4, 4, 1, 1)],
    "1x1-and-1-channel": [(6, 1, 3, 3), (1, 6, 3, 3), (3, 3, 1, 1)],
    "several-tasks": [(33, 17, 3, 3), (64, 65), (40, 70, 3, 3)],
    "empty": [(2, 3, 3, 3), (0, 3, 3, 3), (3, 0), (2, 2)],
}
ORDERS = pytest.mark.parametrize("channels_last", [False, True], ids=["contiguous", "channels-last"])
STORED = (torch.float64, torch.float32, *HALVES)


def drawn(shapes, dtype=torch.float64, device="cpu", grad=False):
    return [tuple(torch.randn(s, dtype=dtype).to(device).requires_grad_(grad) for _ in "AB") for s in shapes]


def given_to(backend):
    """Master weights are float32 or wider; what is stored is any of `STORED`."""
    return [d for d in FLOATS if d in backend.dtypes(OP)]


def wanted(pairs):
    """By what it does: (A + iB)(x + iy) = (Ax - By) + i(Bx + Ay)."""
    rows = lambda a, b: torch.cat((a, b), 1)  # noqa: E731
    return [torch.cat((rows(a, -b), rows(b, a))).double() for a, b in pairs]


@ORDERS
@pytest.mark.parametrize("shapes", NETWORKS.values(), ids=NETWORKS)
def test_values_order_and_place(backend, shapes, channels_last):
    torch.set_num_threads(2 if len(shapes) == 3 else 1)
    for given in given_to(backend):
        pairs = drawn(shapes, given, backend.device)
        for stored in (None, *STORED):
            blocks = F.pack_weights(pairs, stored, channels_last)
            start = blocks[0].data_ptr()
            for block, want in zip(blocks, wanted(pairs), strict=True):
                assert torch.equal(block, want.to(stored or given))
                assert (block.movedim(1, -1) if channels_last else block).is_contiguous()
                assert not block.numel() or (block.data_ptr() - start) % (16 * block.element_size()) == 0


def test_what_lies_between_two_layers_is_zero(backend):
    block, _ = F.pack_weights(drawn([(1, 1, 3, 3), (2, 2)], torch.float32, backend.device))
    assert block.numel() == 36 and not block.as_strided((12,), (1,), 36).any()


@ORDERS
@pytest.mark.parametrize("stored", STORED, ids=str)
@pytest.mark.parametrize("shapes", NETWORKS.values(), ids=NETWORKS)
def test_gradients(backend, shapes, stored, channels_last):
    torch.set_num_threads(2 if len(shapes) == 3 else 1)
    for given in given_to(backend):
        pairs = drawn(shapes, given, backend.device, grad=True)
        blocks = F.pack_weights(pairs, stored, channels_last)
        grads = [torch.randn_like(b) for b in blocks]
        flat = [w for pair in pairs for w in pair]
        got = torch.autograd.grad(blocks, flat, grads)
        want = torch.autograd.grad(wanted(pairs), flat, [g.double() for g in grads])
        for g, w in zip(got, want, strict=True):
            assert g.is_contiguous() or not backend.compiled
            assert_close(g, w, given)


def test_layers_nobody_used_and_weights_nobody_trains(backend):
    pairs = drawn([(3, 2, 3, 3), (4, 5), (2, 2)], torch.float32, backend.device, grad=True)
    pairs[1][1].requires_grad_(False)
    blocks = F.pack_weights(pairs)
    got = torch.autograd.grad(blocks[1].sum(), [*pairs[0], pairs[1][0], *pairs[2]], allow_unused=True)
    unused = [g for n, g in enumerate(got) if n != 2]
    assert all(g is None or not backend.compiled and not g.any() for g in unused)
    assert torch.equal(got[2], torch.full_like(pairs[1][0], 2))


@ORDERS
def test_differentiable_twice(backend, channels_last):
    pairs = drawn([(2, 1, 2, 1), (1, 2)], backend.widest(OP), backend.device, grad=True)
    flat = [w for pair in pairs for w in pair]
    call = lambda *w: F.pack_weights(list(zip(w[::2], w[1::2], strict=True)), None, channels_last)  # noqa: E731
    if flat[0].dtype == torch.float64:  # finite differences need it
        assert torch.autograd.gradcheck(call, flat)
        assert torch.autograd.gradgradcheck(call, flat)
    # linear: the gradient's gradient is the map itself, of other weights
    blocks = call(*flat)
    grads = [torch.randn_like(b).requires_grad_() for b in blocks]
    first = torch.autograd.grad(blocks, flat, grads, create_graph=True)
    seeds = [torch.randn_like(w) for w in flat]
    want = wanted(list(zip(seeds[::2], seeds[1::2], strict=True)))
    for g, w in zip(torch.autograd.grad(first, grads, seeds), want, strict=True):
        assert torch.equal(g.double(), w)


def test_weights_of_any_strides(backend):
    a, b = (torch.randn(4, 6, 3, 3, device=backend.device).requires_grad_() for _ in "AB")
    pair = a.to(memory_format=torch.channels_last), b.transpose(2, 3)
    (block,) = F.pack_weights([pair])
    assert torch.equal(block.double(), wanted([pair])[0])
    grad = torch.randn_like(block).transpose(2, 3).contiguous().transpose(2, 3)
    got = torch.autograd.grad(block, (a, b), grad)
    for g, w in zip(got, torch.autograd.grad(wanted([pair]), (a, b), grad.double()), strict=True):
        assert_close(g, w)


def test_func_grad(backend):
    pairs = drawn([(3, 2, 3, 3), (2, 4)], backend.widest(OP), backend.device)
    loss = lambda p: sum(block.sin().sum() for block in F.pack_weights(p))  # noqa: E731
    got = torch.func.grad(loss)(pairs)
    leaves = [tuple(w.clone().requires_grad_() for w in pair) for pair in pairs]
    want = torch.autograd.grad(loss(leaves), [w for pair in leaves for w in pair])
    for g, w in zip([w for pair in got for w in pair], want, strict=True):
        assert_close(g, w)


@ORDERS
def test_compiled_equals_eager(backend, channels_last):
    pairs = drawn([(3, 2, 3, 3), (2, 4)], torch.float32, backend.device, grad=True)
    call = lambda p: F.pack_weights(p, torch.bfloat16, channels_last)  # noqa: E731
    torch._dynamo.reset()
    eager, compiled = call(pairs), torch.compile(call, fullgraph=True, backend="aot_eager")(pairs)
    grads = [torch.randn_like(b) for b in eager]
    flat = [w for pair in pairs for w in pair]
    for e, c in zip(eager, compiled, strict=True):
        assert torch.equal(e, c) and e.stride() == c.stride()
    for e, c in zip(torch.autograd.grad(eager, flat, grads), torch.autograd.grad(compiled, flat, grads), strict=True):
        assert_close(c, e)


@ORDERS
def test_operators(kernel, channels_last):
    """Schema, fake and AOT; and that a network takes one launch each way."""
    pairs = drawn([(3, 2, 3, 3), (2, 4)], torch.float32, kernel.device, grad=True)
    with Recorder() as seen:
        blocks = F.pack_weights(pairs, None, channels_last)
        torch.autograd.grad(blocks, [w for pair in pairs for w in pair], [torch.ones_like(b) for b in blocks])
    assert [op.name().split("::")[1] for op, _, _ in seen.calls] == ["pack_weights_forward", "pack_weights_backward"]
    for op, args, kwargs in seen.calls:
        args = [[t.detach() for t in a] if isinstance(a, list) else a for a in args]
        torch.library.opcheck(op, args, kwargs)


A = torch.zeros(4, 3, 3, 3)
BAD = {
    "none": ([], None, ValueError, "`weights` must hold at least one pair"),
    "no-pair": ([A], None, TypeError, "`weights[0]` must be a pair (A, B), got torch.float32 [4, 3, 3, 3]"),
    "three": ([(A, A, A)], None, TypeError, "`weights[0]` must be a pair (A, B), got tuple"),
    "shapes": ([(A, A[:2])], None, ValueError, "`weights[0][1]` must have the shape of `weights[0][0]`"),
    "dtypes": ([(A, A), (A.double(),) * 2], None, TypeError, "`weights[1][0]` must have the dtype of `weights[0][0]`"),
    "dims": ([(A[0], A[0])], None, ValueError, "`weights[0]` must be [O, I] or [O, I, kH, kW], got [3, 3, 3]"),
    "integer": ([(A.long(), A.long())], None, TypeError, "`weights[0][0]` must be a real floating-point tensor"),
    "dtype": ([(A, A)], torch.int8, TypeError, "`dtype` must be float32, float64, bfloat16 or float16"),
}


@pytest.mark.parametrize("weights, dtype, error, words", BAD.values(), ids=BAD)
def test_bad_arguments(weights, dtype, error, words):
    with pytest.raises(error) as caught:
        F.pack_weights(weights, dtype)
    assert words in str(caught.value)


def test_kernel_refuses_what_the_checks_would(kernel):
    if kernel.name == "triton":
        pytest.skip("of C++, which keeps memory safe; Triton's launchers are called by ours alone")
    op = torch.ops.cvkernels.pack_weights_forward
    a = torch.zeros(4, 3, 3, 3, device=kernel.device)
    with pytest.raises(RuntimeError, match="contiguous and of one shape"):
        op([a], [a.transpose(2, 3)[..., :2]], torch.float32, False)
    with pytest.raises(RuntimeError, match="as many imaginary weights"):
        op([a], [], torch.float32, False)
    with pytest.raises(RuntimeError, match="dense in its order"):
        torch.ops.cvkernels.pack_weights_backward([torch.zeros(4, 6, 3, 3, device=kernel.device)], torch.float32, True)
