"""What a layer with a kernel has in common: how its weight is held, drawn and checked."""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.optim.optimizer import register_optimizer_step_post_hook

from .. import check
from ..ops.common.weight import Packed
from . import init

WEIGHTS = ("complex", "real")


class ComplexWeight(nn.Module):
    """Base of the layers with a kernel: ``weight_re`` and ``weight_im``, or one ``weight`` for both parts."""

    weight: Tensor
    weight_re: Tensor
    weight_im: Tensor
    _pack: "Pack | None" = None

    def __init__(self, shape: tuple[int, ...], bias: bool, weights: str, device, dtype):
        super().__init__()
        refuse_bias(bias)
        if weights not in WEIGHTS:
            raise ValueError(f"`weights` must be 'complex' or 'real', got {weights!r}")
        real_dtype(dtype)
        self.weights = weights
        for name in ("weight_re", "weight_im") if weights == "complex" else ("weight",):
            self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weight anew: see `cvkernels.nn.init.default_`."""
        init.default_((self.weight_re, self.weight_im) if self.weights == "complex" else self.weight)

    def kernel(self) -> Tensor | tuple[Tensor, Tensor] | Packed:
        """The weight as the functions take it: the pair (real, imaginary), or the one real tensor. Beside the pair the
        block weight that `pack_weights` has made of it, while that holds.
        """
        if self.weights != "complex":
            return self.weight
        pair = self.weight_re, self.weight_im
        if self._pack is None or torch.compiler.is_compiling() or not self._pack.holds(*pair):
            return pair
        return Packed(*pair, self._pack.block)

    def __getstate__(self):
        return {**self.__dict__, "_pack": None}  # made of this layer's parameters, not of a copy's


_steps = -1


def _stepped(*_) -> None:
    global _steps
    _steps += 1


class Pack:
    """A block weight and what it was made of: nothing else may be computed with it.

    torch's fused optimisers change a parameter and not its version (2.14), so a step of any optimiser ends every pack.
    An inference tensor has no version, so a pack of such never holds; one made in inference mode holds there alone.
    """

    def __init__(self, block: Tensor, re: Tensor, im: Tensor):
        if _steps < 0:
            _stepped()
            register_optimizer_step_post_hook(_stepped)
        self.block, self._at_step = block, _steps
        # aliases: while they live no other tensor can have this address
        self._made_of = tuple((w.detach(), None if w.is_inference() else w._version) for w in (re, im))

    def holds(self, re: Tensor, im: Tensor) -> bool:
        """Whether these are the parameters it was made of, unchanged, and gradients and tangents reach them where they
        should."""
        wanted = torch.is_grad_enabled() and (re.requires_grad or im.requires_grad)
        return (
            self._at_step == _steps
            and (not wanted or self.block.requires_grad)
            and forward_ad._current_level < 0  # a dual tensor has the address and the version of its primal
            and not (self.block.is_inference() and torch.is_grad_enabled())
            and all(
                not w.is_inference()
                and w._version == version
                and w.data_ptr() == was.data_ptr()
                and (w.dtype, w.device) == (was.dtype, was.device)
                for w, (was, version) in zip((re, im), self._made_of, strict=True)
            )
        )


def refuse_bias(bias) -> None:
    """ValueError for a bias, with the reason and what to do instead."""
    if bias is not False and bias is not None:
        raise ValueError(
            f"`bias` must be False, got {bias!r}: a constant does not turn with its input, so the rotation law "
            "P(e^{iθ}z) = e^{iθ}P(z) would fail; leave it out here, "
            "and add an offset, if one is needed, after unrotate, in the real decoder"
        )


def real_dtype(dtype) -> None:
    """TypeError for a parameter dtype that is not real floating point; None is torch's default."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise TypeError(
            f"`dtype` must be a real floating-point dtype, got {dtype}; "
            "parameters are real, and a complex weight is two of them"
        )


def positive(value, name: str) -> int:
    """``value``, an int >= 1, or the error that names it."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"`{name}` must be an int, got {check.shown(value)}")
    if value < 1:
        raise ValueError(f"`{name}` must be >= 1, got {value}")
    return value
