// Random bits that follow from a seed and a place alone: Philox 4x32-7 (Salmon et al., "Parallel Random Numbers: As
// Easy as 1, 2, 3", SC 2011, who find no test that it fails; the ten rounds of other libraries are a margin that a mask
// need not pay for). What is drawn depends neither on the threads nor on the processor's vectors.
#pragma once

#include <array>
#include <cstdint>

#include "vectors.h"
#if defined(CVK_TARGETS)
#include <immintrin.h>
#endif

namespace cvk {
namespace {

constexpr int64_t DRAWS = 64;  // of one drawing: four words of 16 counters
constexpr int ROUNDS = 7;

struct Stream {
  uint64_t seed, task;
  uint32_t piece;
};

// `times` DRAWS words, two vectors of counters at a time, whose products do not wait for each other. MULTIPLY:
// the lower halves of 64-bit lanes; only those matter, whatever the upper ones hold.
#define CVK_DRAW(Lanes, COUNT, MULTIPLY)                                                            \
  typedef uint32_t Words __attribute__((vector_size(4 * COUNT), may_alias, aligned(4)));            \
  Lanes keys[ROUNDS], others[ROUNDS];                                                               \
  uint32_t key = static_cast<uint32_t>(s.seed), other = static_cast<uint32_t>(s.seed >> 32);        \
  for (int i = 0; i < ROUNDS; ++i, key += 0x9E3779B9, other += 0xBB67AE85) {                        \
    keys[i] = Lanes{} + key, others[i] = Lanes{} + other;                                           \
  }                                                                                                 \
  Lanes lane = {};                                                                                  \
  for (int i = 0; i < COUNT; ++i) lane[i] = i;                                                      \
  for (int64_t first = 0; first < 16 * times; first += 2 * COUNT) {                                 \
    Lanes a[2], b[2], c[2], d[2];                                                                   \
    for (int j = 0; j < 2; ++j) {                                                                   \
      a[j] = lane + static_cast<uint64_t>(first + j * COUNT), b[j] = Lanes{} + s.piece;             \
      c[j] = Lanes{} + (s.task & 0xFFFFFFFF), d[j] = Lanes{} + (s.task >> 32);                      \
    }                                                                                               \
    CVK_UNROLL                                                                                      \
    for (int i = 0; i < ROUNDS; ++i) {                                                              \
      CVK_UNROLL                                                                                    \
      for (int j = 0; j < 2; ++j) {                                                                 \
        const Lanes p = MULTIPLY(a[j], 0xD2511F53), q = MULTIPLY(c[j], 0xCD9E8D57);                 \
        a[j] = (q >> 32) ^ b[j] ^ keys[i], b[j] = q, c[j] = (p >> 32) ^ d[j] ^ others[i], d[j] = p; \
      }                                                                                             \
    }                                                                                               \
    uint32_t* at = to + first / 16 * DRAWS + first % 16;                                            \
    CVK_UNROLL                                                                                      \
    for (int j = 0; j < 2; ++j, at += COUNT) {                                                      \
      int word = 0;                                                                                 \
      for (const Lanes& x : {a[j], b[j], c[j], d[j]}) {                                             \
        *reinterpret_cast<Words*>(at + 16 * word++) = __builtin_convertvector(x, Words);            \
      }                                                                                             \
    }                                                                                               \
  }

#if defined(CVK_TARGETS)
typedef uint64_t Four __attribute__((vector_size(32)));
typedef uint64_t Eight __attribute__((vector_size(64)));
#define CVK_MULTIPLY_FOUR(x, by) (Four) _mm256_mul_epu32((__m256i)(x), _mm256_set1_epi64x(by))
#define CVK_MULTIPLY_EIGHT(x, by) (Eight) _mm512_maskz_mul_epu32(0xFF, (__m512i)(x), _mm512_set1_epi64(by))

CVK_TARGET_8 void draw_8(uint32_t* to, int64_t times, const Stream& s){CVK_DRAW(Four, 4, CVK_MULTIPLY_FOUR)}

CVK_TARGET_16 void draw_16(uint32_t* to, int64_t times, const Stream& s) {
  CVK_DRAW(Eight, 8, CVK_MULTIPLY_EIGHT)
}
#endif

// The words of one counter.
inline std::array<uint32_t, 4> philox(uint32_t counter, const Stream& s) {
  uint32_t a = counter, b = s.piece, c = static_cast<uint32_t>(s.task), d = static_cast<uint32_t>(s.task >> 32);
  uint32_t key = static_cast<uint32_t>(s.seed), other = static_cast<uint32_t>(s.seed >> 32);
  for (int i = 0; i < ROUNDS; ++i) {
    const uint64_t p = uint64_t{0xD2511F53} * a, q = uint64_t{0xCD9E8D57} * c;
    a = static_cast<uint32_t>(q >> 32) ^ b ^ key, b = static_cast<uint32_t>(q);
    c = static_cast<uint32_t>(p >> 32) ^ d ^ other, d = static_cast<uint32_t>(p);
    key += 0x9E3779B9, other += 0xBB67AE85;
  }
  return {a, b, c, d};
}

// `times` DRAWS words.
inline void draw(uint32_t* to, int64_t times, const Stream& s) {
#if defined(CVK_TARGETS)
  if (lanes_here() == 16) return draw_16(to, times, s);
  if (lanes_here() == 8) return draw_8(to, times, s);
#endif
  for (int64_t time = 0; time < times; ++time, to += DRAWS) {
    for (uint32_t lane = 0; lane < 16; ++lane) {
      const auto x = philox(static_cast<uint32_t>(time) * 16 + lane, s);
      for (int word = 0; word < 4; ++word) to[16 * word + lane] = x[word];
    }
  }
}

}  // namespace
}  // namespace cvk
