"""Every operation beside its rivals, one table per operation.

python -m benchmarks [ops...] [--against naive,compiled,complex,real,peers,graph|all] [--bars | --quick | --shapes ...]
                     [--device auto|cpu|cuda] [--out [FILE.csv]] [--compare FILE.csv]
python -m benchmarks plot [FILE.csv] [--out FILE.png]    a stored table's speed-ups, drawn
python -m benchmarks bars [FILE.csv]                     what of a stored table meets its bar
"""

import argparse
import importlib
import os
import platform
import sys
import time
import warnings
from pathlib import Path

import torch

from . import bars, candidates, roof, rows, timing
from .inputs import LARGE

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
    "real_batch_norm_relu",
    "pack_weights",
    "block",
    "processor",
    "train_step",
)
NAMED = ("conv2d_forms",)  # measured when it is asked for by name: what the choice of a form rests on
DTYPES = {"float32": torch.float32, "float64": torch.float64, "float16": torch.float16, "bfloat16": torch.bfloat16}
FOREIGN = 0.08  # a row during which others took more of the machine than this is measured again, and marked if need be
ATTEMPTS, PATIENCE_S = 3, 6.0  # so often, unless a line has taken this long already
DEFAULT_PASSES = ("forward", "forward+backward", "step")


def arguments(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Every operation beside its rivals; `plot` draws a stored table."
    )
    parser.add_argument(
        "ops", nargs="*", metavar="op", help=f"of {', '.join(OPS)}; all without one; or {', '.join(NAMED)}"
    )
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument(
        "--against", default="naive",
        help=f"all, or some of {', '.join(candidates.AGAINST)}, by commas (default naive; naive is always there)",
    )  # fmt: skip
    parser.add_argument("--only", default="", metavar="TEXT", help="of an operation's cases those whose name has this")
    parser.add_argument("--shapes", help="instead of the networks': 64x32x16x16,... (linear: N x in x out)")
    parser.add_argument("--bars", action="store_true", help="the shapes that bars are set for, and no others")
    parser.add_argument("--quick", action="store_true", help="one tiny shape, few samples: does it run, not how fast")
    parser.add_argument(
        "--passes", default=",".join(DEFAULT_PASSES), help=f"of {', '.join(candidates.PASSES)}, by commas"
    )
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="how long to sample a row (default 1.5; at least 11 samples a side)"
    )
    parser.add_argument("--threads", type=int, default=None, help="CPU threads; torch's choice without it")
    parser.add_argument("--clock", choices=timing.CLOCKS, default="wall", help="process: CPU time, with --threads 1")
    parser.add_argument("--allocator", choices=("keep", "default"), default="keep", help="see rows.KEEP; glibc only")
    parser.add_argument("--tf32", action="store_true", help="allow TF32 in what is timed; the comparison runs without")
    parser.add_argument(
        "--out",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE.csv",
        help="store in a table, in place of what it repeats; without a name by device",
    )
    parser.add_argument("--compare", type=Path, metavar="FILE.csv", help="a stored run to set this one beside")
    options = parser.parse_args(argv)
    _listed(parser, "op", options.ops, (*OPS, *NAMED))
    options.against = candidates.AGAINST if options.against == "all" else tuple(options.against.split(","))
    _listed(parser, "candidate", options.against, candidates.AGAINST)
    options.passes = tuple(options.passes.split(","))
    _listed(parser, "pass", options.passes, candidates.PASSES)
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


def _listed(parser, what, asked, known) -> None:
    unknown = sorted(set(asked) - set(known))
    if unknown:
        parser.error(f"unknown {what} {', '.join(unknown)}; there are {', '.join(known)}")


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


def shapes_of(module, options, device) -> list[tuple]:
    if options.shapes:
        return [s for s in options.shapes if len(s) == len(module.SHAPES[0])]
    if options.quick:
        return module.QUICK_SHAPES
    large = bars.GPU_LARGE if device.type == "cuda" else LARGE
    if device.type == "cuda" and hasattr(module, "GPU_SHAPES"):
        return module.GPU_SHAPES
    if options.bars and module.SHAPES[0] == bars.CPU_SHAPES[0] and len(module.SHAPES) > 1:
        return [*bars.CPU_SHAPES[:3], large]
    return [large if s == LARGE else s for s in module.SHAPES]


