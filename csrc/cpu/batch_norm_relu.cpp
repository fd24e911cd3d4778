// y = magnitude_relu(w z / sqrt(E|z|^2 + eps) + residual, c), differentiated from y (common/modulus.h)
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/modulus.h"
#include "channels.h"

namespace cvk {
namespace {

template <bool B>
struct Flag {
  static constexpr bool value = B;
};

template <class F>
void with_flag(bool flag, F f) {
  if (flag) {
    f(Flag<true>{});
  } else {
    f(Flag<false>{});
  }
}

template <class T, class W, class Residual>
CVK_CLONES void forward_lines(W, Residual, const T* re, const T* im, const T* res_re, const T* res_im, T* out_re,
                              T* out_im, Lines lines, const T* scale, T c) {
  for (int64_t line = 0; line < lines.count; ++line, scale += lines.advance) {
    const int64_t at = line * lines.stride;
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      const T s = scale[i * W::channel];
      T r = re[k] * s, m = im[k] * s;
      if constexpr (Residual::value) r += res_re[k], m += res_im[k];
      const T factor = relu_factor(r, m, c);
      out_re[k] = r * factor;
      out_im[k] = m * factor;
    }
  }
}

// From y, g and the residual: writes dL/dv to gate and adds Re(conj(x) dL/dv) of the normalised x. Where z was kept
// (there is a weight) x = rstd z, else x = v - residual with v from y.
template <class T, class W, class Residual, class Kept>
CVK_CLONES void gate_lines(W, Residual, Kept, const T* y_re, const T* y_im, const T* g_re, const T* g_im,
                           const T* res_re, const T* res_im, const T* z_re, const T* z_im, T* gate_re, T* gate_im,
                           Lines lines, const T* rstd, T c, sum_t<T, W>* sums) {
  for (int64_t line = 0; line < lines.count; ++line, rstd += lines.advance, sums += lines.advance) {
    const int64_t at = line * lines.stride;
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      const T yr = y_re[k], ym = y_im[k];
      const auto gate = gate_from_output(yr, ym, g_re[k], g_im[k], c);
      T xr, xm;
      if constexpr (Kept::value) {
        xr = z_re[k] * rstd[i * W::channel], xm = z_im[k] * rstd[i * W::channel];
      } else {
        xr = gate.root * yr, xm = gate.root * ym;
        if constexpr (Residual::value) xr -= res_re[k], xm -= res_im[k];
      }
      gate_re[k] = gate.grad.re;
      gate_im[k] = gate.grad.im;
      const T dot = xr * gate.grad.re + xm * gate.grad.im;
      if constexpr (W::channel) {
        sums[i] += dot;
      } else {
        sum += dot;
      }
    }
    if constexpr (!W::channel) *sums += sum;
  }
}

// alpha gate + beta x; out may be gate
template <class T, class W, class Residual, class Kept>
CVK_CLONES void combine_lines(W, Residual, Kept, const T* y_re, const T* y_im, const T* res_re, const T* res_im,
                              const T* z_re, const T* z_im, const T* gate_re, const T* gate_im, T* out_re, T* out_im,
                              Lines lines, const T* rstd, T c, const T* alpha, const T* beta) {
  for (int64_t line = 0; line < lines.count; ++line) {
    const int64_t at = line * lines.stride;
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      T xr, xm;
      if constexpr (Kept::value) {
        xr = z_re[k] * rstd[i * W::channel], xm = z_im[k] * rstd[i * W::channel];
      } else {
        const T root = root_from_output(y_re[k], y_im[k], c);
        xr = root * y_re[k], xm = root * y_im[k];
        if constexpr (Residual::value) xr -= res_re[k], xm -= res_im[k];
      }
      const T a = alpha[i * W::channel], b = beta[i * W::channel];
      out_re[k] = a * gate_re[k] + b * xr;
      out_im[k] = a * gate_im[k] + b * xm;
    }
    rstd += lines.advance, alpha += lines.advance, beta += lines.advance;
  }
}

std::tuple<Tensor, Tensor> forward(Tensor z, std::optional<Tensor> running_power, std::optional<Tensor> weight,
                                   std::optional<Tensor> residual, std::optional<Tensor> batches, bool training,
                                   double momentum, double eps, double c) {
  const Planar v = planar(z, "z");
  const Running running{running_power, batches, training, momentum};
  check_norm(z, v, running, weight);
  if (residual) check_alike(*residual, v, z, "residual");
  Tensor out = torch::stable::empty_like(z), rstd = torch::stable::new_empty(z, {v.c});
  with_dtype(z, "batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    const T *in = data<T>(z), *res = data_or_null<T>(residual);
    T* to = data<T>(out);
    with_flag(res != nullptr, [&](auto has_residual) {
      normalise<T>(v, in, running, data_or_null<T>(weight), eps, data<T>(rstd),
                   [&](auto walk, Lines lines, const T* scale) {
                     const int64_t re = lines.first, im = re + v.part;
                     forward_lines(walk, has_residual, in + re, in + im, res + re, res + im, to + re, to + im, lines,
                                   scale, static_cast<T>(c));
                   });
    });
  });
  return {out, rstd};
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, Tensor out, std::optional<Tensor> z,
                                            std::optional<Tensor> weight, std::optional<Tensor> residual, Tensor rstd,
                                            bool training, double c) {
  const Planar v = planar(out, "out");
  check_alike(grad, v, out, "grad");
  if (z) check_alike(*z, v, out, "z");
  if (residual) check_alike(*residual, v, out, "residual");
  check_norm(out, v, Running{rstd, std::nullopt, false, 0.0}, weight);
  STD_TORCH_CHECK(z.has_value() || !weight.has_value(), "with a weight the backward needs z");
  Tensor grad_z = torch::stable::empty_like(out);
  Tensor grad_residual = residual ? torch::stable::empty_like(out) : none_like(out);
  Tensor grad_weight = weight ? torch::stable::empty_like(*weight) : none_like(out);
  with_dtype(out, "batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    const T *y = data<T>(out), *g = data<T>(grad), *in = data_or_null<T>(z), *res = data_or_null<T>(residual);
    T* to = data<T>(grad_z);
    T* gate = residual ? data<T>(grad_residual) : to;  // dL/dv is the residual's gradient
    const T limit = static_cast<T>(c);
    with_flag(res != nullptr, [&](auto has_residual) {
      with_flag(in != nullptr, [&](auto kept) {
        normalise_backward<T>(
            v, data<T>(rstd), data_or_null<T>(weight), training, weight ? data<T>(grad_weight) : nullptr,
            [&](auto walk, Lines lines, const T* r, auto* sums) {
              const int64_t re = lines.first, im = re + v.part;
              gate_lines(walk, has_residual, kept, y + re, y + im, g + re, g + im, res + re, res + im, in + re, in + im,
                         gate + re, gate + im, lines, r, limit, sums);
            },
            [&](auto walk, const auto& reduce) { return channel_sums<T>(walk, v, reduce); },
            [&](auto walk, Lines lines, const T* r, const T* alpha, const T* beta) {
              const int64_t re = lines.first, im = re + v.part;
              combine_lines(walk, has_residual, kept, y + re, y + im, res + re, res + im, in + re, in + im, gate + re,
                            gate + im, to + re, to + im, lines, r, limit, alpha, beta);
            });
      });
    });
  });
  return {grad_z, grad_residual, grad_weight};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("batch_norm_relu_forward", TORCH_BOX(&cvk::forward));
  m.impl("batch_norm_relu_backward", TORCH_BOX(&cvk::backward));
}
