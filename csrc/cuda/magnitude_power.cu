// Sums of |z|^2 per channel; the first launch is also the statistics of the norms (norm.h).
#include <torch/csrc/stable/library.h>

#include "norm.h"

namespace cvk {
namespace {

// Row k of `partial`: sums over the tiles k, k + programs, ...
template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    power_partials_kernel(const typename F::type* __restrict__ z, Sum<typename F::wide>* __restrict__ partial, Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  sum_tiles<F>(w, partial, [&](const Place& at, Sum<A>(&sums)[V]) {
    A re[V], im[V];
    load_parts<F>(z, at.at, w.part, re, im);
#pragma unroll
    for (int j = 0; j < V; ++j) sums[j].value += re[j] * re[j] + im[j] * im[j];
  });
}

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    power_sums_kernel(const Sum<typename F::wide>* __restrict__ partial, typename F::wide* __restrict__ out,
                      uint32_t programs, Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(Sum<A>, scratch, kThreads * V);
  CVK_SHARED(Sum<A>, totals, 32 * V);
  add_up<V>(w, blockIdx.x, partial, programs, scratch, totals);
  const int64_t first = first_channel<V>(w, blockIdx.x);
  for (int t = threadIdx.x; t < channels_of<V>(w); t += kThreads) {
    if (!w.last || first + t < w.columns) out[first + t] = totals[t].value;
  }
}

Tensor forward(Tensor z) {
  const Planar v = planar(z, "z");
  const OnDevice guard(z);
  Tensor out = empty_of(z, {v.c}, wide_of(z));
  if (v.values() == 0) return torch::stable::zero_(out);
  with_dtype(z, "magnitude_power", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const Partials partial = power_partials(z, v);
    // the adding up has no feature to read: one by one
    Walk w = walk(v, By::channel, 1);
    launch(z, power_sums_kernel<Form<T, 1, false>>, w.groups, partial.template of<Sum<A>>(), data<A>(out),
           partial.programs, w);
  });
  return out;
}

}  // namespace

Partials power_partials(const Tensor& z, const Planar& v) {
  Partials out{};
  with_dtype(z, "magnitude batch norm", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    with_form<T>(v, packs<T>(v, By::channel, {z.data_ptr()}), [&](auto form) {
      using F = decltype(form);
      const Walk w = shared(walk(v, By::channel, F::count), kPrograms);
      out = {room_for(w, z), w.programs};
      launch(z, power_partials_kernel<F>, w.blocks(), data<const T>(z), out.template of<Sum<A>>(), w);
    });
  });
  return out;
}

}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) { m.impl("magnitude_power_forward", TORCH_BOX(&cvk::forward)); }
