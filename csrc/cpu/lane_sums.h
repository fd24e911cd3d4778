// Sums per channel over the short planes of a contiguous feature, lane by lane: what a sum over each plane alone would
// cost is mostly the folding of its lanes (N=64, C=32, 16x16, one thread: 0.083 ms for the powers so, 0.05 ms lane by
// lane).
#pragma once

#include <cstdint>
#include <vector>

#include "simd.h"
#include "vectors.h"

namespace cvk {

template <class A>
constexpr int64_t LANES = 64 / sizeof(A);  // partial sums of a channel: as many as the widest vector has

constexpr int64_t SAMPLE_BLOCK = 4;  // samples of a task

// Terms: of(at, channel, vector) and one(at, channel) give what is added for the elements at `at`.
//
// x factor y, the factor 1 where there is none.
template <class T>
struct Products {
  const T *x, *y;
  const wide_t<T>* factor;

  template <int L>
  CVK_INLINE void of(int64_t at, int64_t c, vector<wide_t<T>, L>& term) const {
    vector<wide_t<T>, L> other;
    load_vector<L>(x + at, term), load_vector<L>(y + at, other);
    term = (term * scale(c)) * other;
  }
  CVK_INLINE wide_t<T> one(int64_t at, int64_t c) const {
    return (static_cast<wide_t<T>>(x[at]) * scale(c)) * static_cast<wide_t<T>>(y[at]);
  }
  CVK_INLINE wide_t<T> scale(int64_t c) const { return factor ? factor[c] : wide_t<T>(1); }
};

// Adds the terms of neighbouring planes, of channel 0 and following, to lanes [channels][LANES]. F floats a vector.
template <int F, class A, class Terms>
CVK_INLINE void add_planes_of(const Terms& terms, int64_t planes, int64_t channels, int64_t length, A* lanes) {
  constexpr int L = F * 4 / sizeof(A) > 0 ? F * 4 / sizeof(A) : 1, ROUND = LANES<A> / L;
  for (int64_t p = 0, c = 0, at = 0; p < planes; ++p, c = c + 1 == channels ? 0 : c + 1) {
    const int64_t end = at + length;
    vector<A, L> sums[2 * ROUND] = {}, term;  // two rounds that do not wait for each other
    for (; at + 2 * LANES<A> <= end; at += 2 * LANES<A>) {
      CVK_UNROLL
      for (int j = 0; j < 2 * ROUND; ++j) {
        terms.template of<L>(at + j * L, c, term);
        sums[j] += term;
      }
    }
    if (at + LANES<A> <= end) {
      CVK_UNROLL
      for (int j = 0; j < ROUND; ++j) {
        terms.template of<L>(at + j * L, c, term);
        sums[j] += term;
      }
      at += LANES<A>;
    }
    A rest = 0;
    for (; at < end; ++at) rest += terms.one(at, c);
    A* to = lanes + c * LANES<A>;
    CVK_UNROLL
    for (int j = 0; j < ROUND; ++j) {
      load_vector<L>(to + j * L, term);
      term += sums[j] + sums[j + ROUND];
      store_vector<L>(to + j * L, term);
    }
    *to += rest;
  }
}

#if defined(CVK_VECTORS)
template <class A, class Terms>
void add_planes_4(const Terms& terms, int64_t planes, int64_t channels, int64_t length, A* lanes) {
  add_planes_of<4>(terms, planes, channels, length, lanes);
}
#endif
#if defined(CVK_TARGETS)
template <class A, class Terms>
CVK_TARGET_8 void add_planes_8(const Terms& terms, int64_t planes, int64_t channels, int64_t length, A* lanes) {
  add_planes_of<8>(terms, planes, channels, length, lanes);
}
template <class A, class Terms>
CVK_TARGET_16 void add_planes_16(const Terms& terms, int64_t planes, int64_t channels, int64_t length, A* lanes) {
  add_planes_of<16>(terms, planes, channels, length, lanes);
}
#endif

template <class A, class Terms>
void add_planes(const Terms& terms, int64_t planes, int64_t channels, int64_t length, A* lanes) {
#if defined(CVK_TARGETS)
  if (lanes_here() == 16) return add_planes_16(terms, planes, channels, length, lanes);
  if (lanes_here() == 8) return add_planes_8(terms, planes, channels, length, lanes);
#endif
#if defined(CVK_VECTORS)
  add_planes_4(terms, planes, channels, length, lanes);
#else
  add_planes_of<1>(terms, planes, channels, length, lanes);
#endif
}

template <class A>
CVK_CLONES void fold_lanes(const A* lanes, int64_t channels, double* sums) {
  for (int64_t c = 0; c < channels; ++c, lanes += LANES<A>) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t l = 0; l < LANES<A>; ++l) sum += lanes[l];
    sums[c] += static_cast<double>(sum);
  }
}

// [*][C] partial sums of a reduction, added up in their order whatever the threads.
template <class T>
std::vector<double> fold(const std::vector<T>& partial, int64_t channels) {
  std::vector<double> sums(static_cast<size_t>(channels), 0.0);
  for (size_t k = 0; k < partial.size(); ++k) sums[k % channels] += static_cast<double>(partial[k]);
  return sums;
}

// The sums per channel that add(first sample, samples, lanes [C][LANES]) makes of blocks of samples.
template <class T, class Add>
std::vector<double> lane_sums(const Planar& v, const Add& add) {
  using A = wide_t<T>;
  const int64_t blocks = (v.n + SAMPLE_BLOCK - 1) / SAMPLE_BLOCK;
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, SAMPLE_BLOCK * v.c * v.s));
  std::vector<double> partial(static_cast<size_t>(blocks * v.c), 0.0);
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    std::vector<A> lanes(static_cast<size_t>(v.c * LANES<A>));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * SAMPLE_BLOCK;
      std::fill(lanes.begin(), lanes.end(), A(0));
      add(first, std::min(SAMPLE_BLOCK, v.n - first), lanes.data());
      fold_lanes(lanes.data(), v.c, partial.data() + b * v.c);
    }
  });
  return fold(partial, v.c);
}

// The sum of Re(conj(x) y) factor per channel of two contiguous features: the parts are multiplied alike, so memory is
// read in one stream.
template <class T>
std::vector<double> product_sums(const Planar& v, const T* x, const T* y, const wide_t<T>* factor) {
  return lane_sums<T>(v, [&](int64_t first, int64_t samples, wide_t<T>* lanes) {
    const Products<T> terms{x + first * v.sample, y + first * v.sample, factor};
    add_planes(terms, 2 * v.c * samples, v.c, v.s, lanes);
  });
}

}  // namespace cvk
