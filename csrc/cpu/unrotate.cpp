// y_k = Re(h e^{-i theta_k}), K readings of each sample from one read of h
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "angle.h"

namespace cvk {
namespace {

template <class T, int64_t STEP>
CVK_CLONES void read_run(const T* re, const T* im, T* out, int64_t count, T cos, T sin) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) out[i] = re[i * STEP] * cos + im[i * STEP] * sin;
}

template <class T>
CVK_CLONES void spread_run(const T* g, T* re, T* im, int64_t count, T cos, T sin, bool first) {
  if (first) {
    CVK_SIMD
    for (int64_t i = 0; i < count; ++i) {
      re[i] = g[i] * cos;
      im[i] = g[i] * sin;
    }
  } else {
    CVK_SIMD
    for (int64_t i = 0; i < count; ++i) {
      re[i] += g[i] * cos;
      im[i] += g[i] * sin;
    }
  }
}

// sum of g dy/dtheta = g (im cos - re sin)
template <class T>
CVK_CLONES double turn_sum(const T* g, const T* re, const T* im, int64_t count, T cos, T sin) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += g[i] * (im[i] * cos - re[i] * sin);
  return sum;
}

Tensor forward(Tensor h, Tensor theta) {
  const Planar v = planar(h, "h");
  STD_TORCH_CHECK(theta.dim() == 1 || theta.dim() == 2, "theta must be [N] or [N, K]");
  const int64_t K = theta.dim() == 2 ? theta.size(1) : 1, plane = v.c * v.s;
  check_vector(theta, v.n * K, "theta");
  Tensor out = readings_of(h, v, theta);
  with_dtype(h, "unrotate", [&](auto zero) {
    using T = decltype(zero);
    const T* in = data<T>(h);
    T* to = data<T>(out);
    const auto turns = turns_of<T>(theta);
    with_step(v, [&](auto step) {
      for_runs(v, [&](int64_t, int64_t n, int64_t at, int64_t real, int64_t count) {
        for (int64_t k = 0; k < K; ++k) {
          const auto t = turns[n * K + k];
          T* row = to + (n * K + k) * plane + (real - n * plane);
          read_run<T, step.value>(in + at, in + at + v.part, row, count, t.re, t.im);
        }
      });
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> backward(Tensor grad, std::optional<Tensor> h, Tensor theta) {
  const int64_t K = theta.dim() == 2 ? theta.size(1) : 1;
  Tensor grad_h = read_from(grad, theta);
  const Planar v = planar(grad_h, "grad_h");
  const int64_t plane = v.c * v.s;
  if (h) check_alike(*h, v, grad, "h");
  check_vector(theta, v.n * K, "theta");
  STD_TORCH_CHECK(grad.numel() == v.n * K * plane, "grad must hold one reading for each angle");
  Tensor grad_theta = h ? torch::stable::empty_like(theta) : none_like(theta);
  with_dtype(grad, "unrotate", [&](auto zero) {
    using T = decltype(zero);
    const T *g = data<T>(grad), *in = data_or_null<T>(h);
    T* to = data<T>(grad_h);
    const auto turns = turns_of<T>(theta);
    AngleSum sum(v, h.has_value(), K);
    for_runs(v, [&](int64_t task, int64_t n, int64_t at, int64_t real, int64_t count) {
      const int64_t im = at + v.part;
      for (int64_t k = 0; k < K; ++k) {
        const auto t = turns[n * K + k];
        const T* row = g + (n * K + k) * plane + (real - n * plane);
        spread_run(row, to + at, to + im, count, t.re, t.im, k == 0);
        if (in) sum.add(task, turn_sum(row, in + at, in + im, count, t.re, t.im), k);
      }
      if (K == 0) std::fill_n(to + at, count, T(0)), std::fill_n(to + im, count, T(0));
    });
    sum.write(grad_theta);
  });
  return {grad_h, grad_theta};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("unrotate_forward", TORCH_BOX(&cvk::forward));
  m.impl("unrotate_backward", TORCH_BOX(&cvk::backward));
}
