"""Kernels that a training step launches, and bytes that they read and write, counted without running one.

The step runs on the meta device, where operators give shapes and compute nothing; a dispatch mode sees each. Counted is
forward and backward, to every parameter and to what came in, without the optimiser.

One kernel is
  - an ATen operator that gives a tensor, is no view and does more than reserve memory (at least: torch's batch norm
    launches more);
  - each gradient that a convolution's backward was asked for;
  - each launch that an operator of ours makes on a GPU, from `OURS`.
Bytes are those of the tensors an operator takes and gives, each once, an expanded one only where it has memory of its
own; operators of ours that launch twice read their features twice. Caches are not considered.

`python -m benchmarks.budget` prints the table; with `--write` it becomes the stored one, to which a test holds it.
"""

import argparse
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cvkernels import use_backend
from cvkernels.nn import pack_weights
from models.resnet import FEATURES, resnet

from . import networks, two_tensor

STORED = Path(__file__).with_name("budget.txt")
N = 128
FREE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh"}
FREE |= {"_unsafe_view", "unsafe_split_with_sizes"}  # views, which autograd is not to know for such
# Launches of our operators in training, and the inputs that both launches of a norm read: statistics, then the rest.
OURS = {
    "rotate_forward": (1, ()),
    "rotate_backward": (1, ()),
    "unrotate_forward": (1, ()),
    "unrotate_backward": (1, ()),
    "batch_norm_relu_forward": (2, ("z",)),
    "batch_norm_relu_backward": (2, ("grad", "out", "z", "residual")),
    "real_batch_norm_relu_forward": (2, ("x",)),
    "real_batch_norm_relu_backward": (2, ("grad", "out", "x")),
    "pack_weights_forward": (1, ()),
    "pack_weights_backward": (1, ()),
}


@dataclass
class Line:
    """What one kind of operator costs in a step."""

    kernels: int = 0
    read: int = 0
    written: int = 0

    def add(self, kernels, read, written):
        self.kernels, self.read, self.written = self.kernels + kernels, self.read + read, self.written + written


class Counter(TorchDispatchMode):
    """Operators called inside, by name, in `lines`."""

    def __init__(self):
        super().__init__()
        self.lines = defaultdict(Line)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if not (func.is_view or name in FREE) and _on_device(out):
            given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | (kwargs or {})
            self.lines[f"{func.namespace}::{name}"].add(*_cost(func, name, given, out))
        return out

    @property
    def total(self):
        total = Line()
        for line in self.lines.values():
            total.add(line.kernels, line.read, line.written)
        return total


def _cost(func, name, given, out):
    """Kernels, bytes read and bytes written of one call."""
    if func.namespace == "aten":
        kernels, twice = 1, ()
        if name == "convolution_backward":
            kernels, twice = sum(given["output_mask"]), ("grad_output",) if all(given["output_mask"][:2]) else ()
    else:
        kernels, twice = OURS[name]  # a KeyError: say there what the operator launches
        if kernels > 1 and not given["training"]:
            raise NotImplementedError(f"{name} is counted in training only")
    overwritten = {"self"} if name in ("copy_", "fill_", "zero_", "new_zeros") else set()  # not read
    read = sum(_bytes(v) * (2 if k in twice else 1) for k, v in given.items() if k not in overwritten)
    changed = [given[a.name] for a in func._schema.arguments if a.alias_info and a.alias_info.is_write]
    fresh = [] if func._schema.name.endswith("_") else out  # in place: what comes out is what was changed
    return kernels, read, _bytes(changed) + _bytes(fresh)


def _on_device(tree):
    return [t for t in tree_leaves(tree) if isinstance(t, torch.Tensor) and t.is_meta]


def _bytes(tree):
    tensors = _on_device(tree)
    own = [[n for n, step in zip(t.shape, t.stride(), strict=True) if step or not n] for t in tensors]
    return sum(math.prod(sizes) * t.itemsize for sizes, t in zip(own, tensors, strict=True))


def counted(step):
    """Lines of a step, a function whose tensors are on the meta device."""
    with Counter() as counter:
        step()
    return counter


def processor_steps(depth=56, variant="alpha"):
    """One training step of a processor with complex weights: ours, and on the two-tensor layers."""
    model = _meta(depth, variant)
    channels, side, _ = FEATURES["report"]
    z = torch.empty(N, 2, channels, side, side, device="meta", requires_grad=True)
    parts = [torch.empty_like(z[:, 0]).requires_grad_() for _ in range(2)]

    def ours():
        y = pack_weights(model.processor)(z)
        y.backward(torch.empty_like(y))

    def naive():
        y = networks.naive(model.processor)(*parts)
        torch.autograd.backward(y, [torch.empty_like(t) for t in y])

    return {"ours": _fresh(model, ours), "naive": _fresh(model, naive)}


def network_steps(depth=56, variant="alpha"):
    """One training step of the whole network under a key: ours, and with torch's own layers around the naive ones."""
    model = _meta(depth, variant)
    x, theta = torch.empty(N, 3, 32, 32, device="meta"), torch.empty(N, device="meta")
    labels = torch.empty(N, dtype=torch.int64, device="meta")

    def ours():
        cross_entropy(pack_weights(model)(x, theta), labels).backward()

    def naive():
        with use_backend("reference"):
            a = model.encode(x)
            z = two_tensor.rotate(a, a.roll(1, 0), theta)
            y = two_tensor.unrotate(*networks.naive(model.processor)(*z), theta)
            cross_entropy(model.decode(y), labels).backward()

    return {"ours": _fresh(model, ours), "naive": _fresh(model, naive)}


def _meta(depth, variant):
    with torch.device("meta"):
        return resnet(depth, variant)


def _fresh(model, step):
    def run():
        model.zero_grad(set_to_none=True)
        step()

    return run


def table():
    """The whole budget as text."""
    rows = [
        f"One training step (forward and backward) of ResNet-56-alpha, complex weights, float32, N = {N}.",
        "Written by `python -m benchmarks.budget --write`; what counts as one kernel is said in benchmarks/budget.py.",
    ]
    for name, steps in (("processor", processor_steps()), ("whole network", network_steps())):
        for whose, step in steps.items():
            counter = counted(step)
            rows += ["", f"{name}, {whose}", f"  {'operator':<42}{'kernels':>8}{'bytes read':>18}{'bytes written':>18}"]
            lines = sorted(counter.lines.items(), key=lambda item: (-item[1].kernels, item[0]))
            for operator, line in (*lines, ("total", counter.total)):
                rows.append(f"  {operator:<42}{line.kernels:>8,}{line.read:>18,}{line.written:>18,}")
    return "\n".join(rows) + "\n"


def main(arguments=None):
    """Print the budget or store it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budget", description=__doc__.partition("\n")[0])
    parser.add_argument("--write", action="store_true", help=f"store it in {STORED.name}")
    text = table()
    if parser.parse_args(arguments).write:
        STORED.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
