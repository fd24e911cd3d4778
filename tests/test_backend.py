"""Which kernel runs: forced, chosen, absent, and for how long."""

import importlib
import os
import re
import subprocess
import sys

import pytest
import torch

import cvkernels
import cvkernels.functional as F
from cvkernels import backend, use_backend
from tests.conftest import GPU
from tests.ops.suite import Recorder

Z = torch.randn(2, 2, 3, 4)


def absent_here() -> list[str]:
    return [name for name in backend.BACKENDS if backend.absent(name)]


def reached(call) -> set:
    """The operators of ours that a call dispatches to."""
    with Recorder() as seen:
        call()
    return {op.name().split(".")[0] for op, _, _ in seen.calls}


def test_the_reference_is_everywhere_and_every_operation_declares_its_kernels():
    assert backend.absent("reference") is None
    assert {"rotate", "rotate_phase", "unrotate", "magnitude_relu", "batch_norm_relu"} < set(backend.OPS)
    registered = {n.split("::")[1] for n in torch._C._dispatch_get_all_op_names() if n.startswith("cvkernels::")}
    rooms = {re.sub("_(forward|backward)$", "", n) for n in registered}
    # plain torch: a statistic's gradient is one product; inference has none; dropout and a product are their own
    alone = {"dropout", "magnitude_power", "conv_planes_relu", "conv_winograd_relu"}
    alone = {f"{name}_backward" for name in alone}
    assert rooms <= set(backend.OPS) and alone.isdisjoint(registered)
    assert {f"{r}_{way}" for r in rooms for way in ("forward", "backward")} - alone <= registered


A_KERNEL_OF = {
    "cpu": lambda z: F.magnitude_relu(z),
    "triton": lambda z: F.batch_norm_relu(z),
    "cuda": lambda z: F.magnitude_max_pool2d(z.unsqueeze(-1), 1),
}


def test_the_kernel_runs_where_it_is_forced_and_plain_torch_where_the_reference_is(kernel):
    z, call = Z.to(kernel.device), A_KERNEL_OF[kernel.name]
    ours = reached(lambda: call(z))
    space = "cvkernels_triton::" if kernel.name == "triton" else "cvkernels::"
    assert ours and all(name.startswith(space) for name in ours)
    with use_backend("reference"):
        assert reached(lambda: call(z)) == set()
    assert reached(lambda: call(z)) == ours


class TestDefaults:
    """The table that chooses where nothing is forced."""

    def test_every_row_names_what_there_is_and_its_measurement_or_reason(self):
        for row in backend.DEFAULTS:
            assert set(row.ops) <= set(backend.OPS), row
            device = "cpu" if row.where == "cpu" else "cuda"
            assert row.where == device or re.fullmatch(r"sm_\d+", row.where), row
            assert set(row.order) <= ({"cpu"} if device == "cpu" else {"triton", "cuda"}), row
            assert re.match("(measured|not measured|compiled): .", row.why), row

    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    def test_every_operation_has_a_row_and_no_two_rows_speak_for_it(self, device):
        for name in backend.OPS:
            assert backend.default(name, device) is not None
        keys = [(op, row.where) for row in backend.DEFAULTS for op in row.ops or ("any",)]
        assert len(keys) == len(set(keys))

    ROWS = {
        ("other", "cpu", None): "cpu",
        ("other", "cuda", "sm_90"): "device",
        ("other", "cuda", "sm_75"): "arch",
        ("named", "cuda", "sm_90"): "op",
        ("named", "cuda", "sm_75"): "op-arch",
        ("op-only", "cuda", "sm_75"): "op-only",  # an operation named counts before an architecture
    }

    @pytest.mark.parametrize("asked, want", ROWS.items(), ids=["-".join(map(str, k)) for k in ROWS])
    def test_the_most_specific_row_holds(self, monkeypatch, asked, want):
        rows = [
            backend.Default((), "cpu", ("cpu",), "cpu"),
            backend.Default(("named",), "sm_75", (), "op-arch"),
            backend.Default((), "cuda", ("triton", "cuda"), "device"),
            backend.Default((), "sm_75", ("cuda",), "arch"),
            backend.Default(("named",), "cuda", ("cuda",), "op"),
            backend.Default(("op-only",), "cuda", ("cuda",), "op-only"),
        ]
        monkeypatch.setattr(backend, "DEFAULTS", tuple(rows))
        assert backend.default(*asked).why == want

    def test_elsewhere_only_torch_runs(self):
        assert backend.default("rotate", "meta") is None and backend.architecture("cpu") is None


