// Sums over a block and over the blocks of a group, always in the same order: no atomics, so a run repeats itself bit
// for bit. A first launch leaves one partial result a program, the next one adds them up.
#pragma once

#include "../common/shape.h"
#include "walk.h"

namespace cvk {

#if !defined(CVK_ON_HOST)
#define CVK_DEVICE __device__ __forceinline__
#else
#define CVK_DEVICE inline
#endif

// What is added up: a sum, two of them, or mean and variance.
template <class A>
struct Sum {
  A value;
  static CVK_INLINE Sum zero() { return {A(0)}; }
  CVK_INLINE void add(const Sum& o) { value += o.value; }
  CVK_DEVICE Sum across(int lanes) const { return {__shfl_xor_sync(0xffffffffu, value, lanes)}; }
};

template <class A>
struct Pair {
  A first, second;
  static CVK_INLINE Pair zero() { return {A(0), A(0)}; }
  CVK_INLINE void add(const Pair& o) { first += o.first, second += o.second; }
  CVK_DEVICE Pair across(int lanes) const {
    return {__shfl_xor_sync(0xffffffffu, first, lanes), __shfl_xor_sync(0xffffffffu, second, lanes)};
  }
};

// What a group's numbers are one of: one channel, or V channels a thread and those of its neighbours along the row.
CVK_INLINE int kept_lanes(const Walk& w) { return w.last ? 1 << w.shift : 1; }

// The group's first channel and how many it has (a walk by channels); where the walk is not by channels: the group, 1.
template <int V>
CVK_INLINE int64_t first_channel(const Walk& w, uint32_t group) {
  return w.last ? (static_cast<int64_t>(group) << w.shift) * V : group;
}

template <int V>
CVK_INLINE int channels_of(const Walk& w) {
  return kept_lanes(w) * (w.last ? V : 1);
}

// Adds up what each thread of the block has; totals [channels_of] are there for all of them when it returns.
// scratch [kThreads * V], totals [32 * V]: shared
template <int V, class E>
CVK_DEVICE void add_block(const Walk& w, E (&mine)[V], E* scratch, E* totals) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, kept = kept_lanes(w);
  if (!w.last) {
#pragma unroll
    for (int j = 1; j < V; ++j) mine[0].add(mine[j]);
    for (int lanes = 16; lanes >= 1; lanes >>= 1) mine[0].add(mine[0].across(lanes));
  } else {
    for (int lanes = 16; lanes >= kept; lanes >>= 1) {
#pragma unroll
      for (int j = 0; j < V; ++j) mine[j].add(mine[j].across(lanes));
    }
  }
  const int each = w.last ? V : 1, width = kept * each;
  if (lane < kept) {
#pragma unroll
    for (int j = 0; j < V; ++j) {
      if (j < each) scratch[warp * width + lane * each + j] = mine[j];
    }
  }
  __syncthreads();
  for (int t = threadIdx.x; t < width; t += kThreads) {
    E total = scratch[t];
    for (int other = 1; other < kWarps; ++other) total.add(scratch[other * width + t]);
    totals[t] = total;
  }
  __syncthreads();
}

// Partial results: [channels][programs] where a group is one channel, else [programs][channels]; neighbours in memory
// are what neighbouring threads read again.
template <int V>
CVK_INLINE int64_t partial_at(const Walk& w, const Program& p, int t) {
  return w.last ? p.k * w.columns + first_channel<V>(w, p.group) + t : static_cast<int64_t>(p.group) * w.programs + p.k;
}

template <int V, class E>
CVK_DEVICE void leave(const Walk& w, const Program& p, const E* totals, E* partial) {
  for (int t = threadIdx.x; t < channels_of<V>(w); t += kThreads) {
    if (!w.last || first_channel<V>(w, p.group) + t < w.columns) partial[partial_at<V>(w, p, t)] = totals[t];
  }
}

