"""Fused against naive, one table per operation.

python -m benchmarks [ops...] [--device auto|cpu|cuda] [--quick | --shapes 64x32x16x16,...] [--out [FILE.csv]]
"""

import argparse
import importlib
import os
import platform
import sys
from pathlib import Path

import torch

from . import rows, timing

OPS = (
    "rotate",
    "rotate_phase",
    "unrotate",
    "magnitude_relu",
    "magnitude_batch_norm",
    "batch_norm_relu",
    "magnitude_max_pool2d",
    "avg_pool2d",
    "dropout",
    "conv2d",
    "linear",
    "block",
)
DTYPES = {"float32": torch.float32, "float64": torch.float64}
FOREIGN = 0.08  # a row during which others took more of the machine than this is measured again, and marked if need be
ATTEMPTS = 3


def arguments(argv=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Fused against naive two-tensor code.")
    parser.add_argument("ops", nargs="*", metavar="op", help=f"of {', '.join(OPS)}; all without one")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--shapes", help="instead of the networks': 64x32x16x16,... (linear: N x in x out)")
    parser.add_argument("--quick", action="store_true", help="one tiny shape, few samples: does it run, not how fast")
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="how long to sample a row (default 1.5; at least 11 samples a side)"
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; torch's choice without it")
    parser.add_argument("--clock", choices=timing.CLOCKS, default="wall", help="process: CPU time, with --threads 1")
    parser.add_argument("--allocator", choices=("keep", "default"), default="keep", help="see rows.KEEP; glibc only")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 in what is timed; the comparison runs without")
    parser.add_argument(
        "--out", type=Path, nargs="?", const=Path(), metavar="FILE.csv", help="store; without a name by device"
    )
    parser.add_argument("--compare", type=Path, metavar="FILE.csv", help="a stored run to set this one beside")
    options = parser.parse_args(argv)
    unknown = sorted(set(options.ops) - set(OPS))
    if unknown:
        parser.error(f"unknown op {', '.join(unknown)}; there are {', '.join(OPS)}")
    if options.compare and not options.compare.is_file():
        parser.error(f"--compare: no file {options.compare}")
    if options.clock == "process" and (options.threads != 1 or options.device != "cpu"):
        parser.error("--clock process: CPU time is a call's time on one thread only; add --device cpu --threads 1")
    try:
        options.shapes = (
            [tuple(int(n) for n in s.split("x")) for s in options.shapes.split(",")] if options.shapes else []
        )
    except ValueError:
        parser.error(f"--shapes: sizes joined by x, shapes by a comma, got {options.shapes!r}")
    return options


def restart_keeping_memory() -> None:
    """The allocator reads its settings before Python starts: set them and start again, once."""
    if platform.libc_ver()[0] != "glibc" or os.environ.get("LD_PRELOAD") or rows.allocator() == "keep":
        return
    others = [t for t in os.environ.get("GLIBC_TUNABLES", "").split(":") if t and "glibc.malloc" not in t]
    os.environ["GLIBC_TUNABLES"] = ":".join([*others, rows.KEEP])
    os.execv(sys.executable, sys.orig_argv)


def device_of(choice: str) -> torch.device:
    if choice == "cuda" and not torch.cuda.is_available():
        sys.exit("benchmarks: --device cuda, but torch sees no CUDA device")
    return torch.device("cuda" if choice != "cpu" and torch.cuda.is_available() else "cpu")


def shapes_of(module, options) -> list[tuple]:
    if options.shapes:
        return [s for s in options.shapes if len(s) == len(module.SHAPES[0])]
    return module.QUICK_SHAPES if options.quick else module.SHAPES


def measure(case: timing.Case, which: str, facts: dict, options) -> rows.Row:
    calls = timing.steps(case, which)
    best = None
    for _ in range(1 if options.quick else ATTEMPTS):
        load = timing.ForeignLoad()
        samples = timing.interleaved(calls, case.device, 0.0 if options.quick else options.seconds, options.clock)
        share = load.share()
        if best is None or (share or 0.0) < (best[0] or 0.0):
            best = share, samples
        if options.clock == "process" or (share or 0.0) <= FOREIGN:
            break
    share, samples = best
    fused, naive = (timing.percentiles(samples[name]) for name in ("fused", "naive"))
    memory = [timing.peak_mb(calls[name], case.device) for name in ("fused", "naive")]
    dtype = str(case.dtype).removeprefix("torch.") + (" (TF32)" if options.tf32 else "")
    return rows.Row(
        op=case.op, shape=case.shape, dtype=dtype, which=which, backend=case.backend,
        **{f"{name}_{p}": v for name, times in (("fused", fused), ("naive", naive))
           for p, v in zip(("p20", "p50", "p80"), times, strict=True)},
        ratio=naive[1] / fused[1], fused_mb=memory[0], naive_mb=memory[1], foreign_load=share, **facts,
    )  # fmt: skip


def verdict(case: timing.Case, row: rows.Row) -> str:
    """Whether the bar of this row is met, and whether the machine was busy meanwhile."""
    bar = dict(case.bars).get(row.which)
    met = "" if bar is None else f"bar {bar:g}x: " + ("met" if row.ratio >= bar else "MISSED")
    busy = (
        f"busy: {row.foreign_load:.0%} foreign load"
        if row.clock == "wall" and (row.foreign_load or 0) > FOREIGN
        else ""
    )
    memory = "" if row.fused_mb is None else f"peak {row.fused_mb:.0f} MB, naive {row.naive_mb:.0f}"
    return "; ".join(filter(None, (met, memory, busy)))


def table(op: str, device: torch.device, facts: dict, options, bars: list[str]) -> tuple[list[rows.Row], int]:
    """Measure and print one operation; the rows, and how many were refused."""
    module = importlib.import_module(f".bench_{op}", __package__)
    done, refused = [], 0
    shapes = shapes_of(module, options)
    print(f"\n{module.__doc__}")
    if not shapes:
        print(f"  no shape of {len(module.SHAPES[0])} sizes was asked for")
    for shape in shapes:
        for case in module.cases(shape, device, DTYPES[options.dtype]):
            reason = _refusal(case)
            if reason:
                refused += 1
                print(f"  {case.op:24} {case.shape:14} REFUSED: {reason}")
                continue
            _allow_tf32(options.tf32)
            for which in timing.PASSES:
                row = measure(case, which, facts, options)
                note = verdict(case, row)
                fused, naive = (
                    f"{getattr(row, s + '_p50'):9.4g} ({getattr(row, s + '_p20'):.3g}-{getattr(row, s + '_p80'):.3g})"
                    for s in ("fused", "naive")
                )
                print(
                    f"  {case.op:24} {case.shape:14} {which:17} {row.backend:9} fused {fused:26} naive {naive:26} "
                    f"{row.ratio:6.2f}x  {note}".rstrip(),
                    flush=True,
                )
                done.append(row)
                if "bar " in note:
                    bars.append(f"  {case.op:24} {which:17} {row.ratio:6.2f}x  {note}")
            _allow_tf32(False)
    return done, refused


def _refusal(case: timing.Case) -> str | None:
    """Why this case has no row; one broken kernel does not keep the other rows from being measured."""
    try:
        reason = timing.difference(case)
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
    return reason and f"the sides disagree: {reason}"


def _allow_tf32(flag: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = flag


def main() -> int:
    options = arguments()
    if options.allocator == "keep":
        restart_keeping_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    device = device_of(options.device)
    _allow_tf32(False)
    facts = rows.facts(device, options.clock)
    print(
        f"{facts['device']}; torch {facts['torch']}, cvkernels {facts['cvkernels']} at {facts['commit']}, Python "
        f"{facts['python']}; threads: {facts['threads']}, clock: {facts['clock']}, allocator: {facts['allocator']}\n"
        "ms a call, median (20th-80th percentile), fused and naive taking turns; ratio = naive / fused"
    )
    done, refused, bars = [], 0, []
    for op in options.ops or OPS:
        some, bad = table(op, device, facts, options, bars)
        done += some
        refused += bad
    if bars:
        print("\nbars (float32, N=64 C=32 16x16, two CPU threads)", *bars, sep="\n")
    if options.compare:
        print(f"\nagainst {options.compare}", *rows.comparison(done, rows.read(options.compare)), sep="\n")
    if options.out is not None and done:
        path = rows.stored_at(facts["device"]) if options.out == Path() else options.out
        rows.write(done, path)
        print(f"\n{len(done)} rows written to {path}")
    if refused:
        print(f"\n{refused} refused: a wrong kernel has no speed", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
