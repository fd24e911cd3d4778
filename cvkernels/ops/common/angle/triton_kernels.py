"""What the rotations share: cosine and sine of a sample's angle, and the gradient with respect to it.

A block is a sample (`Tiles.of_samples`) and a program does one tile, so an angle is one number a program. Where it
wants a gradient each tile leaves one partial sum, which a second launch adds up in the same order every time.
"""

import torch
import triton
import triton.language as tl

from ..triton_kernels import totals


@triton.jit
def near(t):
    """Nearest quarter turn, modulo 4, of float32 angles up to 1e4, and what is left, at most pi/4."""
    quarter = tl.floor(t * 0.6366197723675814 + 0.5)
    # pi / 2 in parts: products with quarters below 2^13 of the first two, of 8 and 11 bits, are exact, so are the
    # differences; only the last product, and what is left, are rounded
    r = t - quarter * 1.5703125
    r = r - quarter * 0.0004837512969970703
    r = r - quarter * 7.549790126404332e-08
    return quarter.to(tl.int32) & 3, r


@triton.jit
def far(t):
    """The same of any angle, in float64: 13 of its operations, of which a card may have 2 lanes a multiprocessor."""
    quarter = tl.floor(t * 0.6366197723675814 + 0.5)
    # pi / 2 in three parts of 33 bits: their products with quarters below 2^20 are exact
    r = t - quarter * 1.5707963267341256
    r = r - quarter * 6.077100506303966e-11
    r = r - quarter * 2.0222662487959506e-21
    # beyond what can be reduced: still a rotation; NaN and Inf give NaN
    r = tl.where(tl.abs(r) > 1.0, 0.0, r)
    return tl.where(r == r, quarter - 4.0 * tl.floor(quarter * 0.25), 0.0).to(tl.int32), r.to(tl.float32)


@triton.jit
def of_quarters(which, x):
    """cos and sin of an angle of so many quarters and x: Cephes' polynomials."""
    xx = x * x
    sine = x + x * xx * (-1.6666654611e-1 + xx * (8.3321608736e-3 + xx * -1.9515295891e-4))
    cosine = (
        1.0 - 0.5 * xx + xx * xx * (4.166664568298827e-2 + xx * (-1.388731625493765e-3 + xx * 2.443315711809948e-5))
    )
    odd = which % 2 == 1
    cos = tl.where(odd, sine, cosine)
    sin = tl.where(odd, cosine, sine)
    return tl.where((which == 1) | (which == 2), -cos, cos), tl.where(which >= 2, -sin, sin)


@triton.jit
def turn(theta, n):
    """cos and sin of angle n, float32, at most 1e-7 off up to |theta| = 1e9.

    Triton's own cosine is the card's fast one, which is absolutely 1e-6 off at 6 rad; libdevice's carries a stack for
    the angles of astronomers. A float64 angle is reduced as it is: 6.2 rad in float32 is already a different one.
    """
    t = tl.load(theta + n)
    if theta.dtype.element_ty == tl.float64:
        which, x = far(t)
    else:
        t = t.to(tl.float32)
        if tl.abs(t) <= 1e4:
            which, x = near(t)
        else:
            which, x = far(t.to(tl.float64))
    return of_quarters(which, x)


def angle_partial(theta, tiles: int, wanted: bool):
    """Where each tile of a sample leaves the sum of its angle's gradient; None where nobody asked."""
    return theta.new_empty(theta.numel(), tiles, dtype=torch.float32) if wanted and theta.numel() else None


def angle_gradient(theta, partial, wanted: bool):
    """The gradient of theta, of no elements where nobody asked; added up by a launch of its own where a sample has
    several tiles."""
    if partial is None:
        return torch.zeros_like(theta) if wanted else theta.new_empty(0)
    return totals(partial, theta.numel(), theta.dtype, False).view(theta.shape)
