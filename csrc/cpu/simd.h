// How the CPU kernels walk a feature: runs of elements one stride apart, several threads, SIMD clones chosen at load
// time.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/planar.h"
#include "../common/shape.h"
#include "../common/wide.h"
#include "bfloat16.h"
#include "clones.h"
#include "stream.h"

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

// What a kernel does in one call: `rows` runs of `count` elements, `stride` apart in a planar feature and `count` apart
// in a real one. The rows are the positions of a channels-last feature; a call for each would cost more than its work.
// Handed on by reference: a copy on the stack, written in halves and read whole, waits until every store of the run
// before has left the core.
struct Block {
  int64_t rows, count, stride;
};

// The tasks of element-wise work: pieces of a sample's channels and positions together, or (channels-last) rows of
// channels.
struct Runs {
  bool last;
  int64_t length, chunk, per_sample;  // elements (rows) of a sample, of a task; tasks of a sample
  int64_t tasks(const Planar& v) const { return v.n * per_sample; }
};

inline Runs runs(const Planar& v) {
  Runs r{};
  r.last = v.layout == Layout::channels_last;
  r.length = r.last ? v.s : v.c * v.s;
  r.chunk = r.last ? std::max<int64_t>(1, CHUNK / std::max<int64_t>(1, v.c)) : CHUNK;
  r.per_sample = (r.length + r.chunk - 1) / r.chunk;
  return r;
}

// f(task, sample, offset of the real part, offset in a real tensor of this layout and one part, block); of a task in
// several calls where it is longer than a piece.
template <class F>
void for_runs(const Planar& v, const F& f, int64_t piece = CHUNK) {
  if (v.values() == 0) return;
  const Runs r = runs(v);
  const int64_t unit = r.last ? v.c : 1;  // elements of what is counted
  const int64_t step = r.last ? v.position : v.layout == Layout::interleaved ? 2 : 1;
  const int64_t work = std::min(r.length, r.chunk) * unit, most = std::max<int64_t>(1, piece / unit);
  torch::stable::parallel_for(0, r.tasks(v), std::max<int64_t>(1, GRAIN / work), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t sample = task / r.per_sample, begins = task % r.per_sample * r.chunk;
      const int64_t ends = std::min(r.length, begins + r.chunk);
      for (int64_t first = begins; first < ends; first += most) {
        const int64_t length = std::min(most, ends - first);
        f(task, sample, sample * v.sample + first * step, (sample * r.length + first) * unit,
          r.last ? Block{length, v.c, v.position} : Block{1, length, 0});
      }
    }
    if (piece != CHUNK) settle_streams();
  });
}

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
  } else if (dtype == torch::headeronly::ScalarType::BFloat16) {
    f(BFloat16{});
  } else {
    STD_TORCH_CHECK(false, op, " on the CPU takes float32, float64 and bfloat16");
  }
}

// What statistics and per-channel numbers are kept in: float32 beside half precision.
inline torch::headeronly::ScalarType wide_dtype(const Tensor& t) {
  using torch::headeronly::ScalarType;
  return t.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline Tensor wide_empty(const Tensor& like, const std::vector<int64_t>& sizes) {
  return empty_of(like, sizes, wide_dtype(like));
}

}  // namespace cvk
