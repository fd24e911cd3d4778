// Where a kernel writes: to its place, or, a result that is too large to be found in the caches by who reads it next,
// into a buffer of the first-level cache, from where it goes to memory past the others (stream.h).
//
// Measured on an AMD Zen 3 with 32 MiB: an output and a gradient of 49 MiB take 20 and 14 % less time. Six magnitude
// ReLUs in a row and back, one and two threads: with outputs past the caches 0 to 8 % less at 4 MiB a feature and 7 to
// 13 % at 8, with gradients too 7 to 11 % more at 5 and again 7 to 14 % less at 8. Without a backward pass the next
// layer finds an output of 8 MiB in the cache, and takes a third of the time.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include "simd.h"

namespace cvk {

inline int64_t bytes_of(const Tensor& t) { return t.numel() * t.element_size(); }

// Gradients are recorded where outputs, and what they are computed from, are kept for a backward pass.
inline bool output_past_caches(const Tensor& out) {
  const int64_t cache = cache_to_pass();
  return cache && (aoti_torch_grad_mode_is_enabled() ? bytes_of(out) >= cache / 8 : bytes_of(out) > cache / 2);
}

inline bool gradient_past_caches(const Tensor& g) { return cache_to_pass() && bytes_of(g) >= cache_to_pass() / 4; }

// Elements of a part that pass at a time: with 4 KiB, what is read waited for what is written (a tenth slower). A row
// of channels may be longer, up to the buffer's end.
template <class T>
constexpr int64_t PIECE = 1024 / static_cast<int64_t>(sizeof(T));
template <class T>
constexpr int64_t HELD = 8 * PIECE<T>;

// What for_runs is to take at a time.
template <class T>
int64_t piece_of(bool past) {
  return past ? PIECE<T> : CHUNK;
}

// f(to, apart) where `runs` runs of `size` elements, so far apart, are to be written.
template <class T, class F>
void write_runs(bool past, T* to, int64_t apart, int64_t runs, int64_t size, const F& f) {
  if (!past || runs * size > HELD<T>) return f(to, apart);
  alignas(64) T held[HELD<T>];
  f(held, size);
  for (int64_t k = 0; k < runs; ++k) stream(to + k * apart, held + k * size, size);
}

// f(first, rows, to, apart) for `height` outputs of 2x2 windows, each of which writes two rows of so many elements.
template <class T, class F>
void write_halves(bool past, T* to, int64_t apart, int64_t runs, int64_t row, int64_t height, const F& f) {
  const int64_t most = past ? std::max<int64_t>(1, PIECE<T> / (2 * row)) : height;
  for (int64_t first = 0; first < height; first += most) {
    const int64_t rows = std::min(most, height - first);
    write_runs(past, to + first * 2 * row, apart, runs, rows * 2 * row,
               [&](T* place, int64_t between) { f(first, rows, place, between); });
  }
}

// f(re, im) where the two parts of a block are to be written.
template <class T, class F>
void write_parts(bool past, T* re, T* im, const Block& b, const F& f) {
  const int64_t size = b.rows * b.count;
  if (im > re && im - re <= b.count) {  // one run of both: pairs, or rows of channels
    write_runs(past, re, 0, 1, 2 * size, [&](T* to, int64_t) { f(to, to + (im - re)); });
  } else {
    write_runs(past, re, im - re, 2, size, [&](T* to, int64_t apart) { f(to, to + apart); });
  }
}

}  // namespace cvk
