// y = z |z| / max(|z|, c), c a constant or a mean modulus; see common/modulus.h for one element.
//
// A constant needs one launch each way. A mean over a plane (of one sample and channel) does too: a team of threads
// reads its plane twice, the second time from cache. A mean over more leaves partial sums first.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "../common/mean_modulus.h"
#include "../common/shape.h"
#include "norm.h"

namespace cvk {
namespace {

enum Reduce : int64_t { constant = 0, sample_channel = 1, channel = 2, everything = 3 };

// Where c comes from: itself where there is no table; else of a group's partial sums, or from the table.
template <class A>
struct Threshold {
  A c;
  A* mean;
  const Sum<A>* partial;
  uint32_t programs;
  A count;
};

template <class F, class A = typename F::wide, int V = F::count>
CVK_DEVICE void group_totals(const Walk& w, uint32_t group, const Threshold<A>& limit, A (&x)[V]) {
  CVK_SHARED(Sum<A>, scratch, kThreads * V);
  CVK_SHARED(Sum<A>, totals, 32 * V);
  CVK_SHARED(A, table, 32 * V);
  add_up<V>(w, group, limit.partial, limit.programs, scratch, totals);
  for (int t = threadIdx.x; t < channels_of<V>(w); t += kThreads) table[t] = totals[t].value / limit.count;
  __syncthreads();
  spread<V>(w, table, x);
}

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_relu_forward_kernel(const typename F::type* __restrict__ z, typename F::type* __restrict__ out,
                                  Threshold<typename F::wide> limit, Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  A c[V];
#pragma unroll
  for (int j = 0; j < V; ++j) c[j] = limit.c;
  if (limit.partial) {
    group_totals<F>(w, p.group, limit, c);
    const int64_t first = first_channel<V>(w, p.group) + (w.last ? threadIdx.x * V : 0);
    if (p.k == 0 && static_cast<int>(threadIdx.x) < kept_lanes(w)) {
#pragma unroll
      for (int j = 0; j < V; ++j) {
        if (w.last ? first + j < w.columns : j == 0) limit.mean[first + j] = c[j];
      }
    }
  }
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (!at.inside) continue;
    A re[V], im[V];
    load_parts<F>(z, at.at, w.part, re, im);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const A factor = relu_factor(re[j], im[j], c[j]);
      re[j] *= factor, im[j] *= factor;
    }
    store_parts<F>(out, at.at, w.part, re, im);
  }
}

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_relu_backward_kernel(const typename F::type* __restrict__ grad, const typename F::type* __restrict__ z,
                                   typename F::type* __restrict__ out, Threshold<typename F::wide> limit, bool detach,
                                   Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  A c[V], share[V];
#pragma unroll
  for (int j = 0; j < V; ++j) c[j] = limit.c, share[j] = A(0);
  if (limit.mean) of_group<F>(w, p.group, limit.mean, c);
  if (limit.partial) group_totals<F>(w, p.group, limit, share);
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (!at.inside) continue;
    A re[V], im[V], g_re[V], g_im[V];
    load_parts<F>(z, at.at, w.part, re, im);
    load_parts<F>(grad, at.at, w.part, g_re, g_im);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const Complex<A> g = limit.mean ? relu_mean_backward(re[j], im[j], g_re[j], g_im[j], c[j], share[j], detach)
                                      : relu_backward(re[j], im[j], g_re[j], g_im[j], c[j], detach);
      re[j] = g.re, im[j] = g.im;
    }
    store_parts<F>(out, at.at, w.part, re, im);
  }
}

// Row k of `partial`: sums over the tiles k, k + programs, ... of the moduli, or where there is a gradient of dL/dc.
template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_relu_sums_kernel(const typename F::type* __restrict__ z, const typename F::type* __restrict__ grad,
                               const typename F::wide* __restrict__ mean, Sum<typename F::wide>* __restrict__ partial,
                               Walk w) {
  using A = typename F::wide;
  constexpr int V = F::count;
  const Program p = program(w, blockIdx.x);
  A c[V];
#pragma unroll
  for (int j = 0; j < V; ++j) c[j] = A(0);
  if (grad) of_group<F>(w, p.group, mean, c);
  sum_tiles<F>(w, partial, [&](const Place& at, Sum<A>(&sums)[V]) {
    A re[V], im[V], g_re[V], g_im[V];
    load_parts<F>(z, at.at, w.part, re, im);
    if (grad) load_parts<F>(grad, at.at, w.part, g_re, g_im);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      sums[j].value += grad ? limit_slope(re[j], im[j], g_re[j], g_im[j], c[j]) : modulus_of(re[j], im[j]);
    }
  });
}

// --- c the mean of a plane -------------------------------------------------------------------------------------------

// Contiguous planes of s elements; 2^shift threads for each.
struct Planes {
  uint32_t count, channels;
  int64_t s;
  int32_t shift;
  int64_t blocks() const { return (static_cast<int64_t>(count) + (kThreads >> shift) - 1) / (kThreads >> shift); }
};

