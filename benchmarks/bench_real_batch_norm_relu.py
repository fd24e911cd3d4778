"""real_batch_norm_relu in training, without and with a residual: what stands in an encoder and a decoder.

Naive here is torch's own batch norm, an addition and its ReLU: the plain real network itself.
"""

from torch.nn import functional as real

from cvkernels import functional as F

from .candidates import Candidate, Case, streaming
from .inputs import POINTWISE, QUICK, Inputs, kernel, named

NAMES = ("real_batch_norm_relu", "real_batch_norm_relu residual")
SHAPES = POINTWISE
QUICK_SHAPES = QUICK


def cases(shape, device, dtype):
    yield _case(shape, device, dtype, residual=False)
    yield _case(shape, device, dtype, residual=True)


def _case(shape, device, dtype, residual: bool):
    inputs = Inputs(device, dtype)
    x, r = (inputs.real(*shape).requires_grad_() for _ in range(2))
    scale, offset = inputs.ones(shape[1], requires_grad=True), (inputs.ones(shape[1]) / 4).requires_grad_()
    mine, theirs = ([inputs.ones(shape[1]) for _ in range(2)] for _ in range(2))
    leaves = (x, scale, offset, *([r] if residual else []))

    def torchs():
        y = real.batch_norm(x, *theirs, scale, offset, training=True)
        return real.relu(y + r if residual else y)

    return Case(
        NAMES[residual],
        named(shape),
        dtype,
        device,
        ours=Candidate(
            lambda: F.real_batch_norm_relu(x, *mine, scale, offset, r if residual else None, training=True),
            leaves,
            tuple(mine),
            what=kernel("real_batch_norm_relu", x),
        ),
        naive=Candidate(torchs, leaves, tuple(theirs), what="batch_norm, relu"),
        cost=streaming(x, *((4, 8) if residual else (3, 5))),
        jumps=True,
    )
