"""How a thing is timed, and how much memory it takes.

The candidates of a row take turns in one run, so that whatever else the machine does falls on all of them. A turn is a
few untimed calls, then one sample: the mean of the calls that fit into ten milliseconds. So each candidate finds the
caches as it leaves them itself, not as the other one does (measured: a fused forward and backward of 0.38 ms read as
1.0 ms right after the naive one had streamed through the caches). A row holds the median and the 20th and 80th
percentile of its samples, after a warm-up.
"""

import gc
import itertools
import math
import os
import re
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

SAMPLE_MS, UNTIMED, ROUNDS = 10.0, 2, (11, 201)
# Some calls get five samples and no untimed calls before them, or a line would take minutes: those that take long, and
# so fill the caches anew by themselves (sooner so with a rival's than with ours and the naive), and a rival's that take
# more than five times as long as ours.
LONG_MS, RIVAL_LONG_MS, FAR, COARSE_ROUNDS = 150.0, 30.0, 5.0, 5


def is_main(name: str) -> bool:
    return name.startswith("ours") or name == "naive"


# The time of this process on one thread is what a machine shared with others still tells.
CLOCKS = {"wall": time.perf_counter, "process": time.process_time}


def interleaved(
    candidates: dict[str, Callable], device: torch.device, seconds: float, clock: str = "wall"
) -> dict[str, list[float]]:
    """Samples in ms a call for each candidate, taken in turns, the order reversed every other round."""
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    with quiet():
        once = {name: sample(call, 1, device, clock) for name, call in candidates.items()}
        for name, call in candidates.items():
            if once[name] < LONG_MS:
                once[name] = min(once[name], *(sample(call, 1, device, clock) for _ in range(4)))
        repeats = {name: max(1, math.ceil(SAMPLE_MS / ms)) for name, ms in once.items()}
        far = min(RIVAL_LONG_MS, FAR * once.get("ours", math.inf))
        coarse = {name for name, ms in once.items() if ms > (LONG_MS if is_main(name) else far)}
        # one call of this length is enough to leave its own traces in the caches
        untimed = {name: UNTIMED if ms < RIVAL_LONG_MS else 1 for name, ms in once.items()}
        cost = sum(ms * (repeats[name] + untimed[name]) for name, ms in once.items() if name not in coarse)
        rounds = min(ROUNDS[1], max(ROUNDS[0], int(seconds * 1e3 / cost))) if cost else COARSE_ROUNDS
        for i in range(rounds):
            for name in list(candidates)[:: 1 if i % 2 else -1]:
                if name in coarse and i >= COARSE_ROUNDS:
                    continue
                if name not in coarse:
                    sample(candidates[name], untimed[name], device, clock)
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


def peak_mb(call: Callable, device: torch.device) -> float:
    """What one call adds to the memory in use at its peak, of what torch allocates: a library's scratch is not."""
    if device.type != "cuda":
        return _peak(_allocations(call)) / 2**20
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 2**20


def _allocations(call: Callable) -> list[int]:
    """Bytes that torch takes (and, below 0, gives back) during one call, in their order."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    found = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    return [e.nbytes() for e in sorted(found, key=lambda e: e.start_ns())]


def _peak(changes: Iterable[int]) -> int:
    return max(itertools.accumulate(changes), default=0)


def gpu_kernels(call: Callable) -> str:
    """How many GPU kernels one call launches, and their names, shortened."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        call()
        torch.cuda.synchronize()
    # without the calls of the runtime (cudaLaunchKernel) and of the driver (cuLaunchKernel)
    found = [e for e in profile.key_averages() if not re.match(r"cu(da)?[A-Z]|Memcpy|Memset", e.key)]
    names = "; ".join(e.key.removeprefix("void ")[:60] for e in found)
    return f"{sum(e.count for e in found)} kernels: {names}"


def kept_mib(forward: Callable, leaves: list[Tensor]) -> float:
    """What autograd keeps for the backward pass beyond the leaves: each storage once."""
    own = {leaf.untyped_storage().data_ptr() for leaf in leaves}
    kept: dict[int, int] = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = forward()  # held: what is freed is not kept, and its address may come again
    del result
    return sum(kept.values()) / 2**20


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
