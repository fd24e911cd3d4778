"""Each mistake a caller can make: the error names the argument, what it was, and the remedy."""

import numpy as np
import pytest
import torch

import cvkernels.functional as F
from cvkernels import check

N, C = 3, 4
Z = torch.zeros(N, 2, C, 5, 5)
A = torch.zeros(N, C, 5, 5)
THETA = torch.zeros(N)
V = torch.ones(C)
META = torch.device("meta")

# call, error, words that must be in it
BAD = {
    # what a feature is
    "feature-integer": (
        lambda: F.magnitude_relu(Z.long()),
        TypeError,
        ["`z`", "torch.int64 [3, 2, 4, 5, 5]", ".float()"],
    ),
    "feature-float8": (
        lambda: F.magnitude_relu(Z.to(torch.float8_e4m3fn)),
        TypeError,
        ["`z`", "of 16 bits or more", "torch.float8_e4m3fn", ".float()"],
    ),
    "feature-bool": (lambda: F.rotate_phase(Z.bool(), THETA), TypeError, ["`z`", "torch.bool"]),
    "feature-no-parts": (lambda: F.magnitude_relu(A), ValueError, ["`z`", "[3, 4, 5, 5]", "rotate", "torch.stack"]),
    "feature-too-flat": (lambda: F.magnitude_relu(torch.zeros(3, 2)), ValueError, ["`z`", "[N, 2, C, *]", "[3, 2]"]),
    "feature-list": (lambda: F.magnitude_relu([1.0]), TypeError, ["`z`", "a tensor", "list [1.0]"]),
    "feature-array": (lambda: F.magnitude_relu(np.ones((99, 9))), TypeError, ["`z`", "ndarray float64 [99, 9]"]),
    "feature-none": (lambda: F.unrotate(None, THETA), TypeError, ["`h`", "a tensor", "NoneType None"]),
    "feature-flat-where-a-map": (lambda: F.avg_pool2d(Z[..., 0, 0], 2), ValueError, ["`z`", "H, W", "[3, 2, 4]"]),
    # planes, dtypes and devices that do not match
    "planes-shape": (lambda: F.rotate(A, A[..., 0], THETA), ValueError, ["`b`", "`a` [3, 4, 5, 5]", "got [3, 4, 5]"]),
    "planes-dtype": (lambda: F.rotate(A, A.double(), THETA), TypeError, ["`b`", "float32", "float64", ".to"]),
    "planes-device": (lambda: F.rotate(A, A.to(META), THETA), ValueError, ["`b`", "`a` cpu", "got meta", ".to"]),
    "planes-complex": (lambda: F.rotate(A + 0j, A, THETA), TypeError, ["`a`", "real", "complex64"]),
    "planes-integer": (lambda: F.rotate(A, A.int(), THETA), TypeError, ["`b`", "torch.int32", ".float()"]),
    "planes-too-flat": (lambda: F.rotate(THETA, THETA, THETA), ValueError, ["`a`", "[N, C, *]", "[3]"]),
    "residual-shape": (lambda: F.batch_norm_relu(Z, residual=Z[:1]), ValueError, ["`residual`", "`z` [3, 2, 4, 5, 5]"]),
    "residual-dtype": (lambda: F.batch_norm_relu(Z, residual=Z.double()), TypeError, ["`residual`", "float64", ".to"]),
    "residual-device": (lambda: F.batch_norm_relu(Z, residual=Z.to(META)), ValueError, ["`residual`", "meta"]),
    "residual-form": (
        lambda: F.batch_norm_relu(Z, residual=A + 0j),
        TypeError,
        ["`residual`", "to_planar", "to_complex"],
    ),
    # angles
    "theta-length": (lambda: F.rotate(A, A, THETA[:2]), ValueError, ["`theta`", "[3]", "`a`", "got [2]"]),
    "theta-matrix": (lambda: F.rotate_phase(Z, THETA.view(3, 1)), ValueError, ["`theta`", "[3]", "got [3, 1]"]),
    "theta-fakes-length": (lambda: F.unrotate(Z, torch.zeros(2, 7)), ValueError, ["`theta`", "[3, K]", "got [2, 7]"]),
    "theta-number": (lambda: F.rotate_phase(Z, 0.5), TypeError, ["`theta`", "a tensor", "float 0.5"]),
    "theta-half": (lambda: F.rotate_phase(Z, THETA.half()), TypeError, ["`theta`", "float32 or float64", "float16"]),
    "theta-bfloat16": (lambda: F.unrotate(Z, THETA.bfloat16()), TypeError, ["`theta`", "radians", "bfloat16"]),
    "theta-integer": (lambda: F.rotate(A, A, THETA.long()), TypeError, ["`theta`", "int64", "float32"]),
    "theta-device": (lambda: F.rotate_phase(Z, THETA.to(META)), ValueError, ["`theta`", "`z` cpu", "got meta"]),
    # thresholds
    "c-zero": (lambda: F.magnitude_relu(Z, 0), ValueError, ["`c`", "> 0", "got 0"]),
    "c-negative": (lambda: F.batch_norm_relu(Z, c=-1.0), ValueError, ["`c`", "> 0", "got -1.0"]),
    "c-nan": (lambda: F.magnitude_relu(Z, float("nan")), ValueError, ["`c`", "got nan"]),
    "c-name": (lambda: F.magnitude_relu(Z, "median"), ValueError, ["`c`", "channel_mean", "got 'median'"]),
    "c-tensor": (lambda: F.magnitude_relu(Z, V), TypeError, ["`c`", "a number", "torch.float32 [4]"]),
    "c-bool": (lambda: F.batch_norm_relu(Z, c=True), TypeError, ["`c`", "bool True"]),
    "c-name-in-a-block": (lambda: F.batch_norm_relu(Z, c="channel_mean"), TypeError, ["`c`", "'channel_mean'"]),
    # statistics
    "weight-length": (lambda: F.magnitude_batch_norm(Z, weight=V[:3]), ValueError, ["`weight`", "[4]", "got [3]"]),
    "weight-integer": (lambda: F.magnitude_batch_norm(Z, weight=V.long()), TypeError, ["`weight`", "int64"]),
    "weight-complex": (lambda: F.magnitude_batch_norm(Z, weight=V + 0j), TypeError, ["`weight`", "real"]),
    "weight-device": (lambda: F.batch_norm_relu(Z, weight=V.to(META)), ValueError, ["`weight`", "`z` cpu", "meta"]),
    "running-length": (lambda: F.batch_norm_relu(Z, V[:1]), ValueError, ["`running_power`", "[4]", "got [1]"]),
    "running-dtype": (
        lambda: F.magnitude_batch_norm(Z, V.double()),
        TypeError,
        ["`running_power`", "float32", "float64"],
    ),
    "running-half": (lambda: F.magnitude_batch_norm(Z.half(), V.half()), TypeError, ["`running_power`", "float32"]),
    "momentum": (lambda: F.magnitude_batch_norm(Z, V, momentum=1.5), ValueError, ["`momentum`", "[0, 1]", "got 1.5"]),
    "momentum-text": (lambda: F.magnitude_batch_norm(Z, V, momentum="a"), TypeError, ["`momentum`", "got str 'a'"]),
    "eps-text": (lambda: F.batch_norm_relu(Z, V, eps="a"), TypeError, ["`eps`", "got str 'a'"]),
    "momentum-vector": (lambda: F.magnitude_batch_norm(Z, V, momentum=V), ValueError, ["`momentum`", "one element"]),
    "real-complex": (lambda: F.real_batch_norm_relu(A + 0j), TypeError, ["`x`", "real", "complex64"]),
    "real-flat": (lambda: F.real_batch_norm_relu(V), ValueError, ["`x`", "[N, C, *]", "[4]"]),
    "real-one-statistic": (
        lambda: F.real_batch_norm_relu(A, V),
        ValueError,
        ["`running_mean`", "`running_var`", "both"],
    ),
    "real-running-dtype": (
        lambda: F.real_batch_norm_relu(A, V, V.double()),
        TypeError,
        ["`running_var`", "`x`", "float64"],
    ),
    "real-bias-length": (
        lambda: F.real_batch_norm_relu(A, bias=V[:3]),
        ValueError,
        ["`bias`", "`x`", "[4]", "got [3]"],
    ),
    "real-residual": (
        lambda: F.real_batch_norm_relu(A, residual=A[:1]),
        ValueError,
        ["`residual`", "`x` [3, 4, 5, 5]"],
    ),
    "real-momentum": (lambda: F.real_batch_norm_relu(A, momentum=None), ValueError, ["`momentum`", "count"]),
    "eps": (lambda: F.batch_norm_relu(Z, V, eps=-1e-5), ValueError, ["`eps`", ">= 0", "got -1e-05"]),
    "eps-nan": (lambda: F.batch_norm_relu(Z, V, eps=float("nan")), ValueError, ["`eps`", "got nan"]),
}


