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

#include "winograd_task.h"

namespace cvk {
namespace {

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
