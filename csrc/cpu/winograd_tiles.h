// A convolution by Winograd's filtering, task by task. A task is some tiles: their inputs, from any layout, to 16
// matrices of tiles and channels; the products with the weight's 16; the results back to positions. All of it stays in
// a core's cache. Complex weights by Gauss's three products p = A re, q = B im, r = (A + B)(re + im), the parts p - q
// and r - p - q; real ones by A re and A im.
//
// Sums that come before the products make NaN of an infinity, and overflow where the result need not. So where anything
// came out that is not finite (but see not_finite.h), all is done again DIRECTly: the same tasks, but nothing is
// transformed, and each of four results is the sum of nine products of its own inputs.
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

// Inputs of one tile, all channels: re, im and, for complex weights, their sum.
template <int L, bool DIRECT, class T>
CVK_INLINE void enter_tile(const Job<T>& j, const Room<T>& room, const Window<T>& w, int64_t tile) {
  const int64_t plane = POINTS * room.in_step;
  float* to = room.inputs + tile * j.in_row();
  for (int64_t c = 0; c < j.in.c; c += L) {
    floats<L> x[POINTS], y[POINTS];
    load_window<L, 4>(w.re, w, c, j.in.c, x);
    if constexpr (!DIRECT) transform_input<L>(x);
    store_points<L>(x, to + c, room.in_step);
    load_window<L, 4>(w.im, w, c, j.in.c, y);
    if constexpr (!DIRECT) transform_input<L>(y);
    store_points<L>(y, to + plane + c, room.in_step);
    if (j.complex) {
      CVK_UNROLL
      for (int k = 0; k < POINTS; ++k) {
        floats<L> re;
        load_vector<L>(to + k * room.in_step + c, re);
        store_vector<L>(to + 2 * plane + k * room.in_step + c, re + y[k]);
      }
    }
  }
}

// Results of one tile, all channels. not_finite: what makes NaN of its sum.
template <int L, bool DIRECT, class T>
CVK_INLINE void leave_tile(const Job<T>& j, const Room<T>& room, const Window<T>& w, int64_t tile,
                           floats<L>& not_finite) {
  const int64_t plane = POINTS * room.out_step;
  const float* from = room.results + tile * j.out_row();
  floats<L> nan{};
  for (int64_t c = 0; c < j.out.c; c += L) {
    for (int part = 0; part < 2; ++part) {
      floats<L> m[POINTS], y[4];
      CVK_UNROLL
      for (int k = 0; k < (DIRECT ? 4 : POINTS); ++k) {
        const float* at = from + k * room.out_step + c;
        if (!j.complex) {
          load_vector<L>(at + part * plane, m[k]);
          continue;
        }
        floats<L> p, q;
        load_vector<L>(at, p);
        load_vector<L>(at + plane, q);
        if (part == 0) {
          m[k] = p - q;
        } else {
          load_vector<L>(at + 2 * plane, m[k]);
          m[k] = m[k] - p - q;
        }
      }
      if constexpr (DIRECT) {
        y[0] = m[0], y[1] = m[1], y[2] = m[2], y[3] = m[3];
      } else {
        transform_output<L>(m, y);
      }
      nan += 0.0F * ((y[0] + y[1]) + (y[2] + y[3]));
      T* to = part == 0 ? w.re : w.im;
      if (c + L <= j.out.c) {
        CVK_UNROLL
        for (int k = 0; k < 4; ++k) store_vector<L>(to + k / 2 * w.row + k % 2 * w.position + c, y[k]);
      } else {
        for (int k = 0; k < 4; ++k) store_some<L>(to + k / 2 * w.row + k % 2 * w.position + c, j.out.c - c, y[k]);
      }
    }
  }
  not_finite += nan;
}