class Run:
    """One run: its options, its rows, what was refused."""

    def __init__(self, options, device, facts):
        self.options, self.device, self.facts = options, device, facts
        self.rows: list[rows.Row] = []
        self.refused = 0

    def table(self, op: str) -> None:
        """Measure and print one operation."""
        module = importlib.import_module(f".bench_{op}", __package__)
        shapes = shapes_of(module, self.options, self.device)
        print(f"\n{module.__doc__.rstrip()}")
        if not shapes:
            print(f"  no shape of {len(module.SHAPES[0])} sizes was asked for")
        for shape in shapes:
            for case in module.cases(shape, self.device, DTYPES[self.options.dtype]):
                if self.options.only not in case.op:
                    continue
                self.case(case)
                self.store()
                torch.compiler.reset()  # it keeps eight versions of a function, and each case is one

    def store(self) -> Path | None:
        """What is measured so far; a run that is stopped leaves it."""
        if self.options.out is None or not self.rows:
            return None
        path = rows.stored_at(self.facts["device"]) if self.options.out == Path() else self.options.out
        rows.write(rows.merged(rows.read(path) if path.exists() else [], self.rows), path)
        return path

    def case(self, case: candidates.Case) -> None:
        agreed = {}
        try:
            naive = candidates.results(case, case.naive)
            reason = candidates.difference(case, naive=naive)
        except RuntimeError as error:
            reason = _short(error)
        if reason:
            self.refused += 1
            print(f"  {case.op:24} {case.shape:14} REFUSED: {reason}")
            return
        for name, candidate in case.candidates(self.options.against).items():
            reason = None if candidate in (case.ours, case.naive) else self._refusal(case, candidate, naive)
            if reason is None:
                agreed[name] = candidate
            else:
                print(f"  {case.op:24} {case.shape:14} {name}: {reason}")
        _allow_tf32(self.options.tf32)
        for which in candidates.passes(case.ours, self.options.passes):
            self.measure(case, which, {n: c for n, c in agreed.items() if which in candidates.passes(c)})
        _allow_tf32(False)

    def _refusal(self, case, candidate, naive) -> str | None:
        """Why a candidate has no row. One that cannot run here is left out; one that is wrong makes the run fail."""
        try:
            if not candidate.compared:
                candidate.forward()
                return None
            reason = candidates.difference(case, candidate, naive)
        except Exception as error:  # a rival's own failure is no reason to measure nothing else
            return f"left out: {_short(error)}"
        if reason:
            self.refused += 1
        return reason and f"REFUSED, it disagrees with naive code: {reason}"

    def measure(self, case, which: str, chosen: dict[str, candidates.Candidate]) -> None:
        """Time the candidates of one line, in turns; print and keep their rows."""
        options, calls = self.options, {}
        grad = candidates.gradient(case)
        for name, candidate in list(chosen.items()):
            try:
                calls[name] = candidates.step(candidate, which, grad)
                calls[name]()
            except Exception as error:
                print(f"  {case.op:24} {case.shape:14} {which:17} {name}: left out: {_short(error)}")
                calls.pop(name, None)
        if case.cost and case.cost.kind == "copy":
            # as many bytes as the pass itself: half of them could stay in a cache that the pass does not fit
            calls["copy"] = roof.copy(case.cost.of(which) / 2, case.device)
        best, began = None, time.monotonic()
        for _ in range(1 if options.quick else ATTEMPTS):
            load = timing.ForeignLoad()
            samples = timing.interleaved(calls, case.device, 0.0 if options.quick else options.seconds, options.clock)
            share = load.share()
            if best is None or (share or 0.0) < (best[0] or 0.0):
                best = share, samples
            late = time.monotonic() - began > PATIENCE_S
            if options.clock == "process" or (share or 0.0) <= FOREIGN or late:
                break
        share, samples = best
        times = {name: timing.percentiles(some) for name, some in samples.items()}
        found = [self.row(case, which, name, chosen.get(name), times, calls[name], share) for name in times]
        self.show(found)
        self.rows += found

    def row(self, case, which, name, candidate, times, call, share) -> rows.Row:
        dtype = (candidate and candidate.dtype) or case.dtype
        shown, base = (
            str(d).removeprefix("torch.") + (" (TF32)" if self.options.tf32 and d == torch.float32 else "")
            for d in (dtype, case.dtype)
        )
        kept = None
        if candidate and which != "forward" and not candidate.wrapped:
            kept = timing.kept_mib(candidate.forward, candidates.flat(candidate.leaves))
        rate, fraction = self.roof(case, which, candidate, dtype, times[name][1], times.get("copy"))
        return rows.Row(
            op=case.op, shape=case.shape, dtype=shown, base=base,
            which=which, candidate=name, what=candidate.label() if candidate else "",
            **dict(zip(("p20", "p50", "p80"), times[name], strict=True)), ratio=times[name][1] / times["ours"][1],
            peak_mb=None if candidate is None or candidate.wrapped == "graph" else timing.peak_mb(call, case.device),
            kept_mib=kept, roof=case.cost.kind if case.cost else "", roof_rate=rate, fraction=fraction,
            foreign_load=share, **self.facts,
        )  # fmt: skip

    def roof(self, case, which, candidate, dtype, ms: float, copy) -> tuple[float | None, float | None]:
        """(the measured limit in GB/s or GFLOP/s, the share of it that was reached)."""
        if case.cost is None or (candidate and not candidate.compared):
            return None, None
        if case.cost.kind == "copy":
            rate = case.cost.of(which) / copy[1] * 1e3
        else:
            rate = roof.matrix_rate(case.device, dtype, self.options.tf32, self.options.clock, self.options.quick)
        return rate / 1e9, case.cost.of(which) / (ms / 1e3) / rate

    def show(self, found: list[rows.Row]) -> None:
        """One line for the case, one for each candidate."""
        first = found[0]
        load = first.foreign_load or 0
        busy = f"  busy: {load:.0%} foreign load" if first.clock == "wall" and load > FOREIGN else ""
        rate = next((r.roof_rate for r in found if r.roof_rate), None)
        unit = {"copy": "GB/s copied", "matrix": "GFLOP/s"}.get(first.roof, "")
        print(f"  {first.op} {first.shape} {first.which}: {f'{rate:.0f} {unit}' if rate else ''}{busy}")
        for r in found:
            notes = [
                f"{r.fraction:4.0%} of it" if r.fraction is not None else "",
                f"keeps {r.kept_mib:.1f} MiB" if r.kept_mib is not None else "",
                f"peak {r.peak_mb:.1f} MiB" if r.peak_mb is not None else "",
                r.what,
            ]
            spread = f"{r.p50:9.4g} ({r.p20:.3g}-{r.p80:.3g})"
            print(
                f"    {r.candidate:28} {spread:28} {r.ratio:6.2f}x  {'  '.join(filter(None, notes))}".rstrip(),
                flush=True,
            )


