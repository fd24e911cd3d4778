"""How Triton kernels walk a feature in each of its dense layouts, and what a sum per channel needs: device code that
rooms share. A tail is masked with ``other=``, an offset has 64 bits, half precision is read into float32."""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import backend
from ...planar import is_channels_last, is_interleaved

TILE = 1024  # complex elements of a program's tile: 8 a thread, which 16-byte loads of half precision need
CHANNELS = 128  # most channels of a tile where the channel is the fastest axis
WARPS = 4
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": True}  # said aloud: a later Triton turns contraction off
PROGRAMS = 128  # most partial sums a channel: what every program of the second launch reads again


@dataclass(frozen=True)
class Tiles:
    """How programs walk a feature: tiles of rows and columns, the columns neighbours in memory.

    Where the channel is the fastest axis (``LAST``) a row is one position of one sample and the columns are channels;
    else a row is one sample of one channel and the columns are its positions. ``PAIRS``: real and imaginary alternate.
    """

    rows: int
    columns: int
    channels: int
    row: int  # strides, in elements
    channel: int
    part: int
    tiles: int  # of one channel, or of one block of channels
    blocks: int  # channels, or blocks of them
    ROWS: int
    COLUMNS: int
    LAST: bool
    PAIRS: bool

    @classmethod
    def of(cls, z: Tensor) -> "Tiles":
        n, _, c = z.shape[:3]
        s = math.prod(z.shape[3:])
        pairs = is_interleaved(z)
        # [N, 2, C] is both: its only fast axis is the channel
        last = not pairs and (is_channels_last(z) or s == 1)
        rows, columns = (n * s, c) if last else (n, s)
        COLUMNS = min(triton.next_power_of_2(max(columns, 1)), CHANNELS if last else TILE)
        ROWS = TILE // COLUMNS
        across = triton.cdiv(columns, COLUMNS)
        down = triton.cdiv(rows, ROWS)
        row, channel, part = (2 * c, 1, c) if last else (2 * c * s, 2 * s, 1) if pairs else (2 * c * s, s, c * s)
        tiles, blocks = (down, across) if last else (down * across, c)
        return cls(rows, columns, c, row, channel, part, tiles, blocks, ROWS, COLUMNS, last, pairs)

    @property
    def programs(self) -> int:
        """Programs a channel (or block) of a reduction: enough for a large GPU, few enough to be added up again."""
        return min(self.tiles, PROGRAMS, max(1, triton.cdiv(2048, self.blocks)))

    @property
    def count(self) -> int:
        """Complex elements a channel."""
        return self.rows if self.LAST else self.rows * self.columns

    def arguments(self) -> dict:
        names = ("rows", "columns", "channels", "row", "channel", "part", "tiles", "blocks")
        return {name: getattr(self, name) for name in (*names, "ROWS", "COLUMNS", "LAST", "PAIRS")}


def register(schemas: dict, fakes: dict) -> None:
    """Make launchers operators of ``cvkernels_triton``: launcher to its schema in csrc/ops.cpp, and to its fake."""
    for launch, schema in schemas.items():
        name = launch.__name__
        _library.define(name + schema)
        for key in ("CUDA", "CPU") if backend.interpreting() else ("CUDA",):
            _library.impl(name, launch, key)
        torch.library.register_fake(f"cvkernels_triton::{name}", fakes[launch], lib=_library)


_library = torch.library.Library("cvkernels_triton", "FRAGMENT")

# --- addresses --------------------------------------------------------------------------------------------------------


@triton.jit
def tile_channel(block, COLUMNS: tl.constexpr, LAST: tl.constexpr):
    """The tile's channel, or its vector of channels ``[COLUMNS]``."""
    if LAST:
        return block.to(tl.int64) * COLUMNS + tl.arange(0, COLUMNS)
    else:
        return block.to(tl.int64)


