"""The steps of the job: what each runs, what it needs, where its output goes."""

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRATCH = "rows.part"  # where one benchmark leaves its rows, until they join the others
LIMIT = 450  # seconds a command may take: under 8 minutes, its end included

# What the machine must have (import name, wheel), and what it may lack: then those parts are left out, and it is said.
REQUIRED = {
    "torch": "torch", "triton": "triton", "numpy": "numpy", "pytest": "pytest", "setuptools": "setuptools",
    "wheel": "wheel", "ninja": "ninja",
}  # fmt: skip
# pybind11 is not among them: torch brings its headers
OPTIONAL = {
    "torchvision": "torchvision", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "safetensors": "safetensors",
    "rich": "rich", "pytest_benchmark": "pytest-benchmark", "complextorch": "complextorch",
    "torchcvnn": "torchcvnn", "complexPyTorch": "complexPyTorch", "cplxmodule": "cplxmodule",
}  # fmt: skip
# Folders and files of tests that need more than torch, triton, numpy and pytest.
NEEDS = {
    "tests/experiments": ("torchvision", "sklearn", "matplotlib", "safetensors", "rich"),
    "benchmarks/test_benchmarks.py": ("pytest_benchmark",),
}
# What is to be known first comes first: the convolution's forms, what a kernel costs in a graph, the naive step eager,
# in a graph and compiled, the fused norm's share of the copy rate, the whole step in each precision. (name, arguments)
EVERYTHING = ("--against", "all")
MEASURED = [
    ("conv2d_forms-float32", ("conv2d_forms", "--passes", "forward,backward")),
    ("conv2d_forms-tf32", ("conv2d_forms", "--passes", "forward,backward", "--tf32")),
    ("conv2d_forms-float16", ("conv2d_forms", "--passes", "forward,backward", "--dtype", "float16")),
    ("conv2d_forms-bfloat16", ("conv2d_forms", "--passes", "forward,backward", "--dtype", "bfloat16")),
    ("processor-float32", ("processor", "--only", "complex", *EVERYTHING)),
    ("batch_norm_relu", ("batch_norm_relu", *EVERYTHING)),
    ("batch_norm_relu-float16", ("batch_norm_relu", "--dtype", "float16")),
    ("batch_norm_relu-bfloat16", ("batch_norm_relu", "--dtype", "bfloat16")),
    ("processor-tf32", ("processor", "--only", "complex", "--tf32", *EVERYTHING)),
    ("processor-real-tf32", ("processor", "--only", "real", "--tf32", *EVERYTHING)),
    ("block-tf32", ("block", "--tf32", *EVERYTHING)),
    ("train_step-float32", ("train_step", *EVERYTHING)),
    ("train_step-tf32", ("train_step", "--tf32", *EVERYTHING)),
]
ALONE = ("conv2d_forms", "processor", "batch_norm_relu", "block", "train_step")  # measured above, each its own way

# They build packages and environments, which an offline machine cannot, and need no GPU: `make test` has them.
ELSEWHERE = ("tests/test_packaging.py", "tests/test_makefile.py")


@dataclass(frozen=True)
class Step:
    """One command. ``log`` names the result file its output ends in; steps may share one."""

    name: str
    command: tuple
    log: str
    env: dict = field(default_factory=dict)
    left_out: str = ""  # why it is not run here

    def line(self) -> str:
        shown = " ".join([*(f"{k}={v}" for k, v in self.env.items()), *map(str, self.command)])
        return f"{self.name:<20} {f'left out: {self.left_out}' if self.left_out else shown}"


def absent(modules) -> list[str]:
    return [name for name in modules if importlib.util.find_spec(name) is None]


def wheels(modules) -> str:
    return ", ".join((REQUIRED | OPTIONAL)[name] for name in modules)


def sanitizer() -> str | None:
    """compute-sanitizer, on the PATH or in the toolkit that nvcc belongs to."""
    homes = [os.environ.get("CUDA_HOME")]
    nvcc = shutil.which("nvcc")
    homes.append(str(Path(nvcc).resolve().parents[1]) if nvcc else None)
    inside = [
        Path(home, folder, "compute-sanitizer")
        for home in filter(None, homes)
        for folder in ("bin", "compute-sanitizer", "extras/compute-sanitizer")
    ]
    return shutil.which("compute-sanitizer") or next((str(p) for p in inside if p.is_file()), None)


