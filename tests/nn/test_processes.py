"""Statistics across processes: two of them, with unequal batches, are one with the whole batch."""

import contextlib
import copy
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn

import cvkernels.nn as cnn
from cvkernels import to_complex, use_backend
from tests.close import as_planar, assert_close
from tests.conftest import GPU

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch without gloo")

C, STEPS = 4, 2
last = lambda x: x.movedim(1, -1).contiguous().movedim(-1, 1)  # noqa: E731


@dataclass(frozen=True)
class Case:
    """A layer, the samples that each process has, and what a feature looks like."""

    layer: type
    settings: dict = field(default_factory=dict)
    batches: tuple = (5, 2)
    size: tuple = (2, C, 3, 5)
    residual: bool = False
    dtype: torch.dtype = torch.float64
    backend: str | None = None
    form: object = lambda x: x
    offset: float = 0.0

    def made(self):
        torch.manual_seed(1)
        layer = self.layer(C, dtype=self.dtype, **self.settings)
        for p in layer.parameters():
            nn.init.uniform_(p, 0.5, 1.5)
        return layer

    def data(self, step: int):
        """Features (and a residual) of the whole batch, and a gradient for what comes out, in float64."""
        torch.manual_seed(2 + step)
        shape = sum(self.batches), *self.size
        x, residual, grad = torch.randn(3, *shape, dtype=torch.float64)
        return [t.to(self.dtype) for t in (x + self.offset, residual, grad)]


class Convolved(nn.Module):
    """The layer that networks are made of: the convolution and the norm after it in one."""

    track_running_stats = True

    def __init__(self, channels, **settings):
        super().__init__()
        self.layer = cnn.ComplexConvBatchNormReLU2d(channels, channels, 3, padding=1, **settings)

    def forward(self, z, residual):
        return self.layer(z, residual)


REAL, NORM, FUSED = cnn.BatchNormReLU2d, cnn.MagnitudeBatchNorm2d, cnn.MagnitudeBatchNormReLU2d
CASES = {
    "magnitude": Case(NORM),
    "magnitude-affine-mean": Case(NORM, dict(affine=True, momentum=None)),
    "magnitude-untracked": Case(NORM, dict(track_running_stats=False)),
    "magnitude-complex-input": Case(NORM, dict(affine=True), form=to_complex),
    "magnitude-reference": Case(NORM, dict(affine=True), backend="reference"),
    "magnitude-1d-one-sample": Case(cnn.MagnitudeBatchNorm1d, batches=(1, 3), size=(2, C)),
    "fused": Case(FUSED, residual=True),
    "fused-affine": Case(FUSED, dict(affine=True, c=0.7), residual=True),
    "fused-reference": Case(FUSED, residual=True, backend="reference"),
    "fused-named-mean": Case(FUSED, dict(c="channel_mean"), residual=True),
    "fused-empty": Case(FUSED, dict(affine=True), batches=(4, 0), residual=True),
    "fused-float32": Case(FUSED, dict(affine=True), residual=True, dtype=torch.float32),
    "fused-bfloat16": Case(FUSED, dict(affine=True), residual=True, dtype=torch.bfloat16),
    "convolved": Case(Convolved, residual=True),
    "convolved-affine-real-weights": Case(Convolved, dict(affine=True, weights="real"), residual=True),
    "real": Case(REAL, size=(C, 3, 5), residual=True),
    "real-mean-channels-last": Case(REAL, dict(momentum=None), size=(C, 3, 5), residual=True, form=last),
    "real-plain": Case(REAL, dict(affine=False, track_running_stats=False), size=(C, 3, 5)),
    "real-reference": Case(REAL, size=(C, 3, 5), residual=True, backend="reference"),
    "real-empty": Case(REAL, batches=(0, 4), size=(C, 3, 5), residual=True),
    "real-float32": Case(REAL, size=(C, 3, 5), residual=True, dtype=torch.float32),
    "real-bfloat16": Case(REAL, size=(C, 3, 5), residual=True, dtype=torch.bfloat16),
    "real-large-mean": Case(REAL, size=(C, 3, 5), offset=300.0),
}


def steps(case: Case, layer, samples: slice, device="cpu") -> dict:
    """What a few training steps and one in inference give these samples, and what they leave in the layer."""
    results: dict = {}
    for step in range(STEPS + layer.track_running_stats):  # without them inference goes by each one's own batch
        layer.train(step < STEPS)
        x, residual, grad = (t[samples].to(device) for t in case.data(step))
        x.requires_grad_(), residual.requires_grad_()
        y = layer(case.form(x), *((case.form(residual),) if case.residual else ()))
        wanted = [x, *([residual] if case.residual else []), *layer.parameters()]
        grads = torch.autograd.grad(as_planar(y), wanted, grad)
        n = len(wanted) - len(list(layer.parameters()))
        results[f"out {step}"] = as_planar(y).detach()
        results |= {f"gradient {i} {step}": g for i, g in enumerate(grads[:n])}
        results |= {f"parameter {i} {step}": g for i, g in enumerate(grads[n:])}
    return results | {f"state {k}": v for k, v in layer.state_dict().items()}


def share(batches, rank) -> slice:
    return slice(sum(batches[:rank]), sum(batches[: rank + 1]))