// Gradients of one tile's results, as the products' own.
template <int L, bool DIRECT, class T>
CVK_INLINE void enter_gradient(const Job<T>& j, const Room<T>& room, const Window<T>& w, int64_t tile) {
  const int64_t plane = POINTS * room.out_step;
  float* to = room.results + tile * j.out_row();
  for (int64_t c = 0; c < j.out.c; c += L) {
    floats<L> x[4], y[4], given[4], q[POINTS];
    load_window<L, 2>(w.re, w, c, j.out.c, x);
    load_window<L, 2>(w.im, w, c, j.out.c, y);
    for (int64_t p = 0; p < j.planes(); ++p) {
      CVK_UNROLL
      for (int k = 0; k < 4; ++k) {
        if (j.complex) {
          given[k] = p == 0 ? x[k] - y[k] : p == 1 ? -x[k] - y[k] : y[k];
        } else {
          given[k] = p == 0 ? x[k] : y[k];
        }
      }
      if constexpr (DIRECT) {
        for (int k = 0; k < 4; ++k) store_vector<L>(to + p * plane + k * room.out_step + c, given[k]);
      } else {
        transform_gradient<L>(given, q);
        store_points<L>(q, to + p * plane + c, room.out_step);
      }
    }
  }
}

// Inputs of all tiles of a task.
template <int L, bool DIRECT, class T>
CVK_INLINE void enter_tiles(const Job<T>& j, const Task& t, const Room<T>& room) {
  const int64_t begin = std::max<int64_t>(0, 2 * t.first - j.top);
  const int64_t end = std::max(begin, std::min(j.in.h, 2 * t.last + 2 - j.top));
  const Field<T> in = rows_of(j.in, t, begin, end, room.rows_in);
  turn_rows<false>(j.in, t, begin, end, in);
  for_tiles(t, j.across, [&](int64_t n, int64_t y, int64_t x, int64_t tile) CVK_INLINE_LAMBDA {
    enter_tile<L, DIRECT>(j, room, read_window<4>(j.in, in, n, 2 * y - j.top, 2 * x - j.left, room.edge), tile);
  });
}

template <class T>
void relu(const Job<T>& j, const Task& t, int64_t begin, int64_t end) {
  const bool last = j.out.v.layout == Layout::channels_last;
  for (int64_t n = t.n; n < t.n + t.samples; ++n) {
    T* y = j.out.data + n * j.out.v.sample;
    const T *residual = j.relu.residual, *beside = residual ? residual + n * j.out.v.sample : y;
    const auto run = last       ? residual ? relu_span<T, true, true> : relu_span<T, true, false>
                     : residual ? relu_span<T, false, true>
                                : relu_span<T, false, false>;
    run(y, beside, j.relu.scale, j.out.c, j.out.v.s, begin * j.out.w, end * j.out.w, j.relu.c);
  }
}

// f(point of the inputs, of the weight, of the results) for each product of a tile.
template <bool DIRECT, class F>
CVK_INLINE void for_products(const F& f) {
  if constexpr (DIRECT) {
    for (int64_t k = 0; k < 36; ++k) {
      const int64_t result = k / 9, at = k % 9;
      f(4 * (result / 2 + at / 3) + result % 2 + at % 3, at, result);
    }
  } else {
    for (int64_t k = 0; k < POINTS; ++k) f(k, k, k);
  }
}

