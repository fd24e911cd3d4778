"""A complex convolution as torch's own real ones, in each form; its gradients.

Every form is the same five steps: the feature split into planes, real weights made of A and B, a convolution each, the
planes joined. Its backward is the transposes of those in reverse.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..common.weight import packed_block, unpacked_block
from .planes import BLOCK, DIFFERENCE, PARTS, SUM, TURNS, dense, from_turns, join, joined_relu, split, turns


class Geometry(NamedTuple):
    """The numbers of a convolution, a pair for each axis."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    def result(self, size, kernel) -> tuple[int, ...]:
        """Height and width of what comes out of a map of ``size``."""
        axes = zip(size, kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in axes)


@dataclass(frozen=True)
class Form:
    """Maps and their transposes; ``inside``, ``outside``: whether planes and weights, and the feature, are
    channels-last. With real weights a feature may also be `planes.PLANES`."""

    split: Callable  # z, inside -> planes
    split_t: Callable  # gradients of the planes, inside, outside -> gradient of z
    weights: Callable  # a, b, dtype, inside -> real weights
    weights_t: Callable  # gradients of those, a -> gradients of a and b
    join: Callable  # results of the convolutions, inside, outside -> feature
    join_t: Callable  # gradient of the feature, inside -> of the results
    end: int | None = None  # the last step, where that is one map of planes to a feature

    @property
    def ends(self) -> bool:
        """Whether there is a `run_relu`."""
        return self.end is not None

    def run(self, z, a, b, how: Geometry, inside: bool, outside: bool | str) -> Tensor:
        """The convolution of planar ``z``; ``inside``, ``outside``: channels-last in between, and as it returns."""
        return self.join(self._convolved(z, a, b, how, inside), inside, outside)

    def run_relu(self, z, a, b, how: Geometry, outside: bool, scale: Tensor, residual: Tensor | None, c: float):
        """magnitude_relu(run(...) * scale + residual, c), the ReLU in the pass that joins the planes; channels-last
        inside, ``residual`` in the layout of the result.
        """
        if self.end is None:
            raise RuntimeError("this form has no pass that joins planes and applies the ReLU; ask `ends` first")
        return joined_relu(self._convolved(z, a, b, how, True), scale, residual, self.end, outside, c)

    def _convolved(self, z, a, b, how: Geometry, inside: bool) -> list[Tensor]:
        planes = self.split(z, inside)
        weights = self.weights(a, b, z.dtype, inside)
        return [
            torch.conv2d(x, w, None, how.stride, how.padding, how.dilation, how.groups)
            for x, w in zip(planes, weights, strict=True)
        ]

    def gradients(self, z, a, b, grad: Tensor, how: Geometry, needs, inside: bool, outside: bool | str):
        """Of ``z`` (channels-last with ``outside``), ``a`` and ``b``, None where ``needs`` has False."""
        needs_z, needs_weight = needs[0], needs[1] or needs[2]
        planes = self.split(z, inside)
        weights = self.weights(a, b, z.dtype, inside)
        given = self.join_t(grad, inside)
        mask = [needs_z, needs_weight, False]
        rest = (None, how.stride, how.padding, how.dilation, False, (0, 0), how.groups, mask)
        back = torch.ops.aten.convolution_backward.default
        done = [back(g, x, w, *rest) for g, x, w in zip(given, planes, weights, strict=True)]
        grad_z = self.split_t([d[0] for d in done], inside, outside) if needs_z else None
        grad_a, grad_b = self.weights_t([d[1] for d in done], a) if needs_weight else (None, None)
        return grad_z, grad_a if needs[1] else None, grad_b if needs[2] else None


def _stored(w: Tensor, dtype: torch.dtype, last: bool) -> Tensor:
    return dense(w.to(dtype), last)


def _to_add(grads, a: Tensor) -> list[Tensor]:
    """In the wider dtype of a gradient and its weight: a sum is rounded once."""
    return [g.to(torch.promote_types(g.dtype, a.dtype)) for g in grads]


