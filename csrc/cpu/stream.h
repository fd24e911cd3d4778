// Stores past the caches: they neither fetch the line that they overwrite nor drive another one out.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "vectors.h"

#if defined(CVK_TARGETS) && defined(__linux__)
#define CVK_STREAM
#include <immintrin.h>

#include <fstream>
#endif

namespace cvk {

// Bytes of the last-level cache, where stores past it were measured to pay: on AMD's Zen 3; or of CVKERNELS_CACHE, with
// which they are tested. 0: nowhere.
inline int64_t cache_to_pass() {
#if defined(CVK_STREAM)
  static const int64_t bytes = [] {
    if (lanes_here() < 8) return int64_t{0};
    if (const char* asked = std::getenv("CVKERNELS_CACHE")) return static_cast<int64_t>(std::atoll(asked));
    // the share of it that a core reaches; sysconf tells the whole socket's
    std::ifstream told("/sys/devices/system/cpu/cpu0/cache/index3/size");
    int64_t kib = 0;
    char unit = 0;
    return __builtin_cpu_is("amd") && told >> kib >> unit && unit == 'K' ? kib * 1024 : int64_t{0};
  }();
  return bytes;
#else
  return 0;
#endif
}

#if defined(CVK_STREAM)
// Half a line at a time: of quarters, some lines left before they were whole (a fifth slower).
CVK_TARGET_8 inline void stream_bytes(char* to, const char* from, int64_t bytes) {
  int64_t at = std::min<int64_t>(bytes, -reinterpret_cast<intptr_t>(to) & 31);
  std::memcpy(to, from, static_cast<size_t>(at));
  for (; at + 32 <= bytes; at += 32) {
    const auto half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + at));
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to + at), half);
  }
  std::memcpy(to + at, from + at, static_cast<size_t>(bytes - at));
}
#endif

template <class T>
void stream(T* to, const T* from, int64_t count) {
#if defined(CVK_STREAM)
  stream_bytes(reinterpret_cast<char*>(to), reinterpret_cast<const char*>(from), count * int64_t{sizeof(T)});
#else
  std::copy_n(from, count, to);
#endif
}

// Other threads see what was streamed before.
inline void settle_streams() {
#if defined(CVK_STREAM)
  _mm_sfence();
#endif
}

}  // namespace cvk
