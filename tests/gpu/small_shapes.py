"""Every kernel once on small odd shapes, both ways: the first verdict on a card, and what compute-sanitizer is given.

python -m tests.gpu.small_shapes [--processes N] [--only OPERATION BACKEND]
"""

import argparse
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import torch

import cvkernels.functional as F
from cvkernels import backend, nn, to_channels_last, use_backend
from tests.close import assert_close

LAYOUTS = {
    "contiguous": lambda z: z,
    "channels-last": to_channels_last,
    "complex": lambda z: torch.complex(z[:, 0], z[:, 1]),  # interleaved
}


def angles(z):
    return torch.linspace(0.1, 6.0, z.shape[0], device=z.device)


def ones(z):
    real = z.dtype.to_real()
    return torch.ones(CHANNELS, device=z.device, dtype=torch.promote_types(real, torch.float32))


def weight(z, kernel):
    """Numbers that every dtype holds."""
    n = 4 * CHANNELS * kernel[0] * kernel[1]
    return ((torch.arange(n, device=z.device) * 5 % 13 - 6) / 32).view(4, CHANNELS, *kernel).to(z.dtype.to_real())


def conv_norm(z):
    """A training step's output and inference's: Triton's convolution has an epilogue for each."""
    layer = nn.ComplexConvBatchNormReLU2d(CHANNELS, 4, 3, padding=1, device=z.device, dtype=z.dtype.to_real())
    with torch.no_grad():
        layer.conv.weight_re.copy_(weight(z, (3, 3)))
        layer.conv.weight_im.copy_(weight(z, (3, 3)).flip(0))
    y = layer(z)
    layer.eval()
    with torch.no_grad():
        return [y, layer(z)]


def parts(z):
    """Two real features, channels-last where a planar ``z`` is: its real part is then every other run of channels."""
    re, im = (z.real, z.imag) if z.is_complex() else z.unbind(1)
    last = not z.is_complex() and z.stride(2) == 1
    form = torch.channels_last if last else torch.contiguous_format
    return re.contiguous(memory_format=form), im.contiguous(memory_format=form)


CHANNELS = 5
# each gives a list of outputs, for a planar or a complex z
CALLS = {
    "batch_norm_relu": lambda z: [
        F.batch_norm_relu(z, ones(z), residual=z, training=True),
        F.batch_norm_relu(z, None, ones(z).to(z.dtype.to_real())),
        F.batch_norm_relu(z, ones(z)),
    ],
    "conv2d": lambda z: [
        F.conv2d(z, (weight(z, (3, 3)), weight(z, (3, 3)).flip(0)), padding=1),
        F.conv2d(z, weight(z, (2, 3)), (2, 1), (1, 2), (1, 2)),
        *conv_norm(z),
    ],
    "magnitude_max_pool2d": lambda z: [
        F.magnitude_max_pool2d(z, 2),
        F.magnitude_max_pool2d(z, (3, 2), 2, 1, (2, 1), ceil_mode=True),
    ],
    "magnitude_relu": lambda z: [F.magnitude_relu(z, c) for c in (1.0, "channel_mean", "batch_channel_mean", "mean")],
    "magnitude_batch_norm": lambda z: [
        F.magnitude_batch_norm(z, ones(z), training=True),
        F.magnitude_batch_norm(z, ones(z), ones(z).to(z.dtype.to_real())),
    ],
    "magnitude_power": lambda z: [F.magnitude_power(z)],
    "pack_weights": lambda z: [
        block for last in (False, True) for block in F.pack_weights([parts(z)] * 2, channels_last=last)
    ],
    "real_batch_norm_relu": lambda z: [
        F.real_batch_norm_relu(parts(z)[0], ones(z), ones(z), ones(z), ones(z), parts(z)[1], training=True),
        F.real_batch_norm_relu(parts(z)[0], ones(z), ones(z)),
    ],
    "rotate": lambda z: [F.rotate(*parts(z), angles(z))],
    "rotate_phase": lambda z: [F.rotate_phase(z, angles(z))],
    "unrotate": lambda z: [F.unrotate(z, angles(z)), F.unrotate(z, torch.stack((angles(z), -angles(z)), 1))],
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


def outputs(name: str, z: torch.Tensor) -> list[torch.Tensor]:
    """Planar outputs, and the gradient of their sum."""
    found = [torch.view_as_real(y).movedim(-1, 1) if y.is_complex() else y for y in CALLS[name](z)]
    sum(y.double().sum() for y in found).backward()
    return found


def check(name: str, where: str, dtype: torch.dtype, layout: str, device: str = "cuda") -> None:
    torch.manual_seed(0)
    drawn = torch.randn(3, 2, CHANNELS, 7, 9, device=device).to(dtype)
    z, wide = drawn.clone().requires_grad_(), drawn.double().requires_grad_()
    with use_backend(where):
        got = outputs(name, LAYOUTS[layout](z))
    if device == "cuda":
        torch.cuda.synchronize()
    with use_backend("reference"):
        want = outputs(name, wide)
    for y, wanted in zip((*got, z.grad), (*want, wide.grad), strict=True):
        assert_close(y, wanted, kind="network", name=f"{name} {where} {layout}")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.small_shapes", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--processes", type=int, default=1, help="side by side: most of the time is Triton's compiler's"
    )
    parser.add_argument("--only", nargs=2, metavar=("OPERATION", "BACKEND"), help="these kernels alone")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("small shapes: no GPU here")
        return 2
    chosen = [row for row in kernels() if options.only is None or list(row[:2]) == options.only]
    wrong = apart(chosen, options.processes) if options.processes > 1 else checked(chosen)
    print(f"small shapes: {f'{wrong} wrong' if wrong else 'passed'}")
    return 1 if wrong else 0


def apart(chosen: list, processes: int) -> int:
    """A process for each operation and backend; how many of them went wrong."""

    def one(pair) -> int:
        command = [sys.executable, "-m", "tests.gpu.small_shapes", "--only", *pair]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        print(done.stdout, end="", flush=True)
        return int(done.returncode != 0)

    with ThreadPoolExecutor(processes) as pool:
        return sum(pool.map(one, dict.fromkeys((name, where) for name, where, _ in chosen)))


def checked(chosen: list, device: str = "cuda") -> int:
    """How many kernels and layouts are wrong: one that is leaves the others to be heard."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wrong = 0
    for name, where, dtype in chosen:
        if dtype == torch.bfloat16 and device == "cuda" and torch.cuda.get_device_capability() < (8, 0):
            continue
        for layout in LAYOUTS:
            if layout == "complex" and dtype not in backend.FLOATS:
                continue
            try:
                check(name, where, dtype, layout, device)
                print(f"{name} {where} {dtype} {layout}", flush=True)
            except Exception as error:
                wrong += 1
                said = " ".join(str(error).split())[:300]
                print(f"{name} {where} {dtype} {layout}: WRONG: {type(error).__name__}: {said}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
