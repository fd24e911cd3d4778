// bfloat16 as the CPU kernels read and write it: 16 bits in memory, float in every sum and product, rounded once when
// it is stored.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/inline.h"

namespace cvk {

// Written as integer shifts and one select, which gcc turns into vectors. A constructor from float would not do: the
// temporary it makes keeps the loop scalar (gcc 12).
struct BFloat16 {
  uint16_t bits;

  CVK_INLINE operator float() const {
    const uint32_t wide = static_cast<uint32_t>(bits) << 16;
    float x;
    std::memcpy(&x, &wide, sizeof(x));
    return x;
  }

  // to nearest, ties to even; NaN stays NaN
  CVK_INLINE BFloat16& operator=(float x) {
    uint32_t u;
    std::memcpy(&u, &x, sizeof(u));
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    const uint32_t kept = nan ? u | 0x400000u : u + 0x7fffu + ((u >> 16) & 1u);
    bits = static_cast<uint16_t>(kept >> 16);
    return *this;
  }
};

}  // namespace cvk
