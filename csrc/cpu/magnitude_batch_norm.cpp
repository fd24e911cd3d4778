// y = w z / sqrt(E|z|^2 + eps)
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "channels.h"

namespace cvk {
namespace {

template <class T, class W>
CVK_CLONES void scale_lines(W, const T* re, const T* im, T* out_re, T* out_im, Lines lines, const T* scale) {
  for (int64_t line = 0; line < lines.count; ++line, scale += lines.advance) {
    const int64_t at = line * lines.stride;
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      const T s = scale[i * W::channel];
      out_re[k] = re[k] * s;
      out_im[k] = im[k] * s;
    }
  }
}

// adds Re(conj(x) g) with x = rstd z
template <class T, class W>
CVK_CLONES void dot_lines(W, const T* re, const T* im, const T* g_re, const T* g_im, Lines lines, const T* rstd,
                          sum_t<T, W>* sums) {
  for (int64_t line = 0; line < lines.count; ++line, rstd += lines.advance, sums += lines.advance) {
    const int64_t at = line * lines.stride;
    if constexpr (W::channel) {
      CVK_SIMD
      for (int64_t i = 0; i < lines.length; ++i) {
        sums[i] += (re[at + i] * rstd[i]) * g_re[at + i] + (im[at + i] * rstd[i]) * g_im[at + i];
      }
    } else {
      const T r = *rstd;
      const int64_t half = lines.length / 2, other = half * W::step;
      T a = 0, b = 0, c = 0, d = 0;  // see power_lines
#pragma omp simd reduction(+ : a, b, c, d)
      for (int64_t i = 0; i < half; ++i) {
        const int64_t k = at + i * W::step;
        a += (re[k] * r) * g_re[k];
        b += (im[k] * r) * g_im[k];
        c += (re[k + other] * r) * g_re[k + other];
        d += (im[k + other] * r) * g_im[k + other];
      }
      if (lines.length % 2) {
        const int64_t k = at + (lines.length - 1) * W::step;
        a += (re[k] * r) * g_re[k];
        b += (im[k] * r) * g_im[k];
      }
      *sums += static_cast<double>(a + b) + static_cast<double>(c + d);
    }
  }
}

template <class T, class W>
CVK_CLONES void combine_lines(W, const T* re, const T* im, const T* g_re, const T* g_im, T* out_re, T* out_im,
                              Lines lines, const T* rstd, const T* alpha, const T* beta) {
  for (int64_t line = 0; line < lines.count; ++line) {
    const int64_t at = line * lines.stride;
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      const T a = alpha[i * W::channel], b = beta[i * W::channel], r = rstd[i * W::channel];
      out_re[k] = a * g_re[k] + b * (re[k] * r);
      out_im[k] = a * g_im[k] + b * (im[k] * r);
    }
    rstd += lines.advance, alpha += lines.advance, beta += lines.advance;
  }
}

std::tuple<Tensor, Tensor> forward(Tensor z, std::optional<Tensor> running_power, std::optional<Tensor> weight,
                                   std::optional<Tensor> batches, bool training, double momentum, double eps) {
  const Planar v = planar(z, "z");
  const Running running{running_power, batches, training, momentum};
  check_norm(z, v, running, weight);
  Tensor out = torch::stable::empty_like(z), rstd = torch::stable::new_empty(z, {v.c});
  with_dtype(z, "magnitude_batch_norm", [&](auto zero) {
    using T = decltype(zero);
    const T* in = data<T>(z);
    T* to = data<T>(out);
    normalise<T>(v, in, running, data_or_null<T>(weight), eps, data<T>(rstd),
                 [&](auto walk, Lines lines, const T* scale) {
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
  Tensor grad_z = torch::stable::empty_like(z);
  Tensor grad_weight = weight ? torch::stable::empty_like(*weight) : none_like(z);
  with_dtype(z, "magnitude_batch_norm", [&](auto zero) {
    using T = decltype(zero);
    const T *in = data<T>(z), *g = data<T>(grad);
    T* to = data<T>(grad_z);
    normalise_backward<T>(
        v, data<T>(rstd), data_or_null<T>(weight), training, weight ? data<T>(grad_weight) : nullptr,
        [&](auto walk, Lines lines, const T* r, auto* sums) {
          const int64_t re = lines.first, im = re + v.part;
          dot_lines(walk, in + re, in + im, g + re, g + im, lines, r, sums);
        },
        [&](auto walk, const auto& reduce) {
          if (v.layout == Layout::contiguous) return product_sums<T>(v, in, g, data<T>(rstd));
          return channel_sums<T>(walk, v, reduce);
        },
        [&](auto walk, Lines lines, const T* r, const T* alpha, const T* beta) {
          const int64_t re = lines.first, im = re + v.part;
          combine_lines(walk, in + re, in + im, g + re, g + im, to + re, to + im, lines, r, alpha, beta);
        });
  });
  return {grad_z, grad_weight};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("magnitude_batch_norm_forward", TORCH_BOX(&cvk::forward));
  m.impl("magnitude_batch_norm_backward", TORCH_BOX(&cvk::backward));
}
