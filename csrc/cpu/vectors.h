// Vectors as the compiler knows them, for loops that it does not find by itself: L elements of float or double next to
// each other, anywhere in memory, and as many of bfloat16 or bytes beside them. A function that is to use a processor's
// widest ones is written once for any L and compiled for each target below; `lanes_here` says which to call.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#include "../common/inline.h"

namespace cvk {

template <class A, int L>
struct Vector;
#if defined(__GNUC__) || defined(__clang__)
#define CVK_VECTORS
// whole: integers of the same size, as a comparison gives them
#define CVK_VECTOR_OF(A, integer, count)                                                           \
  template <>                                                                                      \
  struct Vector<A, count> {                                                                        \
    typedef A type __attribute__((vector_size(sizeof(A) * count), may_alias, aligned(sizeof(A)))); \
    typedef integer whole __attribute__((vector_size(sizeof(A) * count)));                         \
    typedef uint32_t bits __attribute__((vector_size(4 * count)));                                 \
    typedef uint16_t half __attribute__((vector_size(2 * count), may_alias, aligned(2)));          \
    typedef uint8_t bytes __attribute__((vector_size(count), may_alias, aligned(1)));              \
  };
CVK_VECTOR_OF(float, int32_t, 4)
CVK_VECTOR_OF(float, int32_t, 8)
CVK_VECTOR_OF(float, int32_t, 16)
CVK_VECTOR_OF(double, int64_t, 2)
CVK_VECTOR_OF(double, int64_t, 4)
CVK_VECTOR_OF(double, int64_t, 8)
#undef CVK_VECTOR_OF
#define CVK_UNROLL _Pragma("GCC unroll 16")
#else
template <class A>
struct Vector<A, 1> {
  using type = A;
};
#define CVK_UNROLL
#endif

// Floats of the widest vector: by the processor, or by CVKERNELS_LANES, with which the narrower ones are tested.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define CVK_TARGETS  // one for 8 floats, one for 16; 4 are what every x86-64 has
#define CVK_TARGET_8 __attribute__((target("avx2,fma")))
#define CVK_TARGET_16 __attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl")))
inline int64_t lanes_here() {
  static const int64_t lanes = [] {
    const bool some = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool wide = some && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
    const int64_t most = wide ? 16 : some ? 8 : 4;
    const char* asked = std::getenv("CVKERNELS_LANES");
    const int64_t limit = asked ? std::atoi(asked) : most;
    return limit >= 16 ? most : limit >= 8 ? std::min<int64_t>(most, 8) : 4;
  }();
  return lanes;
}
#elif defined(CVK_VECTORS)
inline int64_t lanes_here() { return 4; }
#else
inline int64_t lanes_here() { return 1; }
#endif

template <class A, int L>
using vector = typename Vector<A, L>::type;
template <int L>
using floats = vector<float, L>;

#if defined(CVK_VECTORS)
template <class A, int L>
using whole = typename Vector<A, L>::whole;

// All bits of an element that is negative. A comparison of vectors would not do: gcc settles what kind of vector it
// gives before it knows the target that it is inlined into, and what is not of the kind of AVX-512 it takes apart
// there.
template <class A, int L>
CVK_INLINE void negative(const whole<A, L>& x, whole<A, L>& out) {
  out = x >> (8 * static_cast<int>(sizeof(A)) - 1);
}
#endif

// Out parameters: a vector returned by value would change how it is passed where no target has it.
template <int L, class A>
CVK_INLINE void load_vector(const A* from, vector<A, L>& to) {
  to = *reinterpret_cast<const vector<A, L>*>(from);
}

template <int L, class A>
CVK_INLINE void store_vector(A* to, const vector<A, L>& x) {
  *reinterpret_cast<vector<A, L>*>(to) = x;
}

// for overloads of two-byte types; torch 2.11 compiles as C++17
template <class Half>
using half_t = std::enable_if_t<sizeof(Half) == 2, int>;

// bfloat16, in either type that stands for it: the upper half of a float, rounded to nearest, to even where it is in
// the middle.
template <int L, class Half, half_t<Half> = 0>
CVK_INLINE void load_vector(const Half* from, floats<L>& to) {
  if constexpr (L == 1) {
    to = static_cast<float>(*from);
  } else {
#if defined(CVK_VECTORS)
    using V = Vector<float, L>;
    to = (floats<L>)(__builtin_convertvector(*reinterpret_cast<const typename V::half*>(from), typename V::bits) << 16);
#endif
  }
}

template <int L, class Half, half_t<Half> = 0>
CVK_INLINE void store_vector(Half* to, const floats<L>& x) {
  if constexpr (L == 1) {
    *to = reinterpret_cast<const float&>(x);
  } else {
#if defined(CVK_VECTORS)
    using V = Vector<float, L>;
    typename V::whole nan;
    negative<float, L>(0x7F800000 - ((typename V::whole)x & 0x7FFFFFFF), nan);
    const typename V::bits bits = (typename V::bits)x, rounded = (bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16;
    const typename V::bits kept = ((typename V::bits)nan & 0x7FC0U) | (~(typename V::bits)nan & rounded);
    *reinterpret_cast<typename V::half*>(to) = __builtin_convertvector(kept, typename V::half);
#endif
  }
}

// The same of values that came from bfloat16: nothing to round.
template <int L, class A>
CVK_INLINE void store_exact(A* to, const vector<A, L>& x) {
  store_vector<L>(to, x);
}

#if defined(CVK_VECTORS)
template <int L, class Half, half_t<Half> = 0>
CVK_INLINE void store_exact(Half* to, const floats<L>& x) {
  using V = Vector<float, L>;
  *reinterpret_cast<typename V::half*>(to) = __builtin_convertvector((typename V::bits)x >> 16, typename V::half);
}

// Integers as large as A to bytes and back, by halves: gcc takes a conversion of more than that apart.
template <class A, int L>
CVK_INLINE void store_bytes(uint8_t* to, const whole<A, L>& x) {
  using V = Vector<A, L>;
  const auto shorts = __builtin_convertvector(__builtin_convertvector(x, typename V::bits), typename V::half);
  *reinterpret_cast<typename V::bytes*>(to) = __builtin_convertvector(shorts, typename V::bytes);
}

template <class A, int L>
CVK_INLINE void load_bytes(const uint8_t* from, whole<A, L>& to) {
  using V = Vector<A, L>;
  const auto shorts = __builtin_convertvector(*reinterpret_cast<const typename V::bytes*>(from), typename V::half);
  to = __builtin_convertvector(__builtin_convertvector(shorts, typename V::bits), whole<A, L>);
}
#endif

template <int L>
CVK_INLINE bool is_zero(const floats<L>& x) {
  float held[L];
  store_vector<L>(held, x);
  bool zero = true;
  for (const float one : held) zero = zero && one == 0.0F;
  return zero;
}

// The first `count` of them, 0 after.
template <int L, class T>
CVK_INLINE void load_some(const T* from, int64_t count, floats<L>& to) {
  T held[L] = {};
  std::memcpy(held, from, static_cast<size_t>(count) * sizeof(T));
  load_vector<L>(held, to);
}

template <int L, class T>
CVK_INLINE void store_some(T* to, int64_t count, const floats<L>& x) {
  T held[L];
  store_vector<L>(held, x);
  std::memcpy(to, held, static_cast<size_t>(count) * sizeof(T));
}

}  // namespace cvk
