"""A wrong kernel has no speed: what stands beside what agrees, and a candidate wrong in any respect is refused."""

import importlib
import sys
from dataclasses import replace

import pytest
import torch

import cvkernels.functional
from benchmarks import __main__ as cli
from benchmarks import bench_block, candidates, networks, peers, timing
from benchmarks.inputs import Inputs
from tests.conftest import HALVES

CPU = torch.device("cpu")
# timed in the file of the operation they are named after
BESIDE = {"adaptive_avg_pool2d", "dropout2d", "magnitude_power"}
BASELINES = ("naive", "complex", "real")


def cases(op, dtype=torch.float64):
    module = importlib.import_module(f"benchmarks.bench_{op}")
    return list(module.cases(module.QUICK_SHAPES[0], CPU, dtype))


def test_every_operation_has_a_benchmark():
    assert set(cvkernels.functional.__all__) - BESIDE | {"block", "processor", "train_step"} == set(cli.OPS)


@pytest.mark.parametrize("op", cli.OPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_baselines_agree(op, dtype):
    for case in cases(op, dtype):
        assert candidates.difference(case) is None, case.op
        found = case.candidates(BASELINES)
        compared = [c for name, c in found.items() if c.compared and name not in ("ours", "naive")]
        assert all(candidates.difference(case, c) is None for c in compared), case.op
        # rotate and unrotate have no real counterpart; where there is one it is another function
        assert "real" not in found or not found["real"].compared


@pytest.mark.filterwarnings("ignore:dropout2d")  # cplxmodule's own
@pytest.mark.parametrize("name", peers.NAMES)
def test_peers_are_timed_and_compared_where_they_compute_the_same(name):
    pytest.importorskip(name, reason=f"{name} is not installed (the extra `peers`)")
    stars, compared = set(), set()
    for op in cli.OPS:
        for case in cases(op, torch.float32):
            peer = case.peers().get(name)
            if peer is None:
                continue
            if peer.compared:
                assert candidates.difference(case, peer) is None, case.op
                compared.add(case.op)
            else:
                assert peer.label().endswith(" *") and len(candidates.flat(peer.forward())) > 0
                stars.add(case.op)
    assert {"magnitude_relu", "magnitude_batch_norm", "batch_norm_relu", "block complex"} <= stars
    assert compared


def test_an_absent_peer_is_said_once_and_left_out(monkeypatch, capsys):
    find = peers.importlib.util.find_spec
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None if name in peers.NAMES else find(name))
    peers.kits.cache_clear()
    (case,) = cases("magnitude_relu", torch.float32)
    assert case.peers() == {} and case.peers() == {}
    assert capsys.readouterr().out.count("peers not installed, and left out: complextorch, torchcvnn") == 1
    peers.kits.cache_clear()


def test_naive_code_compiled_is_the_same_function():
    (case,) = cases("rotate_phase", torch.float32)
    found = case.candidates(("compiled",))["naive compiled"]
    assert candidates.difference(case, found) is None
    assert candidates.passes(found) == ["forward", "forward+backward"]
    torch.compiler.reset()


def wrong(case, what):
    """The case with a side of ours that is wrong in one respect."""
    right = case.ours.forward
    forwards = {
        "output": lambda: right() * 1.001,
        "one element": lambda: right().index_fill(0, torch.tensor([1]), 0),
        "nan": lambda: right() / 0 * 0,
        "gradient": lambda: right() + (case.ours.leaves[0] - case.ours.leaves[0].detach()),
        "shape": lambda: right()[:, :, :1],
    }
    return replace(case, ours=replace(case.ours, forward=forwards[what]))


@pytest.mark.parametrize("what", ["output", "one element", "nan", "gradient", "shape"])
@pytest.mark.parametrize("op", ["rotate_phase", "magnitude_relu"])
def test_a_wrong_kernel_is_refused(op, what):
    (case,) = cases(op)
    assert candidates.difference(wrong(case, what)) is not None


def test_a_running_power_that_does_not_move_is_refused():
    case = cases("magnitude_batch_norm")[0]
    still = torch.ones_like(case.ours.state[0])
    ours = replace(case.ours, state=(still,))
    assert "state" in candidates.difference(replace(case, ours=ours))


@pytest.mark.parametrize("op", ["block", "processor", "train_step"])
@pytest.mark.parametrize("half", ["ours bfloat16", "naive bfloat16"])
def test_what_is_wrong_is_refused_in_half_precision_and_through_many_layers_too(monkeypatch, op, half):
    monkeypatch.setattr(bench_block, "PRODUCTS", HALVES)  # "naive bfloat16" is left out where torch has a plain loop
    case = cases(op, torch.float32)[0]
    candidate = case.others[half]()
    right = candidate.forward
    assert candidates.difference(case, candidate) is None
    for worse in (lambda: right_times(right, 1.5), lambda: right_times(right, float("nan"))):
        assert candidates.difference(case, replace(candidate, forward=worse)) is not None


