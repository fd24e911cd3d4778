"""What every autograd Function of the house shares."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ... import backend


class _Refuse(torch.autograd.Function):
    """Passes gradients through and refuses to be differentiated: a double backward named after its operation."""

    @staticmethod
    def forward(name: str, *grads):
        return tuple(None if g is None else g.detach() for g in grads)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.op = inputs[0]

    @staticmethod
    def vmap(info, in_dims, name: str, *grads):
        return _Refuse.apply(name, *grads), in_dims[1:]

    @staticmethod
    def backward(ctx, *_):
        raise RuntimeError(
            f"{ctx.op} is differentiable once; its double backward is not implemented. "
            "use_backend('reference') differentiates as often as you like"
        )


def _refusing(name: str, grads: tuple, inputs: tuple) -> tuple:
    """``grads``, which refuse to be differentiated where one of ``inputs`` can be asked for."""
    if not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        return grads
    # the inputs ride along, or autograd would take the detached gradients for constants and return zeros
    return _Refuse.apply(name, *grads, *inputs)[: len(grads)]


def fused(name: str, order: tuple[int, ...] = (0,), backward: str = "", takes: int = 0):
    """For the Function of an operation with one operator each way: it says what its backward operator takes, and gets
    ``setup_context`` and ``backward`` from here.

    Args:
        name: the operation's.   backward: the operator; by default ``<name>_backward``.
        order: for each differentiable input (they stand first) which result of that operator is its gradient.
        takes: where the operator ``<name>_forward`` is the whole forward, how many of the inputs it takes (they stand
            first); else the class has a ``forward`` of its own.
    Of the class:
        ``forward(*inputs)``: the last input is the backend. What comes out beside the first result is not
        differentiable, and there for the backward pass alone.
        ``kept(inputs, output, wanted)``: what the operator takes after the gradient; ``wanted``: for each
        differentiable input, whether its gradient is.
        ``again(grad, *kept)``: the gradients in torch's own operations, for a double backward; without it that refuses.
    """
    operator, whole_forward = backward or f"{name}_backward", f"{name}_forward"

    def completed(cls):
        def forward(*inputs):
            return getattr(backend.operators(inputs[-1]), whole_forward).default(*inputs[:takes])

        if takes:
            cls.forward = staticmethod(forward)
        kept, again = cls.kept, getattr(cls, "again", None)

        def setup_context(ctx, inputs, output):
            result = output
            if isinstance(output, tuple):
                ctx.mark_non_differentiable(*output[1:])
                result = output[0]
            arguments = kept(inputs, output, ctx.needs_input_grad)
            ctx.strides, ctx.chosen = result.stride(), inputs[-1]
            # None stands where a tensor does: those autograd keeps
            ctx.plain = [None if isinstance(x, Tensor) else x for x in arguments]
            ctx.saved_strides = [x.stride() if isinstance(x, Tensor) else () for x in arguments]
            ctx.save_for_backward(*[x if isinstance(x, Tensor) else None for x in arguments])

        def backward_of(ctx, grad, *_):
            # a hook may have laid out anew what it gives back
            saved = zip(ctx.plain, ctx.saved_tensors, ctx.saved_strides, strict=True)
            arguments = [x if t is None else _in_strides(t, strides) for x, t, strides in saved]
            run = differentiably if torch.is_grad_enabled() else once_only
            grads = run(ctx.chosen, ctx.strides, grad, *arguments)
            needs = ctx.needs_input_grad
            given = [grads[k] if needs[i] else None for i, k in enumerate(order)]
            return *given, *[None] * (len(needs) - len(order))

        def once_only(chosen, strides, grad, *arguments):
            grads = getattr(backend.operators(chosen), operator).default(_in_strides(grad, strides), *arguments)
            return (grads,) if isinstance(grads, Tensor) else grads

        def differentiably(chosen, strides, grad, *arguments):
            if again is not None:
                return again(_in_strides(grad, strides), *arguments)
            with torch.no_grad():
                grads = once_only(chosen, strides, grad, *arguments)
            return _refusing(name, grads, tuple(x for x in (*arguments, grad) if isinstance(x, Tensor)))

        cls.setup_context, cls.backward = staticmethod(setup_context), staticmethod(backward_of)
        cls.operators, cls.takes = (whole_forward, operator), takes
        cls.order, cls.differentiably = order, staticmethod(differentiably)
        return cls

    return completed


def _in_strides(grad: Tensor, strides: tuple[int, ...]) -> Tensor:
    """The kernels walk the gradient, and what was saved, as they walk what came out."""
    if grad.stride() == strides:
        return grad
    # not by `copy_` into `empty_strided`: functorch maps no such write
    order = sorted(range(grad.ndim), key=lambda d: (-strides[d], d))
    back = sorted(range(grad.ndim), key=order.__getitem__)
    return grad.permute(order).contiguous().permute(back)


def whole(x: Tensor) -> Tensor:
    """``x``, a view of what nobody else holds, as a tensor that autograd takes for no view: what a Function returns may
    then be changed in place. ``aten._unsafe_view`` says the same in five times as long (1.5 and 8 us).
    """
    return torch.unsafe_split_with_sizes(x, (x.shape[0],))[0]


_NODES: dict[type, Callable | None] = {}
_SHORT: dict[type, Callable] = {}


def applied(function, *tensors: Tensor | None):
    """What to call in place of ``function.apply`` where no transform needs it: the forward if no gradient of
    ``tensors`` is recorded; else, outside torch.compile, a shorter way to the same node of the graph.
    """
    compiling = torch.compiler.is_compiling()
    # in forward mode an operator called alone would drop the derivative without a word; a Function without one refuses
    forward_mode = forward_ad._current_level >= 0
    if not compiling:
        if forward_mode or torch._C._are_functorch_transforms_active():
            return function.apply
        node = _NODES[function] if function in _NODES else _node(function)
        if node is not None:
            return node
    if forward_mode or torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        return function.apply if compiling else _SHORT.get(function) or _short(function)
    return function.forward


def _node(function) -> Callable | None:
    """For an operation with one operator each way, where that was built for this torch: its forward and its node in
    C++, which sees by itself whether a gradient is recorded. What is ``kept`` for the backward alone comes out as None
    then."""
    nodes = backend.nodes() if hasattr(function, "operators") else None
    if nodes is None:
        _NODES[function] = None
    else:
        forward, backward = function.operators
        made = nodes.Operation(
            backward, function.order, forward, function.takes, function.forward, function.kept, function.differentiably
        )
        _NODES[function] = made.apply
    return _NODES[function]


def _short(function) -> Callable:
    """The same Function without ``setup_context``, which takes torch 20 us. What is ``kept`` for the backward alone
    comes out as None."""
    forward, setup_context, of_one_operator = function.forward, function.setup_context, hasattr(function, "operators")

    def both(ctx, *args):
        out = forward(*args)
        setup_context(ctx, args, out)
        return (out[0], *(None,) * (len(out) - 1)) if of_one_operator and isinstance(out, tuple) else out

    made = type(
        function.__name__,
        (torch.autograd.Function,),
        {"forward": staticmethod(both), "backward": staticmethod(function.backward)},
    )
    _SHORT[function] = made.apply
    return made.apply


def mapped() -> bool:
    """Whether a functorch transform is under way: a Function that can be mapped must then be one, gradient or not."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()


def not_batched(name: str, *grads: Tensor | None) -> None:
    """RuntimeError for gradients of ``torch.autograd.grad(..., is_grads_batched=True)``, whose vmap is not functorch's
    and does not know the steps of these backwards."""
    if torch.compiler.is_compiling():
        return
    if any(g is not None and torch._C._functorch.is_legacy_batchedtensor(g) for g in grads):
        raise RuntimeError(f"{name} does not differentiate with is_grads_batched; torch.func.jacrev and vmap map it")


def once(name: str):
    """For the backward of an operation differentiable once: differentiated, it refuses, by ``name``."""

    def named(backward):
        @functools.wraps(backward)
        def refusing(ctx, *grads):
            if not torch.is_grad_enabled():
                return backward(ctx, *grads)
            with torch.no_grad():
                out = backward(ctx, *grads)
            return _refusing(name, out, (*ctx.saved_tensors, *grads))

        return refusing

    return named