@triton.jit
def tile_place(
    tile, block, rows, columns, row, channel,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Offsets of a tile's real parts, and what is inside. Where parts alternate: of both, in twice the columns."""
    STEP: tl.constexpr = 2 if PAIRS else 1
    across = 0 if LAST else tl.cdiv(columns, COLUMNS)
    down = tile if LAST else tile // across
    left = block if LAST else tile - down * across
    r = down.to(tl.int64) * ROWS + tl.arange(0, ROWS)
    k = left.to(tl.int64) * (COLUMNS * STEP) + tl.arange(0, COLUMNS * STEP)
    at = r[:, None] * row + k[None, :]
    if not LAST:
        at += block.to(tl.int64) * channel
    return at, (r < rows)[:, None] & (k < columns * STEP)[None, :]


@triton.jit
def load_parts(base, at, inside, part, PAIRS: tl.constexpr):
    """Real and imaginary tiles, float32. Pairs come in one wide load and are parted in registers."""
    if PAIRS:
        both = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
        return tl.split(tl.reshape(both, (both.shape[0], both.shape[1] // 2, 2)))
    else:
        re = tl.load(base + at, mask=inside, other=0.0).to(tl.float32)
        im = tl.load(base + part + at, mask=inside, other=0.0).to(tl.float32)
        return re, im


@triton.jit
def store_parts(base, at, inside, part, re, im, PAIRS: tl.constexpr):
    if PAIRS:
        both = tl.reshape(tl.join(re, im), (re.shape[0], re.shape[1] * 2))
        tl.store(base + at, both.to(base.dtype.element_ty), mask=inside)
    else:
        tl.store(base + at, re.to(base.dtype.element_ty), mask=inside)
        tl.store(base + part + at, im.to(base.dtype.element_ty), mask=inside)


@triton.jit
def store_sums(partial, k, c, channels, sums, LAST: tl.constexpr):
    """A program's sums over its tiles ``[ROWS, COLUMNS]`` become row k of ``partial``."""
    at = partial + k.to(tl.int64) * channels + c
    if LAST:
        tl.store(at, tl.sum(sums, 0), mask=c < channels)
    else:
        tl.store(at, tl.sum(tl.sum(sums, 1), 0))


@triton.jit
def add_up(partial, c, channels, programs, COLUMNS: tl.constexpr, LAST: tl.constexpr):
    """The sums of the channels c over all programs, in the same order for every program that asks."""
    STEP: tl.constexpr = 16
    k = tl.arange(0, STEP)
    if LAST:
        total = tl.zeros((STEP, COLUMNS), tl.float32)
        for first in range(0, programs, STEP):
            some = (first + k < programs)[:, None] & (c < channels)[None, :]
            total += tl.load(partial + (first + k)[:, None] * channels + c[None, :], mask=some, other=0.0)
        return tl.sum(total, 0)
    else:
        total = tl.zeros((STEP,), tl.float32)
        for first in range(0, programs, STEP):
            total += tl.load(partial + (first + k) * channels + c, mask=first + k < programs, other=0.0)
        return tl.sum(total, 0)


@triton.jit
def load_channel(vector, c, channels, LAST: tl.constexpr):
    """One number a channel, float32."""
    if LAST:
        return tl.load(vector + c, mask=c < channels, other=1.0).to(tl.float32)
    else:
        return tl.load(vector + c).to(tl.float32)


@triton.jit
def store_channel(vector, c, channels, value, LAST: tl.constexpr):
    if LAST:
        tl.store(vector + c, value.to(vector.dtype.element_ty), mask=c < channels)
    else:
        tl.store(vector + c, value.to(vector.dtype.element_ty))


@triton.jit
def spread(value, LAST: tl.constexpr):
    """A channel's number over its tile."""
    return value[None, :] if LAST else value


# --- arithmetic -------------------------------------------------------------------------------------------------------


@triton.jit
def relu_factor(re, im, c):
    """|v| / max(|v|, c): exactly 1 at |v| >= c, for NaN, and where the square overflows."""
    power = re * re + im * im
    inside = power < c * c
    return tl.where(inside, tl.sqrt(tl.where(inside, power, 0.0)) / c, 1.0)
