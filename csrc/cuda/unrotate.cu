// y_k = Re(h e^{-i theta_k}), K readings of each sample from one read of h
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "angle.h"

namespace cvk {
namespace {

constexpr int kTurns = 32;  // angles of a sample that a block keeps; more are read in several goes

// Turns first, first + 1, ... of sample n into shared memory; how many there are.
template <class W>
CVK_DEVICE int keep_turns(const Angles& theta, int64_t n, int64_t K, int64_t first, Complex<W>* turns) {
  const int count = static_cast<int>(K - first < kTurns ? K - first : kTurns);
  __syncthreads();  // those kept before have been read
  if (static_cast<int>(threadIdx.x) < count) turns[threadIdx.x] = turn_at<W>(theta, n * K + first + threadIdx.x);
  __syncthreads();
  return count;
}

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    unrotate_forward_kernel(const typename F::type* __restrict__ h, typename F::type* __restrict__ out, Angles theta,
                            int64_t K, int64_t plane, Walk w) {
  using W = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(Complex<W>, turns, kTurns);
  const Program p = program(w, blockIdx.x);
  for (int64_t first = 0; first < K; first += kTurns) {
    const int count = keep_turns(theta, p.group, K, first, turns);
    for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
      const Place at = place<V>(w, p.group, tile, threadIdx.x);
      if (!at.inside) continue;
      W re[V], im[V], y[V];
      load_parts<F>(h, at.at, w.part, re, im);
      // sample n begins at n plane in a real feature, at n K plane here
      typename F::type* to = out + at.real() + (p.group * (K - 1) + first) * plane;
      for (int k = 0; k < count; ++k, to += plane) {
#pragma unroll
        for (int j = 0; j < V; ++j) y[j] = reading(re[j], im[j], turns[k]);
        store<V>(to, y);
      }
    }
  }
}

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    unrotate_backward_kernel(const typename F::type* __restrict__ grad, typename F::type* __restrict__ grad_h,
                             Angles theta, int64_t K, int64_t plane, Walk w) {
  using W = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(Complex<W>, turns, kTurns);
  const Program p = program(w, blockIdx.x);
  int count = keep_turns(theta, p.group, K, 0, turns);
  // every thread of a block takes as many tiles, so that all of them meet where further angles are kept
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    W re[V], im[V], g[V];
#pragma unroll
    for (int j = 0; j < V; ++j) re[j] = W(0), im[j] = W(0);
    const typename F::type* from = grad + at.real() + p.group * (K - 1) * plane;
    for (int64_t first = 0; first < K; first += kTurns) {
      if (K > kTurns) count = keep_turns(theta, p.group, K, first, turns);
      if (!at.inside) continue;
      for (int k = 0; k < count; ++k, from += plane) {
        load<V>(from, g);
#pragma unroll
        for (int j = 0; j < V; ++j) re[j] += g[j] * turns[k].re, im[j] += g[j] * turns[k].im;
      }
    }
    if (at.inside) store_parts<F>(grad_h, at.at, w.part, re, im);
  }
}

// dL/dtheta_k, a group for each: sample and angle
template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    unrotate_sums_kernel(const typename F::type* __restrict__ grad, const typename F::type* __restrict__ h,
                         Sum<typename F::wide>* __restrict__ partial, Angles theta, uint32_t K, int64_t plane, Walk w) {
  using W = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(Sum<W>, scratch, kThreads * V);
  CVK_SHARED(Sum<W>, totals, 32 * V);
  const Program p = program(w, blockIdx.x);
  const uint32_t sample = p.group / K;
  const Complex<W> t = block_turn<W>(theta, p.group);
  Sum<W> sums[V];
#pragma unroll
  for (int j = 0; j < V; ++j) sums[j] = Sum<W>::zero();
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, sample, tile, threadIdx.x);
    if (!at.inside) continue;
    W re[V], im[V], g[V];
    load_parts<F>(h, at.at, w.part, re, im);
    load<V>(grad + at.real() + static_cast<int64_t>(p.group - sample) * plane, g);
#pragma unroll
    for (int j = 0; j < V; ++j) sums[j].value += reading_slope(g[j], re[j], im[j], t);
  }
  add_block<V>(w, sums, scratch, totals);
  leave<V>(w, p, totals, partial);
}

Tensor forward(Tensor h, Tensor theta) {
  const Planar v = planar(h, "h");
  STD_TORCH_CHECK(theta.dim() == 1 || theta.dim() == 2, "theta must be [N] or [N, K]");
  const OnDevice guard(h);
  const int64_t K = theta.dim() == 2 ? theta.size(1) : 1, plane = v.c * v.s;
  const Angles angles = angles_of(theta, v.n * K, h);
  Tensor out = readings_of(h, v, theta);
  if (out.numel() == 0) return out;
  with_dtype(h, "unrotate", [&](auto zero) {
    using T = decltype(zero);
    with_form<T>(v, packs<T>(v, By::sample, {h.data_ptr(), out.data_ptr()}), [&](auto form) {
      using F = decltype(form);
      const Walk w = shared(walk(v, By::sample, F::count), kMostBlocks, 2);
      launch(h, unrotate_forward_kernel<F>, w.blocks(), data<const T>(h), data<T>(out), angles, K, plane, w);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor> backward(Tensor grad, std::optional<Tensor> h, Tensor theta) {
  STD_TORCH_CHECK(theta.dim() == 1 || theta.dim() == 2, "theta must be [N] or [N, K]");
  const OnDevice guard(grad);
  const int64_t K = theta.dim() == 2 ? theta.size(1) : 1;
  Tensor grad_h = read_from(grad, theta);
  const Planar v = planar(grad_h, "grad_h");
  const int64_t plane = v.c * v.s;
  if (h) check_alike(*h, v, grad, "h"), check_device(*h, grad, "h");
  const Angles angles = angles_of(theta, v.n * K, grad);
  STD_TORCH_CHECK(grad.numel() == v.n * K * plane, "grad must hold one reading for each angle");
  STD_TORCH_CHECK(v.n * K <= kMostBlocks, "more angles than one launch holds");
  Tensor grad_theta = h ? empty_as(theta) : none_like(theta);
  if (grad.numel() == 0) {
    torch::stable::zero_(grad_h);
    torch::stable::zero_(grad_theta);
    return {grad_h, grad_theta};
  }
  with_dtype(grad, "unrotate", [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    const T *g = data<const T>(grad), *in = data_or_null<const T>(h);
    with_plain_form<T>(packs<T>(v, By::sample, {g, in, grad_h.data_ptr()}), [&](auto form) {
      using F = decltype(form);
      const Walk every = walk(v, By::sample, F::count);
      Walk w = shared(every, kMostBlocks, 2);
      launch(grad, unrotate_backward_kernel<F>, w.blocks(), g, data<T>(grad_h), angles, K, plane, w);
      if (!in) return;
      w = every;
      w.groups = static_cast<uint32_t>(v.n * K);
      w = shared(w, kPrograms);
      const Partials kept{room_for(w, grad), w.programs};
      launch(grad, unrotate_sums_kernel<F>, w.blocks(), g, in, kept.template of<Sum<W>>(), angles,
             static_cast<uint32_t>(K), plane, w);
      sum_angles<W>(grad, kept, w, grad_theta);
    });
  });
  return {grad_h, grad_theta};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("unrotate_forward", TORCH_BOX(&cvk::forward));
  m.impl("unrotate_backward", TORCH_BOX(&cvk::backward));
}
