"""A wrong kernel has no speed; a row says where it was measured; every operation has a benchmark that runs."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cvkernels.functional
from benchmarks import __main__ as cli
from benchmarks import rows, timing
from benchmarks.inputs import Inputs

CPU = torch.device("cpu")
# timed in the file of the operation they are named after
BESIDE = {"adaptive_avg_pool2d", "dropout2d"}


def cases(op, dtype=torch.float64):
    module = importlib.import_module(f"benchmarks.bench_{op}")
    return list(module.cases(module.QUICK_SHAPES[0], CPU, dtype))


def test_every_operation_has_a_benchmark():
    assert set(cvkernels.functional.__all__) - BESIDE | {"block"} == set(cli.OPS)


@pytest.mark.parametrize("op", cli.OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_two_sides_agree(op, dtype):
    for case in cases(op, dtype):
        assert timing.difference(case) is None, case.op


def wrong(case, what):
    """The case with a fused side that is wrong in one respect."""
    right = case.fused.forward
    forwards = {
        "output": lambda: right() * 1.001,
        "one element": lambda: right().index_fill(0, torch.tensor([1]), 0),
        "nan": lambda: right() / 0 * 0,
        "gradient": lambda: right() + (case.fused.leaves[0] - case.fused.leaves[0].detach()),
        "shape": lambda: right()[:, :, :1],
    }
    return replace(case, fused=replace(case.fused, forward=forwards[what]))


@pytest.mark.parametrize("what", ["output", "one element", "nan", "gradient", "shape"])
@pytest.mark.parametrize("op", ["rotate_phase", "magnitude_relu"])
def test_a_wrong_kernel_is_refused(op, what):
    (case,) = cases(op)
    assert timing.difference(wrong(case, what)) is not None


def test_a_running_power_that_does_not_move_is_refused():
    (case,) = cases("magnitude_batch_norm")
    still = torch.ones_like(case.fused.state[0])
    assert "state" in timing.difference(replace(case, fused=replace(case.fused, state=(still,))))


def test_a_refused_row_makes_the_run_fail(monkeypatch, capsys):
    from benchmarks import bench_rotate_phase

    build = bench_rotate_phase.cases
    monkeypatch.setattr(bench_rotate_phase, "cases", lambda *a: (wrong(c, "output") for c in build(*a)))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "rotate_phase", "--quick", "--device=cpu", "--allocator=default"])
    assert cli.main() == 1
    out = capsys.readouterr()
    assert "REFUSED: the sides disagree: output" in out.out and "1 refused" in out.err
    assert "fused " not in out.out.split("REFUSED")[1]  # no time stands beside a wrong result


def test_an_operation_that_raises_is_refused():
    (case,) = cases("rotate_phase")

    def broken():
        raise NotImplementedError("no such kernel\nlong dispatcher table")

    assert cli._refusal(replace(case, fused=timing.Side(broken))) == "NotImplementedError: no such kernel"


@pytest.mark.parametrize("which", timing.PASSES)
def test_steps_do_what_they_say(which):
    (case,) = cases("magnitude_relu")
    for name, call in timing.steps(case, which).items():
        result = timing.flat(call())
        assert len(result) == (1 if name == "fused" else 2)
        assert not any(t.requires_grad for t in result)


def test_candidates_take_turns():
    order = []
    timing.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, 0.0)
    turns = [x for x, before in zip(order, [None, *order], strict=False) if x != before]
    assert len(turns) >= 11  # a b, b a, a b, ...: the last of a round starts the next


def test_percentiles():
    assert timing.percentiles([float(i) for i in range(11)]) == (2.0, 5.0, 8.0)


def test_bars_hold_for_their_shape_alone():
    module = importlib.import_module("benchmarks.bench_magnitude_relu")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (barred,) = module.cases((64, 32, 16, 16), CPU, torch.float32)
        assert dict(barred.bars) == {"forward": 5, "forward+backward": 8}
        assert not cases("magnitude_relu", torch.float32)[0].bars
    finally:
        torch.set_num_threads(before)


def test_inputs_are_the_same_for_both_sides():
    z, (re, im) = Inputs(CPU, torch.float64).feature((2, 3, 4, 4))
    assert torch.equal(z[:, 0], re) and torch.equal(z[:, 1], im)
    assert 0.3 < (z.detach().square().sum(1).sqrt() < 1).double().mean() < 0.7


def row(**changes):
    values = dict(
        op="rotate", shape="4x8x6x6", dtype="float32", device="a, b", which="forward", backend="cpu",
        fused_p20=1.0, fused_p50=2.0, fused_p80=3.0, naive_p20=4.0, naive_p50=5.0, naive_p80=6.0, ratio=2.5,
        fused_mb=None, naive_mb=1.5, threads=2, clock="wall", allocator="keep", foreign_load=0.01,
        torch="2.11", cvkernels="0.1.0", python="3.12.0", commit="abc",
    )  # fmt: skip
    return rows.Row(**{**values, **changes})


def test_rows_survive_storage(tmp_path):
    stored = [row(), row(which="forward+backward", foreign_load=None)]
    rows.write(stored, tmp_path / "a" / "b.csv")
    assert rows.read(tmp_path / "a" / "b.csv") == stored
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.csv"]


def test_comparison_shows_a_slowdown_like_a_gain():
    slower, _, missing = rows.comparison(
        [row(fused_p50=3.0, ratio=1.5), row(op="conv2d", fused_p50=1.0), row(shape="1x1")], [row(), row(op="conv2d")]
    )
    assert "+50 %" in slower and "2.50 -> 1.50" in slower
    assert missing.startswith("1 of 3 rows")


def test_stored_rows_are_named_by_device():
    assert rows.stored_at("NVIDIA RTX 2060 SUPER").name == "NVIDIA-RTX-2060-SUPER.csv"


def test_commit_can_be_given(monkeypatch):
    monkeypatch.setenv("COMMIT", "0123abc")
    assert rows.commit() == "0123abc"


def test_the_command_runs_and_names_its_allocator(tmp_path):
    out = tmp_path / "rows.csv"
    command = [sys.executable, "-m", "benchmarks", "rotate", "linear", "--quick", "--device=cpu", f"--out={out}"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    stored = rows.read(out)
    assert {(r.op, r.which) for r in stored} == {
        (op, which) for op in ("rotate", "linear complex", "linear real") for which in timing.PASSES
    }
    if rows.allocator() == "default":  # glibc, and nothing preloaded: the command started itself again
        assert {r.allocator for r in stored} == {"keep"} and "allocator: keep" in done.stdout


def test_pytest_benchmark_reports_the_same_callables():
    pytest.importorskip("pytest_benchmark", reason="pytest-benchmark is not installed")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "benchmarks",
        "-q",
        "--benchmark-disable",
        "-k",
        "linear and 128x400x120",
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0 and "8 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["relu"], "unknown op relu"),
        (["--shapes=4x"], "sizes joined by x"),
        (["--compare=none.csv"], "no file none.csv"),
        (["--clock=process"], "on one thread only"),
    ],
)
def test_bad_arguments(arguments, said, capsys):
    with pytest.raises(SystemExit):
        cli.arguments(arguments)
    assert said in capsys.readouterr().err
