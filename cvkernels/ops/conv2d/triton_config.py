"""How large the tiles of the convolution kernels are: a table, no autotuning (it must not run in a graph's capture)."""

from dataclasses import dataclass

import torch
import triton

TENSOR_CORES = 80  # Triton has none to offer before: on sm_75 a product is a loop over scalars
ROWS, COLUMNS, STEP = 128, 64, 32  # the largest tile of a product on tensor cores, and its step
PROGRAMS = 264  # two a multiprocessor of the largest card: with fewer, smaller tiles
STEPS = 8  # fewest steps of a share of the weight's gradient, or it costs more to add up than to compute


@dataclass(frozen=True)
class Tile:
    """M by N of the result in steps of K, and what runs it."""

    M: int
    N: int
    K: int
    warps: int
    stages: int
    registers: int | None = None  # most a thread may have; left to itself ptxas takes 128 or 96, and spills a few

    def arguments(self) -> dict:
        sizes = {"M": self.M, "N": self.N, "K": self.K, "num_warps": self.warps, "num_stages": self.stages}
        return sizes if self.registers is None else sizes | {"maxnreg": self.registers}


def _within(size: int, most: int) -> int:
    """The power of two that holds ``size``, between 16 (the least a product takes) and ``most``, which is one too."""
    return max(16, min(most, triton.next_power_of_2(size)))


def _depth(source_channels: int, most: int) -> int:
    """The longest step of the inner axis that lies within one tap, else ``most``."""
    whole = source_channels & -source_channels
    return min(whole, most) if whole >= 16 else most


def _fast(arch: int, dtype: torch.dtype, precision: str) -> bool:
    return arch >= TENSOR_CORES and (dtype != torch.float32 or precision == "tf32")


def tile(
    arch: int, dtype: torch.dtype, precision: str, wide: bool, positions: int, channels: int, source_channels: int,
    taps: int,
) -> Tile:  # fmt: skip
    """Of the forward kernel and of the data gradient. ``channels``: of what is written; ``wide``: the channels read
    are neighbours in memory, so a step of them takes few loads.
    """
    fast = _fast(arch, dtype, precision)
    N = _within(channels, COLUMNS if fast else COLUMNS // 2)
    M = _within(positions, ROWS if fast else ROWS // 2)
    while M > 32 and triton.cdiv(positions, M) * triton.cdiv(channels, N) < PROGRAMS:
        M //= 2
    most = STEP if fast and wide else STEP // 2
    K = min(_depth(source_channels, most), _within(source_channels * taps, most))
    return Tile(M, N, K, *_running(M, N, fast, wide and dtype.itemsize == 2))


def weight_tile(
    arch: int, dtype: torch.dtype, precision: str, wide: bool, positions: int, channels: int, inner: int
) -> tuple[Tile, int]:
    """Of the weight gradient ``[channels, inner]``, and how many positions a program sums (a multiple of K)."""
    fast = _fast(arch, dtype, precision)
    most = COLUMNS if fast else COLUMNS // 2
    M, N, K = _within(channels, most), _within(inner, most), _within(positions, STEP if fast and wide else STEP // 2)
    splits = max(1, min(2 * PROGRAMS // (triton.cdiv(channels, M) * triton.cdiv(inner, N)), positions // (STEPS * K)))
    return Tile(M, N, K, *_running(M, N, fast, wide and dtype.itemsize == 2)), triton.cdiv(
        triton.cdiv(positions, splits), K
    ) * K


def _running(M: int, N: int, fast: bool, small: bool) -> tuple[int, int, int | None]:
    """Warps, stages, registers. Without tensor cores few warps, so that each thread loads 16 bytes, and nothing to
    overlap. With them three blocks of four warps a multiprocessor in half precision (``small``); four-byte elements and
    narrow loads need more.
    """
    if not fast:
        return max(2, min(4, M * N // 512)), 1, None
    warps = 8 if M * N >= 8192 else 4
    return warps, 3, 168 if small and warps == 4 else 255
