// The element of largest modulus of 2x2 windows with stride 2, in registers: see halves.h.
#pragma once

#include <cstdint>
#include <limits>
#include <type_traits>

#include "../common/window.h"
#include "bfloat16.h"
#include "halves.h"

namespace cvk {

// One plane, or several neighbouring ones with no rows between their windows.
template <class T>
struct Halves {
  const T *re, *im;  // forward: the feature; backward: the gradient of the outputs
  T *to_re, *to_im;
  uint8_t* index;
  int64_t row;            // from one row of the large map to the next
  int64_t width, height;  // outputs; those of a row are next to those of the row before
};

#if defined(CVK_VECTORS)

template <class A, int L>
CVK_INLINE void choose(const whole<A, L>& take, const whole<A, L>& x, whole<A, L>& best) {
  best = (take & x) | (~take & best);
}

// `power` and `wins` in integers: the bits of a power order as it does itself, all of NaN are made one above infinity,
// and equals do not win. Clearing the sign that no square has keeps a product and the sum apart, see `power`.
template <class A, int L>
CVK_INLINE void order_of(const vector<A, L>& re, const vector<A, L>& im, whole<A, L>& order) {
  using Bits = std::conditional_t<sizeof(A) == 4, int32_t, int64_t>;
  constexpr Bits infinity = sizeof(A) == 4 ? 0x7F800000 : 0x7FF0000000000000, sign = std::numeric_limits<Bits>::min();
  const auto of_re = (whole<A, L>)(re * re) & ~sign, of_im = (whole<A, L>)(im * im) & ~sign;
  order = (whole<A, L>)((vector<A, L>)of_re + (vector<A, L>)of_im);
  whole<A, L> nan;
  negative<A, L>(infinity - order, nan);
  choose<A, L>(nan, whole<A, L>{} + (infinity + 1), order);
}

template <class A, int L>
struct Windows {
  whole<A, L> order, re, im, place;
};

template <class A, int L>
CVK_INLINE void challenge(Windows<A, L>& best, const vector<A, L>& re, const vector<A, L>& im, int place) {
  whole<A, L> order, take;
  order_of<A, L>(re, im, order);
  negative<A, L>(best.order - order, take);
  choose<A, L>(take, order, best.order);
  choose<A, L>(take, (whole<A, L>)re, best.re);
  choose<A, L>(take, (whole<A, L>)im, best.im);
  choose<A, L>(take, whole<A, L>{} + place, best.place);
}

// L windows: their upper rows at `at` and at `second`, the lower ones a row after.
template <class T, int L>
CVK_INLINE void pool_windows(const Halves<T>& h, int64_t at, int64_t second, int64_t to) {
  using A = wide_t<T>;
  Windows<A, L> best;
  CVK_UNROLL
  for (int lower = 0; lower < 2; ++lower, at += h.row, second += h.row) {
    vector<A, L> re, im, right_re, right_im;
    load_vector<L>(h.re + at, re), load_vector<L>(h.re + second, right_re);
    load_vector<L>(h.im + at, im), load_vector<L>(h.im + second, right_im);
    into_columns<A, L>(re, right_re, std::make_index_sequence<L>());
    into_columns<A, L>(im, right_im, std::make_index_sequence<L>());
    if (lower) {
      challenge<A, L>(best, re, im, 2);
    } else {
      order_of<A, L>(re, im, best.order);
      best.re = (whole<A, L>)re, best.im = (whole<A, L>)im, best.place = whole<A, L>{};
    }
    challenge<A, L>(best, right_re, right_im, 2 * lower + 1);
  }
  store_exact<L>(h.to_re + to, (vector<A, L>)best.re);
  store_exact<L>(h.to_im + to, (vector<A, L>)best.im);
  store_bytes<A, L>(h.index + to, best.place);
}

// The transpose: each gradient to the place that its byte names, 0 to the other three.
template <class T, int L>
CVK_INLINE void spread_windows(const Halves<T>& h, int64_t at, int64_t second, int64_t from) {
  using A = wide_t<T>;
  whole<A, L> place;
  load_bytes<A, L>(h.index + from, place);
  vector<A, L> re, im;
  load_vector<L>(h.re + from, re), load_vector<L>(h.im + from, im);
  CVK_UNROLL
  for (int lower = 0; lower < 2; ++lower, at += h.row, second += h.row) {
    whole<A, L> left, right;  // whose place it is: alike, an element's bits differ in none
    negative<A, L>((place ^ (2 * lower)) - 1, left), negative<A, L>((place ^ (2 * lower + 1)) - 1, right);
    auto low = (vector<A, L>)(left & (whole<A, L>)re), high = (vector<A, L>)(right & (whole<A, L>)re);
    out_of_columns<A, L>(low, high, std::make_index_sequence<L>());
    store_exact<L>(h.to_re + at, low), store_exact<L>(h.to_re + second, high);
    low = (vector<A, L>)(left & (whole<A, L>)im), high = (vector<A, L>)(right & (whole<A, L>)im);
    out_of_columns<A, L>(low, high, std::make_index_sequence<L>());
    store_exact<L>(h.to_im + at, low), store_exact<L>(h.to_im + second, high);
  }
}

// false where a row is too short for any vector
template <class T, int L>
CVK_INLINE bool pool_halves(const Halves<T>& h) {
  constexpr int lanes = L * sizeof(float) / sizeof(wide_t<T>);
  const auto each = [&](int64_t at, int64_t second, int64_t to)
                        __attribute__((always_inline)) { pool_windows<T, lanes>(h, at, second, to); };
  if (by_vectors<lanes>(h.row, h.width, h.height, each)) return true;
  if constexpr (L > 4) {
    return pool_halves<T, L / 2>(h);
  } else {
    return false;
  }
}

template <class T, int L>
CVK_INLINE bool spread_halves(const Halves<T>& h) {
  constexpr int lanes = L * sizeof(float) / sizeof(wide_t<T>);
  const auto each = [&](int64_t at, int64_t second, int64_t from)
                        __attribute__((always_inline)) { spread_windows<T, lanes>(h, at, second, from); };
  if (by_vectors<lanes>(h.row, h.width, h.height, each)) return true;
  if constexpr (L > 4) {
    return spread_halves<T, L / 2>(h);
  } else {
    return false;
  }
}

#endif

}  // namespace cvk
