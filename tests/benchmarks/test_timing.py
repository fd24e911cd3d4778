"""How a thing is timed; a row says where it was measured, survives storage, and is compared with an older one."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks import bars, candidates, plot, roof, rows, timing

CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


def test_candidates_take_turns():
    order = []
    timing.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, CPU, 0.0)
    turns = [x for x, before in zip(order, [None, *order], strict=False) if x != before]
    assert len(turns) >= 11  # a b, b a, a b, ...: the last of a round starts the next


def test_long_calls_and_far_rivals_take_part_in_five_rounds(monkeypatch):
    def spin(ms):
        until = time.perf_counter() + ms / 1e3
        while time.perf_counter() < until:
            pass

    calls = {"ours": lambda: spin(0.5), "naive": lambda: spin(4), "near": lambda: spin(1), "far": lambda: spin(4)}
    counts = {name: len(some) for name, some in timing.interleaved(calls, CPU, 0.0).items()}
    assert counts == {"ours": 11, "naive": 11, "near": 11, "far": 5}
    monkeypatch.setattr(timing, "LONG_MS", 0.1)
    assert len(timing.interleaved({"ours": lambda: spin(0.5)}, CPU, 10.0)["ours"]) == 5


def test_percentiles():
    assert timing.percentiles([float(i) for i in range(11)]) == (2.0, 5.0, 8.0)


def test_the_roof_is_measured():
    copied = roof.copy(4096, CPU)()
    assert copied.nbytes == 4096
    assert roof.matrix_rate(CPU, torch.float32, False, "wall", quick=True) > 1e6


def test_the_peak_is_what_is_held_at_once():
    a = torch.randn(1 << 18)  # 1 MiB

    def call():
        b = a * 2
        c = b + b
        del b
        return (c * 2).sum()  # c and its double

    assert timing.peak_mb(call, CPU) == pytest.approx(2.0, abs=0.01)
    assert timing.peak_mb(lambda: None, CPU) == 0.0


def row(**changes):
    values = dict(
        op="rotate", shape="4x8x6x6", dtype="float32", base="float32", device="a, b",
        which="forward", candidate="ours", what="cpu",
        p20=1.0, p50=2.0, p80=3.0, ratio=1.0, peak_mb=None, kept_mib=1.5, roof="copy", roof_rate=40.0, fraction=0.5,
        threads=2, clock="wall", allocator="keep", foreign_load=0.01, torch="2.11", cvkernels="0.1.0",
        python="3.12.0", commit="abc",
    )  # fmt: skip
    return rows.Row(**{**values, **changes})


def test_rows_survive_storage(tmp_path):
    stored = [row(), row(which="forward+backward", foreign_load=None, candidate="naive", what="")]
    rows.write(stored, tmp_path / "a" / "b.csv")
    assert rows.read(tmp_path / "a" / "b.csv") == stored
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.csv"]


def test_a_table_takes_a_line_whole():
    old = [row(), row(candidate="naive"), row(op="conv2d")]
    assert rows.merged(old, [row(p50=9.0)]) == [row(op="conv2d"), row(p50=9.0)]


def test_comparison_shows_a_slowdown_like_a_gain():
    naive = row(candidate="naive", p50=6.0)
    slower, missing = rows.comparison([row(p50=3.0), naive, row(shape="1x1")], [row(), naive])
    assert "+50 %" in slower and "naive / ours 3.00 -> 2.00" in slower
    assert missing.startswith("1 of 2 rows")


def test_a_row_knows_its_kind_of_device():
    assert row(device=rows.device_name(CPU)).device_type() == "cpu"
    assert row(device="NVIDIA H200").device_type() == "cuda"


def test_stored_rows_are_named_by_device():
    assert rows.stored_at("NVIDIA RTX 2060 SUPER").name == "NVIDIA-RTX-2060-SUPER.csv"


def test_commit_can_be_given(monkeypatch):
    monkeypatch.setenv("COMMIT", "0123abc")
    assert rows.commit() == "0123abc"


def line(op, shape, which, **times):
    """Rows of one case: candidate -> its median; a name's _ is a space."""
    named = {name.replace("_", " "): t for name, t in times.items()}
    dtype = {True: "bfloat16", False: "float32"}
    return [
        row(op=op, shape=shape, which=which, candidate=n, p50=t, roof="", fraction=None, dtype=dtype["bfloat16" in n])
        for n, t in named.items()
    ]


def judged(found):
    return {(v.against, v.by): (round(v.measured, 2), v.least, v.met) for v in bars.verdicts(found)}


def test_a_bar_is_met_or_missed(monkeypatch):
    monkeypatch.setattr(bars, "bfloat16_instructions", lambda: True)
    relu = line("magnitude_relu", "8x256x56x56", "forward", ours=1.0, naive=4.4, complex=0.5, real=0.1, torchcvnn=9.0)
    assert judged(relu) == {("naive", "ours"): (4.4, 4.3, True), ("complex", "ours"): (0.5, 0.95, False)}
    block = line(
        "block complex", "64x16x32x32", "forward+backward", ours=2.0, ours_channels_last=1.0, ours_bfloat16=1.0,
        naive=1.9, naive_compiled=1.5,
    )  # fmt: skip
    assert judged(block) == {
        ("naive", "ours channels last"): (1.9, 1.8, True),
        ("naive", "ours bfloat16"): (1.9, 2.3, False),
        ("naive compiled", "ours channels last"): (1.5, 0.95, True),
    }
    monkeypatch.setattr(bars, "bfloat16_instructions", lambda: False)
    assert ("naive", "ours bfloat16") not in judged(block)