// What a thread's team has together.
template <class A>
CVK_DEVICE A team_sum(A sum, int shift, A* scratch) {
  for (int lanes = (shift < 5 ? 1 << shift : 32) / 2; lanes >= 1; lanes >>= 1) {
    sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
  }
  if (shift > 5) {
    const int warp = threadIdx.x / 32, warps = 1 << (shift - 5);
    if (threadIdx.x % 32 == 0) scratch[warp] = sum;
    __syncthreads();
    sum = A(0);
    for (int k = 0; k < warps; ++k) sum += scratch[(warp & ~(warps - 1)) + k];
  }
  return sum;
}

struct Plane {
  uint32_t index;
  bool inside;
  int64_t at, first;  // offset of its real part, this thread's first element
};

template <int V>
CVK_INLINE Plane plane_of(const Planes& planes, uint32_t block, uint32_t thread) {
  const uint32_t index = block * (kThreads >> planes.shift) + (thread >> planes.shift);
  const uint32_t sample = index / planes.channels;
  const int64_t at = (static_cast<int64_t>(sample) * planes.channels + index) * planes.s;
  return {index, index < planes.count, at, static_cast<int64_t>(thread & ((1u << planes.shift) - 1)) * V};
}

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_relu_planes_forward_kernel(const typename F::type* __restrict__ z, typename F::type* __restrict__ out,
                                         typename F::wide* __restrict__ mean, Planes planes) {
  using A = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(A, scratch, kWarps);
  const Plane plane = plane_of<V>(planes, blockIdx.x, threadIdx.x);
  const int64_t part = planes.channels * planes.s, end = plane.inside ? planes.s : 0, step = V << planes.shift;
  A re[V], im[V], sum = A(0);
  for (int64_t i = plane.first; i < end; i += step) {
    load_parts<F>(z, plane.at + i, part, re, im);
#pragma unroll
    for (int j = 0; j < V; ++j) sum += modulus_of(re[j], im[j]);
  }
  const A c = team_sum(sum, planes.shift, scratch) / static_cast<A>(planes.s);
  if (plane.inside && plane.first == 0) mean[plane.index] = c;
  for (int64_t i = plane.first; i < end; i += step) {
    load_parts<F>(z, plane.at + i, part, re, im);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const A factor = relu_factor(re[j], im[j], c);
      re[j] *= factor, im[j] *= factor;
    }
    store_parts<F>(out, plane.at + i, part, re, im);
  }
}

template <class F>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    magnitude_relu_planes_backward_kernel(const typename F::type* __restrict__ grad,
                                          const typename F::type* __restrict__ z, typename F::type* __restrict__ out,
                                          const typename F::wide* __restrict__ mean, bool detach, Planes planes) {
  using A = typename F::wide;
  constexpr int V = F::count;
  CVK_SHARED(A, scratch, kWarps);
  const Plane plane = plane_of<V>(planes, blockIdx.x, threadIdx.x);
  const int64_t part = planes.channels * planes.s, end = plane.inside ? planes.s : 0, step = V << planes.shift;
  const A c = plane.inside ? mean[plane.index] : A(0);
  A re[V], im[V], g_re[V], g_im[V], share = A(0);
  if (!detach) {
    for (int64_t i = plane.first; i < end; i += step) {
      load_parts<F>(z, plane.at + i, part, re, im);
      load_parts<F>(grad, plane.at + i, part, g_re, g_im);
#pragma unroll
      for (int j = 0; j < V; ++j) share += limit_slope(re[j], im[j], g_re[j], g_im[j], c);
    }
    share = team_sum(share, planes.shift, scratch) / static_cast<A>(planes.s);
  }
  for (int64_t i = plane.first; i < end; i += step) {
    load_parts<F>(z, plane.at + i, part, re, im);
    load_parts<F>(grad, plane.at + i, part, g_re, g_im);
#pragma unroll
    for (int j = 0; j < V; ++j) {
      const Complex<A> g = relu_mean_backward(re[j], im[j], g_re[j], g_im[j], c, share, detach);
      re[j] = g.re, im[j] = g.im;
    }
    store_parts<F>(out, plane.at + i, part, re, im);
  }
}

// --- host ------------------------------------------------------------------------------------------------------------

int64_t table_length(const Planar& v, int64_t reduce) {
  return reduce == constant ? 0 : reduce == sample_channel ? v.n * v.c : reduce == channel ? v.c : 1;
}

By by_of(int64_t reduce) { return reduce == channel ? By::channel : By::everything; }

