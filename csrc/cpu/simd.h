// How the CPU kernels walk a feature: runs of elements one stride apart, several threads, SIMD clones chosen at load
// time.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/planar.h"
#include "../common/shape.h"

// Without -fno-math-errno a square root keeps its loop scalar, and a clone then only costs its indirect call.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define CVK_CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define CVK_CLONES
#endif
#define CVK_SIMD _Pragma("omp simd")

namespace cvk {

constexpr int64_t GRAIN = 16384;  // elements a thread must have for it to be woken: about 10 us of streaming
constexpr int64_t CHUNK = 4096;   // elements of one task of a long run: two planes of it stay in the first-level cache

// Elements of a run are 1 apart, or 2 in an interleaved feature; f gets that as a type, to compile a loop for each.
template <int64_t V>
struct Step {
  static constexpr int64_t value = V;
};

template <class F>
void with_step(const Planar& v, F f) {
  if (v.layout == Layout::interleaved) {
    f(Step<2>{});
  } else {
    f(Step<1>{});
  }
}

// The runs of a feature for element-wise work: of channels and positions together, or of channels (channels-last).
struct Runs {
  int64_t rows, length, stride;  // runs of a sample, elements of a run, stride from run to run
  int64_t chunk, per_row;        // elements of a task, tasks of a run
  int64_t tasks(const Planar& v) const { return v.n * rows * per_row; }
};

inline Runs runs(const Planar& v) {
  Runs r{};
  const bool last = v.layout == Layout::channels_last;
  r.rows = last ? v.s : 1;
  r.length = last ? v.c : v.c * v.s;
  r.stride = last ? v.position : 0;
  r.chunk = std::max<int64_t>(1, std::min(r.length, CHUNK));
  r.per_row = (r.length + r.chunk - 1) / r.chunk;
  return r;
}

// f(task, sample, offset of the real part, offset in a real tensor of this layout and one part, count)
template <class F>
void for_runs(const Planar& v, const F& f) {
  const Runs r = runs(v);
  if (v.values() == 0) return;
  const int64_t step = v.layout == Layout::interleaved ? 2 : 1;
  torch::stable::parallel_for(0, r.tasks(v), std::max<int64_t>(1, GRAIN / r.chunk), [&](int64_t begin, int64_t end) {
    int64_t row = begin / r.per_row, k = begin % r.per_row;
    int64_t sample = row / r.rows;
    row %= r.rows;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t at = k * r.chunk;
      f(task, sample, sample * v.sample + row * r.stride + at * step, (sample * r.rows + row) * r.length + at,
        std::min(r.chunk, r.length - at));
      if (++k == r.per_row) {
        k = 0;
        if (++row == r.rows) row = 0, ++sample;
      }
    }
  });
}

inline const void* pointer(const Tensor& t) { return t.data_ptr(); }

template <class T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.data_ptr());
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& t) {
  return t.has_value() ? static_cast<const T*>(t->data_ptr()) : nullptr;
}

// f(T{}) for the dtype of t.
template <class F>
void with_dtype(const Tensor& t, const char* op, F f) {
  const auto dtype = t.scalar_type();
  if (dtype == torch::headeronly::ScalarType::Float) {
    f(float{});
  } else if (dtype == torch::headeronly::ScalarType::Double) {
    f(double{});
  } else {
    STD_TORCH_CHECK(false, op, " on the CPU takes float32 and float64");
  }
}

}  // namespace cvk
