// y_k = Re(h e^{-i theta_k}), K readings of each sample from one read of h
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <tuple>
#include <type_traits>

#include "angle.h"

namespace cvk {
namespace {

// Positions that all readings pass through together, held in registers meanwhile: a line of the cache of float32. Whole
// pages lie between a position's readings, so their lines share a few places of the first-level cache, and one that is
// taken in two goes is gone before the second.
constexpr int64_t LINE = 16;

// f(first, count) for the pieces of a run; all counts but the last are one constant.
template <class F>
CVK_INLINE void for_lines(int64_t count, const F& f) {
  int64_t i = 0;
  for (; i + LINE <= count; i += LINE) f(i, std::integral_constant<int64_t, LINE>{});
  if (i < count) f(i, count - i);
}

// Reading k is `plane` elements behind the one before. K: how many there are, one alone as a constant.
template <class T, int64_t STEP, class Count>
CVK_CLONES void read_runs(const T* re, const T* im, T* out, int64_t plane, const Block& b,
                          const Complex<wide_t<T>>* turns, Count K) {
  for (int64_t row = 0; row < b.rows; ++row) {
    for_lines(b.count, [&](int64_t first, auto count) CVK_INLINE_LAMBDA {
      for (int64_t k = 0; k < K; ++k) {
        const auto t = turns[k];
        T* to = out + k * plane + first;
        CVK_SIMD
        for (int64_t i = 0; i < count; ++i) {
          const wide_t<T> x = re[(first + i) * STEP], y = im[(first + i) * STEP];
          to[i] = reading(x, y, t);
        }
      }
    });
    re += b.stride, im += b.stride, out += b.count;
  }
}

// The gradients of all readings, added up and stored once.
template <class T, class Count>
CVK_CLONES void spread_runs(const T* g, int64_t plane, T* re, T* im, const Block& b, const Complex<wide_t<T>>* turns,
                            Count K) {
  for (int64_t row = 0; row < b.rows; ++row) {
    for_lines(b.count, [&](int64_t first, auto count) CVK_INLINE_LAMBDA {
      wide_t<T> x[LINE] = {}, y[LINE] = {};
      const T* from = g + first;
      for (int64_t k = 0; k + 1 < K; ++k, from += plane) {
        CVK_SIMD
        for (int64_t i = 0; i < count; ++i) {
          const wide_t<T> one = from[i];
          x[i] += one * turns[k].re;
          y[i] += one * turns[k].im;
        }
      }
      CVK_SIMD
      for (int64_t i = 0; i < count; ++i) {
        const wide_t<T> one = from[i];
        re[first + i] = x[i] + one * turns[K - 1].re;
        im[first + i] = y[i] + one * turns[K - 1].im;
      }
    });
    g += b.count, re += b.stride, im += b.stride;
  }
}

// f(K), a single reading as a constant.
template <class F>
void with_count(int64_t K, const F& f) {
  if (K == 1) {
    f(std::integral_constant<int64_t, 1>{});
  } else {
    f(K);
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
    const bool past = output_past_caches(out);
    with_step(v, [&](auto step) {
      const auto run = [&](int64_t, int64_t n, int64_t at, int64_t real, const Block& b) {
        const auto* mine = turns.data() + n * K;
        T* first = to + n * K * plane + (real - n * plane);
        write_runs(past, first, plane, K, b.rows * b.count, [&](T* readings, int64_t apart) {
          with_count(K, [&](auto count) {
            read_runs<T, step.value>(in + at, in + at + v.part, readings, apart, b, mine, count);
          });
        });
      };
      for_runs(v, run, piece_of<T>(past));
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
    if (K == 0) std::fill_n(to, grad_h.numel(), T{});
    const auto turns = turns_of<wide_t<T>>(theta);
    AngleSum sum(v, h.has_value(), K);
    const bool past = gradient_past_caches(grad_h);
    const auto run = [&](int64_t task, int64_t n, int64_t at, int64_t real, const Block& b) {
      const auto* mine = turns.data() + n * K;
      const T* first = g + n * K * plane + (real - n * plane);
      write_parts(past, to + at, to + at + v.part, b, [&](T* re, T* im) {
        with_count(K, [&](auto count) { spread_runs(first, plane, re, im, b, mine, count); });
      });
      for (int64_t k = 0; in && k < K; ++k) {
        sum.add(task, turn_sum(first + k * plane, in + at, in + at + v.part, b, mine[k]), k);
      }
    };
    if (K != 0) for_runs(v, run, piece_of<T>(past));
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