@pytest.mark.parametrize("call, error, words", BAD.values(), ids=BAD)
def test_bad_input(call, error, words):
    with pytest.raises(error) as caught:
        call()
    missing = [w for w in words if w not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


@pytest.mark.parametrize("call", [F.conv2d, F.linear], ids=["conv2d", "linear"])
def test_there_is_no_bias_to_pass(call):
    with pytest.raises(TypeError, match="bias"):
        call(Z, V, bias=V)


def test_no_check_reads_a_value():
    """On the meta device there is none to read: shapes and dtypes are all that is looked at."""
    z, theta = Z.to(META), THETA.to(META)
    assert F.rotate_phase(z, theta).shape == z.shape
    assert F.unrotate(z, theta).shape == A.shape
    assert F.rotate(A.to(META), A.to(META), theta).shape == z.shape
    assert F.magnitude_relu(z, "channel_mean").shape == z.shape
    assert F.batch_norm_relu(z, V.to(META), V.to(META), z, training=True).shape == z.shape
    v = V.to(META)
    assert F.real_batch_norm_relu(A.to(META), v, v, v, v, A.to(META), training=True, momentum=v[0]).shape == A.shape
    assert F.magnitude_max_pool2d(z, 2).shape == (N, 2, C, 2, 2)


@pytest.mark.parametrize("value, want", [(3, (3, 3)), ((1, 2), (1, 2)), ([4, 5], (4, 5)), (torch.Size((6, 7)), (6, 7))])
def test_pair(value, want):
    assert check.pair(value, "kernel_size") == want


@pytest.mark.parametrize("value", [True, 1.5, (1,), (1, 2, 3), "33", None, (1, 2.0)], ids=str)
def test_what_is_no_pair(value):
    with pytest.raises(TypeError, match="`kernel_size` must be an int or a pair of ints, got"):
        check.pair(value, "kernel_size")


def test_shown():
    assert check.shown(torch.zeros(2, 3)) == "torch.float32 [2, 3]"
    assert check.shown("x") == "str 'x'"