def right_times(forward, factor):
    out = forward()
    return out * factor if isinstance(out, torch.Tensor) else tuple(part * factor for part in out)


def run(monkeypatch, op, build, *more):
    module = importlib.import_module(f"benchmarks.bench_{op}")
    real = module.cases
    monkeypatch.setattr(module, "cases", lambda *a: (build(case) for case in real(*a)))
    monkeypatch.setattr(sys, "argv", ["benchmarks", op, "--quick", "--device=cpu", "--allocator=default", *more])
    return cli.main()


def test_a_refused_case_makes_the_run_fail(monkeypatch, capsys):
    assert run(monkeypatch, "rotate_phase", lambda case: wrong(case, "output")) == 1
    out = capsys.readouterr()
    assert "REFUSED: output" in out.out and "1 refused" in out.err
    assert "ours " not in out.out.split("REFUSED")[1]  # no time stands beside a wrong result


def test_a_wrong_rival_is_refused_alone(monkeypatch, capsys):
    def build(case):
        bad = case.others["complex"]()
        return replace(case, others={"complex": lambda: replace(bad, forward=lambda: bad.forward() * 2)})

    assert run(monkeypatch, "rotate_phase", build, "--against=complex") == 1
    out = capsys.readouterr().out
    assert "complex: REFUSED, it disagrees with naive code: output" in out and "    ours " in out
    assert "\n    complex " not in out


def test_a_rival_that_fails_is_left_out(monkeypatch, capsys):
    def broken():
        raise NotImplementedError("no such kernel\nlong dispatcher table")

    def build(case):
        return replace(case, others={"complex": lambda: candidates.Candidate(broken)})

    assert run(monkeypatch, "rotate_phase", build, "--against=complex") == 0
    assert "complex: left out: NotImplementedError: no such kernel\n" in capsys.readouterr().out


@pytest.mark.parametrize("which", candidates.PASSES[:3])
def test_steps_do_what_they_say(which):
    (case,) = cases("magnitude_relu", torch.float32)
    grad = candidates.gradient(case)
    for name, candidate in case.candidates(BASELINES).items():
        result = candidates.flat(candidates.step(candidate, which, grad)())
        assert len(result) == (2 if name == "naive" else 1)
        assert not any(t.requires_grad for t in result)


def test_a_training_step_is_all_that_a_network_is_measured_by():
    case = cases("train_step", torch.float32)[2]
    for name, candidate in case.candidates(BASELINES).items():
        assert candidates.passes(candidate, cli.DEFAULT_PASSES) == ["step"], name
        leaves = candidates.flat(candidate.leaves)
        before = [leaf.detach().clone() for leaf in leaves]
        first, second = (candidates.step(candidate, "step", None)() for _ in range(2))
        assert not first.requires_grad and first > 1
        assert all(leaf.grad.any() for leaf in leaves), name
        # at a rate of 0: every sample costs what the first did
        assert torch.equal(first, second) and all(map(torch.equal, leaves, before)), name


def test_naive_layers_refuse_what_they_do_not_know():
    with pytest.raises(TypeError, match="Dropout"):
        networks.naive(torch.nn.Sequential(torch.nn.Dropout()))


def test_what_a_pass_needs():
    cost = candidates.multiplying(10, "complex")
    assert [cost.of(which) for which in candidates.PASSES] == [80, 160, 240, 240]
    assert candidates.multiplying(10, "real").forward == 40
    z = torch.zeros(4, 2, 8, 6, 6)
    assert candidates.streaming(z, 2, 3).of("forward+backward") == 5 * z.nbytes


def test_what_autograd_keeps():
    x = torch.ones(1024, 256, requires_grad=True)
    assert timing.kept_mib(lambda: x * 2, [x]) == 0
    assert timing.kept_mib(lambda: (x * 2).exp().exp(), [x]) == 2


def test_inputs_are_the_same_for_every_form():
    z = Inputs(CPU, torch.float64).feature((2, 3, 4, 4))
    re, im = z.pair
    assert torch.equal(z.planar[:, 0], re) and torch.equal(z.planar[:, 1], im) and torch.equal(z.real, re)
    assert torch.equal(z.complex, torch.complex(re, im)) and torch.equal(z.channels_last, z.planar)
    leaves = (z.planar, *z.pair, z.complex, z.channels_last, *z.pair_channels_last, z.real)
    assert all(leaf.is_leaf and leaf.requires_grad for leaf in leaves)
    assert len({leaf.data_ptr() for leaf in leaves}) == len(leaves)
    assert 0.3 < (z.planar.detach().square().sum(1).sqrt() < 1).double().mean() < 0.7
