"""Every kernel once on small odd shapes, both ways: what compute-sanitizer is given."""

import sys

import torch

import cvkernels.functional as F
from cvkernels import backend, to_channels_last, use_backend
from tests.close import assert_close

LAYOUTS = {
    "contiguous": lambda z: z,
    "channels-last": to_channels_last,
    "interleaved": lambda z: z.movedim(1, -1).contiguous().movedim(-1, 1),
}


def batch_norm_relu(z):
    ones = torch.ones(z.shape[2], device=z.device, dtype=torch.promote_types(z.dtype, torch.float32))
    trained = F.batch_norm_relu(z, ones, residual=z, training=True) + F.batch_norm_relu(z, None, ones.to(z.dtype))
    return trained + F.batch_norm_relu(z, ones)


def magnitude_max_pool2d(z):
    plain, odd = F.magnitude_max_pool2d(z, 2), F.magnitude_max_pool2d(z, (3, 2), 2, 1, (2, 1), ceil_mode=True)
    return torch.cat((plain.flatten(3), odd.flatten(3)), 3)


def angles(z):
    return torch.linspace(0.1, 6.0, z.shape[0], device=z.device)


CALLS = {
    "batch_norm_relu": batch_norm_relu,
    "magnitude_max_pool2d": magnitude_max_pool2d,
    "magnitude_relu": lambda z: F.magnitude_relu(z) + F.magnitude_relu(z, "channel_mean"),
    "magnitude_batch_norm": lambda z: F.magnitude_batch_norm(z, None, None, True),
    "rotate": lambda z: F.rotate(z[:, 0], z[:, 1], angles(z)),
    "rotate_phase": lambda z: F.rotate_phase(z, angles(z)),
    "unrotate": lambda z: F.unrotate(z, angles(z)),
}


def kernels() -> list[tuple[str, str, torch.dtype]]:
    """(operation, backend, dtype) of every GPU kernel that there is."""
    return [
        (name, where, dtype)
        for name, op in backend.OPS.items()
        for where in ("cuda", "triton")
        if not backend.absent(where)
        for dtype in getattr(op, where)
    ]


def check(name: str, where: str, dtype: torch.dtype, layout: str) -> None:
    torch.manual_seed(0)
    z = LAYOUTS[layout](torch.randn(3, 2, 5, 7, 9, device="cuda").to(dtype)).requires_grad_()
    with use_backend(where):
        y = CALLS[name](z)
        y.backward(torch.ones_like(y))
    torch.cuda.synchronize()
    wide = z.detach().double().contiguous().requires_grad_()
    with use_backend("reference"):
        want = CALLS[name](wide)
        want.backward(torch.ones_like(want))
    assert_close(y, want, kind="network", name=f"{name} {where} {layout}")
    assert_close(z.grad, wide.grad, kind="network", name=f"{name} {where} {layout} grad")


def main() -> int:
    if not torch.cuda.is_available():
        print("small shapes: no GPU here")
        return 2
    for name, where, dtype in kernels():
        if dtype == torch.bfloat16 and torch.cuda.get_device_capability() < (8, 0):
            continue
        for layout in LAYOUTS:
            check(name, where, dtype, layout)
            print(f"{name} {where} {dtype} {layout}", flush=True)
    print("small shapes: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
