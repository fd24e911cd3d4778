// A walk by channel, and sums per channel: what the normalising operations (norm.h) are made of.
//
// Contiguous and interleaved features with long planes are walked channel by channel, all samples of one: what a
// reduction has read is still in the second-level cache when it is read again. Short planes are walked in the order
// they lie in: a jump to another page for each costs more than a second read of what the third-level cache holds (16x16
// planes, N=64, C=32, float32, one thread: 0.19 ms by channel). In channels-last the channel is the fastest axis, so
// rows are walked, and each row's loop runs over a vector of per-channel numbers.
#pragma once

#include <cmath>
#include <type_traits>

#include "lane_sums.h"
#include "simd.h"

namespace cvk {

// How a line's loop runs: STEP between elements, CHANNEL 1 where element i is channel i (per-channel numbers are
// vectors).
template <int64_t STEP, int64_t CHANNEL>
struct Walk {
  static constexpr int64_t step = STEP, channel = CHANNEL;
};

template <class F>
void with_walk(const Planar& v, F f) {
  if (v.layout == Layout::contiguous) {
    f(Walk<1, 0>{});
  } else if (v.layout == Layout::interleaved) {
    f(Walk<2, 0>{});
  } else {
    f(Walk<1, 1>{});
  }
}

// Sums of lines are kept in double, sums of rows of channels in what is computed in: there are as many as channels.
template <class T, class W>
using sum_t = std::conditional_t<W::channel == 1, wide_t<T>, double>;

// What a kernel does in one call: `count` lines of `length` elements, `stride` apart. The per-channel numbers of a line
// stand `advance` after those of the line before: 1 for neighbouring planes, 0 for one channel's planes or rows of
// channels.
struct Lines {
  int64_t first, count, stride, length, advance;
};

// Adds re^2 + im^2 of each line (of each channel) to sums.
template <class T, class W>
CVK_CLONES void power_lines(W, const T* re, const T* im, Lines lines, sum_t<T, W>* sums) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line, re += lines.stride, im += lines.stride, sums += lines.advance) {
    if constexpr (W::channel) {
      CVK_SIMD
      for (int64_t i = 0; i < lines.length; ++i) {
        const A r = re[i], m = im[i];
        sums[i] += r * r + m * m;
      }
    } else {
      // four sums that do not wait for each other: one alone is bound by the latency of its additions
      const int64_t half = lines.length / 2, other = half * W::step;
      A a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
      for (int64_t i = 0; i < half; ++i) {
        const int64_t k = i * W::step;
        const A r = re[k], m = im[k], p = re[k + other], q = im[k + other];
        a += r * r;
        b += m * m;
        c += p * p;
        d += q * q;
      }
      if (lines.length % 2) {
        const int64_t k = (lines.length - 1) * W::step;
        const A r = re[k], m = im[k];
        a += r * r;
        b += m * m;
      }
      *sums += static_cast<double>(a + b) + static_cast<double>(c + d);
    }
  }
}

constexpr int64_t LONG_PLANE = 8192;  // bytes of one part of a plane from which a walk by channel pays
constexpr int64_t ROW_BLOCK = 64;     // rows of a channels-last task

template <class T>
bool by_channel(const Planar& v) {
  return v.s * static_cast<int64_t>(sizeof(T)) >= LONG_PLANE;
}

// Channel by channel: f(channel, lines), the lines its planes in all samples.
template <class F>
void for_channels(const Planar& v, const F& f) {
  torch::stable::parallel_for(0, v.c, std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, v.n * v.s)),
                              [&](int64_t begin, int64_t end) {
                                for (int64_t c = begin; c < end; ++c) f(c, Lines{c * v.channel, v.n, v.sample, v.s, 0});
                              });
}

// Sample by sample: f(first plane, its channel, lines), the lines neighbouring planes of one sample. From the last
// sample to the first where `back`: a second pass then begins with what the first has left in the second-level cache.
template <class F>
void for_planes(const Planar& v, bool back, const F& f) {
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, v.s));
  torch::stable::parallel_for(0, v.n * v.c, grain, [&](int64_t begin, int64_t end) {
    const auto piece = [&](int64_t first, int64_t last) {  // planes of one sample
      const int64_t n = first / v.c, c = first % v.c;
      f(first, c, Lines{n * v.sample + c * v.channel, last - first, v.channel, v.s, 1});
    };
    if (back) {
      for (int64_t last = end, first; last > begin; last = first) {
        first = std::max(begin, (last - 1) / v.c * v.c);
        piece(first, last);
      }
    } else {
      for (int64_t first = begin, last; first < end; first = last) {
        last = std::min(end, (first / v.c + 1) * v.c);
        piece(first, last);
      }
    }
  });
}

// The pieces whose rows of channels lie at one distance: the whole feature, or each sample's first part (the other part
// stands v.part behind it).
inline int64_t row_pieces(const Planar& v) { return v.layout == Layout::planes_last ? v.n : 1; }

inline int64_t row_blocks(const Planar& v) {
  const int64_t pieces = row_pieces(v), rows = v.n * v.s / std::max<int64_t>(1, pieces);
  return pieces * ((rows + ROW_BLOCK - 1) / ROW_BLOCK);
}

