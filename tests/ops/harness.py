"""What every operation is held to: values and every gradient against the reference, in every layout and form.

A test file names its operation, its function and its forms (argument sets) and inherits the checks of `suite.Suite`.
Tensors are drawn planar and contiguous; a layout brings one into the strides a caller might have; the reference always
gets a fresh contiguous float64 copy of the same values.
"""

import os
import re
import subprocess
import sys

import torch
from torch import Tensor

from cvkernels import use_backend
from tests.close import as_planar, assert_close, real_dtype

SIZES = {  # [N, C, *]; no power of two that a block could be
    "one": (1, 1, 1, 1),
    "N=1": (1, 3, 5, 7),
    "C=1": (4, 1, 3, 3),
    "1x1-map": (3, 5, 1, 1),
    "short-rows": (2, 3, 5, 2),
    "odd": (3, 7, 13, 11),
    "flat": (5, 6),
    "1d": (3, 4, 37),
    "3d": (2, 3, 3, 4, 5),
    "several-chunks": (4, 6, 61, 67),
}
MAPS = {name: size for name, size in SIZES.items() if len(size) == 4}
SMALL = (2, 3, 3, 2)  # for finite differences
ODD = (3, 5, 7, 6)  # for layouts


# --- layouts: differentiable, so that gradients reach the drawn tensor through them -----------------------------------


def _last(*channels: int):
    """Those axes innermost in memory; shape and values stay."""
    inner = tuple(range(-len(channels), 0))
    return lambda x: x.movedim(channels, inner).contiguous().movedim(inner, channels)


def _complex(x: Tensor) -> Tensor:
    return torch.complex(x[:, 0], x[:, 1])


def _sliced(x: Tensor) -> Tensor:
    return torch.stack((x, torch.full_like(x, torch.nan)), -1).flatten(-2)[..., ::2]


def _gap(x: Tensor) -> Tensor:
    """The first channels of a wider tensor: dense rows, samples apart."""
    d = 2 if x.ndim > 2 else 1
    return torch.cat((x, torch.full_like(x, torch.nan)), d).narrow(d, 0, x.shape[d])


def _off_by_one(x: Tensor) -> Tensor:
    """Contiguous, but its first element is not aligned for a vector load."""
    return torch.cat((x.new_zeros(1), x.flatten()))[1:].view(x.shape)


def _transposed(x: Tensor) -> Tensor:
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


PLANAR = {
    "contiguous": lambda x: x,
    "channels-last": _last(1, 2),
    "interleaved": _last(1),
    "sliced": _sliced,
    "gap": _gap,
    "off-by-one": _off_by_one,
    "transposed": _transposed,
    "expanded": lambda x: x[:1].expand(x.shape),
    "negative": lambda x: torch._neg_view(-x),
}
COMPLEX = {
    "complex": _complex,
    "complex-channels-last": lambda x: _last(1)(_complex(x)),
    "complex-sliced": lambda x: _sliced(_complex(x)),
    "complex-transposed": lambda x: _transposed(_complex(x)),
    "complex-expanded": lambda x: _complex(x)[:1].expand(x[:, 0].shape),
    "complex-conjugate": lambda x: _complex(x).conj().conj_physical().conj(),
    "complex-negative": lambda x: torch._neg_view(-_complex(x)),
}
REAL = {name: PLANAR[name] for name in PLANAR if name != "interleaved"} | {"channels-last": _last(1)}


def plain(x: Tensor, device="cpu") -> Tensor:
    """The values of ``x`` as a fresh contiguous planar float64 tensor, differentiably."""
    x = as_planar(x.resolve_conj().resolve_neg())
    return torch.cat((x.flatten(), x.new_zeros(1)))[:-1].view(x.shape).double().to(device).contiguous()


def in_layout_of(out: Tensor, z: Tensor) -> bool:
    """Planar channels-last in, channels-last out; anything else, and complex tensors, come out contiguous."""
    last = z.ndim == 5 and not z.is_complex() and not z.is_contiguous() and z.movedim((1, 2), (-2, -1)).is_contiguous()
    return (out.movedim((1, 2), (-2, -1)) if last else out).is_contiguous()


def wide(dtype: torch.dtype) -> torch.dtype:
    """Of statistics beside features in ``dtype``: float32 or wider."""
    return torch.promote_types(dtype, torch.float32)


def turning(suite, form, out: Tensor, g: Tensor) -> Tensor:
    """``g`` with a part along i ``out``: an angle's gradient is then no small difference of terms of either sign, each
    with the rounding of an output that is read back."""
    re, im = out.unbind(1)
    return (g.double() + torch.stack((-im, re), 1)).to(g.dtype)


