"""y = relu((x - mean) / sqrt(var + eps) * weight + bias + residual): torch's own batch norm, in float32 or wider"""

import torch
from torch import Tensor
from torch.nn import functional as real


def real_batch_norm_relu(
    x, running_mean, running_var, weight, bias, residual, batches, training, momentum, eps
) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    weight, bias = (None if v is None else v.to(wide) for v in (weight, bias))
    batch = training or running_mean is None
    seen = running_mean, running_var
    if training and batches is not None and running_mean is not None:
        # torch takes momentum as a number only, and a count is not read back: this batch's statistics alone, then moved
        seen, momentum = (torch.zeros_like(running_mean), torch.ones_like(running_var)), 1.0
    y = real.batch_norm(x.to(wide), *seen, weight, bias, batch, momentum, eps)
    if seen[0] is not running_mean:
        with torch.no_grad():
            for old, new in zip((running_mean, running_var), seen, strict=True):
                old.copy_(old + (new - old) * batches.to(old.dtype).reciprocal())
    return (y if residual is None else y + residual).relu().to(x.dtype)
