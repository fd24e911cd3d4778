"""The job itself, without a GPU: its plan, its parsing, its files. What it runs is not run here."""

import importlib
import json
import subprocess
import sys

import pytest

from benchmarks import __main__ as cli
from benchmarks import bars, graph_nodes
from benchmarks.__main__ import NAMED, OPS
from cvkernels import backend
from tests.gpu import __main__ as job
from tests.gpu import build, loss_curve, plan, results, small_shapes

KERNEL = "rotate triton torch.float32 contiguous"  # small_shapes.py says so where it is right


def names(out="x"):
    return [step.name for step in plan.steps(plan.Path(out), job.benchmarked())]


def test_the_dry_run_prints_every_step_and_runs_none(tmp_path):
    command = [sys.executable, "-m", "tests.gpu", "--dry-run", "--out", str(tmp_path / "results")]
    done = subprocess.run(command, cwd=plan.ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    printed = [line.split()[0] for line in done.stdout.splitlines() if line.split()[0] in names()]
    assert printed == names() and not (tmp_path / "results").exists()


def test_the_plan_builds_first_and_holds_the_whole_suite():
    found = names()
    head = ["build", "backends", "small-shapes", "benchmarks-streaming", "benchmarks-processor-tf32-graphs"]
    assert found[: len(head)] == head and len(set(found)) == len(found)
    assert {"large", "memcheck", "racecheck", "gate", "loss-curve", "tests-ops-rotate"} <= set(found)
    measured = [name.removeprefix("benchmarks-") for name in found if name.startswith("benchmarks-")]
    first = ["conv2d_forms-float32", "graph-nodes", "processor-float32", "batch_norm_relu", "processor-tf32", "rotate"]
    assert [name for name in measured if name in first] == first
    assert {name.split("-")[0] for name in measured} == {*OPS, *NAMED, "graph", "streaming"}
    paths = [path for group in plan.test_groups().values() for path in group]
    suite = {str(p.relative_to(plan.ROOT)) for p in (plan.ROOT / "tests").rglob("test_*.py")}
    reached = {p for p in suite if any(p.startswith(path) for path in paths)}
    elsewhere = {*plan.ELSEWHERE, "tests/ops/test_large.py"}
    assert all((plan.ROOT / path).is_file() for path in elsewhere)
    assert {p for p in suite - reached if not p.startswith("tests/interpreted/")} <= elsewhere


def test_steps_by_name_and_family():
    everything = plan.steps(plan.Path("x"), ("rotate", "unrotate"))
    picked = [s.name for s in plan.chosen(everything, ["benchmarks-conv2d_forms", "build", "sanitizer"])]
    forms = [f"benchmarks-conv2d_forms-{dtype}" for dtype in ("float32", "tf32", "float16", "bfloat16")]
    assert picked == ["build", "memcheck", "racecheck", *forms]
    assert [s.name for s in plan.chosen(everything, ["benchmarks"])][-2:] == [
        "benchmarks-rotate",
        "benchmarks-unrotate",
    ]


def test_every_benchmark_of_the_plan_is_one_that_can_be_asked_for():
    first, rest = plan.benchmarks(plan.Path("x"), job.benchmarked())
    for step in (*first, *rest):
        if step.name != "benchmarks-graph-nodes":
            options = cli.arguments([str(word) for word in step.command[3:]])
            assert options.ops and options.device == "cuda" and options.out == plan.Path("x") / plan.SCRATCH
            names = [n for op in options.ops for n in (*room(op).NAMES, *getattr(room(op), "ON_A_GPU", ()))]
            assert any(options.only in name for name in names), f"{step.name} measures nothing"


def room(op):
    return importlib.import_module(f"benchmarks.bench_{op}")


def test_each_network_is_a_step_of_its_own_and_the_bars_come_before_what_inductor_compiles():
    from benchmarks.bench_train_step import NAMES, ON_A_GPU

    first, rest = plan.benchmarks(plan.Path("x"), job.benchmarked())
    trained = [step.command[5] for step in rest if step.name.startswith("benchmarks-train_step-tf32")]
    assert {f"train {network}" for network in trained} == {*NAMES, *ON_A_GPU} and len(trained) == 6
    assert all("all" not in step.command for step in first)
    streaming = first[0].command[3:]
    assert set(plan.STREAMING) <= set(streaming) and bars.named(bars.GPU_LARGE) in streaming


def test_turing_is_asked_for_neither_tf32_nor_bfloat16():
    for capability, old in (([7, 5], True), ([8, 0], False), ([9, 0], False)):
        steps = plan.steps(plan.Path("x"), job.benchmarked(), {"capability": capability})
        left_out = {s.name for s in steps if "before sm_80" in s.left_out}
        new = {s.name for s in steps if "tf32" in s.name or "bfloat16" in s.name}
        assert left_out == (new if old else set()) and len(new) > 10


def test_the_operations_tests_run_what_needs_a_gpu_and_the_bars_once():
    steps = {step.name: step.command for step in plan.steps(plan.Path("x"))}
    assert all("gpu" in steps[name] for name in steps if name.startswith("tests-ops-"))
    assert "--benchmark-disable" in steps["tests-bars"]


def test_what_triton_compiles_is_kept_between_the_steps(monkeypatch):
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    step = plan.Step("x", (sys.executable, "-c", "import os; print(os.environ['TRITON_CACHE_DIR'])"), "x.log")
    assert job.run(step, limit=60) == (0, f"{plan.TRITON_CACHE}\n")
    assert "build/\n" in (plan.ROOT / ".gitignore").read_text()
    monkeypatch.setenv("TRITON_CACHE_DIR", "elsewhere")
    assert job.surroundings()["TRITON_CACHE_DIR"] == "elsewhere"


def test_nvcc_off_the_path(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(plan.shutil, "which", lambda name, path=None: asked.append(path))
    monkeypatch.delenv("CUDA_HOME", raising=False)
    assert plan.nvcc() is None and asked == [None, "/usr/local/cuda/bin"]
    monkeypatch.setenv("CUDA_HOME", "/opt/cuda")
    assert plan.nvcc() is None and asked[2:] == ["/opt/cuda/bin"]


def test_the_tests_expect_the_backends():
    for backends, want in ((["triton", "cuda"], "triton,cuda"), (["triton"], "triton")):
        steps = plan.steps(plan.Path("x"), here={"backends": backends})
        assert {s.env["CVKERNELS_EXPECT"] for s in steps if s.name.startswith("tests-")} == {want}


def test_a_loss_curve_is_held_to_what_rounding_does():
    reference, nudged = [2.0, 1.0, 1.0, 0.5], [2.0, 1.1, 1.0, 0.6]
    apart, allowed = loss_curve.compare(reference, nudged, [2.0, 1.2, 1.1, 0.5], 2)
    assert (round(apart, 6), round(allowed, 6)) == (0.1, 0.15)
    apart, allowed = loss_curve.compare(reference, reference, [2.1, 1.1, 1.1, 0.6], 2)
    assert apart > allowed == loss_curve.SHARE * 1.5
    for place in range(4):
        ours = [float("nan") if i == place else x for i, x in enumerate(reference)]
        apart, allowed = loss_curve.compare(reference, nudged, ours, 2)
        assert not apart <= allowed


def test_the_loss_curve_runs(capsys):
    assert loss_curve.main(["--quick", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.endswith("loss curve: passed\n")


def test_the_float32_curve_has_no_tf32_in_it(monkeypatch, capsys):
    switches, seen = loss_curve.torch.backends, {}

    def curve(device, dtype, *rest):
        seen.setdefault(dtype, []).append((switches.cuda.matmul.allow_tf32, switches.cudnn.allow_tf32))
        return [1.0] * 4

    monkeypatch.setattr(loss_curve, "curve", curve)
    for capability, names in (((9, 0), ["float32", "tf32", "bfloat16", "float16"]), ((7, 5), ["float32", "float16"])):
        monkeypatch.setattr(loss_curve.torch.cuda, "get_device_capability", lambda capability=capability: capability)
        assert loss_curve.precisions("cuda") == names
    monkeypatch.setattr(loss_curve, "precisions", lambda device: ["tf32", "float32"])
    switches.cudnn.allow_tf32 = True
    assert loss_curve.main(["--quick", "--device", "cpu"]) == 0
    assert seen == {loss_curve.torch.float32: [(True, True)] * 3 + [(False, False)] * 3}
    for name, (dtype, eps) in loss_curve.PRECISIONS.items():
        assert name == "tf32" or eps == loss_curve.torch.finfo(dtype).eps


def test_without_a_gpu_the_scripts_say_so(monkeypatch, capsys):
    monkeypatch.setattr(graph_nodes.torch.cuda, "is_available", lambda: False)
    assert [graph_nodes.main(), loss_curve.main([]), small_shapes.main([])] == [2, 2, 2]
    assert capsys.readouterr().out.count("no GPU here") == 3


def test_what_lacks_a_wheel_is_left_out_and_says_which(monkeypatch):
    gone = {"sklearn", "pytest_benchmark"}
    find = plan.importlib.util.find_spec
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None if name in gone else find(name))
    left_out = {s.name: s.left_out for s in plan.steps(plan.Path("x")) if s.name.startswith("tests") and s.left_out}
    assert left_out == {"tests-experiments": "no scikit-learn", "tests-bars": "no pytest-benchmark"}


def test_a_missing_requirement_names_its_wheel(monkeypatch, capsys):
    find = plan.importlib.util.find_spec
    monkeypatch.setattr(plan.importlib.util, "find_spec", lambda name: None if name == "triton" else find(name))
    assert job.main(["--steps", "build"]) == 2
    assert "bring these wheels and install them first: triton" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("step", "code", "output", "status", "said"),
    [
        ("tests-nn", 0, "..\n12 passed, 3 skipped in 4.56s", "passed", "12 passed, 3 skipped"),
        ("tests-nn", 1, "FAILED a\n1 failed, 2 passed in 61.02s (0:01:01)", "failed", "1 failed, 2 passed"),
        ("tests-nn", 1, "1 error in 0.42s", "failed", "1 error"),
        ("large", 5, "no tests ran in 0.1s", "left out", "no tests selected"),
        ("build", None, "compiling", "timed out", "over its time limit"),
        ("gate", 1, "FAILED\ngate: 200 passed, 1 failed in 80 s", "failed", "gate: 200 passed, 1 failed in 80 s"),
        ("build", 0, "", "passed", "no output"),
        ("memcheck", 0, "small shapes: passed\n== ERROR SUMMARY: 0 errors", "passed", "0 errors"),
        ("memcheck", 9, f"{KERNEL}\nsmall shapes: passed\n== ERROR SUMMARY: 3 errors", "failed", "3 errors"),
        ("memcheck", 1, "small shapes: passed\n== ERROR SUMMARY: 0 errors", "failed", "exit code 1, though 0 errors"),
        (  # a kernel that gives the wrong numbers and touches nothing that is not its own
            "memcheck", 1, f"{KERNEL}\nAssertionError: y: RMS error\n========= ERROR SUMMARY: 0 errors",
            "failed", "0 errors, but the script did not pass: AssertionError: y: RMS error",
        ),
        (
            "memcheck", 1, "RuntimeError: Failed to find C compiler. not supported\n========= ERROR SUMMARY: 0 errors",
            "failed",
            "0 errors, but the script did not pass: RuntimeError: Failed to find C compiler. not supported",
        ),
        (
            "memcheck", 9, f"{KERNEL}\n========= Error: Unable to go on\nRuntimeError: x\n== ERROR SUMMARY: 1 error",
            "failed", "1 error, but the script did not pass: RuntimeError: x",
        ),
        (
            "racecheck", 0, "small shapes: passed\n== RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
            "passed", "0 hazards displayed (0 errors, 0 warnings)",
        ),
        (
            "memcheck", 1, "========= Error: Unable to attach to the device\n== ERROR SUMMARY: 1 error",
            "left out", "could not attach: ========= Error: Unable to attach to the device",
        ),
        (
            "memcheck", 127, "Traceback",
            "failed", "no summary from compute-sanitizer, but the script did not pass: Traceback",
        ),
        ("racecheck", 0, "small shapes: passed", "failed", "no summary from compute-sanitizer"),
    ],
)  # fmt: skip
def test_verdicts(step, code, output, status, said):
    assert results.verdict(step, code, output) == (status, said)


def test_files_carry_the_gpu_and_the_commit_and_stay_few_and_small(tmp_path):
    book = results.Results(tmp_path, "NVIDIA GeForce RTX 2060 SUPER", "abc1234+", {})
    for step in plan.steps(tmp_path, job.benchmarked()):
        book.record(step, "passed", "ok", 1.0, "x" * 300_000 + f"\nend of {step.name}")
    scratch = tmp_path / plan.SCRATCH
    scratch.write_text("op,shape,dtype,which,device,ratio\nrotate,1x1,float32,forward,g,2\n")
    assert book.take_rows(scratch) == 1
    files = list(tmp_path.iterdir())
    assert len(files) <= 8 and all(f.name.startswith("nvidia-geforce-rtx-2060-super-abc1234-") for f in files)
    assert max(f.stat().st_size for f in files) < 1.1 * results.SMALL
    assert "end of tests-nn" in book.path("tests.log").read_text()


def test_a_repeated_step_replaces_its_section_and_its_rows(tmp_path):
    book, step = results.Results(tmp_path, "g", "c", {}), plan.Step("large", (), "tests.log")
    other = plan.Step("tests-nn", (), "tests.log")
    for s, text in ((step, "first"), (other, "between"), (step, "second")):
        book.record(s, "passed", "ok", 1.0, text)
    log = book.path("tests.log").read_text()
    assert "second" in log and "between" in log and "first" not in log
    scratch = tmp_path / plan.SCRATCH
    for ratio in (2, 3):
        scratch.write_text(f"op,shape,dtype,which,device,ratio\nrotate,1x1,float32,forward,g,{ratio}\n")
        assert book.take_rows(scratch) == 1
    assert "forward,g,3" in book.path("benchmarks.csv").read_text()


def test_it_resumes_where_it_stopped(tmp_path):
    step = plan.Step("large", (), "tests.log")
    results.Results(tmp_path, "g", "c", {}).record(step, "passed", "ok", 1.0, "")
    assert results.Results(tmp_path, "g", "c", {}).done("large")
    assert not results.Results(tmp_path, "g", "other", {}).done("large")
    assert not results.Results(tmp_path, "g", "c", {}).done("build")


def test_a_command_over_its_limit_is_stopped_with_what_it_started():
    child = "import time; time.sleep(60)"
    sleeper = f"import subprocess, sys; print('began', flush=True); subprocess.run([sys.executable, '-c', {child!r}])"
    code, output = job.run(plan.Step("x", (sys.executable, "-c", sleeper), "x.log"), limit=2)
    assert code is None and output == "began\n"


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(job, "facts", lambda: dict.fromkeys(("torch", "cuda", "triton", "gpu")))
    assert job.main(["--steps", "build"]) == 2
    assert "sees no GPU here" in capsys.readouterr().out


def test_a_whole_run(tmp_path, monkeypatch, capsys):
    """The loop with commands of no weight: a failing step makes the exit code 1."""
    monkeypatch.setattr(job, "facts", lambda: {"gpu": "G", "torch": "t", "triton": "3"})
    commands = {"build": "print('built')", "tests-a": "print('1 failed in 0.1s'); raise SystemExit(1)"}
    steps = [plan.Step(n, (sys.executable, "-c", c), f"{n}.log") for n, c in commands.items()]
    monkeypatch.setattr(plan, "steps", lambda out, ops, here=None: steps)
    assert job.main(["--out", str(tmp_path)]) == 1
    assert "gpu: 1 passed, 1 failed, 0 left out" in capsys.readouterr().out
    summary = json.loads(next(tmp_path.glob("g-*-summary.json")).read_text())
    assert [s["status"] for s in summary["steps"].values()] == ["passed", "failed"]
    assert job.main(["--out", str(tmp_path)]) == 1
    assert "build                              passed before at this commit" in capsys.readouterr().out


def test_what_was_built_decides_what_is_expected(tmp_path, monkeypatch):
    """A build that fails is said and stops nothing: Triton's kernels need none."""
    asked = []
    monkeypatch.setattr(
        job, "facts", lambda: asked.append(1) or {"gpu": "G", "torch": "t", "triton": "3", "n": len(asked)}
    )
    seen = []

    def steps(out, ops, here=None):
        seen.append(here and here["n"])
        return [plan.Step(n, (sys.executable, "-c", "raise SystemExit(1)"), f"{n}.log") for n in ("build", "tests-a")]

    monkeypatch.setattr(plan, "steps", steps)
    assert job.main(["--out", str(tmp_path)]) == 1
    assert seen == [None, 1, 2]
    summary = json.loads(next(tmp_path.glob("g-*-summary.json")).read_text())
    assert list(summary["steps"]) == ["build", "tests-a"]


def test_over_its_time_is_tried_once_more_and_no_step_begins_without_any(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(job, "facts", lambda: {"gpu": "G", "torch": "t", "triton": "3"})
    steps = [plan.Step(name, ("true",), "x.log") for name in ("slow", "quick")]
    monkeypatch.setattr(plan, "steps", lambda out, ops, here=None: steps)
    ran = []

    def run(step, limit):
        ran.append((step.name, limit))
        return (None if ran.count(("slow", limit)) == 1 and step.name == "slow" else 0), "said"

    monkeypatch.setattr(job, "run", run)
    assert job.main(["--out", str(tmp_path / "a"), "--limit", "100"]) == 0
    assert [name for name, _ in ran] == ["slow", "quick", "slow"]
    ran.clear()
    monkeypatch.setattr(job, "LEAST", 50)
    assert job.main(["--out", str(tmp_path / "b"), "--total", "40"]) == 1
    assert ran == [] and "2 not begun" in capsys.readouterr().out
    assert not results.Results(tmp_path / "b", "G", job.commit(), {}).done("slow")


@pytest.mark.parametrize("works", ["auto", "0", None])
def test_the_build_goes_back_to_the_cpu_alone(monkeypatch, capsys, works):
    tried = []

    def run(command, cwd, env):
        tried.append(env["CVKERNELS_CUDA"])
        assert command[1:] == ["setup.py", "build_ext", "--inplace"] and cwd == plan.ROOT
        return subprocess.CompletedProcess(command, env["CVKERNELS_CUDA"] != works)

    monkeypatch.delenv("CVKERNELS_CUDA", raising=False)
    monkeypatch.setattr(build.subprocess, "run", run)
    assert build.main() == (0 if works == "auto" else 1)
    assert tried == ["auto", "0"][: 1 if works == "auto" else 2]
    assert f"CVKERNELS_CUDA={tried[-1]} it {'worked' if works else 'failed'}" in capsys.readouterr().out


@pytest.mark.parametrize("layout", small_shapes.LAYOUTS)
@pytest.mark.parametrize("name", small_shapes.CALLS)
def test_the_small_shapes_run(name, layout):
    """Without a GPU the reference stands in for the kernels: the calls and the comparison are what is tested."""
    small_shapes.check(name, "reference", small_shapes.torch.float32, layout, "cpu")


def test_a_wrong_kernel_is_said_and_the_others_are_heard(monkeypatch, capsys):
    def check(name, where, dtype, layout, device):
        assert name != "rotate", "y: RMS error\n  far apart"

    monkeypatch.setattr(small_shapes, "check", check)
    f32 = small_shapes.torch.float32
    assert small_shapes.checked([("rotate", "triton", f32), ("unrotate", "cuda", f32)], "cpu") == 3
    said = capsys.readouterr().out
    assert len(results.CHECKED.findall(said)) == 3 and said.count("WRONG: AssertionError: y: RMS error far apart") == 3


def test_every_gpu_kernel_has_a_small_shape():
    assert {name for name, op in backend.OPS.items() if op.cuda or op.triton} <= set(small_shapes.CALLS)
