// x = (a + ib) e^{i theta}
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "angle.h"

namespace cvk {
namespace {

template <class T>
CVK_CLONES void forward_runs(const T* a, const T* b, T* re, T* im, const Block& block, Complex<wide_t<T>> t) {
  for (int64_t row = 0; row < block.rows; ++row) {
    CVK_SIMD
    for (int64_t i = 0; i < block.count; ++i) {
      const wide_t<T> x = a[i], y = b[i];
      const auto turn = turned(x, y, t);
      re[i] = turn.re;
      im[i] = turn.im;
    }
    a += block.count, b += block.count, re += block.stride, im += block.stride;
  }
}

template <class T>
CVK_CLONES void backward_runs(const T* re, const T* im, T* a, T* b, const Block& block, Complex<wide_t<T>> t) {
  for (int64_t row = 0; row < block.rows; ++row) {
    CVK_SIMD
    for (int64_t i = 0; i < block.count; ++i) {
      const wide_t<T> x = re[i], y = im[i];
      const auto back = turned_back(x, y, t);
      a[i] = back.re;
      b[i] = back.im;
    }
    a += block.count, b += block.count, re += block.stride, im += block.stride;
  }
}

Tensor forward(Tensor a, Tensor b, Tensor theta) {
  Tensor out = planar_from(a);
  const Planar v = planar(out, "out");
  STD_TORCH_CHECK(b.numel() == a.numel() && a.scalar_type() == b.scalar_type() &&
                      channels_last(a) == channels_last(b) &&
                      (channels_last(a) || (a.is_contiguous() && b.is_contiguous())),
                  "a and b must have one shape, dtype and dense layout");
  check_vector(theta, v.n, "theta");
  with_dtype(a, "rotate", [&](auto zero) {
    using T = decltype(zero);
    const T *p = data<T>(a), *q = data<T>(b);
    T* to = data<T>(out);
    const auto turns = turns_of<wide_t<T>>(theta);
    const bool past = output_past_caches(out);
    const auto run = [&](int64_t, int64_t n, int64_t at, int64_t from, const Block& block) {
      write_parts(past, to + at, to + at + v.part, block,
                  [&](T* re, T* im) { forward_runs(p + from, q + from, re, im, block, turns[n]); });
    };
    for_runs(v, run, piece_of<T>(past));
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, std::optional<Tensor> out, Tensor theta) {
  const Planar v = planar(grad, "grad");
  STD_TORCH_CHECK(v.layout != Layout::interleaved, "grad must be contiguous or channels-last");
  if (out) check_alike(*out, v, grad, "out");
  check_vector(theta, v.n, "theta");
  Tensor grad_a = real_from(grad, v), grad_b = empty_as(grad_a);
  Tensor grad_theta = out ? empty_as(theta) : none_like(theta);
  with_dtype(grad, "rotate", [&](auto zero) {
    using T = decltype(zero);
    const T* g = data<T>(grad);
    T *to_a = data<T>(grad_a), *to_b = data<T>(grad_b);
    const auto turns = turns_of<wide_t<T>>(theta);
    AngleSum sum(v, out.has_value());
    const T* x = data_or_null<T>(out);
    const bool past = gradient_past_caches(grad);
    const auto run = [&](int64_t task, int64_t n, int64_t at, int64_t from, const Block& block) {
      const int64_t im = at + v.part;
      write_parts(past, to_a + from, to_b + from, block,
                  [&](T* a, T* b) { backward_runs(g + at, g + im, a, b, block, turns[n]); });
      if (x) sum.add(task, cross<T, 1>(x + at, x + im, g + at, g + im, block));
    };
    for_runs(v, run, piece_of<T>(past));
    sum.write(grad_theta);
  });
  return {grad_a, grad_b, grad_theta};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("rotate_forward", TORCH_BOX(&cvk::forward));
  m.impl("rotate_backward", TORCH_BOX(&cvk::backward));
}
