"""relu(batch_norm(x) + residual) of real features: torch's own statistics, in one operation each way."""

import pytest
import torch

import cvkernels.functional as F
from cvkernels import use_backend
from tests.close import assert_close
from tests.conftest import HALVES

from .harness import ODD, REAL, compare, leaves
from .suite import KernelSuite, form

OP = "real_batch_norm_relu"
RUNNING = ("running_mean", "running_var")


class TestRealBatchNormReLU(KernelSuite):
    OP = OP
    FEATURES = ("x", "residual")
    FIXED = WIDE = RUNNING
    LAYOUTS = REAL
    STRIDES = {name: REAL[name] for name in ("contiguous", "channels-last")}
    FORMS = {
        "inference": form("x", *RUNNING),
        "inference-affine-residual": form("x", *RUNNING, "weight", "bias", "residual", eps=0.1),
        "no-running-residual": form("x", "residual"),
        "training": form("x", *RUNNING, training=True),
        "training-weight-momentum": form("x", *RUNNING, "weight", training=True, momentum=0.3, eps=0.1),
        "training-bias": form("x", *RUNNING, "bias", training=True),
        "training-affine-residual": form("x", *RUNNING, "weight", "bias", "residual", training=True),
    }
    fn = staticmethod(F.real_batch_norm_relu)

    def draw(self, name, size, form):
        """Each channel has a mean of its own, and no value comes near the ReLU's step, where the last bit decides."""
        channel = torch.arange(size[1], dtype=torch.float64)
        little = torch.rand(size if name in ("x", "residual") else size[1], dtype=torch.float64) * 0.2 - 0.1
        if name == "x":
            values = little.numel() // size[1]
            half = (torch.randperm(values) % 2 * 2 - 1).view(size[0], 1, *size[2:])  # as many above as below
            over = (-1, *(1,) * (len(size) - 2))
            return half * (channel % 2 * 2 - 1).view(over) * (1 + little) + channel.view(over)
        return little + {"running_mean": channel, "weight": 1, "running_var": 1}.get(name, 0)

    def skip(self, form, size):
        if torch.Size((size[0], *size[2:])).numel() < 2 and self.by_the_batch(form):
            return "fewer than two values: an error in training, and their own mean otherwise"

    def swallows(self, bad, form):
        return bad == -torch.inf and not self.by_the_batch(form)  # the ReLU does

    @staticmethod
    def by_the_batch(form):
        return form.kwargs.get("training") or "running_mean" not in form.tensors

    def promised(self, out, x):
        last = x.ndim == 4 and x.movedim(1, -1).is_contiguous() and not x.is_contiguous()
        return (out.movedim(1, -1) if last else out).is_contiguous()

    @pytest.mark.parametrize("names", [("x",), ("residual",)], ids=["x", "residual"])
    def test_residual_in_another_layout(self, backend, dtype, names, layout):
        call = self.FORMS["training-affine-residual"]
        compare(call(self.fn), self.tensors(call, ODD, dtype, backend.device), names, layout, self.FIXED)