def alone_too(rank: int, device: str) -> dict:
    """What else is asked of a group: one of a single process is none; no gradient; transforms; refusals."""
    group = [dist.new_group([0]), dist.new_group([1])][rank]
    make = partial(cnn.MagnitudeBatchNorm1d, C, dtype=torch.float64, device=device)
    z = torch.randn(3 + rank, 2, C, 5, dtype=torch.float64).to(device)
    found = {"single": torch.equal(make(process_group=group)(z), make()(z))}
    joint = make(process_group=dist.group.WORLD)
    with torch.no_grad():
        found["no gradient"] = joint(z)
    found["gradient"] = joint(z.requires_grad_()).detach()
    loss = lambda z: joint(z).sin().sum()  # noqa: E731
    (want,) = torch.autograd.grad(loss(z), z)
    joint.running_power = joint.num_batches_tracked = None  # functorch lets nothing outside be written to
    found["func.grad"] = torch.func.grad(loss)(z.detach()), want
    try:
        (first,) = torch.autograd.grad(loss(z), z, create_graph=True)
        first.sum().backward()
    except RuntimeError as refused:
        found["twice"] = str(refused)
    empty = make(process_group="world")
    found["nobody"] = (empty(z[:0].detach()), empty.running_power)
    return found


def process(rank: int, folder: str, collectives: str, device: str) -> None:
    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group(collectives, init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = {}
    for name, case in CASES.items():
        with use_backend(case.backend) if case.backend else contextlib.nullcontext():
            layer = cnn.convert_sync_batch_norm(case.made().to(device))
            results[name] = steps(case, layer, share(case.batches, rank), device)
    results["alone"] = alone_too(rank, device)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


PLACES = [pytest.param(("gloo", "cpu"), id="gloo")]
if GPU:  # one card serves both processes with gloo; nccl wants one each
    PLACES.append(pytest.param(("gloo", "cuda"), id="gloo-cuda", marks=pytest.mark.gpu))
if torch.cuda.device_count() > 1 and dist.is_nccl_available():
    PLACES.append(pytest.param(("nccl", "cuda"), id="nccl", marks=pytest.mark.gpu))


@pytest.fixture(scope="module", params=PLACES)
def two(request, tmp_path_factory):
    """The results of both processes."""
    folder = str(tmp_path_factory.mktemp("processes"))
    torch.multiprocessing.spawn(process, (folder, *request.param), nprocs=2)
    return [torch.load(f"{folder}/{rank}.pt", map_location="cpu") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one_with_the_whole_batch(two, name):
    case = CASES[name]
    wide = copy.deepcopy(case.made()).double()
    want = wide_steps(case, wide)
    one, other = (results[name] for results in two)
    assert one.keys() == other.keys() == want.keys()
    for key, value in want.items():
        kind = "network" if key.startswith("state") else "op"  # some steps in a row
        if key.startswith("state"):
            assert torch.equal(one[key], other[key]), f"{key} apart"
            got = one[key]
        elif key.startswith("parameter"):  # each has its own part, which DistributedDataParallel joins
            got = one[key] + other[key]
        else:
            got = torch.cat((one[key], other[key]))
        assert_close(got.double() if got.dtype == torch.int64 else got, value.double(), kind=kind, name=key)


def wide_steps(case: Case, layer) -> dict:
    """`steps` in one process and in float64, from the values that the processes were given in their dtype."""
    given = case.data

    @dataclass(frozen=True)
    class Wide(Case):
        def data(self, step):
            return [t.double() for t in given(step)]

    return steps(Wide(**vars(case)), layer, slice(None))


def test_a_group_of_one_and_no_gradient(two):
    for rank, results in enumerate(two):
        found = results["alone"]
        assert found["single"]
        assert_close(*found["func.grad"])
        assert_close(found["no gradient"], found["gradient"])
        assert "a batch norm across processes is differentiable once" in found["twice"], rank


def test_nobody_has_a_sample(two):
    for results in two:
        y, running = results["alone"]["nobody"]
        assert y.shape == (0, 2, C, 5) and running.tolist() == [1.0] * C


class TestWithoutProcesses:
    """Not initialised, as here, a converted layer is the ordinary one, as torch's is."""

    @pytest.mark.parametrize("name", ["magnitude-affine-mean", "fused-affine", "real"])
    def test_it_is_the_ordinary_layer(self, name):
        case = CASES[name]
        layer = cnn.convert_sync_batch_norm(case.made())
        ours, plain = steps(case, layer, slice(None)), steps(case, case.made(), slice(None))
        assert all(torch.equal(ours[key], plain[key]) for key in plain)

    def test_the_converter_changes_ours_in_place_and_leaves_torchs(self):
        network = nn.Sequential(nn.BatchNorm2d(C), NORM(C), nn.Sequential(FUSED(C), REAL(C)), nn.ReLU())
        before = network.state_dict()
        assert cnn.convert_sync_batch_norm(network) is network
        assert [getattr(m, "process_group", None) for m in network.modules()][1:] == [None, "world", None] + [
            "world"
        ] * 2 + [None]
        assert type(network[0]) is nn.BatchNorm2d
        assert all(v is before[k] or torch.equal(v, before[k]) for k, v in network.state_dict().items())
        assert "process_group=world" in repr(network[1]) and copy.deepcopy(network)[1].process_group == "world"
        torchs = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        assert type(torchs[0]) is nn.SyncBatchNorm and type(torchs[2][1]) is REAL

    @pytest.mark.parametrize(
        "make", [NORM, FUSED, REAL, lambda c, process_group: cnn.convert_sync_batch_norm(NORM(c), process_group)]
    )
    def test_what_is_no_group_is_refused(self, make):
        with pytest.raises(TypeError, match="`process_group` must be None .each process for itself., 'world' or a"):
            make(C, process_group="everyone")
        with pytest.raises(TypeError, match="`module` must be a torch.nn.Module, got str"):
            cnn.convert_sync_batch_norm("network")
