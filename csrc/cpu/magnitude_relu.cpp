// y = z |z| / max(|z|, c), c a constant or a mean modulus; see common/modulus.h for one element.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/modulus.h"
#include "simd.h"

namespace cvk {
namespace {

template <class T, int64_t STEP>
CVK_CLONES void forward_run(const T* re, const T* im, T* out_re, T* out_im, int64_t count, T c) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const T r = re[i * STEP], m = im[i * STEP], factor = relu_factor(r, m, c);
    out_re[i * STEP] = r * factor;
    out_im[i * STEP] = m * factor;
  }
}

template <class T, int64_t STEP>
CVK_CLONES void backward_run(const T* re, const T* im, const T* g_re, const T* g_im, T* out_re, T* out_im,
                             int64_t count, T c, bool detach) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const auto g = relu_backward(re[i * STEP], im[i * STEP], g_re[i * STEP], g_im[i * STEP], c, detach);
    out_re[i * STEP] = g.re;
    out_im[i * STEP] = g.im;
  }
}

// c is a mean: sums over one plane, of its moduli and of dL/dc's terms
template <class T>
CVK_CLONES double modulus_sum(const T* re, const T* im, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += std::sqrt(re[i] * re[i] + im[i] * im[i]);
  return sum;
}

template <class T>
CVK_CLONES double threshold_sum(const T* re, const T* im, const T* g_re, const T* g_im, int64_t count, T c) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    const T power = re[i] * re[i] + im[i] * im[i];
    const T term = (re[i] * g_re[i] + im[i] * g_im[i]) * (std::sqrt(power) / c) / c;
    sum -= power < c * c ? term : T(0);
  }
  return sum;
}

template <class T>
CVK_CLONES void add_along(const T* re, const T* im, T* out_re, T* out_im, int64_t count, T share) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const T power = re[i] * re[i] + im[i] * im[i];
    const T along = power > T(0) ? share / std::sqrt(power) : T(0);
    out_re[i] += along * re[i];
    out_im[i] += along * im[i];
  }
}

enum Reduce : int64_t { constant = 0, sample_channel = 1, channel = 2, everything = 3 };

// Which entry of the table of means the plane (sample, channel) reads.
int64_t entry(int64_t plane, int64_t channels, int64_t reduce) {
  return reduce == sample_channel ? plane : reduce == channel ? plane % channels : 0;
}

template <class F>
void for_planes(const Planar& v, const F& f) {  // f(plane, offset of the real part); contiguous features only
  torch::stable::parallel_for(0, v.n * v.c, std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, v.s)),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t p = begin; p < end; ++p) f(p, p / v.c * v.sample + p % v.c * v.channel);
                              });
}

int64_t table_length(const Planar& v, int64_t reduce) {
  return reduce == constant ? 0 : reduce == sample_channel ? v.n * v.c : reduce == channel ? v.c : 1;
}

// Sums per plane, folded into the table's entries in a fixed order.
std::vector<double> fold(const std::vector<double>& planes, const Planar& v, int64_t reduce) {
  std::vector<double> table(static_cast<size_t>(table_length(v, reduce)), 0.0);
  for (size_t p = 0; p < planes.size(); ++p) table[entry(static_cast<int64_t>(p), v.c, reduce)] += planes[p];
  return table;
}

std::tuple<Tensor, Tensor> forward(Tensor z, double c, int64_t reduce) {
  const Planar v = planar(z, "z");
  Tensor out = torch::stable::empty_like(z);
  STD_TORCH_CHECK(reduce >= 0 && reduce <= 3, "reduce must be 0, 1, 2 or 3");
  STD_TORCH_CHECK(reduce == constant || v.layout == Layout::contiguous, "a mean modulus needs a contiguous feature");
  Tensor mean = torch::stable::new_empty(z, {table_length(v, reduce)});
  with_dtype(z, "magnitude_relu", [&](auto zero) {
    using T = decltype(zero);
    const T* in = data<T>(z);
    T* to = data<T>(out);
    if (reduce == constant) {
      with_step(v, [&](auto step) {
        for_runs(v, [&](int64_t, int64_t, int64_t at, int64_t, int64_t count) {
          forward_run<T, step.value>(in + at, in + at + v.part, to + at, to + at + v.part, count, static_cast<T>(c));
        });
      });
      return;
    }
    T* table = data<T>(mean);
    std::vector<double> sums(static_cast<size_t>(v.n * v.c));
    for_planes(v, [&](int64_t p, int64_t at) { sums[p] = modulus_sum(in + at, in + at + v.part, v.s); });
    const std::vector<double> folded = fold(sums, v, reduce);
    const double count = v.values() / std::max<double>(1.0, static_cast<double>(folded.size()));
    for (size_t k = 0; k < folded.size(); ++k) table[k] = static_cast<T>(folded[k] / count);
    for_planes(v, [&](int64_t p, int64_t at) {
      forward_run<T, 1>(in + at, in + at + v.part, to + at, to + at + v.part, v.s, table[entry(p, v.c, reduce)]);
    });
  });
  return {out, mean};
}

Tensor backward(Tensor grad, Tensor z, Tensor mean, double c, int64_t reduce, bool detach) {
  const Planar v = planar(z, "z");
  check_alike(grad, v, z, "grad");
  check_vector(mean, table_length(v, reduce), "mean");
  Tensor out = torch::stable::empty_like(z);
  with_dtype(z, "magnitude_relu", [&](auto zero) {
    using T = decltype(zero);
    const T *in = data<T>(z), *g = data<T>(grad);
    T* to = data<T>(out);
    if (reduce == constant) {
      with_step(v, [&](auto step) {
        for_runs(v, [&](int64_t, int64_t, int64_t at, int64_t, int64_t count) {
          const int64_t im = at + v.part;
          backward_run<T, step.value>(in + at, in + im, g + at, g + im, to + at, to + im, count, static_cast<T>(c),
                                      detach);
        });
      });
      return;
    }
    const T* table = data<T>(mean);
    std::vector<double> sums(static_cast<size_t>(v.n * v.c), 0.0);
    for_planes(v, [&](int64_t p, int64_t at) {
      const int64_t im = at + v.part;
      const T limit = table[entry(p, v.c, reduce)];
      if (limit > T(0)) {
        backward_run<T, 1>(in + at, in + im, g + at, g + im, to + at, to + im, v.s, limit, detach);
        if (!detach) sums[p] = threshold_sum(in + at, in + im, g + at, g + im, v.s, limit);
      } else {  // a mean of zero: every element is zero, and so is its gradient
        std::fill_n(to + at, v.s, T(0));
        std::fill_n(to + im, v.s, T(0));
      }
    });
    if (detach) return;
    const std::vector<double> folded = fold(sums, v, reduce);
    const double count = v.values() / std::max<double>(1.0, static_cast<double>(folded.size()));
    for_planes(v, [&](int64_t p, int64_t at) {
      const T share = static_cast<T>(folded[entry(p, v.c, reduce)] / count);
      add_along(in + at, in + at + v.part, to + at, to + at + v.part, v.s, share);
    });
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("magnitude_relu_forward", TORCH_BOX(&cvk::forward));
  m.impl("magnitude_relu_backward", TORCH_BOX(&cvk::backward));
}
