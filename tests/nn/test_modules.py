"""What holds for every module: state_dict, copies, dtypes, meta tensors, gradients, repr, torch.compile."""

import copy

import pytest
import torch
from torch import nn

import cvkernels.nn as cnn
from cvkernels import to_complex
from tests.close import assert_close
from tests.nn.modules import HOLDERS, MODULES, REAL, made


def run(module, z):
    torch.manual_seed(5)
    return module(z)


def same_state(module, other):
    state = module.state_dict()
    for key, value in other.state_dict().items():
        if value.is_floating_point():
            assert_close(state[key], value, name=key)
        else:
            assert torch.equal(state[key], value), key


def test_every_public_module_is_here():
    classes = {n for n in cnn.__all__ if isinstance(getattr(cnn, n), type) and issubclass(getattr(cnn, n), nn.Module)}
    assert classes == {name.partition("-")[0] for name in MODULES} | {"PhaseRotation"}


@pytest.mark.parametrize("name", MODULES)
class TestEveryModule:
    def test_state_dict_round_trip(self, name):
        module, z = made(name, dtype=torch.float64)
        run(module, z)
        other, _ = made(name, dtype=torch.float64)
        assert other.load_state_dict(copy.deepcopy(module.state_dict())) == ([], [])
        assert torch.equal(run(module.eval(), z), run(other.eval(), z))

    def test_deepcopy_shares_nothing(self, name):
        module, z = made(name, dtype=torch.float64)
        twin = copy.deepcopy(module)
        assert torch.equal(run(twin, z), run(module, z))
        mine = {t.data_ptr() for t in module.state_dict().values()}
        assert not mine & {t.data_ptr() for t in twin.state_dict().values()}

    def test_double(self, name):
        module, z = made(name)
        module = module.double()
        assert run(module, z.double()).dtype == torch.float64

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half(self, name, dtype):
        module, z = made(name)
        module, z = module.to(dtype), z.to(dtype)
        run(module, z)
        wide = copy.deepcopy(module).double()
        assert_close(run(module.eval(), z), run(wide.eval(), z.double()), dtype, kind="network")
        assert {b.dtype for n, b in module.named_buffers() if n.startswith("running_")} <= {torch.float32}

    def test_complex_in_complex_out(self, name):
        module, z = made(name, dtype=torch.float64)
        if z.shape == REAL:
            with pytest.raises(TypeError, match="`x` must be a real floating-point tensor, got torch.complex128"):
                module(z + 0j)
            return
        planar = run(copy.deepcopy(module), z)
        assert_close(run(module, to_complex(z)), to_complex(planar), torch.complex128)

    def test_gradients_flow(self, name):
        module, z = made(name, dtype=torch.float64)
        z.requires_grad_()
        y = run(module, z)
        (y * torch.arange(y.numel()).view(y.shape).to(y)).sum().backward()
        for x in (z, *module.parameters()):
            assert x.grad.isfinite().all() and x.grad.any()

    def test_repr_names_the_class(self, name):
        module, _ = made(name)
        assert repr(module).startswith(f"{type(module).__name__}(")

    @pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
    def test_compiles_without_a_graph_break(self, name, training):
        module, z = made(name)
        module.train(training)
        compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
        mine, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
        y, want = run(compiled, theirs), run(module, mine)
        assert_close(y, want, torch.float32)
        y.square().sum().backward()
        want.square().sum().backward()
        assert_close(theirs.grad, mine.grad, torch.float32, kind="network")
        # a buffer written inside an autograd Function is dropped without a word when traced
        same_state(compiled._orig_mod, module)


@pytest.mark.parametrize("name", HOLDERS)
class TestHolders:
    def test_dtype_and_device_arguments(self, name):
        module, _ = made(name, dtype=torch.float64, device="meta")
        tensors = [t for t in module.state_dict().values() if t.is_floating_point()]
        assert tensors and all(t.dtype == torch.float64 and t.is_meta for t in tensors)

    def test_complex_dtype_is_refused(self, name):
        with pytest.raises(TypeError, match="`dtype` must be a real floating-point dtype, got torch.complex64"):
            made(name, dtype=torch.complex64)


def test_compiled_running_power_moves_and_counts():
    norm, z = made("MagnitudeBatchNorm2d")
    fused, _ = made("MagnitudeBatchNormReLU2d")
    for module in (norm, fused):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        for _ in range(3):
            compiled(z)
        assert module.num_batches_tracked == 3
        power = z.square().sum(1).mean((0, 2, 3))
        assert_close(module.running_power, power + (1 - power) * 0.9**3, torch.float32)


def test_autocast_runs_a_network_and_its_gradients():
    """Features leave the first layer in bfloat16 and meet float32 parameters in the next."""
    layers = (
        cnn.ComplexConv2d(6, 8, 3),
        cnn.MagnitudeBatchNormReLU2d(8, affine=True),
        cnn.ComplexConv2d(8, 4, 3, groups=2, weights="complex"),
        cnn.MagnitudeReLU("channel_mean"),
        cnn.ComplexConv2d(4, 4, 3, weights="real"),
        cnn.ComplexFlatten(),
        cnn.ComplexLinear(8, 3),
    )
    network, (_, z) = nn.Sequential(*layers), made("MagnitudeReLU")
    wide = copy.deepcopy(network).double()(z.double())
    with torch.autocast("cpu", torch.bfloat16):
        y = network(z)
    assert_close(y, wide, torch.bfloat16, kind="network")
    y.float().square().sum().backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 and p.grad.any() for p in network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ComplexConv2d", "MagnitudeBatchNormReLU2d"])
def test_inductor(name):
    module, z = made(name)
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True)
    mine, theirs = z.clone().requires_grad_(), z.clone().requires_grad_()
    y, want = compiled(theirs), module(mine)
    assert_close(y, want, torch.float32)
    y.square().sum().backward()
    want.square().sum().backward()
    assert_close(theirs.grad, mine.grad, torch.float32, kind="network")
    same_state(compiled._orig_mod, module)
