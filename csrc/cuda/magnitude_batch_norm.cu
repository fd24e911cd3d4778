// y = w z / sqrt(E|z|^2 + eps): statistics, then one pass that writes; backward likewise.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "norm.h"

namespace cvk {
namespace {

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_batch_norm_forward_kernel(const typename F::type* __restrict__ z, typename F::type* __restrict__ out,
                                        Norm<typename F::wide> norm, Walk w) {
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
    store_parts<F>(out, at.at, w.part, re, im);
  }
}

// Row k of `partial`: sums of Re(conj(x) g) over the tiles k, k + programs, ...; x = rstd z
template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_batch_norm_sums_kernel(const typename F::type* __restrict__ grad, const typename F::type* __restrict__ z,
                                     const typename F::wide* __restrict__ rstd, Sum<typename F::wide>* partial,
                                     Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  A r[V];
  of_group<F>(w, p.group, rstd, r);
  sum_tiles<F>(w, partial, [&](const Place& at, Sum<A>(&sums)[V]) {
    A re[V], im[V], g_re[V], g_im[V];
    load_parts<F>(z, at.at, w.part, re, im);
    load_parts<F>(grad, at.at, w.part, g_re, g_im);
#pragma unroll
    for (int j = 0; j < V; ++j) sums[j].value += (re[j] * r[j]) * g_re[j] + (im[j] * r[j]) * g_im[j];
  });
}

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_batch_norm_backward_kernel(const typename F::type* __restrict__ grad,
                                         const typename F::type* __restrict__ z, typename F::type* __restrict__ grad_z,
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
    A re[V], im[V], g_re[V], g_im[V];
    load_parts<F>(grad, at.at, w.part, g_re, g_im);
    if (norm.batch) {
      load_parts<F>(z, at.at, w.part, re, im);
#pragma unroll
      for (int j = 0; j < V; ++j) {
        g_re[j] = alpha[j] * g_re[j] + beta[j] * (re[j] * r[j]);
        g_im[j] = alpha[j] * g_im[j] + beta[j] * (im[j] * r[j]);
      }
    } else {
#pragma unroll
      for (int j = 0; j < V; ++j) g_re[j] *= alpha[j], g_im[j] *= alpha[j];
    }
    store_parts<F>(grad_z, at.at, w.part, g_re, g_im);
  }
}

std::tuple<Tensor, Tensor> forward(Tensor z, std::optional<Tensor> running_power, std::optional<Tensor> weight,
                                   std::optional<Tensor> batches, bool training, double momentum, double eps) {
  const Planar v = planar(z, "z");
  const OnDevice guard(z);
  Tensor out = empty_as(z), rstd = empty_of(z, {v.c}, wide_of(z));
  with_dtype(z, "magnitude_batch_norm", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    if (v.values() == 0) return rstd_of_nothing<A>(running_power, training, eps, rstd);
    Partials kept{};
    const Norm<A> norm = norm_of<A>(z, v, running_power, weight, batches, training, momentum, eps, rstd, &kept);
    with_form<T>(v, packs<T>(v, By::channel, {z.data_ptr(), out.data_ptr()}), [&](auto form) {
      using F = decltype(form);
      const Walk w = shared(walk(v, By::channel, F::count), kMostBlocks, 2);
      launch(z, magnitude_batch_norm_forward_kernel<F>, w.blocks(), data<const T>(z), data<T>(out), norm, w);
    });
  });
  return {out, rstd};
}

std::tuple<Tensor, Tensor> backward(Tensor grad, Tensor z, std::optional<Tensor> weight, Tensor rstd, bool training) {
  const Planar v = planar(z, "z");
  check_alike(grad, v, z, "grad");
  check_device(grad, z, "grad");
  const OnDevice guard(z);
  Tensor grad_z = empty_as(z);
  Tensor grad_weight = weight ? empty_as(*weight) : none_like(z);
  if (v.values() == 0) {
    if (weight) torch::stable::zero_(grad_weight);
    return {grad_z, grad_weight};
  }
  with_dtype(z, "magnitude_batch_norm", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    check_rstd(rstd, v, z);
    const std::initializer_list<const void*> pointers{z.data_ptr(), grad.data_ptr(), grad_z.data_ptr()};
    with_form<T>(v, packs<T>(v, By::channel, pointers), [&](auto form) {
      using F = decltype(form);
      const Walk every = walk(v, By::channel, F::count);
      Partials kept{};
      if (training || weight) {
        const Walk w = shared(every, kPrograms);
        kept = {room_for(w, z), w.programs};
        launch(z, magnitude_batch_norm_sums_kernel<F>, w.blocks(), data<const T>(grad), data<const T>(z),
               data<const A>(rstd), kept.template of<Sum<A>>(), w);
      }
      const Walk w = shared(every, kMostBlocks, 2);
      const Through<A> norm = through_of<A>(v, z, weight, grad_weight, rstd, training, kept);
      launch(z, magnitude_batch_norm_backward_kernel<F>, w.blocks(), data<const T>(grad), data<const T>(z),
             data<T>(grad_z), norm, w);
    });
  });
  return {grad_z, grad_weight};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("magnitude_batch_norm_forward", TORCH_BOX(&cvk::forward));
  m.impl("magnitude_batch_norm_backward", TORCH_BOX(&cvk::backward));
}
