"""What every autograd Function of the house shares."""

import torch
from torch import Tensor
from torch.autograd import forward_ad


class _Refuse(torch.autograd.Function):
    """Passes gradients through and refuses to be differentiated: a double backward named after its operation."""

    @staticmethod
    def forward(name: str, *grads):
        return tuple(None if g is None else g.detach() for g in grads)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.op = inputs[0]

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            f"{ctx.op} is differentiable once; its double backward is not implemented. "
            "use_backend('reference') differentiates as often as you like"
        )


_DIRECT: dict[type, type] = {}


def applied(function):
    """``function.apply``, 20 us sooner: for a Function with ``setup_context`` torch looks at the signature of its
    forward on every call (torch 2.14, one core: 26 us, and 8 us without). Where no functorch transform and no
    torch.compile needs that form, its forward and backward run as a Function of the older one.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply
    direct = _DIRECT.get(function)
    if direct is None:
        direct = _DIRECT[function] = _direct(function)
    return direct.apply


def _direct(function) -> type:
    forward, setup_context = function.forward, function.setup_context

    def both(ctx, *args):
        out = forward(*args)
        setup_context(ctx, args, out)
        return out

    return type(
        function.__name__,
        (torch.autograd.Function,),
        {"forward": staticmethod(both), "backward": staticmethod(function.backward)},
    )


def mapped() -> bool:
    """Whether a functorch transform is under way: a Function that can be mapped must then be one, gradient or not."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def once(name: str, inputs: tuple, *grads) -> tuple:
    """The gradients of an operation differentiable once. ``inputs``: what they depend on (saved and incoming)."""
    if not torch.is_grad_enabled() or not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        return grads
    # the inputs ride along, or autograd would take the detached gradients for constants and return zeros
    return _Refuse.apply(name, *grads, *inputs)[: len(grads)]


def wanted(grad: Tensor | None, flag: bool) -> Tensor | None:
    """A gradient nobody asked for is None; the operators return it as a tensor of no elements."""
    return grad if flag else None


def tracked(*tensors: Tensor | None) -> bool:
    """Whether a call must go through its Function: a gradient is recorded, or a forward-mode derivative is under way
    (which an operator called directly would drop without a word; a Function without one refuses). The rest save the
    15 us that a Function costs.
    """
    if forward_ad._current_level >= 0:
        return True
    if torch.is_grad_enabled():
        for t in tensors:
            if t is not None and t.requires_grad:
                return True
    return False
