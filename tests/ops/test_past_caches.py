"""On the CPU, results that are written past the caches: the same to the bit, beside ones that are not."""

import pytest

from cvkernels.backend import compiled

from .harness import in_process

# Sizes: runs that end within a line, pieces within rows of channels and longer than the buffer, planes of 2x2 windows
# that fill several pieces. Places: storages that begin anywhere.
EACH = """
import hashlib, torch, cvkernels.functional as F

def feature(shape, dtype, layout, offset):
    n, c, h, w = shape
    orders = {
        "contiguous": ((n, 2, c, h, w), (0, 1, 2, 3, 4)),
        "channels-last": ((n, h, w, 2, c), (0, 3, 4, 1, 2)),
        "interleaved": ((n, c, h, w, 2), (0, 4, 1, 2, 3)),
    }
    stored, back = orders[layout]
    numbers = torch.empty(offset + n * 2 * c * h * w, dtype=dtype)[offset:].normal_().view(stored)
    return numbers.permute(back).requires_grad_()

calls = {
    "magnitude_relu": lambda z, t: F.magnitude_relu(z),
    "rotate": lambda z, t: F.rotate(z[:, 0], z[:, 1], t),
    "rotate_phase": lambda z, t: F.rotate_phase(z, t),
    "unrotate": lambda z, t: F.unrotate(z, t),
    "unrotate 3": lambda z, t: F.unrotate(z, torch.stack([t, 2 * t, 3 * t], 1)),
    "unrotate 9": lambda z, t: F.unrotate(z, torch.stack([k * t for k in range(9)], 1)),
    "dropout": lambda z, t: F.dropout(z, 0.3),
    "dropout2d": lambda z, t: F.dropout2d(z, 0.3),
    "avg_pool2d": lambda z, t: F.avg_pool2d(z, 2),
    "magnitude_max_pool2d": lambda z, t: F.magnitude_max_pool2d(z, 2),
}
for name, call in calls.items():
    for shape in ((2, 3, 5, 7), (2, 2, 22, 24), (1, 5, 64, 32), (1, 600, 2, 4), (1, 2500, 2, 2)):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            for layout in ("contiguous", "channels-last", "interleaved"):
                for offset in (0, 1, 5):
                    torch.manual_seed(0)
                    z = feature(shape, dtype, layout, offset)
                    theta = torch.rand(shape[0], dtype=torch.float32, requires_grad=True)
                    y = call(z, theta)
                    leaves = [z, theta] if "rotate" in name else [z]
                    found = (y, *torch.autograd.grad(y, leaves, torch.randn_like(y)))
                    told = hashlib.sha256(b"".join(x.detach().double().contiguous().numpy().tobytes() for x in found))
                    print(name, shape, dtype, layout, offset, told.hexdigest()[:16])
"""


@pytest.mark.skipif(not compiled, reason="nothing compiled")
def test_past_the_caches_it_is_the_same_to_the_bit():
    past, beside = (in_process(EACH, CVKERNELS_CACHE=cache).splitlines() for cache in ("1", "0"))
    assert len(past) == 10 * 5 * 3 * 3 * 3
    assert past == beside