ALL, F32 = (torch.float32, torch.float16), (torch.float32,)
# declared kernels, device, dtype, what is forced -> what runs, or what the error says
DECISIONS = {
    "first of the row": (dict(triton=ALL, cuda=ALL), "cuda", torch.float32, None, "triton"),
    "next where the first has not this dtype": (dict(triton=F32, cuda=ALL), "cuda", torch.float16, None, "cuda"),
    "torch where none has it": (dict(triton=F32, cuda=F32), "cuda", torch.float64, None, "reference"),
    "torch on a device without a row": (dict(cpu=F32), "mps", torch.float32, None, "reference"),
    "forced": (dict(triton=ALL, cuda=ALL), "cuda", torch.float32, "cuda", "cuda"),
    "forced, though another is first": (dict(triton=ALL, cpu=ALL), "cpu", torch.float32, "reference", "reference"),
    "forced, never there": (dict(cuda=ALL), "cuda", torch.float32, "triton", "reference"),
    "forced, not this dtype": (dict(triton=F32), "cuda", torch.float16, "triton", "no triton kernel for torch.float16"),
    "forced, not this device": (dict(triton=F32), "cpu", torch.float32, "triton", "takes cuda tensors, got one on cpu"),
}  # fmt: skip


@pytest.mark.parametrize("kernels, device, dtype, forced, want", DECISIONS.values(), ids=DECISIONS)
def test_what_is_decided_on_a_machine_that_has_everything(monkeypatch, kernels, device, dtype, forced, want):
    monkeypatch.setattr(backend, "absent", lambda name: None)
    monkeypatch.setattr(backend, "interpreting", lambda: False)
    monkeypatch.setattr(backend, "_loaded", lambda name, chosen: chosen)
    op = backend.Op("some_operation", **kernels)
    decide = lambda: backend._decide(op, device, None, dtype, forced)  # noqa: E731
    if " " in want:
        with pytest.raises(RuntimeError, match=f"backend '{forced}' was asked for, but .*{want}.*leave use_backend"):
            decide()
    else:
        assert decide() == want


def test_nested_blocks_and_errors_put_the_choice_back():
    before = backend.forced()
    with use_backend("reference"):
        with pytest.raises(ZeroDivisionError), use_backend("reference"):
            assert backend.forced() == "reference"
            raise ZeroDivisionError
        assert backend.forced() == "reference"
        with pytest.raises(RuntimeError), use_backend("fpga"):
            pass
        assert backend.forced() == "reference"
    assert backend.forced() == before


def test_an_unknown_backend_is_refused_with_the_names_there_are():
    with pytest.raises(RuntimeError) as caught, use_backend("fpga"):
        pass
    assert str(caught.value) == "`backend` must be one of reference, cpu, triton, cuda, got 'fpga'"


@pytest.mark.parametrize("name", absent_here() or [None])
def test_an_absent_backend_is_refused_with_each_ones_reason(name):
    if name is None:
        pytest.skip("every backend is here")
    with pytest.raises(RuntimeError) as caught, use_backend(name):
        pass
    lines = str(caught.value).splitlines()
    assert lines[0] == f"backend {name!r} is not there on this machine:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == list(backend.BACKENDS)
    for line in lines[1:]:
        other, said = line.strip().split(": ", 1)
        assert said == (backend.absent(other) or "present")


