"""What is said of a bad argument: its name, what it must be, what it was, and the remedy. No check reads values."""

from numbers import Integral

import torch
from torch import Tensor

COMPLEX = (torch.complex64, torch.complex128)
REAL = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COUNTS = (torch.int64, torch.float32, torch.float64)


def shown(x) -> str:
    """``torch.float32 [8, 2, 16, 4, 4]`` for a tensor, the like for another library's array, else its repr."""
    if isinstance(x, Tensor):
        return f"{x.dtype} {list(x.shape)}"
    if getattr(x, "ndim", 0) and hasattr(x, "dtype"):
        return f"{type(x).__name__} {x.dtype} {list(x.shape)}"
    return f"{type(x).__name__} {x!r}"


def tensor(x, name: str) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"`{name}` must be a tensor, got {shown(x)}")


def floating(x, name: str, complex_too: bool = False) -> None:
    tensor(x, name)
    if not (x.dtype in REAL or complex_too and x.dtype in COMPLEX):
        kinds = "floating point, complex64 or complex128" if complex_too else "a real floating-point tensor"
        kinds += ", of 16 bits or more" if x.is_floating_point() else ""
        raise TypeError(f"`{name}` must be {kinds}, got {shown(x)}; convert it first, for example with .float()")


def feature(z, name: str = "z", spatial: int | None = None) -> None:
    """Planar ``[N, 2, C, *]`` or complex ``[N, C, *]``; ``spatial``: how many axes ``*`` must be."""
    floating(z, name, complex_too=True)
    parts = 1 if z.is_floating_point() else 0
    axes = z.ndim - 2 - parts
    if axes >= 0 and (spatial is None or axes == spatial) and (not parts or z.shape[1] == 2):
        return
    stars = {None: ", *", 0: "", 1: ", L", 2: ", H, W"}[spatial]
    wanted = f"planar [N, 2, C{stars}] or complex [N, C{stars}]"
    if axes < 0 or (spatial is not None and axes != spatial):
        raise ValueError(f"`{name}` must be {wanted}, got {shown(z)}")
    raise ValueError(
        f"`{name}` must be {wanted}, got {shown(z)} whose second axis is not the two parts; "
        "build it with rotate, to_planar or torch.stack((re, im), 1)"
    )


def same(x: Tensor, name: str, like: Tensor, like_name: str, shape: bool = True) -> None:
    """Two tensors that are read together: one shape, one dtype, one device."""
    tensor(x, name)
    if shape and x.shape != like.shape:
        raise ValueError(f"`{name}` must have the shape of `{like_name}` {list(like.shape)}, got {list(x.shape)}")
    if x.dtype != like.dtype:
        raise TypeError(
            f"`{name}` must have the dtype of `{like_name}` {like.dtype}, got {x.dtype}; convert one of them with .to"
        )
    device(x, name, like, like_name)


def device(x: Tensor, name: str, like: Tensor, like_name: str) -> None:
    if x.device != like.device:
        raise ValueError(
            f"`{name}` must be on the device of `{like_name}` {like.device}, got {x.device}; move it with .to"
        )


def angle(theta, like: Tensor, like_name: str, name: str = "theta", fakes: bool = False) -> None:
    """Radians ``[N]`` (with ``fakes`` also ``[N, K]``), float32 or float64: 6.2 rad in bfloat16 is off by 0.0125."""
    if not isinstance(theta, Tensor) or theta.dtype not in (torch.float32, torch.float64):
        tensor(theta, name)
        raise TypeError(f"`{name}` must be float32 or float64 (radians), got {shown(theta)}; draw it in float32")
    n = like.shape[0]
    if not (theta.ndim == 1 or fakes and theta.ndim == 2) or theta.shape[0] != n:
        wanted = f"[{n}] or [{n}, K]" if fakes else f"[{n}]"
        raise ValueError(
            f"`{name}` must be {wanted}, one angle a sample of `{like_name}` {list(like.shape)}, "
            f"got {list(theta.shape)}"
        )
    if theta.device != like.device:
        device(theta, name, like, like_name)


def number(x, name: str) -> None:
    if isinstance(x, bool) or not isinstance(x, (int, float)):
        raise TypeError(f"`{name}` must be a number, got {shown(x)}")


