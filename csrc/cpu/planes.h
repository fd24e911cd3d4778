// Features to rows of channels and back, position by position: what a convolution on a CPU reads and writes; and the
// ReLU in the pass that writes.
#pragma once

#include <type_traits>

#include "../common/modulus.h"
#include "lanes.h"
#include "simd.h"
#include "stored.h"

namespace cvk {
namespace {

constexpr int64_t TILE = 16;  // positions of one round: a line of the cache of float32, used up before it is lost

// TURNS: one plane [2N, C, H, W], the parts of a sample one behind the other.
enum Form : int64_t { PARTS = 0, SUM = 1, DIFFERENCE = 2, BLOCK = 3, TURNS = 4 };

// Whether a form moves the parts and computes nothing.
constexpr bool moves(int64_t form) { return form == PARTS || form == BLOCK || form == TURNS; }

// A row of C channels of each plane at one position; the same row of the next position is `step` further. BLOCK: the
// two parts are neighbours in one row.
template <class T>
struct Rows {
  T* first[3];
  int64_t step;
  CVK_INLINE Rows from(int64_t position, int64_t channel) const {
    const int64_t at = position * step + channel;
    return {{first[0] + at, first[1] + at, first[2] + at}, step};
  }
};

// The planes of one row of channels.
template <class T, int64_t FORM>
CVK_INLINE void split_row(const T* re, const T* im, const Rows<T>& to, int64_t count) {
  using W = wide_t<T>;
  T *p = to.first[0], *q = to.first[1], *r = to.first[2];
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (moves(FORM)) {
      p[i] = re[i], q[i] = im[i];
    } else {
      const W x = static_cast<W>(re[i]), y = static_cast<W>(im[i]);
      p[i] = FORM == SUM ? re[i] : stored<T>(x - y);
      q[i] = FORM == SUM ? im[i] : stored<T>(-x - y);
      r[i] = FORM == SUM ? stored<T>(x + y) : im[i];
    }
  }
}

template <class T, int64_t FORM>
CVK_INLINE void join_row(const Rows<const T>& in, T* re, T* im, int64_t count) {
  using W = wide_t<T>;
  const T *a = in.first[0], *b = in.first[1], *c = in.first[2];
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (moves(FORM)) {
      re[i] = a[i], im[i] = b[i];
    } else {
      const W p = static_cast<W>(a[i]), q = static_cast<W>(b[i]), r = static_cast<W>(c[i]);
      re[i] = stored<T>(FORM == SUM ? p + r : p - q);
      im[i] = stored<T>(FORM == SUM ? q + r : r - p - q);
    }
  }
}

// Whether this form of this type is moved in vectors of LanesOf: sums of half precision go through float32.
template <class T, int64_t FORM>
constexpr bool in_lanes = LanesOf<sizeof(T)>::count > 1 && (sizeof(T) > 2 || moves(FORM));

// A square of channels and positions, from rows of positions to rows of channels.
template <class T, int64_t FORM>
CVK_INLINE void split_square(const T* re, const T* im, const Rows<T>& to, int64_t positions) {
  using L = LanesOf<sizeof(T)>;
  typename L::vector x[L::count], y[L::count];
  for (int k = 0; k < L::count; ++k) x[k] = load<L>(re + k * positions), y[k] = load<L>(im + k * positions);
  turn_over<L>(x);
  turn_over<L>(y);
  for (int k = 0; k < L::count; ++k) {
    const int64_t at = k * to.step;
    if constexpr (moves(FORM)) {
      store<L>(to.first[0] + at, x[k]);
      store<L>(to.first[1] + at, y[k]);
    } else {
      store<L>(to.first[0] + at, FORM == SUM ? x[k] : x[k] - y[k]);
      store<L>(to.first[1] + at, FORM == SUM ? y[k] : -x[k] - y[k]);
      store<L>(to.first[2] + at, FORM == SUM ? x[k] + y[k] : y[k]);
    }
  }
}

template <class T, int64_t FORM>
CVK_INLINE void join_square(const Rows<const T>& from, T* re, T* im, int64_t positions) {
  using L = LanesOf<sizeof(T)>;
  typename L::vector x[L::count], y[L::count];
  for (int k = 0; k < L::count; ++k) {
    const int64_t at = k * from.step;
    const auto p = load<L>(from.first[0] + at), q = load<L>(from.first[1] + at);
    if constexpr (moves(FORM)) {
      x[k] = p, y[k] = q;
    } else {
      const auto r = load<L>(from.first[2] + at);
      x[k] = FORM == SUM ? p + r : p - q;
      y[k] = FORM == SUM ? q + r : r - p - q;
    }
  }
  turn_over<L>(x);
  turn_over<L>(y);
  for (int k = 0; k < L::count; ++k) store<L>(re + k * positions, x[k]), store<L>(im + k * positions, y[k]);
}

