"""Metadata and the compiled half: `cvkernels._C` (operators, LibTorch stable ABI), `cvkernels._build` (pybind11) and
`cvkernels._autograd` (the nodes of autograd's graph: of this torch alone, and not needed with another one).

CVKERNELS_CUDA=auto|0|1    auto: CUDA kernels where nvcc fits torch's CUDA, else CPU only and one line that says so
TORCH_CUDA_ARCH_LIST       architectures; else the visible GPU's, else the release list
CVKERNELS_CXXFLAGS         flags for the CPU kernels after the build's own: -march=native or, for a quick build, -O0
MAX_JOBS                   parallel compiler processes
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import find_packages, setup

RELEASE_ARCHS = "7.5;8.0;8.6;8.9;9.0;10.0;12.0+PTX"
ROOT = Path(__file__).parent


def say(line):
    print(f"cvkernels: {line}", file=sys.stderr, flush=True)


try:
    import torch
    from torch.utils import cpp_extension
except ModuleNotFoundError:
    sys.exit(
        "cvkernels: torch is not visible to this build. Install it first, then build against it:\n"
        "    pip install torch torchvision setuptools wheel ninja pybind11\n"
        "    pip install --no-build-isolation ."
    )


def run(*command):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr if done.returncode == 0 else ""


def cxx_compiler():
    """The C++ compiler's name, or None where there is none."""
    return shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++") or shutil.which("clang++")


def cuda_root():
    """The toolkit that nvcc itself names (its TOP line): an nvcc on the PATH may be a wrapper that stands elsewhere."""
    if os.environ.get("CUDA_HOME"):
        return os.environ["CUDA_HOME"]
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")  # where a toolkit is put by default
    if nvcc is None:
        return None
    top = re.search(r"^#\$ TOP=(.*)$", run(nvcc, "--dryrun", "-x", "cu", os.devnull, "-c"), re.M)
    return os.path.realpath(top[1].strip()) if top else str(Path(nvcc).resolve().parent.parent)


def cuda_plan():
    """(use CUDA, reason why not)."""
    wish = os.environ.get("CVKERNELS_CUDA", "auto")
    if wish not in ("auto", "0", "1"):
        sys.exit(f"cvkernels: CVKERNELS_CUDA must be auto, 0 or 1, got {wish!r}")
    if wish == "0":
        return False, "CVKERNELS_CUDA=0"
    reason = None
    root = cuda_root()
    if root is None or not Path(root, "bin", "nvcc").exists():
        reason = "no nvcc found; install the CUDA toolkit or set CUDA_HOME"
    elif torch.version.cuda is None:
        reason = "this torch was built without CUDA"
    else:
        found = re.search(r"release (\d+)\.", run(str(Path(root, "bin", "nvcc")), "--version"))
        major = found[1] if found else "?"
        if major != torch.version.cuda.split(".")[0]:
            reason = f"nvcc is CUDA {major}, torch is CUDA {torch.version.cuda}"
        elif not any(next(Path(root).glob(f"{d}/libcudart.so"), None) for d in ("lib64", "lib", "targets/*/lib")):
            reason = f"no libcudart.so to link under {root}"
    if reason and wish == "1":
        sys.exit(f"cvkernels: CVKERNELS_CUDA=1, but {reason}")
    if reason is None:
        os.environ["CUDA_HOME"] = root
        cpp_extension.CUDA_HOME = root  # read at import, before the wrapper was seen through
    return reason is None, reason


def nvcc_archs():
    """Sets TORCH_CUDA_ARCH_LIST where the user has not: the visible GPU, else the release list."""
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        here = "{}.{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else RELEASE_ARCHS
        os.environ["TORCH_CUDA_ARCH_LIST"] = here
    return os.environ["TORCH_CUDA_ARCH_LIST"]


def extensions():
    cxx = cxx_compiler()
    if cxx is None:
        say(
            "no C++ compiler: installing without compiled kernels (reference and, with a GPU, Triton). "
            "Install g++ and repeat to get them."
        )
        return []
    cuda, reason = cuda_plan()
    if not cuda:
        say(f"building for the CPU only: {reason}")
    archs = nvcc_archs() if cuda else ""
    if "MAX_JOBS" not in os.environ:
        os.environ["MAX_JOBS"] = str(max(1, min(os.cpu_count() or 1, memory_gib() // 2)))

    flags = [
        "-O3",
        "-g0",  # Python's own flags ask for debugging information: half as long again to compile, ten times the size
        "-fvisibility=hidden",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-fopenmp-simd",
        "-ffp-contract=fast",
        *os.environ.get("CVKERNELS_CXXFLAGS", "").split(),
    ]
    macros = [
        ("TORCH_TARGET_VERSION", "0x020b000000000000"),  # 2.11: one library for it and every later torch
        ("CVK_VERSION", f'"{VERSION}"'),
    ] + ([("USE_CUDA", None)] if cuda else [])
    facts = {
        "CVK_TORCH": torch.__version__,
        "CVK_CUDA": torch.version.cuda if cuda else "",
        "CVK_ARCHS": archs,
        "CVK_CXX": (run(cxx, "--version").splitlines() or ["?"])[0],
        "CVK_FLAGS": " ".join(flags),
    }
    sources = ["csrc/ops.cpp", *sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / "cpu").glob("*.cpp"))]
    compile_args = {"cxx": flags}
    make = cpp_extension.CppExtension
    if cuda:
        make = cpp_extension.CUDAExtension
        sources += sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc" / "cuda").glob("*.cu"))
        compile_args["nvcc"] = ["-O3", "-Xptxas=-v", "-Xcompiler=-fvisibility=hidden"]
    headers = sorted(str(p.relative_to(ROOT)) for p in (ROOT / "csrc").rglob("*.h"))
    operators = make(
        "cvkernels._C",
        sources,
        include_dirs=[str(ROOT / "csrc")],
        define_macros=macros,
        extra_compile_args=compile_args,
        depends=headers,
    )
    build = cpp_extension.CppExtension(
        "cvkernels._build",
        ["csrc/build.cpp"],
        extra_compile_args={"cxx": ["-O2", "-g0"]},
        define_macros=[(k, '"' + v.replace('"', "") + '"') for k, v in facts.items()],
    )
    autograd = cpp_extension.CppExtension(
        "cvkernels._autograd",
        ["csrc/autograd.cpp"],
        extra_compile_args={"cxx": ["-O1", "-g0", "-fvisibility=hidden"]},
        define_macros=[("CVK_TORCH", f'"{torch.__version__}"')],
    )
    return [operators, build, autograd]


def memory_gib():
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**30
    except (ValueError, OSError):
        return 4


VERSION = re.search(r'__version__ = "(.*)"', (ROOT / "cvkernels" / "__init__.py").read_text())[1]
README = ROOT / "README.md"

setup(
    name="cvkernels",
    version=VERSION,
    description="Fused kernels for rotation-equivariant complex-valued layers in PyTorch",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["cvkernels", "cvkernels.*"]),
    install_requires=["torch>=2.11"],
    extras_require={
        "experiments": ["torchvision", "numpy", "scikit-learn", "matplotlib", "safetensors", "rich"],
        "test": ["pytest", "pytest-benchmark", "pytest-xdist", "setuptools", "wheel", "ninja", "pybind11"],
        "tensorboard": ["tensorboard"],
        "peers": ["complextorch", "torchcvnn", "complexPyTorch", "cplxmodule"],
    },
    ext_modules=extensions(),
    cmdclass={"build_ext": cpp_extension.BuildExtension.with_options(use_ninja=True, no_python_abi_suffix=False)},
)
