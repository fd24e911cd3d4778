"""The checks that every operation inherits: `class TestRotate(Suite)` in its own test file."""

from dataclasses import dataclass, field

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cvkernels import backend as house
from cvkernels import use_backend
from cvkernels.ops.common import autograd
from tests.close import as_planar, assert_close, tolerance
from tests.conftest import HALVES

from .harness import (
    COMPLEX,
    ODD,
    PLANAR,
    SIZES,
    SMALL,
    compare,
    gradients,
    in_layout_of,
    incoming,
    leaves,
    outputs,
    same,
    says_it_cannot_be_mapped,
)


@dataclass(frozen=True)
class Form:
    """One way to call an operation: which tensors it is given, and its other arguments."""

    tensors: tuple
    kwargs: dict = field(default_factory=dict)

    def __call__(self, fn):
        return lambda **tensors: fn(**tensors, **self.kwargs)


def form(*tensors: str, **kwargs) -> Form:
    return Form(tensors, kwargs)


def strided(g: torch.Tensor, layout: str) -> torch.Tensor:
    return COMPLEX[f"complex-{layout}"](as_planar(g)) if g.is_complex() else PLANAR[layout](g)


def shown_strides(x: torch.Tensor) -> list:
    """Of the axes longer than one: those of the others mean nothing."""
    return [stride for size, stride in zip(x.shape, x.stride(), strict=True) if size > 1]


def varies(backend) -> float:
    """How far a gradient may be from itself, computed again. On a GPU torch's own (of adaptive pooling, of a gather)
    are added up by atomics, in any order; ours, and those of a CPU, are the same bits."""
    return tolerance(torch.float64) if backend.device == "cuda" and not backend.compiled else 0.0


