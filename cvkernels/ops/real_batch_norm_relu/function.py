"""The public function, its checks, and its autograd Function."""

import torch
from torch import Tensor

from ... import backend, check
from ..common.autocast import matched
from ..common.autograd import applied, fused
from ..common.power import moved_back, steady
from .reference import real_batch_norm_relu as reference

OP = backend.op(
    "real_batch_norm_relu",
    cpu=(*backend.FLOATS, torch.bfloat16),
    cuda=(*backend.FLOATS, torch.float16, torch.bfloat16),
    triton=backend.TRITON,
)


def real_batch_norm_relu(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    training: bool = False,
    momentum: float | Tensor = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    r"""relu(batch_norm(x) + residual) of a real feature as one operation each way: what an encoder and a decoder need.

    The statistics are those of ``torch.nn.functional.batch_norm``: the biased variance normalises, the unbiased one
    enters ``running_var``. With half-precision features they, and everything between, are float32; rounded once.

    Args:
        x: features ``[N, C, *]``, real, any strides.
        running_mean, running_var: running statistics ``[C]``, float32 or wider; read in inference, updated in place in
            training. Both None: batch statistics.
        weight, bias: scale and offset ``[C]``, or None.
        residual: added before the ReLU; shape, dtype and device of ``x``, or None. Autocast rounds a float32 one to the
            half precision that a convolution has left ``x`` in.
        training: normalise by this batch's statistics.
        momentum: how far the running statistics move towards the batch's. A tensor of one element is taken for the
            number of batches so far, the running statistics for their plain mean; nothing is read back to the host.
        eps: added to the variance.
    Returns:
        Tensor like ``x``; channels-last where ``x`` is.
    Raises:
        TypeError: ``x`` not real floating point; running statistics of another dtype than float32 (float64 for
        float64 features).   ValueError: a ``[C]`` vector of another length, one running statistic without the other,
        a ``residual`` unlike ``x``; in training, one value or none per channel (torch's rule).
    """
    settings = check.real_batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps)
    if residual is not None:
        check.tensor(residual, "residual")
        residual = matched(residual, x)
        check.same(residual, "residual", x, "x")
    if weight is None and bias is not None:
        # the operators sum for both or for neither, and torch's double backward forgets a bias that stands alone
        weight = torch.ones_like(bias, requires_grad=False)
    # before the reference too: torch loses what it writes to a negative one
    weight, bias = steady(weight), steady(bias)
    seen_mean, seen_var = steady(running_mean), steady(running_var)
    chosen = backend.choose(OP, x)
    if chosen == "reference" or not _readable(x, weight, bias):
        y = reference(x, seen_mean, seen_var, weight, bias, residual, *settings)
        moved_back(running_mean, seen_mean, settings[1])
        moved_back(running_var, seen_var, settings[1])
        return y
    x = _dense(x.resolve_neg())
    if residual is not None:
        residual = residual.resolve_neg()
        residual = residual if residual.stride() == x.stride() else _as(residual, x)
    # outside the Function for its write to the running statistics: see magnitude_batch_norm
    y, mean, rstd = backend.operators(chosen).real_batch_norm_relu_forward.default(
        x.detach(),
        seen_mean,
        seen_var,
        *(None if t is None else t.detach() for t in (weight, bias, residual)),
        *settings,
    )
    moved_back(running_mean, seen_mean, settings[1])
    moved_back(running_var, seen_var, settings[1])
    attach = applied(_RealBatchNormReLU, x, weight, bias, residual)
    return attach(x, weight, bias, residual, y, mean, rstd, settings[1] or running_mean is None, chosen)


def _readable(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> bool:
    """Kernels read scale and offset in the features' dtype or, both, in float32 beside half-precision features."""
    dtypes = {v.dtype for v in (weight, bias) if v is not None}
    return len(dtypes) <= 1 and dtypes <= {x.dtype, torch.promote_types(x.dtype, torch.float32)}


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous() or x.movedim(1, -1).is_contiguous() else x.contiguous()


def _as(residual: Tensor, x: Tensor) -> Tensor:
    """``residual`` in the strides of ``x``, contiguous or channels-last, differentiably."""
    return residual.contiguous() if x.is_contiguous() else residual.movedim(1, -1).contiguous().movedim(-1, 1)


@fused("real_batch_norm_relu", order=(0, 2, 3, 1))
class _RealBatchNormReLU(torch.autograd.Function):
    @staticmethod
    def forward(x, weight, bias, residual, y, mean, rstd, training, chosen):
        return y.detach()

    @staticmethod
    def kept(inputs, output, wanted):
        x, weight, _, residual, _, mean, rstd, training, _ = inputs
        return output, x, weight, mean, rstd, training, residual is not None


if backend.compiled:

    @torch.library.register_fake("cvkernels::real_batch_norm_relu_forward")
    def _(x, running_mean, running_var, weight, bias, residual, batches, training, momentum, eps):
        statistic = x.new_empty(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
        return torch.empty_like(x), statistic, torch.empty_like(statistic)

    @torch.library.register_fake("cvkernels::real_batch_norm_relu_backward")
    def _(grad, out, x, weight, mean, rstd, training, has_residual):
        per_channel = grad.new_empty(0) if weight is None else torch.empty_like(weight)
        grad_residual = torch.empty_like(x) if has_residual else grad.new_empty(0)
        return torch.empty_like(x), grad_residual, per_channel, torch.empty_like(per_channel)
