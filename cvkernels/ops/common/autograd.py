"""What every autograd Function of the house shares."""

import functools

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


def applied(function, *tensors: Tensor | None):
    """What to call in place of ``function.apply`` where no functorch transform needs it: the forward if no gradient of
    ``tensors`` is recorded; else, outside torch.compile, a Function without ``setup_context``, whose way is shorter.
    After a kernel that went through the second-level cache Python starts cold, and each line not run and each tensor
    not made counts four times: magnitude_relu forward and backward then took 380 us, and 346 since (one core).
    """
    compiling = torch.compiler.is_compiling()
    if not compiling and torch._C._are_functorch_transforms_active():
        return function.apply
    # in forward mode an operator called alone would drop the derivative without a word; a Function without one refuses
    if forward_ad._current_level < 0:
        for t in tensors:
            if t is not None and t.requires_grad and torch.is_grad_enabled():
                break
        else:
            return function.forward
    if compiling:
        return function.apply
    direct = _DIRECT.get(function)
    if direct is None:
        direct = _DIRECT[function] = _direct(function)
    return direct.apply


def _direct(function) -> type:
    """The same Function without ``setup_context``. Where the second of its outputs is ``kept`` for the backward alone,
    None comes out in its place."""
    forward, setup_context, kept = function.forward, function.setup_context, getattr(function, "kept", False)

    def both(ctx, *args):
        out = forward(*args)
        setup_context(ctx, args, out)
        return (out[0], None) if kept else out

    return type(
        function.__name__,
        (torch.autograd.Function,),
        {"forward": staticmethod(both), "backward": staticmethod(function.backward)},
    )


def mapped() -> bool:
    """Whether a functorch transform is under way: a Function that can be mapped must then be one, gradient or not."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def once(name: str):
    """For the backward of an operation differentiable once: differentiated, it refuses, by ``name``."""

    def named(backward):
        @functools.wraps(backward)
        def refusing(ctx, *grads):
            if not torch.is_grad_enabled():
                return backward(ctx, *grads)
            with torch.no_grad():
                out = backward(ctx, *grads)
            inputs = (*ctx.saved_tensors, *grads)
            if not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
                return out
            # the inputs ride along, or autograd would take the detached gradients for constants and return zeros
            return _Refuse.apply(name, *out, *inputs)[: len(out)]

        return refusing

    return named


def wanted(grad: Tensor | None, flag: bool) -> Tensor | None:
    """A gradient nobody asked for is None; the operators return it as a tensor of no elements."""
    return grad if flag else None