def _splitter(planes: int) -> tuple[Callable, Callable]:
    return lambda z, inside: split(z, planes, inside), lambda grads, inside, outside: join(grads, planes, outside)


def _joiner(planes: int) -> tuple[Callable, Callable]:
    transposed, plain = _splitter(planes)
    return plain, transposed


# --- block: one convolution -------------------------------------------------------------------------------------------

BLOCKED = Form(
    *_splitter(BLOCK),
    lambda a, b, dtype, inside: [packed_block(a, b, dtype, inside)],
    lambda grads, a: unpacked_block(grads[0], a.dtype),
    *_joiner(BLOCK),
    end=BLOCK,
)
# its weight made before, in whatever dtype and order: `a` is the block
PACKED = Form(
    *_splitter(BLOCK),
    lambda a, b, dtype, inside: [_stored(a, dtype, inside)],
    lambda grads, a: (grads[0].to(a.dtype), None),
    *_joiner(BLOCK),
    end=BLOCK,
)

# --- gauss: p = A re, q = B im, r = (A + B)(re + im); p - q and r - p - q are the parts -------------------------------


def _sums_t(grads, a):
    p, q, r = _to_add(grads, a)
    return (p + r).to(a.dtype), (q + r).to(a.dtype)


GAUSS = Form(
    *_splitter(SUM),
    lambda a, b, dtype, inside: [_stored(w, dtype, inside) for w in (a, b, a + b)],
    _sums_t,
    *_joiner(DIFFERENCE),
    end=DIFFERENCE,
)

# --- four: A re, B im, B re, A im -------------------------------------------------------------------------------------


def _twice(z, inside):
    return split(z, PARTS, inside) * 2


def _twice_t(grads, inside, outside):
    p, q, r, s = grads
    return join([p + r, q + s], PARTS, outside)


def _crossed(a, b, dtype, inside):
    a, b = (_stored(w, dtype, inside) for w in (a, b))
    return [a, b, b, a]


def _crossed_t(grads, a):
    p, q, r, s = _to_add(grads, a)
    return (p + s).to(a.dtype), (q + r).to(a.dtype)


def _added(done, inside, outside):
    p, q, r, s = done
    return join([p - q, r + s], PARTS, outside)


def _added_t(grad, inside):
    re, im = split(grad, PARTS, inside)
    return [re, -re, im, im]


FOUR = Form(_twice, _twice_t, _crossed, _crossed_t, _added, _added_t)

# --- batch: the parts of each sample are two samples ------------------------------------------------------------------


def _batched(z, inside):
    return [turns(z, inside)]


def _batched_t(grads, inside, outside):
    return from_turns(grads[0], outside)


def _quarters(done, inside, outside):
    of_re, of_im = done[0].unflatten(0, (-1, 2)).unbind(1)
    (p, r), (s, q) = of_re.chunk(2, 1), of_im.chunk(2, 1)
    return join([p - q, r + s], PARTS, outside)


def _quarters_t(grad, inside):
    re, im = split(grad, PARTS, inside)
    of_re, of_im = torch.cat((re, im), 1), torch.cat((im, -re), 1)
    return [dense(torch.stack((of_re, of_im), 1).flatten(0, 1), inside)]


BATCH = Form(
    _batched,
    _batched_t,
    lambda a, b, dtype, inside: [_stored(torch.cat((a, b)), dtype, inside)],
    lambda grads, a: grads[0].to(a.dtype).chunk(2),
    _quarters,
    _quarters_t,
)
REAL = Form(
    _batched,
    _batched_t,
    lambda a, b, dtype, inside: [_stored(a, dtype, inside)],
    lambda grads, a: (grads[0].to(a.dtype), None),
    _batched_t,
    _batched,
    end=TURNS,
)
COMPLEX = {"block": BLOCKED, "gauss": GAUSS, "four": FOUR, "batch": BATCH}
FORMS = {**COMPLEX, "packed": PACKED, "real": REAL}
