"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ..common.autograd import applied, not_batched, whole
from ..common.weight import gradient_of_block, pack_aligned, pack_gradients, pack_views
from .reference import pack_weights as reference

HALVES = (torch.bfloat16, torch.float16)

OP = backend.op(
    "pack_weights",
    cpu=(*backend.FLOATS, torch.bfloat16, torch.float16),
    cuda=(*backend.FLOATS, torch.bfloat16, torch.float16),
    triton=backend.TRITON,
)


def pack_weights(weights, dtype: torch.dtype | None = None, channels_last: bool = False) -> tuple[Tensor, ...]:
    r"""The block weights [[A, -B], [B, A]] of many complex layers, all made in one launch.

    Args:
        weights: pairs (A, B) of real tensors ``[O, I]`` or ``[O, I, kH, kW]``, at least one; one dtype and device.
        dtype: of the result: float32, float64, bfloat16 or float16; that of the weights where None. Autocast packs
            float32 parameters straight into half precision.
        channels_last: a ``[2O, 2I, kH, kW]`` with the strides of ``[2O, kH, kW, 2I]``.
    Returns:
        One block weight a pair, ``[2O, 2I]`` or ``[2O, 2I, kH, kW]``, all in one buffer, each starting at a multiple of
        16 elements. Differentiable twice.
    Raises:
        TypeError, ValueError: ``weights`` empty, not pairs, or of several dtypes, devices or unequal shapes.
    """
    weights = [tuple(w) if isinstance(w, (tuple, list)) else w for w in weights]
    if not weights:
        raise ValueError("`weights` must hold at least one pair (A, B), got none")
    for i, pair in enumerate(weights):
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise TypeError(f"`weights[{i}]` must be a pair (A, B), got {check.shown(pair)}")
        check.floating(pair[0], f"weights[{i}][0]")
        check.same(pair[1], f"weights[{i}][1]", pair[0], f"weights[{i}][0]")
        check.same(pair[0], f"weights[{i}][0]", weights[0][0], "weights[0][0]", shape=False)
        if pair[0].ndim not in (2, 4):
            raise ValueError(f"`weights[{i}]` must be [O, I] or [O, I, kH, kW], got {list(pair[0].shape)}")
    re, im = zip(*weights, strict=True)
    dtype = re[0].dtype if dtype is None else dtype
    if dtype not in (*backend.FLOATS, *HALVES):
        raise TypeError(f"`dtype` must be float32, float64, bfloat16 or float16, got {dtype}")
    chosen = backend.choose(OP, re[0])
    if chosen == "reference":
        return pack_views(reference(list(re), list(im), dtype, channels_last), re, channels_last)
    run = applied(_PackWeights, *re, *im)
    return run(dtype, channels_last, chosen, *re, *im)


class _PackWeights(torch.autograd.Function):
    @staticmethod
    def forward(dtype, channels_last, chosen, *weights):
        weights = [w.contiguous() for w in weights]
        re, im = weights[: len(weights) // 2], weights[len(weights) // 2 :]
        flat = backend.operators(chosen).pack_weights_forward.default(re, im, dtype, channels_last)
        return tuple(map(whole, pack_views(flat, re, channels_last)))

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.channels_last, ctx.chosen, *weights = inputs
        ctx.dtype = weights[0].dtype
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx, *grads):
        not_batched("pack_weights", *grads)
        given = [n for n, g in enumerate(grads) if g is not None]
        pairs = [(None, None)] * len(grads)
        for n, pair in zip(given, _gradients(ctx, [grads[n] for n in given]), strict=True):
            pairs[n] = pair
        every = [pair[part] for part in (0, 1) for pair in pairs]
        return None, None, None, *(g if n else None for g, n in zip(every, ctx.needs_input_grad[3:], strict=True))


def _gradients(ctx, grads) -> list[tuple[Tensor, Tensor]]:
    if not grads:
        return []
    if torch.is_grad_enabled():  # in plain torch: what a double backward differentiates
        return [gradient_of_block(g, ctx.dtype) for g in grads]
    grads = [_in_order(g, ctx.channels_last) for g in grads]
    flat = backend.operators(ctx.chosen).pack_weights_backward.default(grads, ctx.dtype, ctx.channels_last)
    return pack_gradients(flat, grads)


def _in_order(grad: Tensor, channels_last: bool) -> Tensor:
    if grad.ndim == 2 or not channels_last:
        return grad.contiguous()
    return grad.contiguous(memory_format=torch.channels_last)


if backend.compiled:

    @torch.library.register_fake("cvkernels::pack_weights_forward")
    def _(re, im, dtype, channels_last):
        return re[0].new_empty(sum(pack_aligned(4 * a.numel()) for a in re), dtype=dtype)

    @torch.library.register_fake("cvkernels::pack_weights_backward")
    def _(grads, dtype, channels_last):
        return grads[0].new_empty(sum(2 * pack_aligned(g.numel() // 4) for g in grads), dtype=dtype)
