"""How large the tiles of the convolution kernels are: a table, no autotuning (it must not run in a graph's capture)."""

from dataclasses import dataclass

import torch
import triton

TENSOR_CORES = 80  # Triton has none to offer before: on sm_75 a product is a loop over scalars
ROWS = 128  # most positions of a tile
PROGRAMS = 264  # two a multiprocessor of the largest card: with fewer, smaller tiles


@dataclass(frozen=True)
class Tile:
    """M by N of the result in steps of K, and what runs it."""

    M: int
    N: int
    K: int
    warps: int
    stages: int

    def arguments(self) -> dict:
        return {"M": self.M, "N": self.N, "K": self.K, "num_warps": self.warps, "num_stages": self.stages}


def _within(size: int, most: int) -> int:
    """The power of two that holds ``size``, between 16 (the least a product takes) and ``most``."""
    return max(16, min(most, triton.next_power_of_2(size)))


def _depth(source_channels: int, most: int) -> int:
    """The longest step of the inner axis that lies within one tap, else ``most``."""
    whole = source_channels & -source_channels
    return min(whole, most) if whole >= 16 else most


def tile(
    arch: int, dtype: torch.dtype, precision: str, positions: int, channels: int, source_channels: int, taps: int
) -> Tile:
    """Of the forward kernel and of the data gradient. ``channels``: of what is written."""
    fast = arch >= TENSOR_CORES and (dtype != torch.float32 or precision == "tf32")
    N = _within(channels, 64 if fast else 32)
    M = ROWS if fast else 64
    while M > 32 and triton.cdiv(positions, M) * triton.cdiv(channels, N) < PROGRAMS:
        M //= 2
    K = min(_depth(source_channels, 32 if fast else 16), _within(source_channels * taps, 32))
    return Tile(M, N, K, 8 if M * N >= 8192 else 4, 3 if fast else 1)


def weight_tile(
    arch: int, dtype: torch.dtype, precision: str, positions: int, channels: int, inner: int
) -> tuple[Tile, int]:
    """Of the weight gradient ``[channels, inner]``, and how many positions a program sums (a multiple of K)."""
    fast = arch >= TENSOR_CORES and (dtype != torch.float32 or precision == "tf32")
    M = _within(channels, 64 if fast else 32)
    N = _within(inner, 64 if fast else 32)
    K = 32 if fast else 16
    programs = triton.cdiv(channels, M) * triton.cdiv(inner, N)
    # at least 8 steps a program, or its share costs more to add up than to compute
    splits = max(1, min(2 * PROGRAMS // programs, positions // (8 * K)))
    chunk = triton.cdiv(triton.cdiv(positions, splits), K) * K
    return Tile(M, N, K, 4, 3 if fast else 1), max(chunk, K)
