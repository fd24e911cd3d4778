"""The only tolerances of the project, and how two tensors are compared.

An error is measured against the reference's RMS: its own RMS, and its largest element at 20 times that.
"""

import torch
from torch import Tensor

LARGEST = 20  # the largest error an element may have, over the RMS error allowed

# RMS error over the reference's RMS. TF32 must be off.
TOLERANCES = {
    "op": {  # one operation, one direction
        torch.float64: 1e-12,
        torch.float32: 2e-6,  # a convolution of 4608 terms on the CPU measured 3.5e-7
        torch.float16: 5e-4,  # rounded once: 2^-12 to 2^-11 of an element's own size
        torch.bfloat16: 4e-3,  # rounded once: 2^-9 to 2^-8
    },
    # One convolution in TF32, both factors with 10 bits of fraction. A tensor core cuts off the others: 2^-11 ln 2, or
    # 3.4e-4, of a factor on average, so 6.8e-4 of every product, with a scatter. Simulated on a CPU: 8e-4 together.
    "tf32": {torch.float32: 1e-3},
    "network": {  # tens of operations in a row, each within its own tolerance
        torch.float64: 5e-12,
        torch.float32: 1e-5,
        torch.float16: 5e-3,
        torch.bfloat16: 4e-2,
    },
    "training": {torch.float64: 1e-10},  # 20 steps of Adam, which divides by the gradient's own size; largest 2e-9
}


def real_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the parts of a complex number; a real dtype is its own."""
    return dtype.to_real() if dtype.is_complex else dtype


def tolerance(dtype: torch.dtype, kind: str = "op") -> float:
    return TOLERANCES[kind][real_dtype(dtype)]


def as_planar(z: Tensor) -> Tensor:
    """Complex ``[N, C, *]`` to ``[N, 2, C, *]`` in plain torch: the tests' own, so that ours can be tested by it."""
    return torch.stack((z.real, z.imag), 1) if z.is_complex() else z


def assert_close(
    got: Tensor,
    want: Tensor,
    dtype: torch.dtype | None = None,
    kind: str = "op",
    name: str = "",
    computed_in: torch.dtype | None = None,
) -> None:
    """``got`` equals ``want``, the reference run in float64 or complex128.

    Args:
        got: what is tested, real (planar) or complex.
        want: the same quantity in either form; it is brought to the form of ``got``.
        dtype: the dtype ``got`` must have (default: any).
        kind: a row of `TOLERANCES`.
        name: what the message calls it.
        computed_in: where that is coarser than the dtype of ``got``: a float64 angle's gradient from float32 features.
    """
    name = name or kind
    assert dtype is None or got.dtype == dtype, f"{name}: dtype {got.dtype}, wanted {dtype}"
    got_was, got, want = got.dtype, as_planar(got.detach()).cpu(), as_planar(want.detach()).cpu()
    assert got.shape == want.shape, f"{name}: shape {list(got.shape)}, wanted {list(want.shape)} (parts apart)"
    allowed = max(tolerance(d, kind) for d in (got_was, computed_in or got_was))
    floor = torch.finfo(real_dtype(got_was)).tiny
    got, want = got.double(), want.double()
    # what float64 holds and the dtype does not is infinite there too
    want = torch.where(want.abs() > torch.finfo(real_dtype(got_was)).max, want.sign() * torch.inf, want)
    for kind_of, test in (("NaN", torch.isnan), ("+Inf", torch.isposinf), ("-Inf", torch.isneginf)):
        apart = test(got) != test(want)
        assert not apart.any(), f"{name}: {kind_of} apart from the reference's, {_where(apart.double(), got, want)}"
    if not want.numel():
        return
    finite = want.isfinite()
    error = torch.where(finite, got - want, 0).abs()
    rms, size = _rms(error), _rms(torch.where(finite, want, 0))
    bound = allowed * size + floor  # the floor: a zero reference is compared absolutely, underflow is no error
    worst = error.max().item()
    assert rms <= bound and worst <= LARGEST * bound, (
        f"{name}: RMS error {rms:.2e}, largest {worst:.2e}; the reference's RMS is {size:.2e}, which allows "
        f"{bound:.2e} and {LARGEST * bound:.2e}. {_where(error, got, want)}"
    )


def assert_equivariant(fn, z: Tensor, kind: str = "op", name: str = "law") -> None:
    """fn(e^{iθ}z) = e^{iθ}fn(z) with an angle for each sample: a global one hides faults."""
    n = z.shape[0]
    theta = torch.linspace(0.3, 6.0, n, dtype=torch.float64, device=z.device)
    assert_close(fn(turned(z, theta)), turned(fn(z), theta, wide=True), kind=kind, name=name)


def turned(z: Tensor, theta: Tensor, wide: bool = False) -> Tensor:
    """z·e^{iθ} in complex128, brought back to the form and, unless ``wide``, the dtype of ``z``."""
    w = z.to(torch.complex128) if z.is_complex() else torch.complex(z[:, 0].double(), z[:, 1].double())
    w = w * torch.polar(torch.ones_like(theta, dtype=torch.float64), theta.double()).view(-1, *(1,) * (w.ndim - 1))
    w = w if z.is_complex() else as_planar(w)
    return w if wide else w.to(z.dtype)


def _rms(x: Tensor) -> float:
    largest = x.abs().max().item()
    return largest * (x / largest).square().mean().sqrt().item() if largest else 0.0


def _where(error: Tensor, got: Tensor, want: Tensor) -> str:
    at = tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))
    return f"Worst at {list(at)}: got {got[at].item():.9g}, wanted {want[at].item():.9g}"
