"""A measured row: what it holds, where it was measured, how it is stored, read back and set beside an older one."""

import csv
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch

import cvkernels

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Row:
    """One candidate of one case in one pass.

    Times are ms a call (20th, 50th and 80th percentile). ratio: its median over that of ours in the same run, so above
    1 ours is the faster. peak_mb: what a call adds to the memory in use at its peak, as torch allocates it. kept_mib:
    what autograd keeps for the backward pass beyond the leaves. fraction: of what the machine does at most (`roof`:
    copy, in GB/s, or matrix, in GFLOP/s, both measured in this run), with the bytes or operations that the pass needs
    at least.
    """

    op: str
    shape: str
    dtype: str
    base: str  # the precision of the case; a candidate under autocast stands beside others that compute in this one
    device: str
    which: str  # forward, backward, or forward+backward
    candidate: str
    what: str  # the backend, the class, the settings; * where it is another function by definition, timed alone
    p20: float
    p50: float
    p80: float
    ratio: float
    peak_mb: float | None
    kept_mib: float | None
    roof: str
    roof_rate: float | None
    fraction: float | None
    threads: int
    clock: str  # wall, or process: this process's CPU time
    allocator: str
    foreign_load: float | None  # share of the machine's CPU time that other processes took meanwhile
    torch: str
    cvkernels: str
    python: str
    commit: str

    def device_type(self) -> str:
        """``cpu`` or ``cuda``: see `device_name`."""
        return "cpu" if ", " in self.device else "cuda"

    def case(self) -> tuple:
        """What the candidates of one table line share."""
        return self.op, self.shape, self.base, self.device, self.which, self.threads, self.clock, self.allocator

    def key(self) -> tuple:
        """What must be equal for two rows to be compared."""
        return *self.case(), self.dtype, self.candidate


def facts(device: torch.device, clock: str = "wall") -> dict:
    """The part of a row that is the same for the whole run."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "clock": clock,
        "allocator": allocator(),
        "torch": torch.__version__,
        "cvkernels": cvkernels.__version__,
        "python": platform.python_version(),
        "commit": commit(),
    }


def device_name(device: torch.device) -> str:
    """A GPU's name; a CPU's, a comma, and how wide its vectors are."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


MEASURED = ("csrc", "cvkernels", "benchmarks", ":(exclude)benchmarks/results")


def commit() -> str:
    """Given as COMMIT where there is no git folder; a + marks changes that are not committed."""
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+" if _git("status", "--porcelain", "--", *MEASURED) else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


# glibc gives a block over its mmap threshold back to the system when it is freed and faults its pages in again at the
# next call. Keeping freed memory is what a training process with a tuned allocator sees; it moves some rows by 40 %.
KEEP = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=0x4000000000:glibc.malloc.top_pad=0x4000000"


def allocator() -> str:
    """``keep``: freed memory stays with the process; ``default``: glibc decides; else what the platform has."""
    if platform.libc_ver()[0] != "glibc":
        return platform.system()
    preload = Path(os.environ.get("LD_PRELOAD", "")).name
    return preload or ("keep" if KEEP in os.environ.get("GLIBC_TUNABLES", "") else "default")


def stored_at(device: str) -> Path:
    """results/<device>.csv"""
    return RESULTS / (re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-") + ".csv")


def stored(given: Path | None) -> Path:
    """The table that was named, else this machine's; where it is not there, how to make it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = given or stored_at(device_name(device))
    if not path.is_file():
        raise SystemExit(f"no stored run {path}; make one with `python -m benchmarks --out`")
    return path


def write(rows: list[Row], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", newline="") as file:
        out = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
        out.writeheader()
        for row in rows:
            values = asdict(row).items()
            out.writerow({k: f"{v:.4g}" if isinstance(v, float) else "" if v is None else v for k, v in values})
    part.replace(path)


def merged(stored: list[Row], new: list[Row]) -> list[Row]:
    """A table with a run's rows in the place of what they repeat; the candidates of a line are always of one run."""
    lines = {row.case() for row in new}
    return [row for row in stored if row.case() not in lines] + new


def read(path: Path) -> list[Row]:
    def value(field, text):
        kind = str(field.type)
        return (None if not text else float(text)) if "float" in kind else int(text) if "int" in kind else text

    with path.open(newline="") as file:
        return [Row(**{f.name: value(f, line[f.name]) for f in fields(Row)}) for line in csv.DictReader(file)]


def comparison(rows: list[Row], stored: list[Row]) -> list[str]:
    """One line for each row of ours that both runs have: its time then and now, a slowdown shown like a gain."""
    before = {row.key(): row for row in stored}
    naive = [{row.case(): row for row in some if row.candidate == "naive"} for some in (stored, rows)]
    lines, mine = [], [row for row in rows if row.candidate.startswith("ours")]
    for row in mine:
        old = before.get(row.key())
        if old:
            ratios = [
                f"{n[r.case()].p50 / r.p50:.2f}" if r.case() in n else "?"
                for r, n in zip((old, row), naive, strict=True)
            ]
            lines.append(
                f"{row.op:26} {row.shape:14} {row.which:17} {row.candidate:20} {old.p50:9.4g} -> {row.p50:9.4g} ms, "
                f"{100 * (row.p50 / old.p50 - 1):+5.0f} %; naive / ours {' -> '.join(ratios)}"
            )
    without = len(mine) - len(lines)
    return [*lines, *([f"{without} of {len(mine)} rows have no stored one to compare with"] if without else [])]
