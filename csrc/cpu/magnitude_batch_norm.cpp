// y = w z / sqrt(E|z|^2 + eps)
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "norm.h"

namespace cvk {
namespace {

template <class T, class W>
CVK_CLONES void scale_lines(W, const T* re, const T* im, T* out_re, T* out_im, Lines lines, const wide_t<T>* scale) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line, scale += lines.advance) {
    const int64_t at = line * lines.stride;
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      const A r = re[k], m = im[k], s = scale[i * W::channel];
      out_re[k] = r * s;
      out_im[k] = m * s;
    }
  }
}

// adds Re(conj(x) g) with x = rstd z
template <class T, class W>
CVK_CLONES void dot_lines(W, const T* re, const T* im, const T* g_re, const T* g_im, Lines lines, const wide_t<T>* rstd,
                          sum_t<T, W>* sums) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line, rstd += lines.advance, sums += lines.advance) {
    const int64_t at = line * lines.stride;
    if constexpr (W::channel) {
      CVK_SIMD
      for (int64_t i = 0; i < lines.length; ++i) {
        const A x = re[at + i], y = im[at + i], p = g_re[at + i], q = g_im[at + i];
        sums[i] += (x * rstd[i]) * p + (y * rstd[i]) * q;
      }
    } else {
      const A r = *rstd;
      const int64_t half = lines.length / 2, other = half * W::step;
      A a = 0, b = 0, c = 0, d = 0;  // see power_lines
#pragma omp simd reduction(+ : a, b, c, d)
      for (int64_t i = 0; i < half; ++i) {
        const int64_t k = at + i * W::step, l = k + other;
        const A x = re[k], y = im[k], p = g_re[k], q = g_im[k], x2 = re[l], y2 = im[l], p2 = g_re[l], q2 = g_im[l];
        a += (x * r) * p;
        b += (y * r) * q;
        c += (x2 * r) * p2;
        d += (y2 * r) * q2;
      }
      if (lines.length % 2) {
        const int64_t k = at + (lines.length - 1) * W::step;
        const A x = re[k], y = im[k], p = g_re[k], q = g_im[k];
        a += (x * r) * p;
        b += (y * r) * q;
      }
      *sums += static_cast<double>(a + b) + static_cast<double>(c + d);
    }
  }
}

template <class T, class W>
CVK_CLONES void combine_lines(W, const T* re, const T* im, const T* g_re, const T* g_im, T* out_re, T* out_im,
                              Lines lines, const wide_t<T>* rstd, const wide_t<T>* alpha, const wide_t<T>* beta) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line) {
    const int64_t at = line * lines.stride;
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      const A a = alpha[i * W::channel], b = beta[i * W::channel], r = rstd[i * W::channel];
      const A x = re[k], y = im[k], p = g_re[k], q = g_im[k];
      out_re[k] = a * p + b * (x * r);
      out_im[k] = a * q + b * (y * r);
    }
    rstd += lines.advance, alpha += lines.advance, beta += lines.advance;
  }
}

std::tuple<Tensor, Tensor> forward(Tensor z, std::optional<Tensor> running_power, std::optional<Tensor> weight,
                                   std::optional<Tensor> batches, bool training, double momentum, double eps) {
  const Planar v = planar(z, "z");
  const Running running{running_power, batches, training, momentum};
  check_norm(z, v, running, weight);
  Tensor out = empty_as(z), rstd = wide_empty(z, {v.c});
  with_dtype(z, "magnitude_batch_norm", [&](auto zero) {
    using T = decltype(zero);
    const T* in = data<T>(z);
    T* to = data<T>(out);
    normalise<T>(v, in, running, weight, eps, data<wide_t<T>>(rstd),
                 [&](auto walk, Lines lines, const wide_t<T>* scale) {
                   const int64_t re = lines.first, im = re + v.part;
                   scale_lines(walk, in + re, in + im, to + re, to + im, lines, scale);
                 });
  });
  return {out, rstd};
}

std::tuple<Tensor, Tensor> backward(Tensor grad, Tensor z, std::optional<Tensor> weight, Tensor rstd, bool training) {
  const Planar v = planar(z, "z");
  check_alike(grad, v, z, "grad");
  check_norm(z, v, Running{rstd, std::nullopt, false, 0.0}, weight);
  Tensor grad_z = empty_as(z);
  Tensor grad_weight = weight ? empty_as(*weight) : none_like(z);
  with_dtype(z, "magnitude_batch_norm", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const T *in = data<T>(z), *g = data<T>(grad);
    T* to = data<T>(grad_z);
    const auto sums = normalise_backward<T>(
        v, data<A>(rstd), weight, training,
        [&](auto walk, Lines lines, const A* r, auto* into) {
          const int64_t re = lines.first, im = re + v.part;
          dot_lines(walk, in + re, in + im, g + re, g + im, lines, r, into);
        },
        [&](auto walk, const Planar& wide, const auto& reduce) {
          if (v.layout == Layout::contiguous) return product_sums<T>(v, in, g, data<A>(rstd));
          return channel_sums<T>(walk, wide, v.c, reduce);
        },
        [&](auto walk, Lines lines, const A* r, const A* alpha, const A* beta) {
          const int64_t re = lines.first, im = re + v.part;
          if (!training) return scale_lines(walk, g + re, g + im, to + re, to + im, lines, alpha);
          combine_lines(walk, in + re, in + im, g + re, g + im, to + re, to + im, lines, r, alpha, beta);
        });
    store_channels(sums, grad_weight);
  });
  return {grad_z, grad_weight};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("magnitude_batch_norm_forward", TORCH_BOX(&cvk::forward));
  m.impl("magnitude_batch_norm_backward", TORCH_BOX(&cvk::backward));
}
