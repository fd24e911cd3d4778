"""`python -m cvkernels`: which backends and kernels this machine has, and the line to type for what is missing."""

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import torch

from . import __version__, backend

REBUILD = "pip install --no-build-isolation --no-deps --force-reinstall ."


def main() -> None:
    """Print the report."""
    facts = backend.build_facts()
    print(f"cvkernels {__version__}\n")
    table([("backend", "here", ""), *((name, *here(name)) for name in backend.BACKENDS)])
    asked = backend.forced()
    if asked:
        print(f"\nCVKERNELS_BACKEND forces {asked}")
    print(
        "\nkernels by dtype, and the backend that runs float32 here; an operation without kernels runs on torch's own"
    )
    rows: list[tuple[str, ...]] = [("operation", *backend.BACKENDS[1:], "on cpu", "on cuda")]
    for op in backend.OPS.values():
        dtypes = (" ".join(map(short, getattr(op, name))) or "-" for name in backend.BACKENDS[1:])
        rows.append((op.name, *dtypes, default(op, "cpu"), default(op, "cuda")))
    table(rows)
    print("\nwhat is tried where no backend is forced; the most specific row holds")
    table([(" ".join(r.ops) or "any", r.where, ", ".join(r.order) or "torch", r.why) for r in backend.DEFAULTS])
    print()
    table(machine(facts))
    lines = missing(facts)
    if lines:
        print("\nto get what is missing")
        table(lines)


def here(name: str) -> tuple[str, str]:
    """("yes", "") or ("no", the reason)."""
    reason = backend.absent(name)
    return ("no", " ".join(reason.split())) if reason else ("yes", "")


def default(op, device: str) -> str:
    """The backend chosen for float32 on a device, or why there is none."""
    if device == "cuda" and not torch.cuda.is_available():
        return "no device"
    like: Any = SimpleNamespace(
        device=torch.device(device), dtype=torch.float32
    )  # no tensor without a device to hold it
    try:
        return op.runs(backend.choose(op, like))
    except RuntimeError:
        return "refused"  # CVKERNELS_BACKEND asks for what is not there; the first table says why


def short(dtype: torch.dtype) -> str:
    """f32, f64, f16 or bf16."""
    return str(dtype).removeprefix("torch.").replace("bfloat", "bf").replace("float", "f")


def machine(facts) -> list[tuple[str, str]]:
    """Versions and tools: what a bug report needs."""
    rows = [
        ("python", sys.version.split()[0]),
        ("torch", f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})"),
        ("triton", triton_version() or "not installed"),
        ("driver", first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") or "none found"),
    ]
    if torch.cuda.is_available():
        major, minor = torch.cuda.get_device_capability()
        rows.append(("GPU", f"{torch.cuda.get_device_name()} (sm_{major}{minor})"))
    else:
        rows.append(("GPU", "none"))
    rows += [
        ("nvcc", last_release(first_line("nvcc", "--version", whole=True)) or "not found"),
        ("C compiler", compiler_line("CC", "cc", "gcc", "clang") or "not found"),
        ("C++ compiler", compiler_line("CXX", "c++", "g++", "clang++") or "not found"),
        ("Python headers", "yes" if backend.headers() else "not found"),
    ]
    if facts is None:
        return [*rows, ("compiled library", "none")]
    built = f"torch {facts.torch}, " + (f"CUDA {facts.cuda} for {facts.archs}" if facts.cuda else "CPU only")
    fits = "C++" if backend.nodes() else f"Python; those in C++ are for torch {facts.torch}: {REBUILD}"
    rows += [("compiled library", built), ("built with", facts.compiler), ("SIMD level", facts.simd_level())]
    return [*rows, ("autograd nodes", fits)]


def missing(facts) -> list[tuple[str, str]]:
    """(what is missing, the line that brings it), only where a line can."""
    lines = []
    nvcc = shutil.which("nvcc") or os.environ.get("CUDA_HOME")
    if not backend.compiled:
        if not compiler_line("CXX", "c++", "g++", "clang++"):
            lines.append(("a C++ compiler", "apt install g++"))
        lines.append(("cpu" + (", cuda" if nvcc else ""), f"{REBUILD}    (in the source tree)"))
    elif facts is not None and not facts.cuda and torch.cuda.is_available():  # without a device they would lie idle
        if not nvcc:
            lines.append(("nvcc", "install the CUDA toolkit, or set CUDA_HOME"))
        lines.append(("cuda", f"CVKERNELS_CUDA=1 {REBUILD}    (in the source tree)"))
    if triton_version() is None:
        lines.append(("triton", "pip install triton"))
    elif backend.launcher_lacks():
        lines.append(("what triton compiles its launchers with", "apt install gcc python3-dev"))
    return lines


def triton_version() -> str | None:
    """Read from the package's metadata: importing triton here would start its driver."""
    if importlib.util.find_spec("triton") is None:
        return None
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"


def compiler_line(variable: str, *names: str) -> str | None:
    """The first line of ``--version`` of the compiler that a build would take."""
    for name in (os.environ.get(variable), *names):
        if name and (line := first_line(name, "--version")):
            return line
    return None


def first_line(*command: str, whole: bool = False) -> str | None:
    """The first line a tool prints, or all of it; None where there is no such tool, or where it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    text = done.stdout.strip()
    return (text if whole else text.splitlines()[0]) if done.returncode == 0 and text else None


def last_release(text: str | None) -> str | None:
    """``release 13.2, V13.2.1`` out of what nvcc prints."""
    found = [line for line in (text or "").splitlines() if "release" in line]
    return found[-1].split(", ", 1)[-1] if found else None


def table(rows: list[tuple]) -> None:
    """Columns as wide as their widest cell."""
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip())


if __name__ == "__main__":
    main()
