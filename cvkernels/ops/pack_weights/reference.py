"""[[A, -B], [B, A]] of many layers in one flat buffer, each layer's part starting at a multiple of 16 elements"""

import torch
from torch import Tensor
from torch.nn import functional as real

from ..common.weight import block, pack_aligned


def pack_weights(re: list[Tensor], im: list[Tensor], dtype: torch.dtype, channels_last: bool) -> Tensor:
    """Contiguous ``[2O, 2I, *]`` of each layer, or ``[2O, *, 2I]``, one behind the other; 0 between two."""
    parts = []
    for a, b in zip(re, im, strict=True):
        w = block(a, b).to(dtype)
        w = (w.movedim(1, -1) if channels_last else w).flatten()
        parts.append(real.pad(w, (0, pack_aligned(w.numel()) - w.numel())))
    return torch.cat(parts)
