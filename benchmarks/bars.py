"""What the speed of each operation is held to, as data, and the verdict on a run's rows."""

import argparse
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from . import rows
from .inputs import LARGE, STAGES, named
from .rows import Row

CPU_SHAPES = [*STAGES, LARGE]
GPU_LARGE = (32, 256, 56, 56)
BOTH = "forward+backward"

# Two CPU cores, float32, medians of one interleaved run: naive eager time over ours, at each of CPU_SHAPES.
CPU_RATIOS = {
    ("magnitude_relu", "forward"): (5, 5, 5, 4.3),
    ("magnitude_relu", BOTH): (10, 10, 10, 8),
    ("batch_norm_relu", "forward"): (3.5,) * 4,
    ("batch_norm_relu", BOTH): (6,) * 4,
    ("magnitude_max_pool2d", "forward"): (8,) * 4,
    ("magnitude_max_pool2d", BOTH): (5,) * 4,
    ("rotate_phase", "forward"): (3,) * 4,
    ("rotate_phase", BOTH): (3,) * 4,
    ("unrotate", "forward"): (1.8,) * 4,
    ("unrotate", BOTH): (1.6,) * 4,
    ("block complex", BOTH): (1.8, 1.4, 1.4, 1.3),
}
# The same against the naive float32 block, where the processor has bfloat16 instructions.
CPU_BFLOAT16 = {("block complex", BOTH): (2.3,) * 4}
# A whole training step without a WGAN.
TRAINED = "128x3x32x32"
CPU_TRAINING = {"train resnet20-alpha complex": 1.35, "train resnet20-alpha real": 1.45}
GPU_TRAINING = 4  # in TF32, in a graph, over naive eager
# One GPU, the processor's whole step: (baseline, ratio) in TF32 and in bfloat16; float32 is reported without a bar.
GPU_STEP = {"naive": 4, "naive graph": 2, "naive compiled": 1.5}
# The share of the measured copy bandwidth that a streaming kernel reaches at the largest shape.
STREAMING = {"cpu": (named(LARGE), 0.80), "cuda": (named(GPU_LARGE), 0.85)}
# No operation and no block is more than 5 % slower than any baseline in its own precision, the real network apart.
RIVAL = 0.95
NOT_RIVALS = ("ours", "naive bfloat16", "naive graph", "real", "copy")


@dataclass(frozen=True)
class Verdict:
    """One bar: what was measured, what it is held to."""

    op: str
    shape: str
    which: str
    against: str
    measured: float
    least: float
    by: str  # which form of ours

    @property
    def met(self) -> bool:
        return self.measured >= self.least

    def line(self) -> str:
        shown = (
            f"{self.measured:.0%} of {self.least:.0%}"
            if self.against == "copy"
            else f"{self.measured:.2f}x of {self.least:g}x"
        )
        mark = "met" if self.met else "MISSED"
        return f"  {self.op:26} {self.shape:14} {self.which:17} {self.against:16} {shown:16} {mark:7} {self.by}"


def verdicts(table: Iterable[Row]) -> Iterator[Verdict]:
    """The bars that these rows answer. On a CPU they are set for two threads, by the wall."""
    lines: dict[tuple, list[Row]] = {}
    for row in table:
        lines.setdefault(row.case(), []).append(row)
    for found in lines.values():
        if found[0].which == "backward":
            continue
        by_name = {row.candidate: row for row in found}
        kind = found[0].device_type()
        if kind == "cuda" or (found[0].threads == 2 and found[0].clock == "wall"):
            yield from _speed(by_name, kind)
        yield from _streaming(by_name, kind)
        yield from _rivals(by_name, kind)


def report(table: list[Row]) -> list[str]:
    """How many bars are met, and each, the missed ones first; nothing where the rows answer none."""
    held = sorted(verdicts(table), key=lambda verdict: verdict.met)
    met = sum(verdict.met for verdict in held)
    return [f"bars: {met} met, {len(held) - met} missed", *(verdict.line() for verdict in held)] if held else []


