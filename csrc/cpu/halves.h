// Pooling of 2x2 windows with stride 2, which most networks do: L neighbouring outputs at once, in registers. Two
// vectors of a row, their elements sorted into the windows' left and right columns, are L windows' upper (or lower)
// half.
#pragma once

#include <cstdint>
#include <utility>

#include "lanes.h"
#include "vectors.h"

// name_L(h) for each L that a target below has, of the three types: each calls name_halves<T, L>(h), which is false
// where a row is too short for any vector; CVK_CALL_HALVES(name, h) calls the processor's widest.
#if defined(CVK_VECTORS)
#define CVK_HALVES_FOR(name, struct_, L, ...)                                                   \
  __VA_ARGS__ bool name##_##L(const struct_<float>& h) { return name##_halves<float, L>(h); }   \
  __VA_ARGS__ bool name##_##L(const struct_<double>& h) { return name##_halves<double, L>(h); } \
  __VA_ARGS__ bool name##_##L(const struct_<BFloat16>& h) { return name##_halves<BFloat16, L>(h); }
#if defined(CVK_TARGETS)
#define CVK_HALVES(name, struct_)                \
  CVK_HALVES_FOR(name, struct_, 4)               \
  CVK_HALVES_FOR(name, struct_, 8, CVK_TARGET_8) \
  CVK_HALVES_FOR(name, struct_, 16, CVK_TARGET_16)
#define CVK_CALL_HALVES(name, h) (lanes_here() == 16 ? name##_16(h) : lanes_here() == 8 ? name##_8(h) : name##_4(h))
#else
#define CVK_HALVES(name, struct_) CVK_HALVES_FOR(name, struct_, 4)
#define CVK_CALL_HALVES(name, h) name##_4(h)
#endif
#else
#define CVK_HALVES(name, struct_)
#define CVK_CALL_HALVES(name, h) false
#endif

namespace cvk {

#if defined(CVK_VECTORS)

template <class A, int L, size_t... I>
CVK_INLINE void into_columns(vector<A, L>& a, vector<A, L>& b, std::index_sequence<I...>) {
  [[maybe_unused]] typedef typename Vector<A, L>::whole mask;
  const vector<A, L> left = CVK_SHUFFLE(a, b, mask, static_cast<int>(2 * I)...);
  b = CVK_SHUFFLE(a, b, mask, static_cast<int>(2 * I + 1)...);
  a = left;
}

template <class A, int L, size_t... I>
CVK_INLINE void out_of_columns(vector<A, L>& a, vector<A, L>& b, std::index_sequence<I...>) {
  [[maybe_unused]] typedef typename Vector<A, L>::whole mask;
  const vector<A, L> low = CVK_SHUFFLE(a, b, mask, static_cast<int>(I % 2 ? L + I / 2 : I / 2)...);
  b = CVK_SHUFFLE(a, b, mask, static_cast<int>(L / 2 + (I % 2 ? L + I / 2 : I / 2))...);
  a = low;
}

// f(at, second, output) for every L outputs; false where a row has too few. What is left over at an end is done with
// some that are done already: it comes out the same.
template <int L, class F>
CVK_INLINE bool by_vectors(int64_t row, int64_t width, int64_t height, const F& f) {
  if (width >= L) {
    for (int64_t y = 0; y < height; ++y) {
      const int64_t at = 2 * y * row, to = y * width;
      int64_t x = 0;
      for (; x + L <= width; x += L) f(at + 2 * x, at + 2 * x + L, to + x);
      if (x < width) x = width - L, f(at + 2 * x, at + 2 * x + L, to + x);
    }
    return true;
  }
  if (2 * width != L || height < 2) return false;
  int64_t y = 0;
  for (; y + 2 <= height; y += 2) f(2 * y * row, 2 * (y + 1) * row, y * width);
  if (y < height) y = height - 2, f(2 * y * row, 2 * (y + 1) * row, y * width);
  return true;
}

#endif

}  // namespace cvk