def _short(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _allow_tf32(flag: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = flag


def main() -> int:
    if sys.argv[1:2] in (["plot"], ["bars"]):
        return importlib.import_module(f".{sys.argv[1]}", __package__).main(sys.argv[2:])
    options = arguments()
    if options.allocator == "keep":
        restart_keeping_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # the rivals' own
    device = device_of(options.device)
    _allow_tf32(False)
    facts = rows.facts(device, options.clock)
    print(
        f"{facts['device']}; torch {facts['torch']}, cvkernels {facts['cvkernels']} at {facts['commit']}, Python "
        f"{facts['python']}; threads: {facts['threads']}, clock: {facts['clock']}, allocator: {facts['allocator']}\n"
        "ms a call, median (20th-80th percentile), candidates taking turns; x: its time over that of ours\n"
        "* another function by definition, timed but not compared"
    )
    run = Run(options, device, facts)
    for op in options.ops or OPS:
        run.table(op)
    print("", *bars.report(run.rows), sep="\n")
    if options.compare:
        print(f"\nagainst {options.compare}", *rows.comparison(run.rows, rows.read(options.compare)), sep="\n")
    path = run.store()
    if path:
        print(f"\n{len(run.rows)} rows written to {path}")
    if run.refused:
        print(f"\n{run.refused} refused: a wrong kernel has no speed", file=sys.stderr)
    return 1 if run.refused else 0


if __name__ == "__main__":
    sys.exit(main())