// f(channel, position, 0) for squares that fit into positions [begin, end), and f(channel, position, 1) for what is
// left, an element at a time. A few channels through a whole line of positions: rows of a power of two of bytes share
// their place in the cache, and with more of them open a line was gone before it was used up.
template <int64_t SIDE, class F>
CVK_INLINE void for_squares(int64_t channels, int64_t begin, int64_t end, const F& f) {
  const int64_t whole = SIDE > 1 ? channels / SIDE * SIDE : 0;
  for (int64_t s = begin; s < end; s += TILE) {
    const int64_t stop = std::min(end, s + TILE), full = SIDE > 1 ? s + (stop - s) / SIDE * SIDE : s;
    for (int64_t c = 0; c < whole; c += SIDE) {
      for (int64_t j = s; j < full; j += SIDE) f(c, j, std::false_type{});
      for (int64_t j = full; j < stop; ++j) {
        for (int64_t i = c; i < c + SIDE; ++i) f(i, j, std::true_type{});
      }
    }
    for (int64_t c = whole; c < channels; ++c) {
      for (int64_t j = s; j < stop; ++j) f(c, j, std::true_type{});
    }
  }
}

// Positions [begin, end) of one sample; z contiguous: channels are rows of positions.
template <class T, int64_t FORM>
CVK_CLONES void split_span(const T* re, const T* im, Rows<T> out, int64_t channels, int64_t positions, int64_t begin,
                           int64_t end) {
  constexpr int64_t SIDE = in_lanes<T, FORM> ? LanesOf<sizeof(T)>::count : 1;
  for_squares<SIDE>(channels, begin, end, [&](int64_t c, int64_t s, auto single) CVK_INLINE_LAMBDA {
    const int64_t at = c * positions + s;
    if constexpr (single()) {
      split_row<T, FORM>(re + at, im + at, out.from(s, c), 1);
    } else if constexpr (SIDE > 1) {
      split_square<T, FORM>(re + at, im + at, out.from(s, c), positions);
    }
  });
}

template <class T, int64_t FORM>
CVK_CLONES void join_span(Rows<const T> in, T* re, T* im, int64_t channels, int64_t positions, int64_t begin,
                          int64_t end) {
  constexpr int64_t SIDE = in_lanes<T, FORM> ? LanesOf<sizeof(T)>::count : 1;
  for_squares<SIDE>(channels, begin, end, [&](int64_t c, int64_t s, auto single) CVK_INLINE_LAMBDA {
    const int64_t at = c * positions + s;
    if constexpr (single()) {
      join_row<T, FORM>(in.from(s, c), re + at, im + at, 1);
    } else if constexpr (SIDE > 1) {
      join_square<T, FORM>(in.from(s, c), re + at, im + at, positions);
    }
  });
}

// z channels-last: rows of channels on both sides.
template <class T, int64_t FORM>
CVK_CLONES void split_rows(const T* z, Rows<T> out, int64_t channels, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; ++s) {
    split_row<T, FORM>(z + s * 2 * channels, z + s * 2 * channels + channels, out.from(s, 0), channels);
  }
}

template <class T, int64_t FORM>
CVK_CLONES void join_rows(Rows<const T> in, T* z, int64_t channels, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; ++s) {
    join_row<T, FORM>(in.from(s, 0), z + s * 2 * channels, z + s * 2 * channels + channels, channels);
  }
}

// y = magnitude_relu(y scale + residual, c) in place: `count` elements next to each other, scale one for each (EACH) or
// one for all.
template <class T, bool EACH, bool RESIDUAL>
CVK_INLINE void relu_run(T* re, T* im, const T* res_re, const T* res_im, const wide_t<T>* scale, int64_t count,
                         wide_t<T> c) {
  using W = wide_t<T>;
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const W s = scale[EACH ? i : 0];
    W x = static_cast<W>(re[i]) * s, y = static_cast<W>(im[i]) * s;
    if constexpr (RESIDUAL) x += static_cast<W>(res_re[i]), y += static_cast<W>(res_im[i]);
    const W factor = relu_factor(x, y, c);
    re[i] = stored<T>(x * factor);
    im[i] = stored<T>(y * factor);
  }
}

// Positions [begin, end) of one sample: runs of positions in contiguous features, of channels in channels-last ones.
template <class T, bool LAST, bool RESIDUAL>
CVK_CLONES void relu_span(T* y, const T* residual, const wide_t<T>* scale, int64_t channels, int64_t positions,
                          int64_t begin, int64_t end, wide_t<T> c) {
  if constexpr (LAST) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t re = s * 2 * channels, im = re + channels;
      relu_run<T, true, RESIDUAL>(y + re, y + im, residual + re, residual + im, scale, channels, c);
    }
  } else {
    for (int64_t k = 0; k < channels; ++k) {
      const int64_t re = k * positions + begin, im = re + channels * positions;
      relu_run<T, false, RESIDUAL>(y + re, y + im, residual + re, residual + im, scale + k, end - begin, c);
    }
  }
}

}  // namespace
}  // namespace cvk
