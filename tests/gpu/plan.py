"""The steps of the job: what each runs, what it needs, where its output goes."""

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRATCH = "rows.part"  # where one benchmark leaves its rows, until they join the others
LIMIT = 450  # seconds a command may take: under 8 minutes, its end included

# What the machine must have (import name, wheel), and what it may lack: then those parts are left out, and it is said.
REQUIRED = {
    "torch": "torch", "triton": "triton", "numpy": "numpy", "pytest": "pytest", "setuptools": "setuptools",
}  # fmt: skip
# pybind11 is not among them: torch brings its headers; nor ninja, without which files compile one after another
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
# A machine may be lent for minutes: what a claim rests on is measured before anything that takes long. The share of the
# copy rate that each streaming kernel reaches, then the processor against naive code, eager and in a graph, in TF32 and
# bfloat16. What Inductor has to compile comes later, and networks one by one. (name, arguments)
STREAMING = (
    "batch_norm_relu", "magnitude_relu", "magnitude_batch_norm", "magnitude_max_pool2d", "rotate", "rotate_phase",
    "unrotate", "real_batch_norm_relu",
)  # fmt: skip
EVERYTHING = ("--against", "all")
GRAPHS = ("--against", "naive,graph")
FIRST = [
    ("streaming", (*STREAMING, "--shapes", "32x256x56x56", "--seconds", "0.3")),
    ("processor-tf32-graphs", ("processor", "--only", "complex", "--tf32", *GRAPHS)),
    ("train_step-tf32-graphs", ("train_step", "--only", "resnet56-alpha complex", "--tf32", *GRAPHS)),
]
NETWORKS = [
    f"{net} {weights}" for net in ("resnet56-alpha", "resnet20-alpha", "lenet") for weights in ("complex", "real")
]
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
    *(
        (f"train_step-{precision}-{network.replace(' ', '-')}", ("train_step", "--only", network, *flag, *EVERYTHING))
        for network in NETWORKS
        for precision, flag in (("tf32", ("--tf32",)), ("float32", ()))
    ),
]
ALONE = ("conv2d_forms", "processor", "batch_norm_relu", "block", "train_step")  # measured above, each its own way

# They build packages and environments, which an offline machine cannot, or stand in for a GPU: `make test` has them.
ELSEWHERE = (
    "tests/test_packaging.py", "tests/test_makefile.py", "tests/test_interpreted.py", "tests/test_emulated.py",
)  # fmt: skip
# Triton compiles some 385 kernels for the small shapes alone, each in about a second: kept from step to step, and
# where `make gpu` is called again.
TRITON_CACHE = ROOT / "build" / "triton-cache"


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


def nvcc() -> str | None:
    """The compiler that a build would take: CUDA_HOME's, the PATH's, or where the toolkit is put by default."""
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")
    return found or (None if home else shutil.which("nvcc", path="/usr/local/cuda/bin"))


def sanitizer() -> str | None:
    """compute-sanitizer, on the PATH or in the toolkit that nvcc belongs to."""
    homes = [os.environ.get("CUDA_HOME"), str(Path(nvcc()).resolve().parents[1]) if nvcc() else None]
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


def steps(out: Path, ops: tuple = (), here: dict | None = None) -> list[Step]:
    """Every step in order, what is to be known first at the head.

    ``ops``: the operations of `python -m benchmarks`, or nothing of them. ``here``: the machine's ``capability`` and
    whether it has the ``backends``, where that is known.
    """
    here = here or {}
    python = sys.executable
    plan = [Step("build", (python, "-m", "tests.gpu.build"), "build.log")]
    plan.append(Step("backends", (python, "-m", "tests.gpu.backends"), "build.log"))
    # fills Triton's cache, by several processes; the sanitizer's run of the same is slow enough without compiling
    shapes = (python, "-m", "tests.gpu.small_shapes")
    plan.append(Step("small-shapes", (*shapes, "--processes", str(min(8, os.cpu_count() or 1))), "tests.log"))
    first, rest = benchmarks(out, ops) if ops else ([], [])
    plan += first
    plan += sanitized(shapes)
    tests = tested(here.get("backends") or ("triton", *(("cuda",) if nvcc() else ())))
    plan += [*tests, Step("loss-curve", (python, "-m", "tests.gpu.loss_curve"), "benchmarks.log"), *rest]
    plan.append(Step("gate", (python, "-m", "tests.gate"), "gate.log"))
    return [too_old(step, here.get("capability")) for step in plan]


def tested(expected: tuple) -> list[Step]:
    """The suite. Of the operations' tests those that need a GPU, side by side where xdist is there: `make test` has
    the others."""
    pytest = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    beside = ("-n", str(min(4, os.cpu_count() or 1))) if importlib.util.find_spec("xdist") else ()
    found = []
    for name, paths in test_groups().items():
        missing = lacking(paths)
        more = (*beside, "-m", "gpu") if name.startswith("tests-ops-") else ()
        more += ("--benchmark-disable",) if name == "tests-bars" else ()  # each once: are the numbers right
        reason = f"no {wheels(missing)}" if missing else ""
        env = {"CVKERNELS_EXPECT": ",".join(expected)}
        found.append(Step(name, (*pytest, *more, *paths), "tests.log", env, reason))
    # the operations first, the folders and what is in none of them after
    found.sort(key=lambda step: not step.name.startswith("tests-ops-"))
    return [*found, Step("large", (*pytest, "-m", "large", "tests/ops"), "tests.log")]


def sanitized(shapes: tuple) -> list[Step]:
    tool, found = sanitizer(), []
    # what CUDA itself answers to a question of torch's is no fault of a kernel
    for check, more in (("memcheck", ("--report-api-errors", "no")), ("racecheck", ())):
        reason = "" if tool else "no compute-sanitizer on the PATH or in the toolkit"
        command = (tool, "--tool", check, *more, "--error-exitcode", "9", *shapes)
        # torch's allocator hides an overrun inside its own large blocks
        found.append(Step(check, command, "sanitizer.log", {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}, reason))
    return found


def too_old(step: Step, capability) -> Step:
    """Turing has neither bfloat16 nor TF32."""
    new = {"tf32", "bfloat16"} & set(step.name.split("-"))
    if capability is None or tuple(capability) >= (8, 0) or not new or step.left_out:
        return step
    return replace(step, left_out=f"no {new.pop()} before sm_80")


def benchmarks(out: Path, ops: tuple) -> tuple[list[Step], list[Step]]:
    """What a claim rests on, and the rest: each leaves its rows to the one table."""
    run = (sys.executable, "-m", "benchmarks")
    first, found = (
        [
            Step(
                f"benchmarks-{name}", (*run, *given, "--device", "cuda", "--out", str(out / SCRATCH)), "benchmarks.log"
            )
            for name, given in some
        ]
        for some in (FIRST, [*MEASURED, *((op, (op, *EVERYTHING)) for op in ops if op not in ALONE)])
    )
    nodes = Step("benchmarks-graph-nodes", (sys.executable, "-m", "benchmarks.graph_nodes"), "benchmarks.log")
    return first, [*found[:4], nodes, *found[4:]]


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
