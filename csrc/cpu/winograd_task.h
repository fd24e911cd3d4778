// What a task of Winograd's convolution is: its numbers, the memory it works in, and the windows that it reads and
// writes.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>

#include "planes.h"
#include "winograd.h"

namespace cvk {
namespace {

// Where rows of channels stand. A strip of a contiguous feature is turned into such rows first.
template <class T>
struct Field {
  T* first;
  int64_t part, sample, row, position;
  T* at(int64_t n, int64_t y, int64_t x) const { return first + n * sample + y * row + x * position; }
};

template <class T>
struct Side {  // a feature: its planes and what is in them
  T* data;
  Planar v;
  int64_t c, h, w;
  bool turned() const { return v.layout == Layout::contiguous; }
  Field<T> field() const { return {data, v.part, v.sample, w * v.position, v.position}; }
};

template <class T>
struct Relu {
  const float* scale;  // none: no ReLU
  const T* residual;
  float c;
};

template <class T>
struct Job {
  Side<T> in, out;  // of the convolution; backward, out is its gradient
  int64_t top, left;
  bool complex;
  Relu<T> relu;
  float* weight;                     // transformed: [1 or 3][POINTS][in.c][rounded out.c], each point in panels
  float* partial;                    // of its gradient, the same for each of `chunks` of the tasks
  int64_t chunks, blocks, channels;  // `blocks` of the input channels; how many those are
  std::atomic<bool>* spoiled;        // whether a result is not finite

  int64_t across, down, samples, strip;  // tiles of a sample; samples and rows of tiles of a task

  int64_t planes() const { return complex ? 3 : 2; }
  int64_t weights() const { return complex ? 3 : 1; }
  int64_t in_row() const { return rounded_up(in.c); }
  int64_t out_row() const { return rounded_up(out.c); }
  int64_t weight_size() const { return weights() * POINTS * channels * out_row(); }
  int64_t strips() const { return (down + strip - 1) / strip; }
  int64_t tasks() const { return (in.v.n + samples - 1) / samples * strips(); }

  void cut(int64_t tiles) {
    across = (out.w + 1) / 2, down = (out.h + 1) / 2;
    samples = std::max<int64_t>(1, tiles / (across * down));
    strip = std::min(down, std::max<int64_t>(1, tiles / across));
    strip = (down + strips() - 1) / strips();
  }
};

struct Task {
  int64_t n, samples, first, last;  // samples from n on; rows of tiles [first, last)
  int64_t tiles;
};

template <class T>
Task task_of(const Job<T>& j, int64_t index) {
  Task t{};
  t.n = index / j.strips() * j.samples;
  t.samples = std::min(j.samples, j.in.v.n - t.n);
  t.first = index % j.strips() * j.strip;
  t.last = std::min(j.down, t.first + j.strip);
  t.tiles = t.samples * (t.last - t.first) * j.across;
  return t;
}

// A thread's own memory, kept from call to call: it holds a task, some megabytes at most.
std::byte* scratch(int64_t bytes) {
  static thread_local std::unique_ptr<std::byte[]> held;
  static thread_local int64_t size = 0;
  if (bytes > size) held.reset(new std::byte[static_cast<size_t>(bytes)]), size = bytes;
  return held.get();
}

// What a task works in. A point's matrix is a little longer than it need be: 16 rows a power of two of bytes apart have
// one place in the first-level cache.
template <class T>
struct Room {
  int64_t in_step, out_step;  // from point to point
  float *inputs, *results;    // [planes][POINTS][tiles][row]
  T *rows_in, *rows_out;      // strips of contiguous features as rows of channels
  T* edge;                    // a window that reaches beyond the edges