class Suite:
    OP = ""
    FORMS: dict = {}
    SIZES = SIZES
    LAYOUTS = PLANAR | COMPLEX
    STRIDES = {name: (PLANAR | COMPLEX)[name] for name in ("contiguous", "channels-last", "complex")}  # promised ones
    SMALL, ODD = SMALL, ODD
    FEATURES = ("z",)  # what has a layout
    FIXED = ("running_power",)  # what has no gradient
    WIDE = ("theta", "fakes", "one_fake", "running_power")  # never in half precision
    TWICE = False  # differentiable twice
    EMPTY = ((0, 3, 4, 4), (2, 3, 0, 4))  # sizes without an element that work

    @staticmethod
    def fn(**tensors):
        raise NotImplementedError

    def draw(self, name: str, size: tuple, form: Form) -> torch.Tensor:
        """Float64 values of one argument for features [N, C, *]."""
        n, c = size[:2]
        if name == "theta":
            return torch.rand(n, dtype=torch.float64) * 12 - 6
        if name in ("weight", "running_power"):
            return torch.rand(c, dtype=torch.float64) + 0.5
        return torch.randn(n, 2, *size[1:], dtype=torch.float64)

    def eased(self, form: Form, out: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
        """The incoming gradient ``g`` for an output kept in half precision, where a backward that reads it back cannot
        know better than its rounding. ``out`` is the reference's."""
        return g

    def skip(self, form: Form, size: tuple) -> str | None:
        """Why this form cannot have features of this size."""

    def swallows(self, bad: float, form: Form) -> bool:
        """Whether the definition itself makes something finite of it."""
        return False

    def tensors(self, form: Form, size: tuple, dtype=torch.float32, device="cpu") -> dict:
        reason = self.skip(form, size)
        if reason:
            pytest.skip(reason)
        wide = torch.float32 if dtype in HALVES else dtype  # of angles and statistics
        return {
            name: self.draw(name, size, form).to(device, wide if name in self.WIDE else dtype) for name in form.tensors
        }

    # --- values and gradients ---

    def test_sizes(self, backend, dtype, form, size):
        # threads only where they are ours: two of torch's own on a busy machine wait for each other for seconds
        torch.set_num_threads(2 if backend.compiled and size == SIZES["several-chunks"] else 1)
        self.agrees(form, self.tensors(form, size, dtype, backend.device), dtype)

    def agrees(self, form, tensors, dtype, layout=lambda x: x):
        incoming = self.incoming_in(dtype, form, tensors)
        compare(form(self.fn), tensors, self.FEATURES, layout, self.FIXED, incoming)

    def incoming_in(self, dtype, form, tensors):
        """What brings incoming gradients into the form that the dtype is compared in."""
        if dtype not in HALVES:
            return lambda g: g
        with use_backend("reference"):
            fresh = {k: v.clone() for k, v in tensors.items()}  # running statistics move
            out = outputs(form(self.fn)(**fresh))[0]
        return lambda g: self.eased(form, out, g)

    def test_layouts(self, backend, form, layout):
        results = []
        for dtype in [d for d in house.FLOATS if d in backend.dtypes(self.OP)][: 2 if backend.compiled else 1]:
            tensors = self.tensors(form, self.ODD, dtype, backend.device)
            results.append(compare(form(self.fn), tensors, self.FEATURES, layout, self.FIXED))
        for z, out in [(given[self.FEATURES[0]], o) for given, result in results for o in outputs(result)]:
            # the planar view of a complex tensor is how complex tensors are carried inside: its layout is kept
            promised = self.promised(out, z) or layout is PLANAR["interleaved"]
            assert promised, f"{out.dtype} with strides {out.stride()} for {z.dtype} with {z.stride()}"

    def promised(self, out, z) -> bool:
        return out.is_complex() == z.is_complex() and in_layout_of(out, z)

    @pytest.mark.parametrize("grad_layout", ["channels-last", "transposed", "sliced", "expanded", "negative"])
    def test_incoming_gradients_of_any_strides(self, backend, form, strides, grad_layout):
        tensors = self.tensors(form, self.ODD, torch.float32, backend.device)
        compare(form(self.fn), tensors, self.FEATURES, strides, self.FIXED, lambda g: strided(g, grad_layout))

    @pytest.mark.parametrize("dtype", HALVES, ids=["float16", "bfloat16"])
    def test_half_precision_is_rounded_once(self, form, dtype):
        with use_backend("reference"):
            compare(form(self.fn), self.tensors(form, self.ODD, dtype), self.FEATURES, fixed=self.FIXED)

    @pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf], ids=["nan", "inf", "-inf"])
    def test_what_is_not_finite_passes_as_in_the_reference(self, backend, form, bad):
        tensors = self.tensors(form, self.ODD, torch.float32, backend.device)
        for name in tensors.keys() & set(self.FEATURES):
            tensors[name][(1, ..., *(3,) * (len(self.ODD) - 2))] = bad
        with torch.no_grad():
            got = form(self.fn)(**{k: v.clone() for k, v in tensors.items()})
            with use_backend("reference"):
                want = form(self.fn)(**{k: v.double().cpu() for k, v in tensors.items()})
        for g, w in zip(outputs(got), outputs(want), strict=True):
            assert not g.isfinite().all() or self.swallows(bad, form)
            assert_close(g, w)

    def test_empty(self, backend, form):
        for size in self.EMPTY:
            if self.skip(form, size) or form.kwargs.get("training"):
                continue
            tensors = leaves(self.tensors(form, size, device=backend.device), self.FIXED)
            result = form(self.fn)(**tensors)
            with use_backend("reference"):
                want = form(self.fn)(**tensors)
            for got, expected in zip(outputs(result), outputs(want), strict=True):
                assert got.shape == expected.shape and got.numel() == 0 and got.dtype == expected.dtype
            for name, g in gradients(result, tensors).items():
                assert g.shape == tensors[name].shape and not g.any()

    # --- autograd ---

    def test_gradcheck(self, backend, form):
        if torch.float64 not in backend.dtypes(self.OP):
            pytest.skip("finite differences need float64; test_sizes holds these gradients to the reference's")
        tensors = leaves(self.tensors(form, self.SMALL, torch.float64, backend.device), self.FIXED)
        call = lambda *t: self._ordered(form, tensors, t)  # noqa: E731
        assert torch.autograd.gradcheck(call, tuple(tensors.values()), nondet_tol=varies(backend))

    def test_double_backward(self, backend, form):
        dtype = backend.widest(self.OP)
        tensors = leaves(self.tensors(form, self.SMALL, dtype, backend.device), self.FIXED)
        if self.TWICE and dtype != torch.float64:  # finite differences need it
            self.second_gradients_agree(form, tensors)
            return
        if self.TWICE or not backend.compiled:
            call = lambda *t: self._ordered(form, tensors, t)  # noqa: E731
            assert torch.autograd.gradgradcheck(call, tuple(tensors.values()), nondet_tol=varies(backend))
            return
        out = outputs(form(self.fn)(**tensors))[0]
        wanted = [t for t in tensors.values() if t.requires_grad]
        first = torch.autograd.grad(out.square().sum(), wanted, create_graph=True)
        with pytest.raises(RuntimeError, match=f"{self.OP} is differentiable once"):
            sum(g.square().sum() for g in first).backward()

    def second_gradients_agree(self, form, tensors):
        """Of every gradient, towards all that it depends on, against the reference's in float64."""
        wide = leaves({k: v.double().cpu() for k, v in tensors.items()}, self.FIXED)
        given = [v for v in tensors.values() if v.requires_grad]
        got = self.second_gradients(form, tensors, given)
        with use_backend("reference"):
            want = self.second_gradients(form, wide, [v for v in wide.values() if v.requires_grad])
        for g, w in zip(got, want, strict=True):
            assert_close(g, w, name="second gradient")

    def second_gradients(self, form, tensors, wanted):
        outs = outputs(form(self.fn)(**tensors))
        grads = [incoming(o).requires_grad_() for o in outs]
        first = torch.autograd.grad(outs, wanted, grads, create_graph=True)
        seeds = [incoming(g, seed=2) for g in first]
        return torch.autograd.grad(first, [*grads, *wanted], seeds, allow_unused=True, materialize_grads=True)

    def test_func_grad(self, backend, form):
        tensors = leaves(self.tensors(form, self.ODD, backend.widest(self.OP), backend.device), self.FIXED)
        if form.kwargs.get("training"):
            tensors.pop("running_power", None)  # functorch lets nothing outside be written to, as in torch's batch norm
        result = form(self.fn)(**tensors)
        grads = [incoming(o) for o in outputs(result)]
        want = gradients(result, tensors, grads)
        rest = {k: v.detach() for k, v in tensors.items() if k not in want}

        def loss(asked):
            outs = outputs(form(self.fn)(**asked, **rest))
            return sum((o * g).sum() for o, g in zip(outs, grads, strict=True))

        got = torch.func.grad(loss)({k: tensors[k].detach() for k in want})
        for name in want:
            assert_close(got[name], want[name], name=name)

    def test_vmap(self, backend, form):
        """Mapped, or refused by name; plain torch is never refused."""
        stacked = {}
        for k, v in self.tensors(form, self.ODD, backend.widest(self.OP), backend.device).items():
            if k != "running_power" or not form.kwargs.get("training"):  # functorch maps no write to one of them
                stacked[k] = torch.stack((v, v + 1))
        self.maps_or_refuses(backend, lambda t: tuple(outputs(form(self.fn)(**t))), stacked)

        def gradient_per_sample(t):
            wanted = {k: v for k, v in t.items() if k not in self.FIXED}
            fixed = {k: v for k, v in t.items() if k in self.FIXED}
            loss = lambda w: sum(o.sin().sum() for o in outputs(form(self.fn)(**w, **fixed)))  # noqa: E731
            return tuple(torch.func.grad(loss)(wanted).values())

        self.maps_or_refuses(backend, gradient_per_sample, stacked)

    def maps_or_refuses(self, backend, call, stacked):
        try:
            got = torch.func.vmap(call)(stacked)
        except RuntimeError as refused:
            assert backend.compiled and says_it_cannot_be_mapped(str(refused), self.OP)
            return
        each = [call({k: v[i] for k, v in stacked.items()}) for i in range(2)]
        for g, *w in zip(got, *each, strict=True):
            assert_close(g, torch.stack(w))

    # --- torch.compile and the operators ---

    def test_compiled_equals_eager(self, backend, form, strides):
        if backend.name == "reference" and strides is not PLANAR["contiguous"]:
            pytest.skip("plain torch: one layout stands for all")
        tensors = self.tensors(form, self.ODD, device=backend.device)
        eager, compiled = (  # leaves in their strides: dynamo looks for .grad, which torch warns of elsewhere
            {k: strides(v).detach().requires_grad_(v.requires_grad) if k in self.FEATURES else v for k, v in t.items()}
            for t in (leaves(tensors, self.FIXED), leaves(tensors, self.FIXED))
        )
        torch._dynamo.reset()
        want = form(self.fn)(**eager)
        got = torch.compile(form(self.fn), fullgraph=True, backend="aot_eager")(**compiled)
        for g, w in zip(outputs(got), outputs(want), strict=True):
            assert shown_strides(g) == shown_strides(w)
            assert_close(g, w)
        want, got = gradients(want, eager), gradients(got, compiled)
        for k in want:
            assert_close(got[k], want[k], name=f"gradient of {k}")
        assert all(same(compiled[k], eager[k]) for k in eager), "running statistics"

    def _ordered(self, form, names, values):
        return tuple(outputs(form(self.fn)(**dict(zip(names, values, strict=True)))))


