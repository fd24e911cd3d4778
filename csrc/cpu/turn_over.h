// A 16x16 tile turned over: out[j][i] = in[i][j], in registers of 16 bytes where the compiler has vectors.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/inline.h"

namespace cvk {

constexpr int64_t TILE = 16;

// Bits of an element, whatever its type: 16-byte vectors of them may lie anywhere and alias anything.
template <int BYTES>
struct Bits;

#if defined(__GNUC__) || defined(__clang__)
#define CVK_VECTOR(type) type __attribute__((vector_size(16), may_alias, aligned(sizeof(type))))
#if defined(__clang__)
#define CVK_SHUFFLE(a, b, mask, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define CVK_SHUFFLE(a, b, mask, ...) __builtin_shuffle(a, b, mask{__VA_ARGS__})
#endif

template <>
struct Bits<2> {
  typedef CVK_VECTOR(uint16_t) vector;
  typedef uint16_t mask __attribute__((vector_size(16)));
  static CVK_INLINE vector low(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 0, 8, 1, 9, 2, 10, 3, 11); }
  static CVK_INLINE vector high(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 4, 12, 5, 13, 6, 14, 7, 15); }
};
template <>
struct Bits<4> {
  typedef CVK_VECTOR(uint32_t) vector;
  typedef uint32_t mask __attribute__((vector_size(16)));
  static CVK_INLINE vector low(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 0, 4, 1, 5); }
  static CVK_INLINE vector high(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 2, 6, 3, 7); }
};
template <>
struct Bits<8> {
  typedef CVK_VECTOR(uint64_t) vector;
  typedef uint64_t mask __attribute__((vector_size(16)));
  static CVK_INLINE vector low(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 0, 2); }
  static CVK_INLINE vector high(vector a, vector b) { return CVK_SHUFFLE(a, b, mask, 1, 3); }
};

// A round of the network puts the two halves of the rows together like a riffle of cards, which moves every bit of an
// element's place up by one: after log2(LANES) rounds row and column have changed places.
template <class B, int LANES>
CVK_INLINE void riffle(const typename B::vector* in, typename B::vector* out) {
  for (int i = 0; i < LANES / 2; ++i) {
    out[2 * i] = B::low(in[i], in[i + LANES / 2]);
    out[2 * i + 1] = B::high(in[i], in[i + LANES / 2]);
  }
}

template <class T>
CVK_INLINE void turn_over(const T* in, T* out) {
  using B = Bits<sizeof(T)>;
  using V = typename B::vector;
  constexpr int LANES = 16 / sizeof(T);
  for (int64_t i = 0; i < TILE; i += LANES) {
    for (int64_t j = 0; j < TILE; j += LANES) {
      V x[LANES], y[LANES];
      for (int k = 0; k < LANES; ++k) x[k] = *reinterpret_cast<const V*>(in + (i + k) * TILE + j);
      riffle<B, LANES>(x, y);
      if constexpr (LANES > 2) riffle<B, LANES>(y, x);
      if constexpr (LANES > 4) riffle<B, LANES>(x, y);
      const V* turned = LANES == 4 ? x : y;
      for (int k = 0; k < LANES; ++k) *reinterpret_cast<V*>(out + (j + k) * TILE + i) = turned[k];
    }
  }
}
#else
template <class T>
CVK_INLINE void turn_over(const T* in, T* out) {
  for (int64_t i = 0; i < TILE; ++i) {
    for (int64_t j = 0; j < TILE; ++j) out[j * TILE + i] = in[i * TILE + j];
  }
}
#endif

// A tile read from rows `step` apart, or written to such: a whole row at once. Rows of a power of two of bytes share
// their place in the cache, and going over them more than once found them gone (16x32x32: 2.5 ms for 0.4).
template <class T>
CVK_INLINE void read_turned(const T* in, int64_t step, T* out) {
  alignas(64) T rows[TILE * TILE];
  for (int64_t i = 0; i < TILE; ++i) std::memcpy(rows + i * TILE, in + i * step, TILE * sizeof(T));
  turn_over(rows, out);
}

template <class T>
CVK_INLINE void write_turned(const T* in, T* out, int64_t step) {
  alignas(64) T rows[TILE * TILE];
  turn_over(in, rows);
  for (int64_t i = 0; i < TILE; ++i) std::memcpy(out + i * step, rows + i * TILE, TILE * sizeof(T));
}

}  // namespace cvk
