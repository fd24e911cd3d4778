// How a thread reads and writes a feature: V neighbours at a time, 16 bytes of each part where sizes and addresses
// allow, else one by one.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstring>
#include <initializer_list>
#include <optional>

#include "../common/inline.h"
#include "../common/wide.h"
#include "launch.h"

namespace cvk {

using torch::headeronly::ScalarType;

// T: what memory holds. V: elements a thread reads at once. PAIRS: real and imaginary parts alternate; only told apart
// where V > 1, else a stride says it.
template <class T, int V, bool PAIRS>
struct Form {
  using type = T;
  using wide = wide_t<T>;
  static constexpr int count = V;
  static constexpr bool pairs = PAIRS;
};

template <class T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));

// 16 bytes in one instruction: p is aligned to them.
template <class T>
CVK_INLINE void load_pack(const T* p, T (&x)[kPack<T>]) {
  const uint4 raw = *reinterpret_cast<const uint4*>(p);
  memcpy(x, &raw, 16);
}

template <class T>
CVK_INLINE void store_pack(T* p, const T (&x)[kPack<T>]) {
  uint32_t word[4];
  memcpy(word, x, 16);
#if defined(__CUDA_ARCH__)
  // said aloud: from a uint4 the compiler makes four or eight stores
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(word[0]),
               "r"(word[1]), "r"(word[2]), "r"(word[3])
               : "memory");
#else
  memcpy(__builtin_assume_aligned(p, 16), word, 16);
#endif
}

template <int V, class T>
CVK_INLINE void load(const T* p, wide_t<T> (&x)[V]) {
  if constexpr (V == 1) {
    x[0] = static_cast<wide_t<T>>(*p);
  } else {
    T raw[V];
    load_pack(p, raw);
    for (int j = 0; j < V; ++j) x[j] = static_cast<wide_t<T>>(raw[j]);
  }
}

template <int V, class T>
CVK_INLINE void store(T* p, const wide_t<T> (&x)[V]) {
  if constexpr (V == 1) {
    *p = static_cast<T>(x[0]);
  } else {
    T raw[V];
    for (int j = 0; j < V; ++j) raw[j] = static_cast<T>(x[j]);
    store_pack(p, raw);
  }
}

// V complex elements of a planar feature, both parts.
template <class F, class T = typename F::type, class W = typename F::wide, int V = F::count>
CVK_INLINE void load_parts(const T* base, int64_t at, int64_t part, W (&re)[V], W (&im)[V]) {
  if constexpr (F::pairs) {
    T first[V], second[V];
    load_pack(base + at, first);
    load_pack(base + at + V, second);
    for (int j = 0; j < V; ++j) {
      re[j] = static_cast<W>(2 * j < V ? first[2 * j] : second[2 * j - V]);
      im[j] = static_cast<W>(2 * j < V ? first[2 * j + 1] : second[2 * j + 1 - V]);
    }
  } else {
    load<V>(base + at, re);
    load<V>(base + at + part, im);
  }
}

template <class F, class T = typename F::type, class W = typename F::wide, int V = F::count>
CVK_INLINE void store_parts(T* base, int64_t at, int64_t part, const W (&re)[V], const W (&im)[V]) {
  if constexpr (F::pairs) {
    T first[V], second[V];
    for (int j = 0; j < V; ++j) {
      const T r = static_cast<T>(re[j]), m = static_cast<T>(im[j]);
      if (2 * j < V) {
        first[2 * j] = r, first[2 * j + 1] = m;
      } else {
        second[2 * j - V] = r, second[2 * j + 1 - V] = m;
      }
    }
    store_pack(base + at, first);
    store_pack(base + at + V, second);
  } else {
    store<V>(base + at, re);
    store<V>(base + at + part, im);
  }
}

// One number a channel, in the type of the features or in the wide one; or none at all.
struct Vector {
  const void* data;
  bool wide;
};

template <class T>
CVK_INLINE wide_t<T> read(const Vector& v, int64_t i) {
  if (v.wide) return static_cast<const wide_t<T>*>(v.data)[i];
  return static_cast<wide_t<T>>(static_cast<const T*>(v.data)[i]);
}

template <class T>
CVK_INLINE void write(const Vector& v, int64_t i, wide_t<T> value) {
  if (v.wide) {
    static_cast<wide_t<T>*>(const_cast<void*>(v.data))[i] = value;
  } else {
    static_cast<T*>(const_cast<void*>(v.data))[i] = static_cast<T>(value);
  }
}

// --- host ------------------------------------------------------------------------------------------------------------

inline ScalarType wide_of(const Tensor& t) {
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Vector vector_of(const std::optional<Tensor>& t, int64_t length, const Tensor& like, const char* name) {
  if (!t.has_value()) return {nullptr, false};
  STD_TORCH_CHECK(t->numel() == length && t->is_contiguous(), name, " must be contiguous with ", length, " elements");
  check_device(*t, like, name);
  const auto dtype = t->scalar_type();
  STD_TORCH_CHECK(dtype == like.scalar_type() || dtype == wide_of(like), name,
                  " must have the dtype of the feature, or float32 where that is half precision");
  return {t->data_ptr(), dtype != like.scalar_type()};
}

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

template <class T>
T* data_or_null(const std::optional<Tensor>& t) {
  return t.has_value() ? static_cast<T*>(t->data_ptr()) : nullptr;
}

inline bool aligned(std::initializer_list<const void*> pointers) {
  for (const void* p : pointers) {
    if (reinterpret_cast<uintptr_t>(p) % 16) return false;
  }
  return true;
}

// f(T{}) for a dtype.
template <class F>
void with_dtype(ScalarType dtype, const char* op, F f) {
  switch (dtype) {
    case ScalarType::Float:
      return f(float{});
    case ScalarType::Double:
      return f(double{});
    case ScalarType::Half:
      return f(torch::headeronly::Half{});
    case ScalarType::BFloat16:
      return f(torch::headeronly::BFloat16{});
    default:
      STD_TORCH_CHECK(false, op, " has no CUDA kernel for ", torch::headeronly::toString(dtype));
  }
}

template <class F>
void with_dtype(const Tensor& t, const char* op, F f) {
  with_dtype(t.scalar_type(), op, f);
}

}  // namespace cvk