def drawn(dtype, device="cpu", size=(5, 3, 4, 6)):
    x, residual = torch.randn(2, *size, dtype=torch.float64) * 2 + 1
    vectors = torch.rand(4, size[1], dtype=torch.float64) + 0.5
    return [t.to(device, dtype) for t in (x, *vectors, residual)]


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_definition(backend, dtype, training):
    x, mean, var, weight, bias, residual = drawn(dtype, backend.device)
    wide = x.double()
    power = wide.var((0, 2, 3), correction=0) if training else var.double()
    centre = wide.mean((0, 2, 3)) if training else mean.double()
    over = lambda v: v.double().view(3, 1, 1)  # noqa: E731
    want = (wide - over(centre)) / over(power + 1e-3).sqrt() * over(weight) + over(bias) + residual.double()
    wide_dtype = torch.promote_types(dtype, torch.float32)
    running = mean.to(wide_dtype).clone(), var.to(wide_dtype).clone()
    got = F.real_batch_norm_relu(x, *running, weight, bias, residual, training, momentum=0.25, eps=1e-3)
    assert_close(got, want.clamp(min=0), dtype)
    if training:
        assert_close(running[0], 0.75 * mean.double() + 0.25 * centre)
        assert_close(running[1], 0.75 * var.double() + 0.25 * wide.var((0, 2, 3)), name="the unbiased variance")


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
def test_it_is_torchs_batch_norm_then_relu(backend, dtype, training):
    """Values, running statistics and every gradient; the count of batches beside torch's cumulative mean."""
    x, mean, var, weight, bias, residual = drawn(torch.float64)
    ours = leaves({"x": x, "weight": weight, "bias": bias, "residual": residual})
    ours = {k: v.detach().to(backend.device, dtype).requires_grad_() for k, v in ours.items()}
    layer = torch.nn.BatchNorm2d(3, momentum=None, dtype=torch.float64).train(training)
    with torch.no_grad():
        for to, value in (
            (layer.weight, weight),
            (layer.bias, bias),
            (layer.running_mean, mean),
            (layer.running_var, var),
        ):
            to.copy_(value.double())
    wide = torch.promote_types(dtype, torch.float32)
    running = mean.to(backend.device, wide), var.to(backend.device, wide)
    count = torch.zeros((), dtype=torch.int64, device=backend.device)
    for _ in range(3):  # each step's statistics pass through the running ones
        theirs = {k: v.detach().cpu().double().requires_grad_() for k, v in ours.items()}
        layer.weight.data.copy_(theirs["weight"]), layer.bias.data.copy_(theirs["bias"])
        want = torch.relu(layer(theirs["x"]) + theirs["residual"])
        count += 1
        got = F.real_batch_norm_relu(
            running_mean=running[0], running_var=running[1], training=training, momentum=count, **ours
        )
        assert_close(got, want, dtype)
    incoming = torch.randn(want.shape).to(dtype)
    grads = torch.autograd.grad(got, list(ours.values()), incoming.to(backend.device))
    wanted = [theirs["x"], layer.weight, layer.bias, theirs["residual"]]
    for name, g, w in zip(ours, grads, torch.autograd.grad(want, wanted, incoming.double()), strict=True):
        assert_close(g, w, dtype, name=name)
    assert_close(running[0], layer.running_mean)
    assert_close(running[1], layer.running_var)


def test_a_mean_much_larger_than_the_spread(backend):
    """The variance is not the difference of two large numbers."""
    x = (torch.randn(4, 2, 9, 9, dtype=torch.float64) + 3000).float()
    want = torch.relu(torch.nn.functional.batch_norm(x.double(), None, None, training=True))
    got = F.real_batch_norm_relu(x.to(backend.device), training=True)
    # float32 holds x - mean itself to 2^-12 at most: what comes out is exact to the rounding of the mean
    assert (got.cpu().double() - want).abs().max() < 3000 * 2**-23 * 4


@pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
@pytest.mark.parametrize("parameters", ["float32", "half"])
def test_half_precision_with_parameters_in_either_dtype(dtype, parameters):
    with use_backend("reference"):
        x, mean, var, weight, bias, residual = drawn(dtype)
        if parameters == "float32":
            weight, bias = weight.float(), bias.float()
        tensors = {"x": x, "weight": weight, "bias": bias, "residual": residual}
        tensors |= {"running_mean": mean.float(), "running_var": var.float()}
        _, out = compare(lambda **t: F.real_batch_norm_relu(**t, training=True), tensors, ("x",), fixed=RUNNING)
    assert out.dtype == dtype, "as torch's batch norm, also under autocast"


def test_autocast_leaves_the_features_in_their_dtype(backend):
    x, mean, var, weight, bias, _ = drawn(torch.float32, backend.device)
    with torch.autocast(backend.device, torch.bfloat16):
        got = F.real_batch_norm_relu(x, mean, var, weight, bias)
        want = torch.nn.functional.batch_norm(x, mean, var, weight, bias)
    assert got.dtype == want.dtype == torch.float32
    assert_close(got, want.relu())


def test_nothing_else_is_written_in_inference(backend):
    x, mean, var, *_ = drawn(torch.float32, backend.device)
    before = mean.clone(), var.clone()
    every = F.real_batch_norm_relu(x, mean, var)
    assert_close(F.real_batch_norm_relu(x[:1], mean, var), every[:1])
    assert torch.equal(mean, before[0]) and torch.equal(var, before[1])


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (1, 3), (0, 3, 4, 4), (2, 3, 0, 4)], ids=str)
def test_too_few_values(backend, shape):
    """torch's wording; an empty batch too, where torch's own running statistics would stay and its output be empty."""
    mean, var = torch.zeros(3, device=backend.device), torch.ones(3, device=backend.device)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training, got input size"):
        F.real_batch_norm_relu(torch.zeros(shape, device=backend.device), mean, var, training=True)
    assert not mean.any() and torch.equal(var, torch.ones_like(var))
