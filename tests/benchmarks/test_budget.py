"""Kernels and bytes of a training step: the counter by hand, and the stored budget that no step may exceed."""

import pytest
import torch

import cvkernels.functional as F
from benchmarks import budget
from cvkernels import backend

needs_operators = pytest.mark.skipif(not backend.compiled, reason="nothing compiled: no operators to count")


def empty(*shape, **options):
    return torch.empty(*shape, device="meta", **options)


def lines(step):
    return {name: (line.kernels, line.read, line.written) for name, line in budget.counted(step).lines.items()}


def test_torchs_operators_by_hand():
    x, row, count = empty(4, 8), empty(8), torch.zeros(())
    assert lines(lambda: x.view(32).t()) == {}  # views move nothing
    assert lines(lambda: torch.empty_like(x)) == {}
    assert lines(lambda: count + 1) == {}  # on the host
    assert lines(lambda: x + row) == {"aten::add": (1, 4 * (32 + 8), 4 * 32)}
    assert lines(lambda: x + row.expand(4, 8)) == {"aten::add": (1, 4 * (32 + 8), 4 * 32)}
    assert lines(lambda: x.add_(row)) == {"aten::add_": (1, 4 * (32 + 8), 4 * 32)}
    assert lines(lambda: x.copy_(row)) == {"aten::copy_": (1, 4 * 8, 4 * 32)}
    assert lines(lambda: x.double().mul(2)) == {
        "aten::_to_copy": (1, 4 * 32, 8 * 32),
        "aten::mul": (1, 8 * 32, 8 * 32),
    }


def test_a_convolutions_backward_by_hand():
    x, w = empty(2, 3, 8, 8, requires_grad=True), empty(5, 3, 3, 3, requires_grad=True)
    y = torch.nn.functional.conv2d(x, w, padding=1)
    n_x, n_w, n_y = x.numel(), w.numel(), y.numel()
    counted = lines(lambda: y.backward(empty(2, 5, 8, 8)))
    assert counted["aten::convolution_backward"] == (2, 4 * (2 * n_y + n_x + n_w), 4 * (n_x + n_w))
    y = torch.nn.functional.conv2d(x.detach(), w, padding=1)
    counted = lines(lambda: y.backward(empty(2, 5, 8, 8)))
    assert counted["aten::convolution_backward"] == (1, 4 * (n_y + n_x + n_w), 4 * n_w)


@needs_operators
@pytest.mark.parametrize("residual", [False, True])
def test_ours_reads_what_two_launches_read(residual):
    """In units of the feature: 3 forward and 5 backward; 4 and 8 with a residual."""
    z = empty(8, 2, 16, 8, 8, requires_grad=True)
    r = empty(8, 2, 16, 8, 8, requires_grad=True) if residual else None
    power, statistics = empty(16), 4 * 16
    forward = lines(lambda: F.batch_norm_relu(z, power, residual=r, training=True))
    (cost,) = forward.values()
    feature = 4 * z.numel()
    assert list(forward) == ["cvkernels::batch_norm_relu_forward"]
    assert cost == (2, (3 if residual else 2) * feature + statistics, feature + 2 * statistics)
    y = F.batch_norm_relu(z, power, residual=r, training=True)
    backward = lines(lambda: y.backward(torch.empty_like(y)))
    wanted = (2, (6 if residual else 4) * feature + statistics, (2 if residual else 1) * feature)
    assert backward == {"cvkernels::batch_norm_relu_backward": wanted}


@needs_operators
def test_an_operator_whose_launches_nobody_stated_is_no_zero():
    z = empty(8, 2, 16, 8, 8)
    with pytest.raises(KeyError, match="magnitude_relu_forward"):
        budget.counted(lambda: F.magnitude_relu(z))
    with pytest.raises(NotImplementedError, match="batch_norm_relu_forward is counted in training only"):
        budget.counted(lambda: F.batch_norm_relu(z, empty(16)))


@needs_operators
@pytest.mark.skipif(torch.__version__ < (2, 14), reason="stored for torch 2.14: naive code's clamp had a le for its lt")
def test_a_step_costs_what_is_stored():
    """More kernels or bytes than stored are a step back. Fewer: `python -m benchmarks.budget --write`."""
    now, stored = budget.table().splitlines(), budget.STORED.read_text().splitlines()
    changed = [f"stored {b}\n   now {a}" for a, b in zip(now, stored, strict=False) if a != b]
    assert now == stored, "\n".join([*changed, "where it is less: python -m benchmarks.budget --write"])


@needs_operators
def test_budget_is_printed_and_stored_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(budget, "STORED", tmp_path / "budget.txt")
    monkeypatch.setattr(budget, "table", lambda: "a table\n")
    budget.main([])
    assert capsys.readouterr().out == "a table\n"
    assert not budget.STORED.exists()
    budget.main(["--write"])
    assert budget.STORED.read_text() == "a table\n"
