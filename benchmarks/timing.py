"""How a thing is timed, and what is compared first: a wrong kernel has no speed.

The candidates of a row take turns in one run, so that whatever else the machine does falls on all of them. A turn is a
few untimed calls, then one sample: the mean of the calls that fit into ten milliseconds. So each candidate finds the
caches as it leaves them itself, not as the other one does (measured: a fused forward and backward of 0.38 ms read as
1.0 ms right after the naive one had streamed through the caches). A row holds the median and the 20th and 80th
percentile of its samples, after a warm-up.
"""

import gc
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

PASSES = ("forward", "forward+backward")
SAMPLE_MS, UNTIMED = 10.0, 2
# The time of this process on one thread is what a machine shared with others still tells.
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}

# The largest error of an element, in units of the naive result's RMS. Two ways of summing the 16384 terms of a weight
# gradient differ by about 1e-6 in float32 and 1e-15 in float64; a wrong kernel differs by 1.
BOUND = {torch.float32: 1e-4, torch.float64: 1e-12}
# Where a gradient jumps (at modulus c), the last bit of a modulus decides which side an element is on, and a
# convolution spreads that one element over its window and over a weight's gradient. Such a gradient is held to BOUND
# in nine elements of ten and to this RMS error; its output, which does not jump, is held to BOUND everywhere.
JUMP_SHARE, JUMP_RMS = 0.1, 1e-2


@dataclass(frozen=True)
class Side:
    """One candidate. What is a planar tensor for the fused side is a pair (re, im) for the naive one.

    forward: computes the output; takes no arguments.   leaves: what it is differentiated by.
    state: what the forward writes to besides its output (a running power).
    """

    forward: Callable
    leaves: tuple = ()
    state: tuple = ()


@dataclass(frozen=True)
class Case:
    """Two candidates for one row. ``jumps``: see JUMP_SHARE. ``bars``: pass -> ratio to reach."""

    op: str
    shape: str
    fused: Side
    naive: Side
    backend: str
    dtype: torch.dtype
    device: torch.device
    jumps: bool = False
    bars: tuple[tuple[str, float], ...] = ()


def flat(values) -> list[Tensor]:
    """The tensors of a tensor, of a pair, or of a tuple of both."""
    return [values] if isinstance(values, Tensor) else [t for v in values for t in flat(v)]


def joined(value) -> Tensor:
    """One tensor to compare: a pair becomes planar."""
    return value if isinstance(value, Tensor) else torch.stack(tuple(value), 1)


def steps(case: Case, which: str) -> dict[str, Callable]:
    """The callables to time: ``forward`` records no graph, ``forward+backward`` takes the gradient of every leaf."""
    like = joined(case.fused.forward()).detach()
    generator = torch.Generator(like.device).manual_seed(1)
    grad = torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return {name: step(getattr(case, name), which, grad) for name in ("fused", "naive")}


def step(side: Side, which: str, grad: Tensor) -> Callable:
    if which == "forward":
        return torch.no_grad()(side.forward)
    leaves = flat(side.leaves)
    grads = [grad] if isinstance(side.forward(), Tensor) else [g.contiguous() for g in grad.unbind(1)]
    return lambda: torch.autograd.grad(flat(side.forward()), leaves, grads)


def difference(case: Case) -> str | None:
    """Why the two sides disagree, in outputs, gradients and state; None where they agree. Call it before any timing."""
    sides = case.fused, case.naive
    fused, naive = (joined(side.forward()).detach() for side in sides)
    pairs = [("output", fused, naive)]
    # as they stand after one call each: later calls move them on
    states = zip(*([x.clone() for x in side.state] for side in sides), strict=True)
    pairs += [(f"state {i}", x, y) for i, (x, y) in enumerate(states)]
    if fused.shape == naive.shape:
        both = steps(case, "forward+backward")
        grads = (regrouped(both[name](), side.leaves) for name, side in zip(both, sides, strict=True))
        pairs += [(f"gradient {i}", joined(x), joined(y)) for i, (x, y) in enumerate(zip(*grads, strict=True))]
    for what, x, y in pairs:
        reason = _apart(x, y, BOUND[case.dtype], case.jumps and what.startswith("gradient"))
        if reason:
            return f"{what}: {reason}"
    return None


def _apart(x: Tensor, y: Tensor, bound: float, jumps: bool) -> str | None:
    if x.shape != y.shape:
        return f"fused is {list(x.shape)}, naive {list(y.shape)}"
    error = (x.double() - y.double()).abs() / y.double().square().mean().sqrt().clamp(min=1e-30)
    wrong = int((~(error <= bound)).sum())  # counts a NaN as wrong
    rms = error.square().mean().sqrt().item()
    if wrong <= (JUMP_SHARE * error.numel() if jumps else 0) and (not jumps or rms <= JUMP_RMS):
        return None
    return f"{wrong} of {error.numel()} elements differ, by up to {error.max().item():.1e} of the RMS"


def regrouped(grads, leaves) -> list:
    """A flat list of gradients in the form of ``leaves``."""
    rest = iter(grads)
    return [next(rest) if isinstance(leaf, Tensor) else tuple(next(rest) for _ in leaf) for leaf in leaves]


def interleaved(
    candidates: dict[str, Callable], device: torch.device, seconds: float, clock: str = "wall"
) -> dict[str, list[float]]:
    """Samples in ms a call for each candidate, taken in turns, the order reversed every other round."""
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    with quiet():
        repeats, cost = {}, 0.0
        for name, call in candidates.items():
            once = min(sample(call, 1, device, clock) for _ in range(5))
            repeats[name] = max(1, math.ceil(SAMPLE_MS / once))
            cost += once * (repeats[name] + UNTIMED)
        rounds = min(201, max(11, int(seconds * 1e3 / cost)))
        for i in range(rounds):
            for name in list(candidates)[:: 1 if i % 2 else -1]:
                sample(candidates[name], UNTIMED, device, clock)
                samples[name].append(sample(candidates[name], repeats[name], device, clock))
    return samples


@contextmanager
def quiet() -> Iterator[None]:
    """Python's garbage collector waits."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def sample(call: Callable, repeats: int, device: torch.device, clock: str = "wall") -> float:
    """Milliseconds a call: by the clock on the CPU, by events on a GPU."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(repeats):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / repeats
    now = CLOCKS[clock]
    begin = now()
    for _ in range(repeats):
        call()
    return (now() - begin) * 1e3 / repeats


def percentiles(samples: list[float]) -> tuple[float, float, float]:
    """20th, 50th, 80th."""
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return tenths[1], tenths[4], tenths[7]


def peak_mb(call: Callable, device: torch.device) -> float | None:
    """What one call adds to the GPU memory in use, at its peak; None on a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


class ForeignLoad:
    """The share of this machine's CPU time that other processes took, where /proc/stat tells; else None."""

    def __init__(self):
        self.start = self._read()

    def share(self) -> float | None:
        if self.start is None:
            return None
        busy, total, own = (b - a for a, b in zip(self.start, self._read(), strict=True))
        return max(0.0, (busy - own) / total) if total > 0 else None

    @staticmethod
    def _read():
        try:
            with open("/proc/stat") as stat:
                user, nice, system, idle, wait, *rest = (int(v) for v in stat.readline().split()[1:9])
        except (OSError, ValueError):
            return None
        busy = user + nice + system + sum(rest)
        return busy, busy + idle + wait, time.process_time() * os.sysconf("SC_CLK_TCK")
