// y = magnitude_relu(w z / sqrt(E|z|^2 + eps) + residual, c), differentiated from y (common/modulus.h): statistics,
// then one pass that writes; backward likewise.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/modulus.h"
#include "norm.h"

namespace cvk {
namespace {

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    batch_norm_relu_forward_kernel(const typename F::type* __restrict__ z,
                                   const typename F::type* __restrict__ residual, typename F::type* __restrict__ out,
                                   typename F::wide c, Norm<typename F::wide> norm, Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  A scale[V];
  scale_of<F>(w, p, norm, scale);
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (!at.inside) continue;
    A re[V], im[V];
    load_parts<F>(z, at.at, w.part, re, im);
#pragma unroll
    for (int j = 0; j < V; ++j) re[j] *= scale[j], im[j] *= scale[j];
    if (residual) {
      A res_re[V], res_im[V];
      load_parts<F>(residual, at.at, w.part, res_re, res_im);
#pragma unroll
      for (int j = 0; j < V; ++j) re[j] += res_re[j], im[j] += res_im[j];
    }
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const A factor = relu_factor(re[j], im[j], c);
      re[j] *= factor, im[j] *= factor;
    }
    store_parts<F>(out, at.at, w.part, re, im);
  }
}

// What a backward reads, all in the layout of `out`; z is kept where there is a weight, else recovered.
template <class T>
struct Known {
  const T *grad, *out, *z, *residual;
};

// dL/dv into g, the normalised x into x, of one thread's elements.
template <class F, class T = typename F::type, class A = typename F::wide, int V = F::count>
CVK_DEVICE void gate_of(const Known<T>& known, int64_t at, int64_t part, const A (&r)[V], A c, A (&g_re)[V],
                        A (&g_im)[V], A (&x_re)[V], A (&x_im)[V]) {
  load_parts<F>(known.out, at, part, x_re, x_im);
  load_parts<F>(known.grad, at, part, g_re, g_im);
#pragma unroll
  for (int j = 0; j < V; ++j) {
    const Gate<A> gate = gate_from_output(x_re[j], x_im[j], g_re[j], g_im[j], c);
    g_re[j] = gate.grad.re, g_im[j] = gate.grad.im;
    x_re[j] *= gate.root, x_im[j] *= gate.root;
  }
  if (known.z) {
    load_parts<F>(known.z, at, part, x_re, x_im);
#pragma unroll
    for (int j = 0; j < V; ++j) x_re[j] *= r[j], x_im[j] *= r[j];
  } else if (known.residual) {
    A res_re[V], res_im[V];
    load_parts<F>(known.residual, at, part, res_re, res_im);
#pragma unroll
    for (int j = 0; j < V; ++j) x_re[j] -= res_re[j], x_im[j] -= res_im[j];
  }
}

// Row k of `partial`: sums of Re(conj(x) dL/dv) over the tiles k, k + programs, ...
template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    batch_norm_relu_sums_kernel(Known<typename F::type> known, const typename F::wide* __restrict__ rstd,
                                Sum<typename F::wide>* __restrict__ partial, typename F::wide c, Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  A r[V];
  of_group<F>(w, p.group, rstd, r);
  sum_tiles<F>(w, partial, [&](const Place& at, Sum<A>(&sums)[V]) {
    A g_re[V], g_im[V], x_re[V], x_im[V];
    gate_of<F>(known, at.at, w.part, r, c, g_re, g_im, x_re, x_im);
#pragma unroll
    for (int j = 0; j < V; ++j) sums[j].value += x_re[j] * g_re[j] + x_im[j] * g_im[j];
  });
}

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    batch_norm_relu_backward_kernel(Known<typename F::type> known, typename F::type* __restrict__ grad_z,
                                    typename F::type* __restrict__ grad_residual, typename F::wide c,
                                    Through<typename F::wide> norm, Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  A r[V], alpha[V], beta[V];
  of_group<F>(w, p.group, norm.rstd, r);
  slopes_of_group<F>(w, p, norm, alpha, beta);
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (!at.inside) continue;
    A g_re[V], g_im[V], x_re[V], x_im[V];
    gate_of<F>(known, at.at, w.part, r, c, g_re, g_im, x_re, x_im);
    if (grad_residual) store_parts<F>(grad_residual, at.at, w.part, g_re, g_im);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      g_re[j] *= alpha[j], g_im[j] *= alpha[j];
      // asked, not multiplied by 0: an x that is not finite has no part in a gradient through frozen statistics
      if (norm.batch) g_re[j] += beta[j] * x_re[j], g_im[j] += beta[j] * x_im[j];
    }
    store_parts<F>(grad_z, at.at, w.part, g_re, g_im);
  }
}

