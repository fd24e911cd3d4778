"""The node that an operator leaves in autograd's graph: what autograd promises of any node."""

import gc
import threading
import time
import weakref

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

import cvkernels.functional as F
from cvkernels import backend
from cvkernels.ops.common import autograd
from tests.close import assert_close

from .harness import same

pytestmark = pytest.mark.skipif(not backend.compiled, reason="nothing compiled")


@pytest.fixture(params=["C++", "Python"], autouse=True)
def nodes(request, monkeypatch):
    if request.param == "Python":
        monkeypatch.setattr(backend, "nodes", lambda: None)
    elif backend.nodes() is None:
        pytest.skip("the library was built for another torch")
    monkeypatch.setattr(autograd, "_NODES", {})
    monkeypatch.setattr(autograd, "_SHORT", {})
    return request.param


@pytest.fixture
def z():
    return torch.randn(2, 2, 3, 4, 4, requires_grad=True)


def test_which_it_is(nodes, z):
    assert (
        F.magnitude_relu(z).grad_fn.name()
        == {
            "C++": "torch::autograd::CppNode<cvkernels::Operator>",
            "Python": "_MagnitudeReLUBackward",
        }[nodes]
    )


def test_of_another_torch_it_is_not_loaded(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(torch, "__version__", "2.99.0")
    assert backend.nodes.__wrapped__() is None  # without what is remembered


def test_no_graph_without_a_gradient(z):
    for y in (F.magnitude_relu(z.detach()), torch.no_grad()(F.magnitude_relu)(z)):
        assert y.grad_fn is None and not y.requires_grad


def test_a_graph_kept_serves_twice_and_one_let_go_says_so(z):
    y = F.magnitude_relu(z).sum()
    y.backward(retain_graph=True)
    once = z.grad.clone()
    y.backward()
    assert same(z.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_other_threads_go_on_meanwhile():
    """A loader's, say: the interpreter is theirs while a kernel runs."""
    features = torch.randn(8, 2, 64, 128, 128)
    done, ticks = threading.Event(), []

    def tick():
        while not done.wait(1e-3):
            ticks.append(time.perf_counter())

    other = threading.Thread(target=tick)
    other.start()
    try:
        for op in (F.magnitude_relu, F.dropout, lambda z: F.magnitude_max_pool2d(z, 3)):
            begin = time.perf_counter()
            while time.perf_counter() < begin + 0.05:  # the first call of all may wait for memory instead
                start = time.perf_counter()
                op(features)
                end = time.perf_counter()
            assert any(start < t < end for t in ticks), f"nothing else ran in {1e3 * (end - start):.0f} ms"
    finally:
        done.set()
        other.join()


class _Subclass(torch.Tensor):
    pass


class _Seen(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("requires_grad", [False, True])
def test_a_subclass_and_a_mode_of_python_have_their_say(z, requires_grad):
    z = z.detach().requires_grad_(requires_grad)
    assert type(F.magnitude_relu(z.as_subclass(_Subclass))) is _Subclass
    with _Seen() as seen:
        F.rotate_phase(z, torch.ones(2))
    assert "cvkernels.rotate_phase_forward.default" in seen.names


def test_a_flag_may_be_a_tensor_of_one(z):
    true = torch.tensor(True)
    assert same(F.magnitude_max_pool2d(z, 3, ceil_mode=true), F.magnitude_max_pool2d(z, 3, ceil_mode=True))


def test_what_is_kept_may_not_be_written_to(z):
    for kept in (lambda x: (x, F.magnitude_relu(x)), lambda x: (y := F.batch_norm_relu(x, training=True), y)):
        written, y = kept(z * 1)
        y = y * 1
        written.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


def test_a_result_kept_for_the_backward_does_not_keep_itself(z):
    gc.disable()
    try:
        theta = torch.randn(2, requires_grad=True)
        for run in (lambda: F.batch_norm_relu(z, training=True), lambda: F.rotate_phase(z, theta)):
            storage = weakref.ref(run().untyped_storage())
            assert storage() is None
    finally:
        gc.enable()


def test_what_is_saved_passes_the_hooks(z):
    seen = []
    with saved_tensors_hooks(lambda t: seen.append(t.shape) or t.double(), lambda t: t.float()):
        y = F.magnitude_max_pool2d(F.rotate_phase(z, torch.ones(2)), 2)
    assert [list(s) for s in seen] == [[2], [2, 3, 2, 2]]
    with pytest.raises(RuntimeError, match="index"):  # the bytes came back as floats: the hook's, and said
        y.sum().backward()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # what is asked of shapes and layouts
def test_traced_it_is_recorded(z):
    traced = torch.jit.trace(F.magnitude_relu, z.detach())
    assert "cvkernels::magnitude_relu_forward" in str(traced.graph)
    other = torch.randn_like(z)
    assert same(traced(other), F.magnitude_relu(other))


def test_checkpointed_it_runs_again(z):
    def net(x):
        return F.magnitude_max_pool2d(F.batch_norm_relu(x, training=True), 2).square().sum()

    (want,) = torch.autograd.grad(net(z), z)
    (got,) = torch.autograd.grad(torch.utils.checkpoint.checkpoint(net, z, use_reentrant=False), z)
    assert same(got, want)


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
)  # dynamo asks for it
def test_compiled_autograd_reads_it(z):
    def net(x):
        return F.magnitude_relu(F.rotate_phase(x, torch.ones(2)), "channel_mean").square().sum()

    (want,) = torch.autograd.grad(net(z), z)
    y = net(z)
    with torch._dynamo.compiled_autograd._enable(torch.compile(backend="eager")):
        y.backward()
    assert same(z.grad, want)


def test_a_long_chain_is_let_go_without_a_stack(z):
    y = z
    for _ in range(20_000):
        y = F.rotate_phase(y, torch.ones(2))
    y.sum().backward()
    del y
    assert z.grad.isfinite().all()


def test_second_derivatives_through_angles_and_features_that_had_to_be_copied():
    features = torch.randn(4, 3, 5, dtype=torch.complex128, requires_grad=True)
    angles = torch.randn(8, dtype=torch.float64, requires_grad=True)

    def second():
        y = F.unrotate(F.rotate_phase(features * 1, angles[::2]), angles[1::2])
        first = torch.autograd.grad(y.pow(3).sum(), (features, angles), create_graph=True)
        return torch.autograd.grad(sum(g.abs().square().sum() for g in first), (features, angles))

    with backend.use_backend("reference"):
        want = second()
    for got, right in zip(second(), want, strict=True):
        assert_close(got, right)
