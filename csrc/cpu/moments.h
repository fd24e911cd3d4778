// A real feature [N, C, *] for the walks of channels.h, and its mean and variance per channel.
//
// The variance is taken about the mean of the piece it belongs to, while that piece is in the cache, and the pieces are
// joined by Chan's formula: a sum of squares less the square of the sum would lose a float32 variance beside a mean
// some thousand times larger.
#pragma once

#include "../common/norm.h"
#include "channels.h"

namespace cvk {

// A Planar of one part.
inline Planar real_view(const Tensor& x, const char* name) {
  STD_TORCH_CHECK(x.dim() >= 2, name, " must be [N, C, *]");
  Planar v{};
  v.n = x.size(0);
  v.c = x.size(1);
  v.s = 1;
  const int64_t dims = x.dim();
  for (int64_t d = 2; d < dims; ++d) v.s *= x.size(d);
  v.sample = v.c * v.s;
  if (x.numel() == 0 || dense_in_order(x, {{}, 0, dims})) {
    v.layout = Layout::contiguous;
    v.channel = v.s, v.position = 1;
  } else {
    STD_TORCH_CHECK(dense_in_order(x, {{0}, 2, dims, {1}}), name, " must be dense: contiguous or channels-last");
    v.layout = Layout::channels_last;
    v.channel = 1, v.position = v.c;
  }
  return v;
}

inline void check_real(const Tensor& x, const Planar& v, const Tensor& like, const char* name) {
  const Planar w = real_view(x, name);
  STD_TORCH_CHECK(w.n == v.n && w.c == v.c && w.s == v.s && (w.layout == v.layout || x.numel() == 0), name,
                  " must have the shape and the layout of the feature it is read with");
  STD_TORCH_CHECK(x.scalar_type() == like.scalar_type(), name, " must have the dtype of the feature it is read with");
}

struct ChannelMoments {
  std::vector<double> mean, square;  // per channel: the mean, the sum of squared distances from it
  double count = 0;

  explicit ChannelMoments(int64_t channels) : mean(static_cast<size_t>(channels), 0.0), square(mean.size(), 0.0) {}

  void join(const double* other_mean, const double* other_square, double other_count) {
    for (size_t c = 0; c < mean.size(); ++c) {
      Moments<double> both{count, mean[c], square[c]};
      both.add({other_count, other_mean[c], other_square[c]});
      mean[c] = both.mean, square[c] = both.squares;
    }
    count += other_count;
  }
};

// Adds x - shift, or its square, of each line (of each channel) to sums.
template <bool SQUARE, class T, class W>
CVK_CLONES void moment_lines(W, const T* x, Lines lines, const wide_t<T>* shift, sum_t<T, W>* sums) {
  using A = wide_t<T>;
  for (int64_t line = 0; line < lines.count; ++line, x += lines.stride) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < lines.length; ++i) {
      const A value = x[i], d = value - shift[i * W::channel], term = SQUARE ? d * d : d;
      if constexpr (W::channel) {
        sums[i] += term;
      } else {
        sum += term;
      }
    }
    if constexpr (!W::channel) *sums += sum;
    shift += lines.advance, sums += lines.advance;
  }
}

// The same of short planes, for add_planes.
template <bool SQUARE, class T>
struct Distances {
  const T* x;
  const wide_t<T>* shift;

  template <int L>
  CVK_INLINE void of(int64_t at, int64_t c, vector<wide_t<T>, L>& term) const {
    load_vector<L>(x + at, term);
    term -= shift[c];
    if constexpr (SQUARE) term *= term;
  }
  CVK_INLINE wide_t<T> one(int64_t at, int64_t c) const {
    const wide_t<T> d = static_cast<wide_t<T>>(x[at]) - shift[c];
    return SQUARE ? d * d : d;
  }
};

// One piece: its sums by sum(flag, shift, into) with flag true for squares, put down as mean and squares.
template <class A, class Sum>
void piece_moments(int64_t channels, double count, double* mean, double* square, const Sum& sum) {
  std::vector<A> shift(static_cast<size_t>(channels), A(0));
  sum(std::false_type{}, shift.data(), mean);
  for (int64_t c = 0; c < channels; ++c) {
    mean[c] /= count;
    shift[c] = static_cast<A>(mean[c]);
  }
  sum(std::true_type{}, shift.data(), square);
}

// The moments of the channels from those of a widened feature's.
inline ChannelMoments narrowed(const ChannelMoments& wide, int64_t channels) {
  ChannelMoments all(channels);
  if (wide.count == 0) return all;
  for (size_t at = 0; at < wide.mean.size(); at += channels) all.join(&wide.mean[at], &wide.square[at], wide.count);
  return all;
}

template <class T>
ChannelMoments moments_of(const Planar& v, const T* x) {
  using A = wide_t<T>;
  ChannelMoments all(v.c);
  if (v.values() == 0) return all;
  const bool last = v.layout == Layout::channels_last;
  const int64_t unit = last ? ROW_BLOCK : SAMPLE_BLOCK, items = last ? v.n * v.s : v.n;  // rows or samples
  const int64_t pieces = (items + unit - 1) / unit, each = last ? v.c : v.c * v.s;
  std::vector<double> mean(static_cast<size_t>(pieces * v.c), 0.0), square(mean.size(), 0.0);
  const auto count = [&](int64_t b) { return std::min(unit, items - b * unit); };
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, unit * each));
  torch::stable::parallel_for(0, pieces, grain, [&](int64_t begin, int64_t end) {
    std::vector<A> sums(static_cast<size_t>(last ? v.c : v.c * LANES<A>));
    for (int64_t b = begin; b < end; ++b) {
      const int64_t here = count(b);
      const T* from = x + b * unit * each;
      const auto sum = [&](auto squares, const A* shift, double* into) {
        constexpr bool SQUARE = decltype(squares)::value;
        std::fill(sums.begin(), sums.end(), A(0));
        if (last) {
          moment_lines<SQUARE>(Walk<1, 1>{}, from, Lines{0, here, v.position, v.c, 0}, shift, sums.data());
          for (int64_t c = 0; c < v.c; ++c) into[c] = sums[c];
        } else {
          add_planes(Distances<SQUARE, T>{from, shift}, here * v.c, v.c, v.s, sums.data());
          fold_lanes(sums.data(), v.c, into);
        }
      };
      piece_moments<A>(v.c, static_cast<double>(last ? here : here * v.s), &mean[b * v.c], &square[b * v.c], sum);
    }
  });
  for (int64_t b = 0; b < pieces; ++b) {
    all.join(&mean[b * v.c], &square[b * v.c], static_cast<double>(last ? count(b) : count(b) * v.s));
  }
  return all;
}

// Of one channel's planes, all at once: they lie in the second-level cache.
template <class T, class W>
void channel_moments(W walk, const T* x, Lines lines, double* mean, double* square) {
  *mean = *square = 0;
  const double count = static_cast<double>(lines.count * lines.length);
  piece_moments<wide_t<T>>(1, count, mean, square, [&](auto squares, const wide_t<T>* shift, double* into) {
    moment_lines<decltype(squares)::value>(walk, x + lines.first, lines, shift, into);
  });
}

}  // namespace cvk