def main(argv) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks bars", description="A stored table's bars; 1: one missed."
    )
    parser.add_argument("table", nargs="?", type=Path, metavar="FILE.csv", help="a stored run; this machine's without")
    table = rows.read(rows.stored(parser.parse_args(argv).table))
    print(*report(table), sep="\n")
    return int(not all(verdict.met for verdict in verdicts(table)))


def _verdict(ours: Row, against: str, measured: float, least: float) -> Verdict:
    return Verdict(ours.op, ours.shape, ours.which, against, measured, least, ours.candidate)


def _best(line: dict[str, Row], dtype: str) -> Row | None:
    """The faster layout of ours: which one a network runs in is its user's to choose."""
    mine = [r for name, r in line.items() if name.startswith("ours") and r.dtype == dtype]
    return min(mine, key=lambda row: row.p50, default=None)


def _speed(line: dict[str, Row], kind: str) -> Iterator[Verdict]:
    naive = line.get("naive")
    if naive is None:
        return
    if naive.which == "step":
        yield from _training(line, naive, kind)
    elif kind == "cpu":
        shapes = [named(s) for s in CPU_SHAPES]
        for dtype, table in (("float32", CPU_RATIOS), ("bfloat16", CPU_BFLOAT16)):
            ours, least = _best(line, dtype), table.get((naive.op, naive.which))
            if dtype == "bfloat16" and not bfloat16_instructions():
                continue
            if ours and least and naive.shape in shapes and naive.dtype == "float32":
                yield _verdict(ours, "naive", naive.p50 / ours.p50, least[shapes.index(naive.shape)])
    elif naive.op == "processor complex" and naive.which == BOTH:
        for dtype in ("float32 (TF32)", "bfloat16"):
            for against, least in GPU_STEP.items():
                ours = _best({n: r for n, r in line.items() if n.endswith("graph")}, dtype)
                if ours and against in line and "TF32" in naive.dtype:
                    yield _verdict(ours, against, line[against].p50 / ours.p50, least)


def _training(line: dict[str, Row], naive: Row, kind: str) -> Iterator[Verdict]:
    if kind == "cpu":
        ours, least = _best(line, naive.dtype), CPU_TRAINING.get(naive.op)
    else:
        ours, least = _best({n: r for n, r in line.items() if n.endswith("graph")}, naive.dtype), GPU_TRAINING
        least = least if "TF32" in naive.dtype else None
    if ours and least and naive.shape == TRAINED:
        yield _verdict(ours, "naive", naive.p50 / ours.p50, least)


def _streaming(line: dict[str, Row], kind: str) -> Iterator[Verdict]:
    ours = line.get("ours")
    shape, least = STREAMING[kind]
    if ours and ours.roof == "copy" and ours.shape == shape and ours.fraction is not None and ours.what != "torch":
        yield _verdict(ours, "copy", ours.fraction, least)


def _rivals(line: dict[str, Row], kind: str) -> Iterator[Verdict]:
    """The fastest rival of a line, in ours' own precision, and every other that is faster than ours."""
    naive = line.get("naive")
    ours = naive and _best(line, naive.dtype)
    shapes = [named(s) for s in (*STAGES, LARGE if kind == "cpu" else GPU_LARGE)]
    if not ours or (ours.shape not in shapes and not ours.op.startswith("linear")):
        return
    rivals = [r for n, r in line.items() if not n.startswith("ours") and n not in NOT_RIVALS]
    for place, rival in enumerate(sorted(rivals, key=lambda row: row.p50)):
        if place == 0 or rival.p50 / ours.p50 < RIVAL:
            star = " *" if rival.what.endswith("*") else ""
            yield _verdict(ours, rival.candidate + star, rival.p50 / ours.p50, RIVAL)


@functools.cache
def bfloat16_instructions() -> bool:
    """Whether this processor multiplies bfloat16 itself, as the kernel of its system names it (x86, then Arm)."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))