def threshold(c, name: str = "c") -> None:
    number(c, name)
    if not c > 0:
        raise ValueError(f"`{name}` must be > 0 (a modulus), got {c}")


def per_channel(x, name: str, z: Tensor, z_name: str = "z", axis: int = 2) -> None:
    """A real vector ``[C]`` on the device of ``z``, planar unless its channels stand elsewhere; half-precision features
    may have float32 ones."""
    floating(x, name)
    if tuple(x.shape) != (z.shape[axis],):
        raise ValueError(
            f"`{name}` must be [{z.shape[axis]}], one value a channel of `{z_name}` {list(z.shape)}, "
            f"got {list(x.shape)}"
        )
    device(x, name, z, z_name)


def running(x, name: str, z: Tensor, z_name: str = "z", axis: int = 2) -> None:
    """A running statistic ``[C]``: float32, or float64 for float64 features."""
    per_channel(x, name, z, z_name, axis)
    wide = torch.promote_types(z.dtype, torch.float32)
    if x.dtype != wide:
        raise TypeError(f"`{name}` must be {wide} for `{z_name}` in {z.dtype}, got {x.dtype}")


def training_batch(z: Tensor, axis: int = 2) -> None:
    """torch's own rule and wording for batch statistics: planar ``z``, or real ``[N, C, *]`` with axis 1."""
    values = z.numel() // (axis * z.shape[axis]) if z.shape[axis] else 0
    if values <= 1:
        raise ValueError(f"Expected more than 1 value per channel when training, got input size {z.shape}")


def pair(value, name: str) -> tuple[int, int]:
    """An int or a pair of ints, as torch's pooling and convolution take them."""
    if type(value) is int:
        return value, value
    both = (value, value) if isinstance(value, Integral) and not isinstance(value, bool) else value
    pairs = isinstance(both, (tuple, list, torch.Size)) and len(both) == 2
    if not (pairs and all(isinstance(v, Integral) for v in both)):
        raise TypeError(f"`{name}` must be an int or a pair of ints, got {shown(value)}")
    return int(both[0]), int(both[1])


def batch_norm(z, running_power, weight, training, momentum, eps):
    """The arguments of a batch norm, checked; returns (batches, training, momentum, eps) as the operators take them."""
    if running_power is not None:
        running(running_power, "running_power", z)
    if weight is not None:
        per_channel(weight, "weight", z)
    if training:
        training_batch(z)
    return norm_settings(training, momentum, eps, z, "z")


def real_batch_norm(x, running_mean, running_var, weight, bias, training, momentum, eps):
    """The same of an ordinary batch norm over real ``[N, C, *]``."""
    floating(x, "x")
    if x.ndim < 2:
        raise ValueError(f"`x` must be [N, C, *], got {shown(x)}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("`running_mean` and `running_var` must both be given or both be None")
    if running_mean is not None:
        running(running_mean, "running_mean", x, "x", 1)
        running(running_var, "running_var", x, "x", 1)
    for vector, name in ((weight, "weight"), (bias, "bias")):
        if vector is not None:
            per_channel(vector, name, x, "x", 1)
    if training:
        training_batch(x, 1)
    return norm_settings(training, momentum, eps, x, "x")


def norm_eps(eps) -> None:
    number(eps, "eps")
    if not eps >= 0:
        raise ValueError(f"`eps` must be >= 0, got {eps}")


def norm_settings(training, momentum, eps, z, z_name):
    """(batches, training, momentum, eps): ``batches`` is a count in a tensor that stands in momentum's place."""
    norm_eps(eps)
    if isinstance(momentum, Tensor):
        if momentum.numel() != 1:
            raise ValueError(f"`momentum` must be a number or a count of batches in one element, got {shown(momentum)}")
        if momentum.dtype not in COUNTS:
            raise TypeError(
                f"`momentum` as a count of batches must be int64, float32 or float64, got {momentum.dtype}; "
                "convert it with .long()"
            )
        device(momentum, "momentum", z, z_name)
        return momentum, bool(training), 0.0, float(eps)
    if momentum is not None:
        number(momentum, "momentum")
    if momentum is None or not 0 <= momentum <= 1:
        raise ValueError(
            f"`momentum` must lie in [0, 1], got {momentum}; "
            "for the plain mean of all batches give their count in a tensor"
        )
    return None, bool(training), float(momentum), float(eps)