// Channels-last: f(block, lines), the lines the rows of channels of some positions.
template <class F>
void for_row_blocks(const Planar& v, const F& f) {
  const int64_t pieces = row_pieces(v), blocks = row_blocks(v);
  if (blocks == 0) return;
  const int64_t rows = v.n * v.s / pieces, each = blocks / pieces;
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, ROW_BLOCK * v.c));
  torch::stable::parallel_for(0, blocks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b % each * ROW_BLOCK;
      const int64_t at = b / each * v.sample + first * v.position;
      f(b, Lines{at, std::min(ROW_BLOCK, rows - first), v.position, v.c, 0});
    }
  });
}

constexpr int64_t WIDE_ROW = 64;  // elements from which a row's loop is worth its start

// The same memory with rows of several positions, where a channels-last row is short: of a multiple of the channels,
// its channel i is channel i % v.c. Two threads, float32, [128, 16, 32, 32], forward: 1.36 ms by rows of 16, 0.64
// of 64.
inline Planar widened(const Planar& v) {
  // of a planar channels-last feature the other part lies between two rows
  if (v.layout != Layout::planes_last && !(v.layout == Layout::channels_last && v.part == 0)) return v;
  int64_t together = 1;
  while (2 * together * v.c <= WIDE_ROW && v.s % (2 * together) == 0) together *= 2;
  Planar wide = v;
  wide.s = v.s / together;
  wide.c = wide.position = together * v.c;
  return wide;
}

// Per-channel numbers for each channel of a widened feature.
template <class A>
std::vector<A> repeated(const A* x, const Planar& v, const Planar& wide) {
  std::vector<A> all(static_cast<size_t>(wide.c));
  for (int64_t c = 0; c < wide.c; ++c) all[c] = x[c % v.c];
  return all;
}

// A scale or an offset per channel: in the dtype of the feature, or float32 beside half precision.
inline void check_per_channel(const std::optional<Tensor>& x, const Tensor& z, int64_t channels, const char* name) {
  if (!x) return;
  check_vector(*x, channels, name);
  STD_TORCH_CHECK(x->scalar_type() == z.scalar_type() || x->scalar_type() == wide_dtype(z), name,
                  " must have the dtype of the feature, or float32 beside half precision");
}

inline void check_statistic(const std::optional<Tensor>& x, const Tensor& z, int64_t channels, const char* name) {
  if (!x) return;
  check_vector(*x, channels, name);
  STD_TORCH_CHECK(x->scalar_type() == wide_dtype(z), name, " must be float32, or float64 beside float64");
}

// What is given per channel, as float or double; nothing where it is not given.
template <class A>
std::vector<A> channel_values(const std::optional<Tensor>& x) {
  std::vector<A> values;
  if (!x) return values;
  with_dtype(*x, "a per-channel vector", [&](auto zero) {
    const auto* from = data<decltype(zero)>(*x);
    for (int64_t c = 0; c < x->numel(); ++c) values.push_back(static_cast<A>(from[c]));
  });
  return values;
}

template <class A>
void store_channels(const std::vector<A>& values, const Tensor& to) {
  if (to.numel() == 0) return;
  with_dtype(to, "a per-channel vector", [&](auto zero) {
    auto* out = data<decltype(zero)>(to);
    for (size_t c = 0; c < values.size(); ++c) out[c] = values[c];
  });
}

// The sums per channel of reduce(walk, lines, sums, per-channel offset), over the whole feature; of a widened one those
// of its `channels`.
template <class T, class W, class Reduce>
std::vector<double> channel_sums(W walk, const Planar& v, int64_t channels, const Reduce& reduce) {
  if constexpr (W::channel) {
    std::vector<wide_t<T>> partial(static_cast<size_t>(row_blocks(v) * v.c), wide_t<T>(0));
    for_row_blocks(v, [&](int64_t b, Lines lines) { reduce(walk, lines, partial.data() + b * v.c, 0); });
    return fold(partial, channels);
  } else {
    std::vector<double> partial(static_cast<size_t>(v.n * v.c), 0.0);
    for_planes(v, false, [&](int64_t p, int64_t c, Lines lines) { reduce(walk, lines, partial.data() + p, c); });
    return fold(partial, channels);
  }
}

// write(walk, lines, per-channel offset) over the whole feature
template <class W, class Write>
void write_all(W walk, const Planar& v, const Write& write) {
  if constexpr (W::channel) {
    for_row_blocks(v, [&](int64_t, Lines lines) { write(walk, lines, 0); });
  } else {
    for_planes(v, true, [&](int64_t, int64_t c, Lines lines) { write(walk, lines, c); });
  }
}

// The sums of |z|^2 per channel, over the whole feature.
template <class T>
std::vector<double> power_sums(const Planar& v, const T* z) {
  if (v.layout == Layout::contiguous && !by_channel<T>(v)) return product_sums<T>(v, z, z, nullptr);
  std::vector<double> sums;
  with_walk(v, [&](auto walk) {
    sums = channel_sums<T>(walk, widened(v), v.c, [&](auto w, Lines lines, auto* into, int64_t) {
      power_lines(w, z + lines.first, z + lines.first + v.part, lines, into);
    });
  });
  return sums;
}

}  // namespace cvk
