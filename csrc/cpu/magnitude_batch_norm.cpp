// y = w z / sqrt(E|z|^2 + eps)
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "channels.h"

namespace cvk {
namespace {

template <class T, class W>
CVK_CLONES void scale_row(W, const T* re, const T* im, T* out_re, T* out_im, int64_t count, const T* scale) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const T s = scale[i * W::channel];
    out_re[i * W::step] = re[i * W::step] * s;
    out_im[i * W::step] = im[i * W::step] * s;
  }
}

// adds Re(conj(x) g) with x = rstd z
template <class T, class W>
CVK_CLONES void dot_row(W, const T* re, const T* im, const T* g_re, const T* g_im, int64_t count, const T* rstd, T* sums) {
  if constexpr (W::channel) {
    CVK_SIMD
    for (int64_t i = 0; i < count; ++i) sums[i] += (re[i] * rstd[i]) * g_re[i] + (im[i] * rstd[i]) * g_im[i];
  } else {
    const T r = *rstd;
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) {
      sum += (re[i * W::step] * r) * g_re[i * W::step] + (im[i * W::step] * r) * g_im[i * W::step];
    }
    *sums += sum;
  }
}

template <class T, class W>
CVK_CLONES void combine_row(W, const T* re, const T* im, const T* g_re, const T* g_im, T* out_re, T* out_im, int64_t count,
                            const T* rstd, const T* alpha, const T* beta) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const T a = alpha[i * W::channel], b = beta[i * W::channel], r = rstd[i * W::channel];
    out_re[i * W::step] = a * g_re[i * W::step] + b * (re[i * W::step] * r);
    out_im[i * W::step] = a * g_im[i * W::step] + b * (im[i * W::step] * r);
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
                 [&](auto walk, int64_t at, int64_t count, const T* scale) {
                   scale_row(walk, in + at, in + at + v.part, to + at, to + at + v.part, count, scale);
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
        [&](auto walk, int64_t at, int64_t count, const T* r, T* sums) {
          const int64_t im = at + v.part;
          dot_row(walk, in + at, in + im, g + at, g + im, count, r, sums);
        },
        [&](auto walk, int64_t at, int64_t count, const T* r, const T* alpha, const T* beta) {
          const int64_t im = at + v.part;
          combine_row(walk, in + at, in + im, g + at, g + im, to + at, to + im, count, r, alpha, beta);
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
