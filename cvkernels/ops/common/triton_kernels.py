"""How Triton kernels walk a feature in each of its dense layouts, and what a sum per channel needs: device code that
rooms share. A tail is masked with ``other=``, an offset has 64 bits, half precision is read into float32."""

import functools
import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ... import backend
from ...planar import is_channels_last, is_interleaved

TILE = 1024  # complex elements of a program's tile: 8 a thread, which 16-byte loads of half precision need
CHANNELS = 32  # most channels of a tile where the channel is the fastest axis: 64 bytes a row in half precision
WARPS = 4
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": True}  # said aloud: a later Triton turns contraction off
TOTALS = 16  # channels a program adds up, being neighbours, where adding up is a launch of its own
MULTIPROCESSORS = 132  # where there is no GPU to ask: in the interpreter, and where nothing but a compiler runs


@dataclass(frozen=True)
class Tiles:
    """How programs walk a feature: tiles of rows and columns, the columns neighbours in memory.

    A block is what a number belongs to that all its elements share: a channel (`of`, `of_real`), a sample
    (`of_samples`), the whole feature (`of_all`); or, where the channel is the fastest axis (``LAST``), a vector of
    channels, one a column. ``PAIRS``: real and imaginary alternate.
    """

    rows: int  # of one block
    columns: int
    channels: int  # how many numbers there are, one a block or, with LAST, one a column
    row: int  # strides, in elements
    channel: int  # from one block to the next
    part: int
    tiles: int  # of one block
    blocks: int
    ROWS: int
    COLUMNS: int
    LAST: bool
    PAIRS: bool
    multiprocessors: int  # of the GPU

    @classmethod
    def of(cls, z: Tensor) -> "Tiles":
        """By channel. Rows are samples, or positions where the channel is the fastest axis."""
        n, c, s = _sizes(z)
        pairs = is_interleaved(z)
        # [N, 2, C] is both: its only fast axis is the channel
        if not pairs and (is_channels_last(z) or s == 1):
            return cls._by_column(z, n * s, c, 2 * c, c)
        row, channel, part = (2 * c * s, 2 * s, 1) if pairs else (2 * c * s, s, c * s)
        return cls._by_block(z, n, s, c, row, channel, part, pairs)

    @classmethod
    def of_real(cls, x: Tensor) -> "Tiles":
        """By channel, of a real feature ``[N, C, *]``."""
        n, c, s = x.shape[0], x.shape[1], math.prod(x.shape[2:])
        if s == 1 or not x.is_contiguous():
            return cls._by_column(x, n * s, c, c, 0)
        return cls._by_block(x, n, s, c, c * s, s, 0, False)

    @classmethod
    def of_samples(cls, z: Tensor) -> "Tiles":
        """By sample. Its channels and positions are one row; channels-last, its positions are rows."""
        n, c, s = _sizes(z)
        if is_channels_last(z):
            return cls._by_block(z, s, c, n, 2 * c, 2 * c * s, c, False)
        pairs = is_interleaved(z)
        return cls._by_block(z, 1, c * s, n, 0, 2 * c * s, 1 if pairs else c * s, pairs)

    @classmethod
    def of_all(cls, z: Tensor) -> "Tiles":
        """One block of everything."""
        n, c, s = _sizes(z)
        if is_channels_last(z):
            return cls._by_block(z, n * s, c, 1, 2 * c, 0, c, False)
        if is_interleaved(z):
            return cls._by_block(z, 1, n * c * s, 1, 0, 0, 1, True)
        return cls._by_block(z, n, c * s, 1, 2 * c * s, 0, c * s, False)

    @classmethod
    def _by_column(cls, z, rows, channels, row, part):
        COLUMNS = min(triton.next_power_of_2(max(channels, 1)), CHANNELS)
        # twice a tile: as many threads then leave half the partial sums
        ROWS = min(triton.next_power_of_2(max(rows, 1)), 2 * TILE // COLUMNS)
        tiles, blocks = triton.cdiv(rows, ROWS), triton.cdiv(channels, COLUMNS)
        forms = ROWS, COLUMNS, True, False
        return cls(rows, channels, channels, row, 1, part, tiles, blocks, *forms, _multiprocessors(z))

    @classmethod
    def _by_block(cls, z, rows, columns, blocks, row, block, part, pairs):
        COLUMNS = min(triton.next_power_of_2(max(columns, 1)), TILE)
        ROWS = min(triton.next_power_of_2(max(rows, 1)), TILE // COLUMNS)
        tiles = triton.cdiv(columns, COLUMNS) * triton.cdiv(rows, ROWS)
        forms = ROWS, COLUMNS, False, pairs
        return cls(rows, columns, blocks, row, block, part, tiles, blocks, *forms, _multiprocessors(z))

    @property
    def programs(self) -> int:
        """Programs a channel (or block) of a reduction: enough for the GPU, few enough to be added up again.

        Each program of the next launch adds up its channels'. Channels-last that is a row of up to ``CHANNELS`` from
        each: from two a multiprocessor, on the largest GPU, as many bytes as a float32 tile that is read and written.
        """
        few, enough = (2, 4) if self.LAST else (4, 16)
        return min(self.tiles, few * self.multiprocessors, triton.cdiv(enough * self.multiprocessors, self.blocks))

    @property
    def writers(self) -> int:
        """Programs a channel (or block) of the launch after it. Where each reads such rows, as many as the GPU holds at
        once, which then take further tiles; else one a tile, which reads one number from each."""
        return min(self.tiles, triton.cdiv(4 * self.multiprocessors, self.blocks)) if self.LAST else self.tiles

    @property
    def options(self) -> dict:
        """A thread has 8 elements; a small tile has fewer warps."""
        return OPTIONS | {"num_warps": max(1, self.ROWS * self.COLUMNS // 256)}

    @property
    def count(self) -> int:
        """Elements a channel."""
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


def _multiprocessors(z: Tensor) -> int:
    return _multiprocessors_of(z.device) if z.is_cuda else MULTIPROCESSORS


@functools.cache
def _multiprocessors_of(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _sizes(z: Tensor) -> tuple[int, int, int]:
    """Samples, channels, positions."""
    return z.shape[0], z.shape[2], math.prod(z.shape[3:])


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
    return at, (r < rows)[:, None] & (k < tl.cast(columns, tl.int64) * STEP)[None, :]


@triton.jit
def load_real(base, at, inside):
    return tl.load(base + at, mask=inside, other=0.0).to(tl.float32)


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
def store_partial(partial, k, c, channels, programs, value, LAST: tl.constexpr):
    """What program k leaves of the channels c: ``[programs, C]`` where a program has neighbouring channels, else ``[C,
    programs]``, so that what is read together lies together."""
    if LAST:
        tl.store(partial + k.to(tl.int64) * channels + c, value, mask=c < channels)
    else:
        tl.store(partial + tl.cast(c, tl.int64) * programs + k, value)


@triton.jit
def partial_place(k, c, channels, programs, LAST: tl.constexpr):
    """Offsets of what the programs k left of the channels c, and which there are."""
    if LAST:
        return k[:, None] * channels + c[None, :], (k < programs)[:, None] & (c < channels)[None, :]
    else:
        return tl.cast(c, tl.int64) * programs + k, k < programs


@triton.jit
def store_sums(partial, k, c, channels, programs, sums, LAST: tl.constexpr):
    """A program's sums over its tiles ``[ROWS, COLUMNS]`` become its share k of ``partial``."""
    store_partial(partial, k, c, channels, programs, total_of(sums, LAST), LAST)


@triton.jit
def add_up(partial, c, channels, programs, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr):
    """The sums of the channels c over all programs, in the same order for every program that asks."""
    STEP: tl.constexpr = ROWS if LAST else 32
    total = tl.zeros((STEP, COLUMNS) if LAST else (STEP,), tl.float32)
    for first in range(0, programs, STEP):
        at, here = partial_place(first + tl.arange(0, STEP), c, channels, programs, LAST)
        total += tl.load(partial + at, mask=here, other=0.0)
    return tl.sum(total, 0)


@triton.jit
def total_of(sums, LAST: tl.constexpr):
    """A tile's sums, of its block or of each column."""
    if LAST:
        return tl.sum(sums, 0)
    else:
        return tl.sum(tl.sum(sums, 1), 0)


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


@triton.jit
def totals_kernel(partial, out, channels, programs, ROWS: tl.constexpr, COLUMNS: tl.constexpr, LAST: tl.constexpr):
    """The sums of every channel over all programs."""
    c = tile_channel(tl.program_id(0), COLUMNS, LAST)
    store_channel(out, c, channels, add_up(partial, c, channels, programs, ROWS, COLUMNS, LAST), LAST)


def totals(partial: Tensor, channels: int, dtype: torch.dtype, last: bool) -> Tensor:
    """Partial sums as `store_partial` left them, added up in the same order every time; ``[C]``."""
    programs = partial.numel() // channels
    if programs == 1 and dtype == partial.dtype:
        return partial.view(channels)
    out = partial.new_empty(channels, dtype=dtype)
    grid = (triton.cdiv(channels, TOTALS) if last else channels,)
    totals_kernel[grid](partial, out, channels, programs, ROWS=TILE // TOTALS, COLUMNS=TOTALS, LAST=last, **OPTIONS)
    return out


def check_vectors(**vectors: Tensor | None) -> None:
    """Kernels step through a ``[C]`` vector by 1."""
    for name, vector in vectors.items():
        if vector is not None and not vector.is_contiguous():
            raise ValueError(f"`{name}` must be contiguous, got strides {vector.stride()}")


# --- arithmetic -------------------------------------------------------------------------------------------------------


@triton.jit
def inverse_root(x):
    """1 / sqrt(x), 0 at 0."""
    return tl.where(x == 0.0, 0.0, 1.0 / tl.sqrt_rn(tl.where(x == 0.0, 1.0, x)))


@triton.jit
def relu_factor(re, im, c):
    """|v| / max(|v|, c): exactly 1 at |v| >= c, for NaN, and where the square overflows."""
    power = re * re + im * im
    inside = power < c * c
    return tl.where(inside, tl.sqrt(tl.where(inside, power, 0.0)) / c, 1.0)