  Room(const Job<T>& j) {
    const int64_t tiles = j.samples * j.strip * j.across;
    in_step = tiles * j.in_row() + ROUND, out_step = tiles * j.out_row() + ROUND;
    const int64_t lines_in = std::min(j.in.h, 2 * j.strip + 2), lines_out = std::min(j.out.h, 2 * j.strip);
    const int64_t floats = rounded_up(j.planes() * POINTS * in_step), more = rounded_up(j.planes() * POINTS * out_step);
    const int64_t strip_in = j.in.turned() ? rounded_up(2 * j.samples * lines_in * j.in.w * j.in.c) : 0;
    const int64_t strip_out = j.out.turned() ? rounded_up(2 * j.samples * lines_out * j.out.w * j.out.c) : 0;
    const int64_t window = 2 * POINTS * std::max(j.in.c, j.out.c);
    std::byte* at = scratch((floats + more) * sizeof(float) + (strip_in + strip_out + window) * sizeof(T));
    inputs = reinterpret_cast<float*>(at), results = inputs + floats;
    rows_in = reinterpret_cast<T*>(results + more), rows_out = rows_in + strip_in, edge = rows_out + strip_out;
  }
};

// Lines [begin, end) of the task's samples as rows of channels: where they lie, or, of a contiguous feature, in `to`.
template <class T>
Field<T> rows_of(const Side<T>& side, const Task& t, int64_t begin, int64_t end, T* to) {
  if (!side.turned()) return side.field();
  const int64_t lines = (end - begin) * side.w, shift = (t.n * lines + begin * side.w) * side.c;
  return {to - shift, t.samples * lines * side.c, lines * side.c, side.w * side.c, side.c};
}

// Fills those rows from a contiguous feature, or empties them into it.
template <bool BACK, class T>
void turn_rows(const Side<T>& side, const Task& t, int64_t begin, int64_t end, const Field<T>& to) {
  if (!side.turned()) return;
  for (int64_t n = t.n; n < t.n + t.samples; ++n) {
    T *z = side.data + n * side.v.sample, *rows = to.at(n, 0, 0), *others = rows + to.part;
    if constexpr (BACK) {
      join_span<T, PARTS>(Rows<const T>{{rows, others, rows}, side.c}, z, z + side.v.part, side.c, side.v.s,
                          begin * side.w, end * side.w);
    } else {
      split_span<T, PARTS>(z, z + side.v.part, Rows<T>{{rows, others, rows}, side.c}, side.c, side.v.s, begin * side.w,
                           end * side.w);
    }
  }
}

// f(sample, row, column, number) of each tile of a task
template <class F>
CVK_INLINE void for_tiles(const Task& t, int64_t across, const F& f) {
  int64_t tile = 0;
  for (int64_t n = t.n; n < t.n + t.samples; ++n) {
    for (int64_t y = t.first; y < t.last; ++y) {
      for (int64_t x = 0; x < across; ++x) f(n, y, x, tile++);
    }
  }
}

// SIZE x SIZE rows of channels of both parts.
template <class T>
struct Window {
  T *re, *im;
  int64_t row, position;
};

template <int SIZE, class T>
CVK_INLINE bool inside(const Side<T>& side, int64_t y, int64_t x) {
  return y >= 0 && y + SIZE <= side.h && x >= 0 && x + SIZE <= side.w;
}

template <class T>
CVK_INLINE Window<T> at(const Field<T>& field, int64_t n, int64_t y, int64_t x) {
  T* re = field.at(n, y, x);
  return {re, re + field.part, field.row, field.position};
}

// f(row of the window, row of the feature or null beyond its edges) of both parts, for a window that reaches beyond
// them.
template <int SIZE, class T, class F>
CVK_INLINE void for_rows(const Side<T>& side, const Field<T>& field, const Window<T>& w, int64_t n, int64_t y,
                         int64_t x, const F& f) {
  for (int i = 0; i < SIZE; ++i) {
    for (int k = 0; k < SIZE; ++k) {
      const bool real = y + i >= 0 && y + i < side.h && x + k >= 0 && x + k < side.w;
      T* row = real ? field.at(n, y + i, x + k) : nullptr;
      const int64_t place = i * w.row + k * w.position;
      f(w.re + place, row);
      f(w.im + place, real ? row + field.part : nullptr);
    }
  }
}

// A window as it lies, or beyond the edges a copy with zeros there.
template <int SIZE, class T>
CVK_INLINE Window<T> read_window(const Side<T>& side, const Field<T>& field, int64_t n, int64_t y, int64_t x, T* edge) {
  if (inside<SIZE>(side, y, x)) return at(field, n, y, x);
  const Window<T> w{edge, edge + POINTS * side.c, SIZE * side.c, side.c};
  const size_t bytes = static_cast<size_t>(side.c) * sizeof(T);
  for_rows<SIZE>(side, field, w, n, y, x, [&](T* to, const T* row) {
    row ? std::memcpy(to, row, bytes) : std::memset(static_cast<void*>(to), 0, bytes);
  });
  return w;
}

// f(window) writes one: as it lies, or one of its own of which what is within the edges is copied.
template <int SIZE, class T, class F>
CVK_INLINE void write_window(const Side<T>& side, const Field<T>& field, int64_t n, int64_t y, int64_t x, T* edge,
                             const F& f) {
  if (inside<SIZE>(side, y, x)) return f(at(field, n, y, x));
  const Window<T> w{edge, edge + POINTS * side.c, SIZE * side.c, side.c};
  f(w);
  for_rows<SIZE>(side, field, w, n, y, x, [&](const T* from, T* row) {
    if (row) std::memcpy(row, from, static_cast<size_t>(side.c) * sizeof(T));
  });
}

template <int L, int SIZE, class T>
CVK_INLINE void load_window(const T* from, const Window<T>& w, int64_t c, int64_t channels, floats<L>* to) {
  if (c + L <= channels) {
    CVK_UNROLL
    for (int k = 0; k < SIZE * SIZE; ++k) {
      load_vector<L>(from + k / SIZE * w.row + k % SIZE * w.position + c, to[k]);
    }
  } else {
    for (int k = 0; k < SIZE * SIZE; ++k) {
      load_some<L>(from + k / SIZE * w.row + k % SIZE * w.position + c, channels - c, to[k]);
    }
  }
}

}  // namespace
}  // namespace cvk
