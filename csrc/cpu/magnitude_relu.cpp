// y = z |z| / max(|z|, c), c a constant or a mean modulus; see common/modulus.h for one element.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/mean_modulus.h"
#include "results.h"

namespace cvk {
namespace {

template <class T, int64_t STEP>
CVK_CLONES void forward_runs(const T* re, const T* im, T* out_re, T* out_im, const Block& b, Limit<wide_t<T>> c) {
  for (int64_t row = 0; row < b.rows; ++row) {
    CVK_SIMD
    for (int64_t i = 0; i < b.count; ++i) {
      const wide_t<T> r = re[i * STEP], m = im[i * STEP], factor = relu_factor(r, m, c);
      out_re[i * STEP] = r * factor;
      out_im[i * STEP] = m * factor;
    }
    re += b.stride, im += b.stride, out_re += b.stride, out_im += b.stride;
  }
}

template <class T, int64_t STEP>
CVK_CLONES void backward_runs(const T* re, const T* im, const T* g_re, const T* g_im, T* out_re, T* out_im,
                              const Block& b, Limit<wide_t<T>> c, bool detach) {
  using A = wide_t<T>;
  for (int64_t row = 0; row < b.rows; ++row) {
    CVK_SIMD
    for (int64_t i = 0; i < b.count; ++i) {
      const A r = re[i * STEP], m = im[i * STEP], p = g_re[i * STEP], q = g_im[i * STEP];
      const auto g = relu_backward(r, m, p, q, c, detach);
      out_re[i * STEP] = g.re;
      out_im[i * STEP] = g.im;
    }
    re += b.stride, im += b.stride, g_re += b.stride, g_im += b.stride, out_re += b.stride, out_im += b.stride;
  }
}

// c is a mean: sums over one plane, of its moduli and of dL/dc's terms
template <class T>
CVK_CLONES double plain_modulus_sum(const T* re, const T* im, int64_t count) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    const wide_t<T> r = re[i], m = im[i];
    sum += std::sqrt(r * r + m * m);
  }
  return sum;
}

// An overflow of any square shows in the sum, and what underflows is nothing beside a mean that is far from it.
template <class T>
double modulus_sum(const T* re, const T* im, int64_t count) {
  double sum = plain_modulus_sum(re, im, count);
  if (std::isfinite(sum) && sum > 1e-12 * static_cast<double>(count)) return sum;
  sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += modulus_of<double>(re[i], im[i]);
  return sum;
}

template <class T>
CVK_CLONES double slope_sum(const T* re, const T* im, const T* g_re, const T* g_im, int64_t count, Limit<wide_t<T>> c) {
  double sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) {
    const wide_t<T> r = re[i], m = im[i], p = g_re[i], q = g_im[i];
    sum += limit_slope(r, m, p, q, c);
  }
  return sum;
}

// What every element has from the mean that it is a part of, and its own gradient with it: one store, one rounding.
template <class T>
CVK_CLONES void mean_backward_run(const T* re, const T* im, const T* g_re, const T* g_im, T* out_re, T* out_im,
                                  int64_t count, Limit<wide_t<T>> c, wide_t<T> share, bool detach) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const wide_t<T> r = re[i], m = im[i], p = g_re[i], q = g_im[i];
    const auto g = relu_mean_backward(r, m, p, q, c, share, detach);
    out_re[i] = g.re;
    out_im[i] = g.im;
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

double group_size(const Planar& v, size_t groups) { return v.values() / std::max(1.0, static_cast<double>(groups)); }

std::tuple<Tensor, Tensor> forward(Tensor z, double c, int64_t reduce) {
  const Planar v = planar(z, "z");
  Tensor out = empty_as(z);
  STD_TORCH_CHECK(reduce >= 0 && reduce <= 3, "reduce must be 0, 1, 2 or 3");
  STD_TORCH_CHECK(reduce == constant || v.layout == Layout::contiguous, "a mean modulus needs a contiguous feature");
  Tensor mean = wide_empty(z, {table_length(v, reduce)});
  with_dtype(z, "magnitude_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const T* in = data<T>(z);
    T* to = data<T>(out);
    if (reduce == constant) {
      const Limit<A> limit(static_cast<A>(c));
      const bool past = output_past_caches(out);
      with_step(v, [&](auto step) {
        const auto run = [&](int64_t, int64_t, int64_t re, int64_t, const Block& b) {
          const int64_t im = re + v.part;
          write_parts(past, to + re, to + im, b, [&](T* out_re, T* out_im) {
            forward_runs<T, step.value>(in + re, in + im, out_re, out_im, b, limit);
          });
        };
        for_runs(v, run, piece_of<T>(past));
      });
      return;
    }
    A* table = data<A>(mean);
    std::vector<double> sums(static_cast<size_t>(v.n * v.c));
    for_planes(v, [&](int64_t p, int64_t at) { sums[p] = modulus_sum(in + at, in + at + v.part, v.s); });
    const std::vector<double> folded = fold(sums, v, reduce);
    const double count = group_size(v, folded.size());
    for (size_t k = 0; k < folded.size(); ++k) table[k] = static_cast<A>(folded[k] / count);
    for_planes(v, [&](int64_t p, int64_t re) {
      const int64_t im = re + v.part;
      forward_runs<T, 1>(in + re, in + im, to + re, to + im, Block{1, v.s, 0}, table[entry(p, v.c, reduce)]);
    });
  });
  return {out, mean};
}

Tensor backward(Tensor grad, Tensor z, Tensor mean, double c, int64_t reduce, bool detach) {
  const Planar v = planar(z, "z");
  check_alike(grad, v, z, "grad");
  check_vector(mean, table_length(v, reduce), "mean");
  STD_TORCH_CHECK(mean.scalar_type() == wide_dtype(z), "mean must be float32, or float64 beside float64");
  Tensor out = empty_as(z);
  with_dtype(z, "magnitude_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const T *in = data<T>(z), *g = data<T>(grad);
    T* to = data<T>(out);
    if (reduce == constant) {
      const Limit<A> limit(static_cast<A>(c));
      const bool past = gradient_past_caches(out);
      with_step(v, [&](auto step) {
        const auto run = [&](int64_t, int64_t, int64_t re, int64_t, const Block& b) {
          const int64_t im = re + v.part;
          write_parts(past, to + re, to + im, b, [&](T* out_re, T* out_im) {
            backward_runs<T, step.value>(in + re, in + im, g + re, g + im, out_re, out_im, b, limit, detach);
          });
        };
        for_runs(v, run, piece_of<T>(past));
      });
      return;
    }
    const A* table = data<A>(mean);
    std::vector<double> folded;
    if (!detach) {
      std::vector<double> sums(static_cast<size_t>(v.n * v.c));
      for_planes(v, [&](int64_t p, int64_t re) {
        const int64_t im = re + v.part;
        sums[p] = slope_sum<T>(in + re, in + im, g + re, g + im, v.s, table[entry(p, v.c, reduce)]);
      });
      folded = fold(sums, v, reduce);
    }
    const double count = group_size(v, folded.size());
    for_planes(v, [&](int64_t p, int64_t re) {
      const int64_t im = re + v.part, group = entry(p, v.c, reduce);
      const A share = detach ? A(0) : static_cast<A>(folded[group] / count);
      mean_backward_run<T>(in + re, in + im, g + re, g + im, to + re, to + im, v.s, table[group], share, detach);
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