// f(Form{}, planes)
template <class T, class Run>
void with_planes(const Planar& v, std::initializer_list<const void*> pointers, Run run) {
  STD_TORCH_CHECK(v.layout == Layout::contiguous, "a mean modulus of each plane needs a contiguous feature");
  STD_TORCH_CHECK(v.n * v.c <= kMostBlocks, "more elements than one launch holds");
  with_plain_form<T>(v.s % kPack<T> == 0 && aligned(pointers), [&](auto form) {
    const int64_t packs = (v.s + decltype(form)::count - 1) / decltype(form)::count;
    run(form, Planes{static_cast<uint32_t>(v.n * v.c), static_cast<uint32_t>(v.c), v.s,
                     std::min(log2_up(packs), log2_up(kThreads))});
  });
}

std::tuple<Tensor, Tensor> forward(Tensor z, double c, int64_t reduce) {
  const Planar v = planar(z, "z");
  STD_TORCH_CHECK(reduce >= 0 && reduce <= 3, "reduce must be 0, 1, 2 or 3");
  const OnDevice guard(z);
  Tensor out = empty_as(z);
  Tensor mean = empty_of(z, {table_length(v, reduce)}, wide_of(z));
  if (v.values() == 0) {
    if (reduce != constant) torch::stable::fill_(mean, NAN);  // 0 / 0
    return {out, mean};
  }
  with_dtype(z, "magnitude_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const std::initializer_list<const void*> pointers{z.data_ptr(), out.data_ptr()};
    if (reduce == sample_channel) {
      return with_planes<T>(v, pointers, [&](auto form, Planes planes) {
        launch(z, magnitude_relu_planes_forward_kernel<decltype(form)>, planes.blocks(), data<const T>(z), data<T>(out),
               data<A>(mean), planes);
      });
    }
    with_form<T>(v, packs<T>(v, by_of(reduce), pointers), [&](auto form) {
      using F = decltype(form);
      Walk w = walk(v, by_of(reduce), F::count);
      Partials kept{};
      if (reduce != constant) {
        const Walk summing = shared(w, kPrograms);
        kept = {room_for(summing, z), summing.programs};
        launch(z, magnitude_relu_sums_kernel<F>, summing.blocks(), data<const T>(z), static_cast<const T*>(nullptr),
               static_cast<const A*>(nullptr), kept.template of<Sum<A>>(), summing);
        w = shared(w, kMostBlocks, 2);
      }
      const A count = static_cast<A>(v.values()) / static_cast<A>(std::max<int64_t>(1, mean.numel()));
      const Threshold<A> limit{static_cast<A>(c), data<A>(mean), kept.template of<Sum<A>>(), kept.programs, count};
      launch(z, magnitude_relu_forward_kernel<F>, w.blocks(), data<const T>(z), data<T>(out), limit, w);
    });
  });
  return {out, mean};
}

Tensor backward(Tensor grad, Tensor z, Tensor mean, double c, int64_t reduce, bool detach) {
  const Planar v = planar(z, "z");
  check_alike(grad, v, z, "grad"), check_device(grad, z, "grad"), check_device(mean, z, "mean");
  check_vector(mean, table_length(v, reduce), "mean");
  STD_TORCH_CHECK(mean.scalar_type() == wide_of(z), "mean must be float32, or float64 with float64 features");
  const OnDevice guard(z);
  Tensor out = empty_as(z);
  if (v.values() == 0) return out;
  with_dtype(z, "magnitude_relu", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const std::initializer_list<const void*> pointers{z.data_ptr(), grad.data_ptr(), out.data_ptr()};
    if (reduce == sample_channel) {
      return with_planes<T>(v, pointers, [&](auto form, Planes planes) {
        launch(z, magnitude_relu_planes_backward_kernel<decltype(form)>, planes.blocks(), data<const T>(grad),
               data<const T>(z), data<T>(out), data<const A>(mean), detach, planes);
      });
    }
    with_form<T>(v, packs<T>(v, by_of(reduce), pointers), [&](auto form) {
      using F = decltype(form);
      Walk w = walk(v, by_of(reduce), F::count);
      Partials kept{};
      if (reduce != constant && !detach) {
        const Walk summing = shared(w, kPrograms);
        kept = {room_for(summing, z), summing.programs};
        launch(z, magnitude_relu_sums_kernel<F>, summing.blocks(), data<const T>(z), data<const T>(grad),
               data<const A>(mean), kept.template of<Sum<A>>(), summing);
      }
      if (reduce != constant) w = shared(w, kMostBlocks, 2);
      const A count = static_cast<A>(v.values()) / static_cast<A>(std::max<int64_t>(1, mean.numel()));
      const Threshold<A> limit{static_cast<A>(c), reduce == constant ? nullptr : data<A>(mean),
                               kept.template of<Sum<A>>(), kept.programs, count};
      launch(z, magnitude_relu_backward_kernel<F>, w.blocks(), data<const T>(grad), data<const T>(z), data<T>(out),
             limit, detach, w);
    });
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("magnitude_relu_forward", TORCH_BOX(&cvk::forward));
  m.impl("magnitude_relu_backward", TORCH_BOX(&cvk::backward));
}
