"""What a network costs: parameters, and real multiply-adds of its convolutions and linear layers."""

import torch
from torch import nn

import cvkernels.nn as cnn

STAGES = ("encoder", "processor", "decoder")
COUNTED = (nn.Conv2d, nn.Linear, cnn.ComplexConv2d, cnn.ComplexLinear)


def parameters(model):
    """Learnable numbers of each stage, a dict."""
    return {stage: sum(p.numel() for p in getattr(model, stage).parameters()) for stage in STAGES}


def multiply_adds(model, image=(3, 32, 32)):
    """Real multiply-adds of convolution and linear layers per image and stage, a dict; nothing is computed.

    Complex weights count four for each complex one, real weights on a complex feature two. The encoder's second pass,
    for a b that is an image and is not decoded, is the caller's to add.

    Args:
        model: a `SplitModel` made on the meta device (`with torch.device("meta")`), where it takes no memory.
        image: `[C, H, W]`.
    """
    counts = dict.fromkeys(STAGES, 0)

    def run(stage, features):
        def count(layer, inputs, output):
            kernels = [p for p in layer.parameters(recurse=False) if p.ndim > 1]  # two where the weights are complex
            # each number a layer gives, of either part, sees as many multiply-adds as its kernels' rows are long
            counts[stage] += output[0].numel() * sum(p[0].numel() for p in kernels)

        part = getattr(model, stage)
        hooks = [m.register_forward_hook(count) for m in part.modules() if isinstance(m, COUNTED)]
        try:
            return part(features)
        finally:
            for hook in hooks:
                hook.remove()

    with torch.no_grad():
        a = run("encoder", torch.empty(2, *image, device="meta"))
        h = run("processor", torch.stack((a, a), 1) if model.keyed else a)
        run("decoder", h[:, 0] if model.keyed else h)
    return counts