def test_the_streaming_bar_is_for_the_largest_shape_and_our_own_kernels():
    large = row(shape="8x256x56x56", fraction=0.79)
    assert judged([large]) == {("copy", "ours"): (0.79, 0.8, False)}
    assert judged([row(shape="64x16x32x32", fraction=0.1)]) == {} == judged([row(shape="8x256x56x56", what="torch")])


def test_bars_are_for_their_shapes_their_threads_and_whole_passes():
    relu = line("magnitude_relu", "8x256x56x56", "forward", ours=1.0, naive=2.0)
    assert ("naive", "ours") in judged(relu)
    for changes in ({"shape": "4x8x6x6"}, {"which": "backward"}):
        assert judged([rows.Row(**{**vars(r), **changes}) for r in relu]) == {}
    one_thread = judged([rows.Row(**{**vars(r), "threads": 1}) for r in relu])
    assert one_thread == {("naive", "ours"): (2.0, 0.95, True)}  # only that it is not slower


def test_a_training_step_has_bars_of_its_own():
    step = line("train resnet20-alpha real", "128x3x32x32", "step", ours=1.0, ours_bfloat16=0.5, naive=1.4, real=0.9)
    assert judged(step) == {("naive", "ours"): (1.4, 1.45, False)}
    assert judged([rows.Row(**{**vars(r), "shape": "16x3x32x32"}) for r in step]) == {}
    on_gpu = [
        row(op="train lenet real", shape="128x3x32x32", which="step", candidate=name, dtype="float32 (TF32)", p50=ms,
            roof="", fraction=None, device="a card")
        for name, ms in {"ours graph": 1.0, "ours": 2.0, "naive": 4.2}.items()
    ]  # fmt: skip
    assert judged(on_gpu) == {("naive", "ours graph"): (4.2, 4, True)}
    assert judged([rows.Row(**{**vars(r), "dtype": "float32"}) for r in on_gpu]) == {}


def test_a_stored_table_is_judged(tmp_path, capsys):
    relu = line("magnitude_relu", "8x256x56x56", "forward", ours=1.0, naive=4.4, complex=0.5)
    rows.write(relu, tmp_path / "a.csv")
    assert bars.main([str(tmp_path / "a.csv")]) == 1
    said = capsys.readouterr().out
    assert "bars: 1 met, 1 missed" in said and "4.40x of 4.3x    met" in said and "0.50x of 0.95x   MISSED" in said
    rows.write(relu[:2], tmp_path / "a.csv")
    assert bars.main([str(tmp_path / "a.csv")]) == 0
    with pytest.raises(SystemExit, match="no stored run"):
        bars.main([str(tmp_path / "none.csv")])


def test_a_gpu_has_its_own_bars():
    tf32 = "float32 (TF32)"
    times = {("ours graph", tf32): 1.0, ("ours bfloat16 graph", "bfloat16"): 0.5, ("ours", tf32): 9.0}
    times |= {("naive", tf32): 4.1, ("naive graph", tf32): 1.9, ("naive compiled", tf32): 1.6}
    case = {"op": "processor complex", "shape": "128x16x32x32", "which": "forward+backward", "roof": ""}
    step = [
        row(**case, device="a card", candidate=n, dtype=dtype, p50=ms, fraction=None)
        for (n, dtype), ms in times.items()
    ]
    missed = {(v.against, v.by) for v in bars.verdicts(step) if not v.met}
    assert missed == {("naive graph", "ours graph")}
    assert len(list(bars.verdicts(step))) == 6


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A stored run of the command itself."""
    out = tmp_path_factory.mktemp("bench") / "rows.csv"
    command = [sys.executable, "-m", "benchmarks", "rotate", "linear", "--quick", "--device=cpu", f"--out={out}"]
    done = subprocess.run([*command, "--against=complex,real"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done.stdout


def test_the_command_runs_and_names_its_allocator(table):
    out, said = table
    stored = rows.read(out)
    lines = {(r.op, r.which, r.candidate) for r in stored}
    asked = {("rotate", c) for c in ("ours", "naive", "complex", "copy")}
    asked |= {(f"linear {w}", c) for w in ("complex", "real") for c in ("ours", "naive", "complex", "real")}
    assert lines == {(op, which, c) for op, c in asked for which in ("forward", "forward+backward")}
    assert all(r.ratio == 1 for r in stored if r.candidate == "ours")
    assert {r.fraction is None for r in stored if r.candidate == "ours"} == {False}
    assert all(r.peak_mb > 0 for r in stored if r.candidate == "ours")
    if rows.allocator() == "default":  # glibc, and nothing preloaded: the command started itself again
        assert {r.allocator for r in stored} == {"keep"} and "allocator: keep" in said


def test_the_plot_shows_every_operation(table, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (the extra `experiments`)")
    drawn = plot.figure(rows.read(table[0]))
    titles = {axis.get_title(loc="left") for axis in drawn.axes if axis.get_visible()}
    assert {"rotate", "linear complex", "linear real"} <= titles
    assert plot.main([str(table[0]), "--out", str(tmp_path / "speed.png")]) == 0
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


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
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "16 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["relu"], "unknown op relu"),
        (["--against=fast"], "unknown candidate fast; there are naive, graph, compiled"),
        (["--passes=both"], "unknown pass both"),
        (["--shapes=4x"], "sizes joined by x"),
        (["--compare=none.csv"], "no file none.csv"),
        (["--clock=process"], "on one thread only"),
    ],
)
def test_bad_arguments(arguments, said, capsys):
    with pytest.raises(SystemExit):
        cli.arguments(arguments)
    assert said in capsys.readouterr().err


def test_all_is_every_candidate():
    assert cli.arguments(["--against=all"]).against == candidates.AGAINST
