"""Every complex layer's block weight in one launch."""

import torch
from torch import nn

from .. import functional as F
from .weight import ComplexWeight, Pack


def pack_weights(model: nn.Module, dtype: torch.dtype | None = None) -> nn.Module:
    """Make the block weights [[A, -B], [B, A]] of all complex layers of a network, in one launch a dtype and device.

    Call it before the forward of each training step, inside autocast where there is one, or once before inference under
    ``torch.no_grad``. A layer uses its block weight where `cvkernels.use_conv_form` has the form ``block`` (half
    precision, and GPUs), for as long as its parameters are what they were: a step of any optimiser, ``.to``,
    ``load_state_dict`` and an edit in place end that, and the layer then makes its own again. Only an edit through
    ``.data`` goes unseen, as it does by autograd. Gradients flow to ``weight_re`` and ``weight_im``.

    Layers with real weights or groups have no block weight, and compiled networks make theirs in the graph.

    Args:
        model: any module; it is returned.
        dtype: of the block weights: float32, float64, bfloat16 or float16. None: autocast's where it is on and the
            parameters are not float64, else the parameters'.
    """
    together: dict[tuple, list[ComplexWeight]] = {}
    for layer in model.modules():
        if isinstance(layer, ComplexWeight) and layer.weights == "complex" and getattr(layer, "groups", 1) == 1:
            together.setdefault((layer.weight_re.dtype, layer.weight_re.device), []).append(layer)
    for (held, device), layers in together.items():
        pairs = [(layer.weight_re, layer.weight_im) for layer in layers]
        blocks = F.pack_weights(pairs, dtype or _autocast(held, device), channels_last=device.type == "cpu")
        for layer, pair, block in zip(layers, pairs, blocks, strict=True):
            layer._pack = Pack(block, *pair)
    return model


def _autocast(held: torch.dtype, device: torch.device) -> torch.dtype:
    if held == torch.float64 or device.type == "meta" or not torch.is_autocast_enabled(device.type):
        return held
    return torch.get_autocast_dtype(device.type)
