// x = (a + ib) e^{i theta}
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "angle.h"

namespace cvk {
namespace {

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    rotate_forward_kernel(const typename F::type* __restrict__ a, const typename F::type* __restrict__ b,
                          typename F::type* __restrict__ out, Angles theta, Walk w) {
  using W = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  const Complex<W> t = block_turn<W>(theta, p.group);
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (!at.inside) continue;
    W re[V], im[V];
    load<V>(a + at.real(), re);
    load<V>(b + at.real(), im);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const Complex<W> x = turned(re[j], im[j], t);
      re[j] = x.re, im[j] = x.im;
    }
    store_parts<F>(out, at.at, w.part, re, im);
  }
}

// out: what the forward gave, or null where dL/dtheta is not wanted
template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    rotate_backward_kernel(const typename F::type* __restrict__ grad, const typename F::type* __restrict__ out,
                           typename F::type* __restrict__ grad_a, typename F::type* __restrict__ grad_b,
                           Sum<typename F::wide>* __restrict__ partial, Angles theta, Walk w) {
  using W = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  const Complex<W> t = block_turn<W>(theta, p.group);
  sum_tiles<F>(w, partial, [&](const Place& at, Sum<W>(&sums)[V]) {
    W re[V], im[V];
    load_parts<F>(grad, at.at, w.part, re, im);
    if (out) add_slopes<F>(out, at.at, w.part, re, im, sums);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const Complex<W> g = turned_back(re[j], im[j], t);
      re[j] = g.re, im[j] = g.im;
    }
    store<V>(grad_a + at.real(), re);
    store<V>(grad_b + at.real(), im);
  });
}

Tensor forward(Tensor a, Tensor b, Tensor theta) {
  const OnDevice guard(a);
  Tensor out = planar_from(a);
  const Planar v = planar(out, "out");
  STD_TORCH_CHECK(b.numel() == a.numel() && a.scalar_type() == b.scalar_type() &&
                      channels_last(a) == channels_last(b) &&
                      (channels_last(a) || (a.is_contiguous() && b.is_contiguous())),
                  "a and b must have one shape, dtype and dense layout");
  check_device(b, a, "b");
  const Angles angles = angles_of(theta, v.n, a);
  if (v.values() == 0) return out;
  with_dtype(a, "rotate", [&](auto zero) {
    using T = decltype(zero);
    with_plain_form<T>(packs<T>(v, By::sample, {a.data_ptr(), b.data_ptr(), out.data_ptr()}), [&](auto form) {
      using F = decltype(form);
      const Walk w = shared(walk(v, By::sample, F::count), kMostBlocks, 2);
      launch(a, rotate_forward_kernel<F>, w.blocks(), data<const T>(a), data<const T>(b), data<T>(out), angles, w);
    });
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, std::optional<Tensor> out, Tensor theta) {
  const Planar v = planar(grad, "grad");
  STD_TORCH_CHECK(v.layout != Layout::interleaved, "grad must be contiguous or channels-last");
  if (out) check_alike(*out, v, grad, "out"), check_device(*out, grad, "out");
  const OnDevice guard(grad);
  const Angles angles = angles_of(theta, v.n, grad);
  Tensor grad_a = real_from(grad, v), grad_b = empty_as(grad_a);
  Tensor grad_theta = out ? empty_as(theta) : none_like(theta);
  if (v.values() == 0) {
    torch::stable::zero_(grad_theta);
    return {grad_a, grad_b, grad_theta};
  }
  with_dtype(grad, "rotate", [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    const T* x = data_or_null<const T>(out);
    const bool wide = packs<T>(v, By::sample, {grad.data_ptr(), x, grad_a.data_ptr(), grad_b.data_ptr()});
    with_plain_form<T>(wide, [&](auto form) {
      using F = decltype(form);
      const Walk w = shared(walk(v, By::sample, F::count), kPrograms, 2);
      Partials kept{};
      if (out) kept = {room_for(w, grad), w.programs};
      launch(grad, rotate_backward_kernel<F>, w.blocks(), data<const T>(grad), x, data<T>(grad_a), data<T>(grad_b),
             kept.template of<Sum<W>>(), angles, w);
      if (out) sum_angles<W>(grad, kept, w, grad_theta);
    });
  });
  return {grad_a, grad_b, grad_theta};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("rotate_forward", TORCH_BOX(&cvk::forward));
  m.impl("rotate_backward", TORCH_BOX(&cvk::backward));
}