class KernelSuite(Suite):
    """For an operation with kernels of ours."""

    @pytest.mark.parametrize("dense", ["channels-last", "interleaved"])
    def test_half_precision_in_each_layout(self, kernel, form, dense):
        dtypes = [d for d in HALVES if d in getattr(house.OPS[self.OP], kernel.name)]
        if not dtypes or dense not in self.LAYOUTS:
            pytest.skip("not one of its dtypes or layouts")
        for dtype in dtypes:
            self.agrees(form, self.tensors(form, self.ODD, dtype, kernel.device), dtype, self.LAYOUTS[dense])

    def test_gradients_nobody_asked_for_are_none(self, kernel, form):
        tensors = leaves(self.tensors(form, self.ODD, device=kernel.device), self.FIXED)
        every = gradients(form(self.fn)(**tensors), tensors)
        for name in every:
            alone = {k: v.detach().clone().requires_grad_(k == name) for k, v in tensors.items()}
            out = outputs(form(self.fn)(**alone))[0]
            node, nr = out.grad_fn, out.output_nr
            while not (hasattr(node, "apply") or "CppNode" in node.name()):  # views around our node
                node, nr = node.next_functions[0]
            given = [None] * len(node._input_metadata)
            given[nr] = incoming(out)
            with torch.no_grad():
                found = node.apply(*given) if hasattr(node, "apply") else node(*given)
            grads = [g for g in (found if isinstance(found, tuple) else (found,)) if g is not None]
            assert len(grads) == 1 and same(grads[0], every[name])

    def test_the_function_alone_is_the_same(self, kernel, form, strides, monkeypatch):
        """Where no node in C++ fits this torch: bit for bit, the second derivative too where there is one."""
        drawn, found = self.tensors(form, self.ODD, device=kernel.device), []
        for nodes in (house.nodes(), None):
            monkeypatch.setattr(house, "nodes", lambda nodes=nodes: nodes)
            monkeypatch.setattr(autograd, "_NODES", {})
            monkeypatch.setattr(autograd, "_SHORT", {})
            tensors = leaves(drawn, self.FIXED)
            torch.manual_seed(0)
            result = form(self.fn)(**{k: strides(v) if k in self.FEATURES else v for k, v in tensors.items()})
            again = []
            if self.TWICE:
                wanted = [t for t in tensors.values() if t.requires_grad]
                loss = as_planar(outputs(result)[0]).pow(3).sum()
                first = torch.autograd.grad(loss, wanted, create_graph=True)
                again = torch.autograd.grad(sum(g.square().sum() for g in first), wanted, retain_graph=True)
            found.append((outputs(result), gradients(result, tensors).values(), tensors.values(), again))
        for mine, alone in zip(*found, strict=True):
            assert all(map(same, mine, alone))

    def test_operators(self, kernel, form, strides):
        """Schema, fake and AOT of every operator that a call and its backward reach, with the arguments it got."""
        tensors = leaves(self.tensors(form, self.ODD, device=kernel.device), self.FIXED)
        with Recorder() as seen:
            given = {k: strides(v) if k in self.FEATURES else v for k, v in tensors.items()}
            gradients(form(self.fn)(**given), tensors)
        names = {op.name().split("::")[1].split(".")[0] for op, _, _ in seen.calls}
        assert names == {f"{self.OP}_forward", f"{self.OP}_backward"}
        for op, args, kwargs in seen.calls:
            torch.library.opcheck(op, args, kwargs)


class Recorder(TorchDispatchMode):
    """Keeps each call of an operator of ours with copies of its arguments."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace.startswith("cvkernels"):
            kept = [a.detach().clone() if isinstance(a, torch.Tensor) else a for a in args]
            self.calls.append((func, tuple(kept), dict(kwargs or {})))
        return func(*args, **(kwargs or {}))
