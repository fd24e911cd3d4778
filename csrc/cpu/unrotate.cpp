// y_k = Re(h e^{-i theta_k}), K readings of each sample from one read of h
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "angle.h"

namespace cvk {
namespace {

template <class T, int64_t STEP>
CVK_CLONES void read_runs(const T* re, const T* im, T* out, const Block& b, Complex<wide_t<T>> t) {
  for (int64_t row = 0; row < b.rows; ++row) {
    CVK_SIMD
    for (int64_t i = 0; i < b.count; ++i) {
      const wide_t<T> x = re[i * STEP], y = im[i * STEP];
      out[i] = reading(x, y, t);
    }
    re += b.stride, im += b.stride, out += b.count;
  }
}

template <class T>
CVK_CLONES void spread_runs(const T* g, T* re, T* im, const Block& b, Complex<wide_t<T>> t) {
  for (int64_t row = 0; row < b.rows; ++row) {
    CVK_SIMD
    for (int64_t i = 0; i < b.count; ++i) {
      const wide_t<T> x = g[i];
      re[i] = x * t.re;
      im[i] = x * t.im;
    }
    g += b.count, re += b.stride, im += b.stride;
  }
}

// Several readings: their gradients are added up in `re` and `im` and stored once.
template <class T>
CVK_CLONES void add_spread(const T* g, wide_t<T>* re, wide_t<T>* im, int64_t count, Complex<wide_t<T>> t) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const wide_t<T> x = g[i];
    re[i] += x * t.re;
    im[i] += x * t.im;
  }
}

template <class T>
CVK_CLONES void store_runs(const wide_t<T>* sum, T* to, const Block& b) {
  for (int64_t row = 0; row < b.rows; ++row) {
    CVK_SIMD
    for (int64_t i = 0; i < b.count; ++i) to[i] = sum[i];
    sum += b.count, to += b.stride;
  }
}

// sum of g dy/dtheta
template <class T>
CVK_CLONES double turn_sum(const T* g, const T* re, const T* im, const Block& b, Complex<wide_t<T>> t) {
  double sum = 0;
  for (int64_t row = 0; row < b.rows; ++row) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < b.count; ++i) {
      const wide_t<T> x = re[i], y = im[i], p = g[i];
      sum += reading_slope(p, x, y, t);
    }
    g += b.count, re += b.stride, im += b.stride;
  }
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
    const auto turns = turns_of<wide_t<T>>(theta);
    with_step(v, [&](auto step) {
      for_runs(v, [&](int64_t, int64_t n, int64_t at, int64_t real, const Block& b) {
        for (int64_t k = 0; k < K; ++k) {
          const auto t = turns[n * K + k];
          T* row = to + (n * K + k) * plane + (real - n * plane);
          read_runs<T, step.value>(in + at, in + at + v.part, row, b, t);
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
  Tensor grad_theta = h ? empty_as(theta) : none_like(theta);
  with_dtype(grad, "unrotate", [&](auto zero) {
    using T = decltype(zero);
    const T *g = data<T>(grad), *in = data_or_null<T>(h);
    T* to = data<T>(grad_h);
    const auto turns = turns_of<wide_t<T>>(theta);
    AngleSum sum(v, h.has_value(), K);
    for_runs(v, [&](int64_t task, int64_t n, int64_t at, int64_t real, const Block& b) {
      const int64_t im = at + v.part, size = b.rows * b.count;
      std::vector<wide_t<T>> both(K == 1 ? 0 : 2 * size);
      for (int64_t k = 0; k < K; ++k) {
        const auto t = turns[n * K + k];
        const T* row = g + (n * K + k) * plane + (real - n * plane);
        if (K == 1) {
          spread_runs(row, to + at, to + im, b, t);
        } else {
          add_spread<T>(row, both.data(), both.data() + size, size, t);
        }
        if (in) sum.add(task, turn_sum(row, in + at, in + im, b, t), k);
      }
      if (K != 1) {
        store_runs<T>(both.data(), to + at, b);
        store_runs<T>(both.data() + size, to + im, b);
      }
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