std::tuple<Tensor, Tensor> forward(Tensor z, std::optional<Tensor> running_power, std::optional<Tensor> weight,
                                   std::optional<Tensor> residual, std::optional<Tensor> batches, bool training,
                                   double momentum, double eps, double c) {
  const Planar v = planar(z, "z");
  if (residual) check_alike(*residual, v, z, "residual"), check_device(*residual, z, "residual");
  const OnDevice guard(z);
  Tensor out = empty_as(z), rstd = empty_of(z, {v.c}, wide_of(z));
  with_dtype(z, "batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    if (v.values() == 0) return rstd_of_nothing<A>(running_power, training, eps, rstd);
    Partials kept{};
    const Norm<A> norm = norm_of<A>(z, v, running_power, weight, batches, training, momentum, eps, rstd, &kept);
    const T* res = data_or_null<const T>(residual);
    with_form<T>(v, packs<T>(v, By::channel, {z.data_ptr(), res, out.data_ptr()}), [&](auto form) {
      using F = decltype(form);
      const Walk w = shared(walk(v, By::channel, F::count), kMostBlocks, 2);
      launch(z, batch_norm_relu_forward_kernel<F>, w.blocks(), data<const T>(z), res, data<T>(out), static_cast<A>(c),
             norm, w);
    });
  });
  return {out, rstd};
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, Tensor out, std::optional<Tensor> z,
                                            std::optional<Tensor> weight, std::optional<Tensor> residual, Tensor rstd,
                                            bool training, double c) {
  const Planar v = planar(out, "out");
  check_alike(grad, v, out, "grad"), check_device(grad, out, "grad");
  if (z) check_alike(*z, v, out, "z"), check_device(*z, out, "z");
  if (residual) check_alike(*residual, v, out, "residual"), check_device(*residual, out, "residual");
  STD_TORCH_CHECK(z.has_value() || !weight.has_value(), "with a weight the backward needs z");
  check_rstd(rstd, v, out);
  const OnDevice guard(out);
  Tensor grad_z = empty_as(out);
  Tensor grad_residual = residual ? empty_as(out) : none_like(out);
  Tensor grad_weight = weight ? empty_as(*weight) : none_like(out);
  if (v.values() == 0) {
    if (weight) torch::stable::zero_(grad_weight);
    return {grad_z, grad_residual, grad_weight};
  }
  with_dtype(out, "batch_norm_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const Known<T> known{data<const T>(grad), data<const T>(out), data_or_null<const T>(z),
                         data_or_null<const T>(residual)};
    T* to_residual = residual ? data<T>(grad_residual) : nullptr;
    const std::initializer_list<const void*> pointers{known.grad,     known.out,         known.z,
                                                      known.residual, grad_z.data_ptr(), to_residual};
    with_form<T>(v, packs<T>(v, By::channel, pointers), [&](auto form) {
      using F = decltype(form);
      const Walk every = walk(v, By::channel, F::count);
      Partials kept{};
      if (training || weight) {
        const Walk w = shared(every, kPrograms);
        kept = {room_for(w, out), w.programs};
        launch(out, batch_norm_relu_sums_kernel<F>, w.blocks(), known, data<const A>(rstd), kept.template of<Sum<A>>(),
               static_cast<A>(c), w);
      }
      const Walk w = shared(every, kMostBlocks, 2);
      const Through<A> norm = through_of<A>(v, out, weight, grad_weight, rstd, training, kept);
      launch(out, batch_norm_relu_backward_kernel<F>, w.blocks(), known, data<T>(grad_z), to_residual,
             static_cast<A>(c), norm, w);
    });
  });
  return {grad_z, grad_residual, grad_weight};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("batch_norm_relu_forward", TORCH_BOX(&cvk::forward));
  m.impl("batch_norm_relu_backward", TORCH_BOX(&cvk::backward));
}
