"""csrc/common/window.h: the arithmetic a CUDA thread runs for its element, here compiled for the host and run there.

A loop over all elements stands for the grid; what the GPU adds to it is only addresses and the launch.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from cvkernels.ops.magnitude_max_pool2d.reference import magnitude_max_pool2d, output_size
from tests.close import assert_close

CSRC = Path(__file__).parent.parent / "csrc"
CXX = next(filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None)
LOOPS = """
#include "common/window.h"
using namespace cvk;
template <class T, class I>
void forward(const T* z, T* out, uint8_t* index, const int64_t* s, Axis<I> y, Axis<I> x) {  // s: strides of y, x, part
  for (I oy = 0; oy < y.out; ++oy) {
    for (I ox = 0; ox < x.out; ++ox) {
      const auto w = strongest(z, z + s[2], s[0], s[1], y, x, oy, ox);
      const int64_t at = int64_t(oy) * x.out + ox;
      out[at] = w.re, out[y.out * x.out + at] = w.im, index[at] = uint8_t(w.place);
    }
  }
}
template <class T, class I>
void backward(const T* grad, const uint8_t* index, T* out, Axis<I> y, Axis<I> x) {
  const int64_t part = y.out * x.out, to = y.size * x.size;
  for (I iy = 0; iy < y.size; ++iy) {
    for (I ix = 0; ix < x.size; ++ix) {
      const int64_t at = int64_t(iy) * x.size + ix;
      gather(grad, grad + part, x.out, 1, index, y, x, iy, ix, out + at, out + to + at);
    }
  }
}
template <class T>
void both(const T* z, T* out, uint8_t* index, const int64_t* s, const T* grad, T* grad_z, const int64_t* a,
          int narrow) {
  const Axis<int64_t> y{a[0], a[1], a[2], a[3], a[4], a[5]}, x{a[6], a[7], a[8], a[9], a[10], a[11]};
  if (narrow) {
    forward(z, out, index, s, as<int32_t>(y), as<int32_t>(x));
    backward(grad, index, grad_z, as<int32_t>(y), as<int32_t>(x));
  } else {
    forward(z, out, index, s, y, x);
    backward(grad, index, grad_z, y, x);
  }
}
extern "C" {
void both_float(const float* z, float* out, uint8_t* index, const int64_t* s, const float* grad, float* grad_z,
                const int64_t* a, int narrow) { both(z, out, index, s, grad, grad_z, a, narrow); }
void both_double(const double* z, double* out, uint8_t* index, const int64_t* s, const double* grad, double* grad_z,
                 const int64_t* a, int narrow) { both(z, out, index, s, grad, grad_z, a, narrow); }
int64_t size(int64_t n, int64_t k, int64_t s, int64_t p, int64_t d, int ceil) {
  return output_size(n, k, s, p, d, ceil);
}
int is_narrow(const int64_t* a, int64_t count) {
  return narrow(Axis<int64_t>{a[0], a[1], a[2], a[3], a[4], a[5]}, count);
}
float power_float(float re, float im) { return power(re, im); }
int wins_float(float candidate, float best) { return wins(candidate, best); }
}
"""
WINDOWS = {  # kernel, stride, padding, dilation, ceil_mode
    "2": ((2, 2), (2, 2), (0, 0), (1, 1), False),
    "3-overlapping": ((3, 3), (1, 2), (1, 1), (1, 1), False),
    "3x2-ceil": ((3, 2), (2, 3), (1, 0), (1, 1), True),
    "gaps-between": ((2, 2), (3, 5), (0, 1), (1, 1), True),
    "dilated": ((3, 2), (1, 2), (1, 1), (2, 3), False),
    "dilated-ceil": ((2, 3), (3, 2), (1, 1), (3, 2), True),
    "padding-only": ((2, 2), (2, 2), (1, 1), (8, 10), False),
    "255": ((15, 17), (1, 1), (7, 8), (1, 1), False),
}


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    if CXX is None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("window")
    (folder / "loops.cpp").write_text(LOOPS)
    # contraction allowed and the instruction for it at hand: window.h must keep it out by itself
    flags = ["-O2", "-std=c++17", "-shared", "-fPIC", "-ffp-contract=fast", f"-I{CSRC}", "-Wall", "-Werror"]
    flags += ["-march=x86-64-v3"] if os.uname().machine == "x86_64" else []
    subprocess.run([CXX, *flags, "loops.cpp", "-o", "loops.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "loops.so"))
    library.size.restype = ctypes.c_int64
    library.size.argtypes = [ctypes.c_int64] * 5 + [ctypes.c_int]
    library.is_narrow.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    library.power_float.restype = ctypes.c_float
    library.power_float.argtypes = library.wins_float.argtypes = [ctypes.c_float] * 2
    return library


def axis_numbers(size, kernel, stride, padding, dilation, ceil_mode):
    return [size, kernel, stride, padding, dilation, output_size(size, kernel, stride, padding, dilation, ceil_mode)]


def on_host(window, z, grad, settings, narrow):
    """Pool [1, 2, 1, H, W] and its gradient by the loops; (out, index bytes, grad_z)."""
    both = window.both_float if z.dtype == torch.float32 else window.both_double
    axes = [axis_numbers(n, *(v[i] for v in settings[:4]), settings[4]) for i, n in enumerate(z.shape[3:])]
    out, index = torch.full_like(grad, torch.nan), torch.zeros(grad.shape[3:], dtype=torch.uint8)
    grad_z = torch.full(z.shape, torch.nan, dtype=z.dtype)
    strides = torch.tensor([z.stride(3), z.stride(4), z.stride(1)])
    numbers = torch.tensor(axes[0] + axes[1])
    both(*(ctypes.c_void_p(t.data_ptr()) for t in (z, out, index, strides, grad, grad_z, numbers)), int(narrow))
    return out, index, grad_z


@pytest.mark.parametrize("narrow", [True, False], ids=["int32", "int64"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("settings", WINDOWS.values(), ids=WINDOWS)
def test_pooling_and_its_gradient_equal_the_reference(window, settings, dtype, narrow):
    for layout in (lambda z: z, lambda z: z.movedim(1, -1).contiguous().movedim(-1, 1)):
        z = layout(torch.randn(1, 2, 1, 9, 11, dtype=dtype))
        wide = z.double().contiguous().requires_grad_()
        want, flat = magnitude_max_pool2d(wide, *settings)
        grad = torch.randn(want.shape, dtype=dtype)
        want.backward(grad.double())
        out, index, grad_z = on_host(window, z, grad, settings, narrow)
        assert_close(out, want)
        assert_close(grad_z, wide.grad)
        assert torch.equal(index == 255, flat[0, 0] < 0)


def test_ties_and_nan(window):
    """The first of equals, also where a fused multiply-add would part them; the first NaN over everything."""
    rows = torch.tensor([[0.1, 0.7, 0.7, 0.1], [3.0, torch.nan, 1.0, torch.inf]])
    other = torch.tensor([[0.7, 0.1, -0.1, -0.7], [0.0, 1.0, torch.nan, 0.0]])
    z = torch.stack((rows, other)).view(1, 2, 1, 2, 4)
    settings = ((1, 4), (1, 4), (0, 0), (1, 1), False)
    _, index, _ = on_host(window, z, torch.ones(1, 2, 1, 2, 1), settings, True)
    assert index.flatten().tolist() == [0, 1]


def test_each_square_is_rounded_for_itself(window):
    for re, im in torch.randn(200, 2).tolist():
        assert window.power_float(re, im) == window.power_float(im, re) == window.power_float(-im, re)


def test_who_wins(window):
    nan = float("nan")
    assert window.wins_float(0.0, -1.0) and window.wins_float(2.0, 1.0) and window.wins_float(nan, 1.0)
    assert not window.wins_float(1.0, 1.0) and not window.wins_float(5.0, nan) and not window.wins_float(nan, nan)


@pytest.mark.parametrize("ceil_mode", [False, True], ids=["floor", "ceil"])
def test_the_size_is_the_references(window, ceil_mode):
    for size in (1, 2, 5, 8, 13):
        for kernel in (1, 2, 3, 5):
            for stride in (1, 2, 3, 7):
                for padding in range(kernel // 2 + 1):
                    for dilation in (1, 2):
                        asked = (size, kernel, stride, padding, dilation)
                        want = max(0, output_size(*asked, ceil_mode))
                        assert window.size(*asked, ceil_mode) == want, asked


def test_when_32_bits_are_too_few(window):
    def narrow(numbers, count):
        axis = torch.tensor(numbers)
        return bool(window.is_narrow(ctypes.c_void_p(axis.data_ptr()), count))

    assert narrow([720, 2, 2, 0, 1, 360], 2**29)
    assert not narrow([720, 2, 2, 0, 1, 360], 2**31)
    assert not narrow([2**31, 2, 2, 0, 1, 2**30], 5)
    assert not narrow([9, 1, 2**40, 0, 1, 1], 5)