// The convolution of tasks [begin, end).
template <int L, bool DIRECT, class T>
CVK_INLINE void convolve(const Job<T>& j, int64_t begin, int64_t end) {
  const Room<T> room(j);
  for (int64_t index = begin; index < end; ++index) {
    const Task t = task_of(j, index);
    enter_tiles<L, DIRECT>(j, t, room);
    for_products<DIRECT>([&](int64_t in, int64_t weight, int64_t out) CVK_INLINE_LAMBDA {
      for (int64_t p = 0; p < j.planes(); ++p) {
        const int64_t of_plane = p * POINTS, of_weight = (j.complex ? of_plane : 0) + weight;
        const float *from = room.inputs + (of_plane + in) * room.in_step,
                    *by = j.weight + of_weight * j.in.c * j.out_row();
        float* to = room.results + (of_plane + out) * room.out_step;
        const Product product{from, j.in_row(), 1, by, 0, to, j.out_row(), j.in.c};
        if constexpr (DIRECT) {  // of one kind: it is inlined
          if (weight == 0) clear(product, t.tiles, j.out_row());
          multiply<L, true>(product, t.tiles, j.out_row());
        } else {
          multiply<L, false>(product, t.tiles, j.out_row());
        }
      }
    });
    const int64_t top = 2 * t.first, bottom = std::min(j.out.h, 2 * t.last);
    const Field<T> out = rows_of(j.out, t, top, bottom, room.rows_out);
    floats<L> not_finite{};
    for_tiles(t, j.across, [&](int64_t n, int64_t y, int64_t x, int64_t tile) CVK_INLINE_LAMBDA {
      write_window<2>(j.out, out, n, 2 * y, 2 * x, room.edge, [&](const Window<T>& w) CVK_INLINE_LAMBDA {
        leave_tile<L, DIRECT>(j, room, w, tile, not_finite);
      });
    });
    if (!is_zero<L>(not_finite)) j.spoiled->store(true, std::memory_order_relaxed);
    turn_rows<true>(j.out, t, top, bottom, out);
    if (j.relu.scale) relu(j, t, top, bottom);
  }
}

// The points of the weights' gradient, of units [begin, end).
template <int L, bool DIRECT, class T>
CVK_INLINE void add_weights(const Job<T>& whole, int64_t begin, int64_t end) {
  for (int64_t unit = begin; unit < end; ++unit) {
    const int64_t chunk = unit / whole.blocks, block = unit % whole.blocks;
    const int64_t channel = block * whole.channels / whole.blocks;
    Job<T> j = whole;
    j.in.c = (block + 1) * whole.channels / whole.blocks - channel;
    j.in.data += channel * j.in.v.channel;
    const Room<T> room(j);
    float* sums = j.partial + chunk * j.weight_size() + channel * j.out_row();
    const int64_t point = j.channels * j.out_row(), size = j.in.c * j.out_row();
    for (int64_t k = 0; k < j.weights() * POINTS; ++k) std::fill(sums + k * point, sums + k * point + size, 0.0F);
    for (int64_t index = chunk * j.tasks() / j.chunks; index < (chunk + 1) * j.tasks() / j.chunks; ++index) {
      const Task t = task_of(j, index);
      enter_tiles<L, DIRECT>(j, t, room);
      const int64_t top = 2 * t.first, bottom = std::min(j.out.h, 2 * t.last);
      const Field<T> given = rows_of(j.out, t, top, bottom, room.rows_out);
      turn_rows<false>(j.out, t, top, bottom, given);
      for_tiles(t, j.across, [&](int64_t n, int64_t y, int64_t x, int64_t tile) CVK_INLINE_LAMBDA {
        enter_gradient<L, DIRECT>(j, room, read_window<2>(j.out, given, n, 2 * y, 2 * x, room.edge), tile);
      });
      const int64_t lines = DIRECT ? t.samples * (t.last - t.first) : 1, line = t.tiles / lines;
      for_products<DIRECT>([&](int64_t in, int64_t weight, int64_t out) CVK_INLINE_LAMBDA {
        // directly without the results beyond the edges: their gradient, 0, would make NaN of what is not finite
        const bool short_row = DIRECT && out % 2 == 1 && j.out.w % 2 == 1;
        const bool short_column = DIRECT && out / 2 == 1 && j.out.h % 2 == 1;
        for (int64_t p = 0; p < j.planes(); ++p) {
          const int64_t of_plane = p * POINTS, of_weight = (j.complex ? of_plane : 0) + weight;
          const float *z = room.inputs + (of_plane + in) * room.in_step,
                      *g = room.results + (of_plane + out) * room.out_step;
          for (int64_t i = 0; i < lines; ++i) {
            if (short_column && t.first + i % (t.last - t.first) == j.down - 1) continue;
            multiply<L, true>({z + i * line * j.in_row(), 1, j.in_row(), g + i * line * j.out_row(), j.out_row(),
                               sums + of_weight * point, j.out_row(), line - short_row},
                              j.in.c, j.out_row());
          }
        }
      });
    }
  }
}

}  // namespace
}  // namespace cvk
