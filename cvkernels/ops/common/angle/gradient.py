"""The gradients of a rotation in torch's own operations: what a double backward differentiates."""

from torch import Tensor


def turned_back(grad: Tensor, out: Tensor | None, theta: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Both parts of ``grad`` e^{-i theta}, and dL/dtheta where ``out``, what came out, is given."""
    re, im = grad.unbind(1)
    t = theta.view(-1, *(1,) * (re.ndim - 1))
    cos, sin = t.cos().to(grad.dtype), t.sin().to(grad.dtype)
    turn = None
    if out is not None:
        turn = (im * out[:, 0] - re * out[:, 1]).flatten(1).to(theta.dtype).sum(1)
    return re * cos + im * sin, im * cos - re * sin, turn