def test_groups() -> dict[str, list[str]]:
    """The suite in parts that each fit a command: folders, and for each operation its file, run once a backend."""
    tests = ROOT / "tests"
    folders = sorted(p.name for p in tests.iterdir() if p.is_dir() and any(p.rglob("test_*.py")))
    groups = {f"tests-{f}": [f"tests/{f}"] for f in folders if f not in ("interpreted", "ops")}
    for path in sorted((tests / "ops").glob("test_*.py")):
        if path.stem != "test_large":
            groups[f"tests-ops-{path.stem[5:]}"] = [f"tests/ops/{path.name}"]
    groups["tests-house"] = [f"tests/{p.name}" for p in sorted(tests.glob("test_*.py"))]
    groups["tests-bars"] = [f"benchmarks/{p.name}" for p in sorted((ROOT / "benchmarks").glob("test_*.py"))]
    groups = {name: [p for p in paths if p not in ELSEWHERE] for name, paths in groups.items()}
    return {name: paths for name, paths in groups.items() if paths}


def lacking(paths: list[str]) -> list[str]:
    """The optional modules that these tests need and that are not here."""
    needed = {m for path in paths for start, modules in NEEDS.items() if path.startswith(start) for m in modules}
    return absent(sorted(needed))


def steps(out: Path, ops: tuple = ()) -> list[Step]:
    """Every step in order; ``ops``: the operations of `python -m benchmarks`, or nothing of them."""
    python = sys.executable
    pytest = (python, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    build = (python, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--no-index", "-v", "-e", ".")
    plan = [Step("build", build, "build.log", {"CVKERNELS_CUDA": "1"} if shutil.which("nvcc") else {})]
    plan.append(Step("backends", (python, "-m", "tests.gpu.backends"), "build.log"))
    expected = {"CVKERNELS_EXPECT": "triton,cuda" if shutil.which("nvcc") else "triton"}
    for name, paths in test_groups().items():
        missing = lacking(paths)
        reason = f"no {wheels(missing)}" if missing else ""
        plan.append(Step(name, (*pytest, *paths), "tests.log", expected, left_out=reason))
    plan.append(Step("large", (*pytest, "-m", "large", "tests/ops"), "tests.log"))
    tool = sanitizer()
    for check in ("memcheck", "racecheck"):
        command = (tool, "--tool", check, "--error-exitcode", "9", python, "-m", "tests.gpu.small_shapes")
        reason = "" if tool else "no compute-sanitizer on the PATH or in the toolkit"
        # torch's allocator hides an overrun inside its own large blocks
        plan.append(Step(check, command, "sanitizer.log", {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, reason))
    plan.append(Step("gate", (python, "-m", "tests.gate"), "gate.log"))
    plan.append(Step("loss-curve", (python, "-m", "tests.gpu.loss_curve"), "benchmarks.log"))
    plan += benchmarks(out, ops) if ops else []
    return plan


def benchmarks(out: Path, ops: tuple) -> list[Step]:
    """First what the order of work hangs on, then every operation; each leaves its rows to the one table."""
    run = (sys.executable, "-m", "benchmarks")
    rest = [(op, (op, *EVERYTHING)) for op in ops if op not in ALONE]
    found = [
        Step(f"benchmarks-{name}", (*run, *given, "--device", "cuda", "--out", str(out / SCRATCH)), "benchmarks.log")
        for name, given in [*MEASURED, *rest]
    ]
    nodes = Step("benchmarks-graph-nodes", (sys.executable, "-m", "benchmarks.graph_nodes"), "benchmarks.log")
    return [*found[:4], nodes, *found[4:]]


def chosen(plan: list[Step], names: list[str]) -> list[Step]:
    """Steps by name or family (``tests``, ``tests-ops``, ``benchmarks``, ``sanitizer``), in the order of the plan."""
    families = {"sanitizer": ("memcheck", "racecheck")}
    picked, unknown = set(), []
    for name in names:
        found = {
            s.name for s in plan if s.name == name or s.name.startswith(f"{name}-") or s.name in families.get(name, ())
        }
        picked |= found
        unknown += [] if found else [name]
    if unknown:
        raise ValueError(f"no step {', '.join(unknown)}; there are {', '.join(s.name for s in plan)}")
    return [s for s in plan if s.name in picked]