def two_rings(*shape: int) -> Tensor:
    """Planar features of modulus .2 to .7 and 1.5 to 2, far from a threshold of 1: there the gradient has a step, and
    which side of it an element falls is decided by the last bit."""
    modulus = torch.rand(shape, dtype=torch.float64) / 2 + torch.where(torch.rand(shape) < 0.5, 0.2, 1.5)
    phase = torch.rand(shape, dtype=torch.float64) * 2 * torch.pi
    return as_planar(torch.polar(modulus, phase))


# --- one call and its gradients ---------------------------------------------------------------------------------------


def outputs(result) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [r for r in result if r.is_floating_point() or r.is_complex()]


def leaves(tensors: dict, fixed: tuple = ()) -> dict:
    """Fresh leaves of the same values; those named in ``fixed`` (running statistics) want no gradient."""
    return {k: v.detach().clone().requires_grad_(k not in fixed) for k, v in tensors.items()}


def incoming(out: Tensor, seed: int = 1) -> Tensor:
    """A gradient for ``out``, drawn on the CPU so that each device gets the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.randn(out.shape, dtype=torch.complex128 if out.is_complex() else torch.float64).to(out)


def gradients(result, wanted: dict, grads: list | None = None) -> dict:
    outs = outputs(result)
    wanted = {k: v for k, v in wanted.items() if v.requires_grad}
    got = torch.autograd.grad(outs, list(wanted.values()), grads or [incoming(o) for o in outs])
    return dict(zip(wanted, got, strict=True))


def compare(
    call, tensors: dict, features: tuple, layout=lambda x: x, fixed: tuple = (), grad_layout=lambda x: x,
    grad_kind: str = "op",
):  # fmt: skip
    """``call(**tensors)`` on the backend in force equals the reference in float64: outputs, gradients, statistics.

    ``layout`` is applied to ``features``, ``grad_layout`` to the incoming gradients; ``grad_kind``: the row of the
    tolerance table for gradients. Returns the (laid out) inputs and the result, for what else a test wants to see.
    """
    ours, theirs = leaves(tensors, fixed), leaves({k: v.double().cpu() for k, v in tensors.items()}, fixed)
    given = {k: layout(v) if k in features else v for k, v in ours.items()}
    plain_given = {k: plain(layout(v)) if k in features else v for k, v in theirs.items()}
    before = {k: snapshot(v) for k, v in given.items()}
    result = call(**given)
    with use_backend("reference"):
        want = call(**plain_given)
    outs = outputs(result)
    grads = [grad_layout(incoming(o)) for o in outs]
    after = [snapshot(t) for t in (*outs, *grads)]
    got_grads = gradients(result, ours, grads)
    with use_backend("reference"):
        want_grads = gradients(want, theirs, [plain(g) for g in grads])
    for i, (o, w) in enumerate(zip(outs, outputs(want), strict=True)):
        assert real_dtype(o.dtype) == ours[features[0]].dtype
        assert_close(o, w, name=f"output {i}")
    for name, g in got_grads.items():
        computed_in = ours[features[0]].dtype
        wanted, said = want_grads[name], f"gradient of {name}"
        assert_close(g, wanted, ours[name].dtype, grad_kind, said, computed_in)
    for name in fixed:
        if name in ours:
            assert_close(ours[name], theirs[name], ours[name].dtype, name=name)
    for k, v in given.items():
        assert k in fixed or same(v, before[k]), f"{k} was written to"
    for kept, t in zip(after, (*outs, *grads), strict=True):
        assert same(t, kept), "an output or an incoming gradient was written to by the backward"
    return given, result


def snapshot(x: Tensor) -> Tensor:
    return x.detach().clone()


def same(x: Tensor, y: Tensor) -> bool:
    """Equal to the last bit, NaN equal to NaN."""
    x, y = as_planar(x.detach()), as_planar(y.detach())
    return x.shape == y.shape and bool(((x == y) | (x.isnan() & y.isnan())).all())


def says_it_cannot_be_mapped(message: str, op: str) -> bool:
    """Of mapping, by name: a refusal of its dtype names the operation too."""
    name = re.search(op.replace("_", "_?"), message, re.IGNORECASE)
    return bool(name and re.search("vmap|batching rule|cannot be mapped", message, re.IGNORECASE))


def with_lanes(code: str, lanes: str) -> str:
    """What ``code`` prints where CPU kernels use vectors of so many floats at most."""
    return in_process(code, CVKERNELS_LANES=lanes)


def in_process(code: str, **environment: str) -> str:
    """What ``code`` prints in a process of its own."""
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, env=os.environ | environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()