// The totals of a group over the programs that left them.
template <int V, class E>
CVK_DEVICE void add_up(const Walk& w, uint32_t group, const E* partial, uint32_t programs, E* scratch, E* totals) {
  E mine[V];
#pragma unroll
  for (int j = 0; j < V; ++j) mine[j] = E::zero();
  if (w.last) {
    const int64_t c = first_channel<V>(w, group) + (threadIdx.x & (kept_lanes(w) - 1)) * V;
    for (uint32_t k = threadIdx.x >> w.shift; k < programs && c < w.columns; k += kThreads >> w.shift) {
#pragma unroll
      for (int j = 0; j < V; ++j) mine[j].add(partial[k * w.columns + c + j]);
    }
  } else {
    for (uint32_t k = threadIdx.x; k < programs; k += kThreads) {
      mine[0].add(partial[static_cast<int64_t>(group) * programs + k]);
    }
  }
  add_block<V>(w, mine, scratch, totals);
}

// Row k of `partial` (null: nothing is kept): what add(place, sums) gives of the tiles k, k + programs, ... to sums
// [V], each element's own. For all threads of a block together.
template <class F, class E, class Add>
CVK_DEVICE void sum_tiles(const Walk& w, E* partial, const Add& add) {
  constexpr int V = F::count;
  CVK_SHARED(E, scratch, kThreads * V);
  CVK_SHARED(E, totals, 32 * V);
  const Program p = program(w, blockIdx.x);
  E sums[V];
#pragma unroll
  for (int j = 0; j < V; ++j) sums[j] = E::zero();
  for (uint32_t tile = p.k; tile < w.tiles; tile += w.programs) {
    const Place at = place<V>(w, p.group, tile, threadIdx.x);
    if (at.inside) add(at, sums);
  }
  if (!partial) return;
  add_block<V>(w, sums, scratch, totals);
  leave<V>(w, p, totals, partial);
}

// What thread t's V columns have of a table of the group's channels.
template <int V, class A>
CVK_DEVICE void spread(const Walk& w, const A* table, A (&x)[V]) {
  const int first = w.last ? (threadIdx.x & (kept_lanes(w) - 1)) * V : 0;
#pragma unroll
  for (int j = 0; j < V; ++j) x[j] = table[w.last ? first + j : 0];
}

// --- host ------------------------------------------------------------------------------------------------------------

// Room for the partial results of a walk, `each` numbers of the wide type for one.
inline Tensor room_for(const Walk& w, const Tensor& like, int64_t each = 1) {
  const int64_t channels = w.last ? w.columns : w.groups;
  return empty_of(like, {channels * w.programs * each}, wide_of(like));
}

// f(Form{}) for features of dtype T: by packs where `packs` says so, else one by one. Each form costs compile time for
// every architecture, so there is none that nothing gains by: a warp's 8-byte loads fill their sectors as they are, and
// no complex dtype has parts of half precision.
template <class T, class F>
void with_form(const Planar& v, bool packs, F f) {
  if constexpr (sizeof(T) == 4) {
    if (packs && v.layout == Layout::interleaved) return f(Form<T, kPack<T>, true>{});
  }
  if constexpr (sizeof(T) < 8) {
    if (packs && v.layout != Layout::interleaved) return f(Form<T, kPack<T>, false>{});
  }
  f(Form<T, 1, false>{});
}

// The same for features that are never interleaved.
template <class T, class F>
void with_plain_form(bool packs, F f) {
  if constexpr (sizeof(T) < 8) {
    if (packs) return f(Form<T, kPack<T>, false>{});
  }
  f(Form<T, 1, false>{});
}

// Whether a walk by these elements can go by packs of T.
template <class T>
bool packs(const Planar& v, By by, std::initializer_list<const void*> pointers, int parts = 2) {
  return even(walk(v, by, kPack<T>, parts), kPack<T>) && aligned(pointers);
}

}  // namespace cvk
