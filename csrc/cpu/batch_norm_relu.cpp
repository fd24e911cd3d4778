// y = magnitude_relu(w z / sqrt(E|z|^2 + eps) + residual, c), differentiated from y (common/modulus.h)
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/modulus.h"
#include "norm.h"

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
                              T* out_im, Lines lines, const wide_t<T>* scale, Limit<wide_t<T>> c) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line, scale += lines.advance) {
    const int64_t at = line * lines.stride;
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      const A s = scale[i * W::channel], x = re[k], y = im[k];
      A r = x * s, m = y * s;
      if constexpr (Residual::value) {
        const A p = res_re[k], q = res_im[k];
        r += p, m += q;
      }
      const A factor = relu_factor(r, m, c);
      out_re[k] = r * factor;
      out_im[k] = m * factor;
    }
  }
}

// What the backward reads; parts of one kind stand `part` apart.
template <class T>
struct Read {
  const T *y, *g, *res, *z;
  int64_t part;
};

// dL/dv = gate and the normalised x of one element: x = rstd z where z was kept (there is a weight), else
// v - residual with v from y.
template <class T>
struct Pulled {
  Complex<T> gate, x;
};

template <class Residual, class Kept, class T>
CVK_INLINE Pulled<wide_t<T>> pull(const Read<T>& from, int64_t k, wide_t<T> rstd, const Limit<wide_t<T>>& c) {
  using A = wide_t<T>;
  const int64_t l = k + from.part;
  const A yr = from.y[k], ym = from.y[l], gr = from.g[k], gm = from.g[l];
  const auto gate = gate_from_output(yr, ym, gr, gm, c);
  if constexpr (Kept::value) {
    const A zr = from.z[k], zm = from.z[l];
    return {gate.grad, {zr * rstd, zm * rstd}};
  } else if constexpr (Residual::value) {
    const A rr = from.res[k], rm = from.res[l];
    return {gate.grad, {gate.root * yr - rr, gate.root * ym - rm}};
  } else {
    return {gate.grad, {gate.root * yr, gate.root * ym}};
  }
}

// Adds Re(conj(x) dL/dv), element by element: a line's sum, or one for each channel.
template <class T, class W, class Residual, class Kept>
CVK_CLONES void dot_lines(W, Residual, Kept, Read<T> from, Lines lines, const wide_t<T>* rstd, Limit<wide_t<T>> c,
                          sum_t<T, W>* sums) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line, rstd += lines.advance, sums += lines.advance) {
    const int64_t at = lines.first + line * lines.stride;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      A dot;
      if constexpr (Residual::value || Kept::value) {
        const auto p = pull<Residual, Kept>(from, k, rstd[i * W::channel], c);
        dot = p.x.re * p.gate.re + p.x.im * p.gate.im;
      } else {
        const A yr = from.y[k], ym = from.y[k + from.part], gr = from.g[k], gm = from.g[k + from.part];
        dot = gate_dot(yr, ym, gr, gm, c);
      }
      if constexpr (W::channel) {
        sums[i] += dot;
      } else {
        sum += dot;
      }
    }
    if constexpr (!W::channel) *sums += sum;
  }
}

// out = alpha gate + beta x, and the gate itself where there is a residual: that is its gradient. The gate is worked
// out again rather than kept by the first pass, which would be read back rounded to a narrow type. beta is 0 where the
// statistics were frozen, and then an infinite x has no part in it.
template <class T, class W, class Residual, class Kept>
CVK_CLONES void combine_lines(W, Residual, Kept, Read<T> from, T* out, T* gate, Lines lines, const wide_t<T>* rstd,
                              Limit<wide_t<T>> c, const wide_t<T>* alpha, const wide_t<T>* beta) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line) {
    const int64_t at = lines.first + line * lines.stride;
    CVK_SIMD
    for (int64_t i = 0; i < lines.length; ++i) {
      const int64_t k = at + i * W::step;
      const auto p = pull<Residual, Kept>(from, k, rstd[i * W::channel], c);
      const A a = alpha[i * W::channel], b = beta[i * W::channel];
      out[k] = a * p.gate.re + (b == A(0) ? A(0) : b * p.x.re);
      out[k + from.part] = a * p.gate.im + (b == A(0) ? A(0) : b * p.x.im);
      if constexpr (Residual::value) {
        gate[k] = p.gate.re;
        gate[k + from.part] = p.gate.im;
      }
    }
    rstd += lines.advance, alpha += lines.advance, beta += lines.advance;
  }
}

std::tuple<Tensor, Tensor> forward(Tensor z, std::optional<Tensor> running_power, std::optional<Tensor> weight,
                                   std::optional<Tensor> residual, std::optional<Tensor> batches, bool training,
                                   double momentum, double eps, double c) {
  const Planar v = planar(z, "z", true);
  const Running running{running_power, batches, training, momentum};
  check_norm(z, v, running, weight);
  if (residual) check_alike(*residual, v, z, "residual");
  Tensor out = empty_as(z), rstd = wide_empty(z, {v.c});
  with_dtype(z, "batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const T *in = data<T>(z), *res = data_or_null<T>(residual);
    T* to = data<T>(out);
    const Limit<A> limit(static_cast<A>(c));
    with_flag(res != nullptr, [&](auto has_residual) {
      normalise<T>(v, in, running, weight, eps, data<A>(rstd), [&](auto walk, Lines lines, const A* scale) {
        const int64_t re = lines.first, im = re + v.part;
        forward_lines(walk, has_residual, in + re, in + im, res + re, res + im, to + re, to + im, lines, scale, limit);
      });
    });
  });
  return {out, rstd};
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, Tensor out, std::optional<Tensor> z,
                                            std::optional<Tensor> weight, std::optional<Tensor> residual, Tensor rstd,
                                            bool training, double c) {
  const Planar v = planar(out, "out", true);
  check_alike(grad, v, out, "grad");
  if (z) check_alike(*z, v, out, "z");
  if (residual) check_alike(*residual, v, out, "residual");
  check_norm(out, v, Running{rstd, std::nullopt, false, 0.0}, weight);
  STD_TORCH_CHECK(z.has_value() || !weight.has_value(), "with a weight the backward needs z");
  Tensor grad_z = empty_as(out);
  Tensor grad_residual = residual ? empty_as(out) : none_like(out);
  Tensor grad_weight = weight ? empty_as(*weight) : none_like(out);
  with_dtype(out, "batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const Read<T> from{data<T>(out), data<T>(grad), data_or_null<T>(residual), data_or_null<T>(z), v.part};
    T *to = data<T>(grad_z), *gate = data<T>(grad_residual);
    const Limit<A> limit(static_cast<A>(c));
    with_flag(residual.has_value(), [&](auto has_residual) {
      with_flag(z.has_value(), [&](auto kept) {
        const auto sums = normalise_backward<T>(
            v, data<A>(rstd), weight, training,
            [&](auto walk, Lines lines, const A* r, auto* into) {
              dot_lines(walk, has_residual, kept, from, lines, r, limit, into);
            },
            [&](auto walk, const Planar& wide, const auto& reduce) { return channel_sums<T>(walk, wide, v.c, reduce); },
            [&](auto walk, Lines lines, const A* r, const A* alpha, const A* beta) {
              combine_lines(walk, has_residual, kept, from, to, gate, lines, r, limit, alpha, beta);
            });
        store_channels(sums, grad_weight);
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
