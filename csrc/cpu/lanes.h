// Vectors of 16 bytes that may lie anywhere, and a square of them turned over: SSE2, NEON and wider all have them.
#pragma once

#include <cstdint>

#include "../common/inline.h"

#if defined(__clang__)
#define CVK_SHUFFLE(a, b, mask, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#elif defined(__GNUC__)
#define CVK_SHUFFLE(a, b, mask, ...) __builtin_shuffle(a, b, mask{__VA_ARGS__})
#endif

namespace cvk {

// LANES elements of T; two-byte types as the bits they are, for moving only.
template <int BYTES>
struct LanesOf {
  static constexpr int count = 1;
};

#if defined(CVK_SHUFFLE)
#define CVK_VECTOR(type) type __attribute__((vector_size(16), may_alias, aligned(sizeof(type))))

template <>
struct LanesOf<2> {
  static constexpr int count = 8;
  typedef CVK_VECTOR(uint16_t) vector;
  typedef uint16_t mask __attribute__((vector_size(16)));
  static CVK_INLINE vector low(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 0, 8, 1, 9, 2, 10, 3, 11); }
  static CVK_INLINE vector high(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 4, 12, 5, 13, 6, 14, 7, 15); }
};
template <>
struct LanesOf<4> {
  static constexpr int count = 4;
  typedef CVK_VECTOR(float) vector;
  typedef int32_t mask __attribute__((vector_size(16)));
  static CVK_INLINE vector low(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 0, 4, 1, 5); }
  static CVK_INLINE vector high(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 2, 6, 3, 7); }
};
template <>
struct LanesOf<8> {
  static constexpr int count = 2;
  typedef CVK_VECTOR(double) vector;
  typedef int64_t mask __attribute__((vector_size(16)));
  static CVK_INLINE vector low(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 0, 2); }
  static CVK_INLINE vector high(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 1, 3); }
};

// One round puts the two halves of the rows together like a riffle of cards, which moves every bit of an element's
// place up by one: after log2(count) rounds row and column have changed places.
template <class L>
CVK_INLINE void riffle(const typename L::vector* in, typename L::vector* out) {
  for (int i = 0; i < L::count / 2; ++i) {
    out[2 * i] = L::low(in[i], in[i + L::count / 2]);
    out[2 * i + 1] = L::high(in[i], in[i + L::count / 2]);
  }
}

// rows[i][j] becomes rows[j][i]
template <class L>
CVK_INLINE void turn_over(typename L::vector* rows) {
  typename L::vector other[L::count];
  riffle<L>(rows, other);
  if constexpr (L::count == 2) {
    rows[0] = other[0], rows[1] = other[1];
  } else {
    riffle<L>(other, rows);
  }
  if constexpr (L::count == 8) {
    riffle<L>(rows, other);
    for (int i = 0; i < 8; ++i) rows[i] = other[i];
  }
}

template <class L, class T>
CVK_INLINE typename L::vector load(const T* from) {
  return *reinterpret_cast<const typename L::vector*>(from);
}

template <class L, class T>
CVK_INLINE void store(T* to, typename L::vector x) {
  *reinterpret_cast<typename L::vector*>(to) = x;
}
#endif

}  // namespace cvk
