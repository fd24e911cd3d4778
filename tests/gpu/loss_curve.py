"""Does the fused network learn as the reference does? 200 steps of a complex ResNet-20 from one seed, each way.

Losses part as rounding differs, so a curve is held to what rounding alone does: the reference is trained once more from
images moved by one unit in the last place of the precision, and no 20-step mean of ours may be further from the
reference's than three times the largest distance between those two, or 2 % of the loss at the start where that is more.
float32, TF32 and bfloat16 autocast (where the card has them), float16 autocast with GradScaler.

python -m tests.gpu.loss_curve [--quick] [--device cuda|cpu]
"""

import argparse
import contextlib
import sys

import torch
from torch.nn.functional import cross_entropy

from cvkernels import use_backend
from models.resnet import resnet

WINDOW, TIMES, SHARE = 20, 3, 0.02
CLASSES = 10
# (dtype, one unit in the last place of a number near 1); TF32 is float32 whose products have 10 bits of fraction
PRECISIONS = {
    "float32": (torch.float32, 2**-23),
    "tf32": (torch.float32, 2**-10),
    "bfloat16": (torch.bfloat16, 2**-7),
    "float16": (torch.float16, 2**-10),
}


def images(device, count, moved: float):
    """Made-up images that can be learned: noise around one pattern a class."""
    draw = torch.Generator().manual_seed(3)
    patterns = torch.randn(CLASSES, 3, 32, 32, generator=draw)
    labels = torch.randint(CLASSES, (count,), generator=draw)
    x = 0.5 * patterns[labels] + torch.randn(count, 3, 32, 32, generator=draw)
    return (x * (1 + moved)).to(device), labels.to(device)


def curve(device, dtype, steps: int, batch: int, where: str | None, moved: float = 0.0) -> list[float]:
    """The loss of each step, with the backend ``where`` forced, or whatever is chosen."""
    torch.manual_seed(0)
    model = resnet(20, "alpha", "complex").to(device).train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16 and device == "cuda")
    x, labels = images(device, 8 * batch, moved)
    angles = torch.rand(steps, batch, generator=torch.Generator().manual_seed(5)) * 6.283
    losses = []
    with use_backend(where) if where else contextlib.nullcontext():
        for step in range(steps):
            some = slice(step % 8 * batch, (step % 8 + 1) * batch)
            b = torch.roll(torch.arange(batch, device=device), 1)
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                loss = cross_entropy(model(x[some], angles[step].to(device), b).float(), labels[some])
            optimiser.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimiser)
            scaler.update()
            losses.append(loss.detach())
    return torch.stack(losses).tolist()


def precisions(device: str) -> list[str]:
    """Those that the device has: a CPU two, Turing neither TF32 nor bfloat16."""
    if device == "cpu":
        return ["float32", "bfloat16"]
    modern = torch.cuda.get_device_capability() >= (8, 0)
    return [name for name in PRECISIONS if modern or name not in ("tf32", "bfloat16")]


def windows(losses: list[float], width: int) -> list[float]:
    return [sum(losses[i : i + width]) / width for i in range(0, len(losses) - width + 1, width)]


def compare(reference, nudged, ours, width: int = WINDOW) -> tuple[float, float]:
    """(how far ours is from the reference at most, how far it may be)."""
    want, near, got = (windows(losses, width) for losses in (reference, nudged, ours))
    allowed = max(TIMES * max(abs(w - n) for w, n in zip(want, near, strict=True)), SHARE * want[0])
    apart = [abs(w - g) for w, g in zip(want, got, strict=True)]
    # max() passes a NaN over where it does not come first
    return (float("nan") if any(d != d for d in apart) else max(apart)), allowed


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.loss_curve", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 steps of 2 images: does it run")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("loss curve: no GPU here")
        return 2
    steps, batch, width = (4, 2, 2) if options.quick else (200, 64, WINDOW)
    bad = 0
    for name in precisions(options.device):
        dtype, eps = PRECISIONS[name]
        # torch lets its convolutions use TF32 where nobody says otherwise
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = name == "tf32"
        reference, nudged, ours = (
            curve(options.device, dtype, steps, batch, where, moved)
            for where, moved in (("reference", 0.0), ("reference", eps), (None, 0.0))
        )
        apart, allowed = compare(reference, nudged, ours, width)
        bad += not apart <= allowed
        print(f"{name:9} apart {apart:.2e} of {allowed:.2e} allowed")
        for which, losses in (("reference", reference), ("nudged", nudged), ("ours", ours)):
            print(f"  {which:9}", " ".join(f"{x:.4f}" for x in windows(losses, width)), flush=True)
    print(f"loss curve: {'failed' if bad else 'passed'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