@pytest.mark.parametrize("reason", ["no library", "no device"])
def test_reasons_of_what_is_missing(monkeypatch, reason):
    monkeypatch.setattr(backend, "compiled", reason != "no library")
    monkeypatch.setattr(backend, "_NO_LIBRARY", "installed without compiled kernels")
    monkeypatch.setattr(backend, "build_facts", lambda: type("Facts", (), {"cuda": "13.0"}))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if reason == "no library":
        assert backend.absent("cpu") == backend.absent("cuda") == "installed without compiled kernels"
    else:
        assert backend.absent("cpu") is None and backend.absent("cuda") == "no CUDA device"
    assert backend.absent("triton") in (
        "triton is not installed",
        "no CUDA device (TRITON_INTERPRET=1 runs the kernels in Triton's interpreter)",
    )


@pytest.mark.parametrize(
    "programs, variables, python_h, want",
    [
        ((), {}, True, "with a C compiler, and there is none: apt install gcc"),
        (("cc",), {}, True, "with a C compiler, and there is none: apt install gcc"),  # Triton does not ask for it
        (("gcc",), {"CC": "/opt/gone"}, True, "CC is /opt/gone, which is no program here"),
        (("gcc",), {}, False, "with Python.h, which is not there: apt install python3-dev"),
        (("gcc",), {}, True, None),
        (("clang",), {}, True, None),
        (("icx",), {"CC": "icx"}, True, None),
    ],
)
def test_triton_is_absent_where_it_cannot_compile_its_launchers(monkeypatch, programs, variables, python_h, want):
    """On such a machine every first call would raise, though CUDA's kernels or the reference could run."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: True)
    monkeypatch.setattr(backend.shutil, "which", lambda name: name if name in programs else None)
    monkeypatch.setattr(backend, "headers", lambda: python_h)
    for variable in ("CC", "TRITON_INTERPRET"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    backend.launcher_lacks.cache_clear()
    reason = backend.absent("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    backend.launcher_lacks.cache_clear()
    assert (reason is None) if want is None else want in reason
    assert backend.absent("triton") is None, "the interpreter compiles nothing"


def test_python_h_may_stand_where_the_compilers_own_variables_say(monkeypatch, tmp_path):
    monkeypatch.setattr(backend.sysconfig, "get_paths", lambda scheme: {"include": str(tmp_path / "none")})
    monkeypatch.setenv("CPATH", "")
    monkeypatch.delenv("C_INCLUDE_PATH", raising=False)
    assert not backend.headers()
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CPATH", os.pathsep.join(("/nowhere", str(tmp_path))))
    assert backend.headers()


def test_a_library_built_for_the_cpu_only_says_so(monkeypatch):
    monkeypatch.setattr(backend, "compiled", True)
    monkeypatch.setattr(backend, "build_facts", lambda: type("Facts", (), {"cuda": ""}))
    assert backend.absent("cuda") == "the library was built for the CPU only; rebuild with CVKERNELS_CUDA=1"


def test_forced_but_without_a_kernel_for_the_dtype(kernel):
    if kernel.name == "triton":
        pytest.skip("tested where Triton's kernels are")
    if torch.float16 in getattr(backend.OPS["magnitude_max_pool2d"], kernel.name):
        pytest.skip("this backend has every dtype")
    z = torch.randn(2, 2, 3, 4, 4, dtype=torch.float16, device=kernel.device)
    with pytest.raises(RuntimeError) as caught:
        F.magnitude_max_pool2d(z, 2)
    assert "magnitude_max_pool2d has no" in str(caught.value) and "torch.float16" in str(caught.value)
    assert "use_backend" in str(caught.value), "the remedy"
    with use_backend("reference"):
        assert F.magnitude_max_pool2d(z, 2).dtype == torch.float16


def test_unforced_a_dtype_without_a_kernel_falls_to_the_reference():
    assert reached(lambda: F.rotate_phase(Z.half(), torch.zeros(2))) == set()


@pytest.mark.gpu
def test_forced_but_on_another_device():
    with use_backend("cpu"), pytest.raises(RuntimeError, match="the cpu backend takes cpu tensors, got one on cuda"):
        F.magnitude_relu(Z.cuda())


NEVER = {
    "conv2d": lambda at: F.conv2d(torch.randn(1, 2, 3, 5, 5, device=at), torch.randn(2, 4, 3, 3, 3, device=at)),
    "linear": lambda at: F.linear(torch.randn(1, 2, 3, device=at), torch.randn(2, 4, 3, device=at)),
    "avg_pool2d": lambda at: F.avg_pool2d(torch.randn(1, 2, 3, 4, 4, device=at), 2),
    "dropout": lambda at: F.dropout(torch.randn(1, 2, 3, device=at)),
}


@pytest.mark.parametrize("name", NEVER)
def test_an_operation_that_never_has_a_backend_uses_torch(monkeypatch, kernel, name):
    """The same torch code as where nothing is forced, not the slow complex definition."""
    if name in backend.OPS and getattr(backend.OPS[name], kernel.name):
        pytest.skip(f"{name} has a {kernel.name} backend")
    function = importlib.import_module(f"cvkernels.ops.{name}.function")

    def refuse(*_):
        raise AssertionError("the definition ran, though it was not asked for")

    if hasattr(function, "reference"):
        monkeypatch.setattr(function, "reference", refuse)
        with use_backend("reference"), pytest.raises(AssertionError):
            NEVER[name](kernel.device)
    assert reached(lambda: NEVER[name](kernel.device)) == set()


@pytest.mark.parametrize("forward, backward", [("reference", "kernel"), ("kernel", "reference")])
def test_the_choice_of_the_forward_holds_for_its_backward(kernel, forward, backward):
    names = {"kernel": kernel.name, "reference": "reference"}
    z = Z.to(kernel.device).requires_grad_()
    with use_backend(names[forward]):
        y = F.batch_norm_relu(z)
    with use_backend(names[backward]):
        ours = reached(lambda: torch.autograd.grad(y.sum(), z))
    assert bool(ours) == (forward == "kernel" and bool(getattr(backend.OPS["batch_norm_relu"], kernel.name)))


ASK = "import torch, cvkernels; from cvkernels import backend; print(backend.forced())"


def run(line: str, **environment):
    # a variable of the caller's must not decide
    rest = {k: v for k, v in os.environ.items() if not k.startswith("CVKERNELS_")}
    return subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, env=rest | environment)


def test_the_environment_variable_forces_a_whole_run():
    assert run(ASK).stdout.strip() == "None"
    assert run(ASK, CVKERNELS_BACKEND="reference").stdout.strip() == "reference"


@pytest.mark.skipif(GPU, reason="cuda may be here: its absence cannot be shown")
def test_the_environment_variable_for_what_is_absent_fails_at_the_first_call():
    call = "import torch, cvkernels.functional as F; F.magnitude_relu(torch.zeros(1, 2, 1))"
    done = run(call, CVKERNELS_BACKEND="cuda")
    assert done.returncode and "RuntimeError: backend 'cuda' is not there on this machine" in done.stderr


def test_use_backend_is_public():
    assert cvkernels.use_backend is use_backend


def test_meta_tensors_ask_for_what_a_gpu_would_run():
    op = backend.OPS["batch_norm_relu"]
    assert backend.choose(op, torch.empty(1, device="meta")) == ("cuda" if backend.compiled else "reference")
    assert backend.choose(op, torch.empty(1, device="meta", dtype=torch.complex64)) == "reference"  # no kernel takes it
    with backend.use_backend("reference"):
        assert backend.choose(op, torch.empty(1, device="meta")) == "reference"
