"""Builds the library of emulated kernels: csrc/cuda/*.cu as plain C++, under the address sanitizer.

Its operators are those of csrc/ops.cpp, in the namespace ``cvkernels_emulated`` and on CPU tensors. Blocks are small
and few programs share a reduction, so that odd little sizes still take several of each.
"""

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "emulated"
NAMESPACE = "cvkernels_emulated"
SIZES = ["-DCVK_THREADS=64", "-DCVK_PROGRAMS=3"]
# -O1 takes twice as long to compile, and what then runs is but a tenth faster
FLAGS = [
    "-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing", "-Wall", "-Werror",
    "-Wno-unknown-pragmas", "-DCVK_ON_HOST",
    "-DTORCH_TARGET_VERSION=0x020b000000000000", *SIZES,
]  # fmt: skip
# a misaligned 16-byte load is an error on a GPU and none on x86; an address outside its tensor, none on either
SANITIZERS = ["-fsanitize=address,alignment", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]


def compiler() -> str | None:
    """gcc: clang keeps its sanitizer elsewhere, and no machine has only that."""
    return shutil.which("g++")


def environment(cxx: str) -> dict:
    """Of a process that loads the library: the sanitizer's own must be there before anything else."""
    found = [run([cxx, f"-print-file-name={name}"]).strip() for name in ("libasan.so", "libstdc++.so")]
    return {"LD_PRELOAD": " ".join(found), "ASAN_OPTIONS": "detect_leaks=0:detect_odr_violation=0"}


def sources() -> list[Path]:
    faults = Path(__file__).parent / "faults.cu"
    return [ROOT / "csrc" / "ops.cpp", faults, *sorted((ROOT / "csrc" / "cuda").glob("*.cu"))]


def renamed(text: str) -> str:
    """The same operators beside the real ones, registered for the CPU."""
    text = text.replace("STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA,", f"STABLE_TORCH_LIBRARY_IMPL({NAMESPACE}, CPU,")
    return text.replace("STABLE_TORCH_LIBRARY(cvkernels,", f"STABLE_TORCH_LIBRARY({NAMESPACE},")


def key(cxx: str, flags: list[str]) -> str:
    """Of everything the library is made from."""
    digest = hashlib.sha256(repr((flags, torch.__version__)).encode())
    digest.update(subprocess.run([cxx, "--version"], capture_output=True).stdout)
    folders = (ROOT / "csrc", Path(__file__).parent)
    for path in sorted(p for f in folders for p in f.rglob("*") if p.suffix in (".cpp", ".cu", ".h")):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build() -> Path:
    """The library's path; compiled where its sources have changed, a file a core."""
    cxx = compiler()
    assert cxx, "no C++ compiler"
    flags = FLAGS + SANITIZERS
    out = CACHE / f"{key(cxx, flags)}.so"
    if out.exists():
        return out
    CACHE.mkdir(parents=True, exist_ok=True)
    work = CACHE / f"{out.stem}-{os.getpid()}"
    work.mkdir()
    include = Path(torch.__file__).parent / "include"

    def compile_one(source: Path) -> Path:
        made = work / f"{source.stem}.cpp"
        made.write_text(f'#line 1 "{source}"\n{renamed(source.read_text())}')
        paths = [f"-I{p}" for p in (source.parent, ROOT / "csrc", Path(__file__).parent, include)]
        run([cxx, *flags, *paths, "-c", str(made), "-o", str(made.with_suffix(".o"))])
        return made.with_suffix(".o")

    try:
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
            objects = list(pool.map(compile_one, sources()))
        lib = include.parent / "lib"
        linked = work / "library.so"
        run([cxx, *flags, "-shared", *map(str, objects), f"-L{lib}", "-ltorch_cpu", "-lc10", "-o", str(linked)])
        linked.rename(out)
    finally:
        shutil.rmtree(work)
    return out


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[-4000:]}")
    return done.stdout
