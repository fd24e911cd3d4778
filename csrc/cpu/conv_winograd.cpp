// A complex convolution with a 3x3 kernel and stride 1 by Winograd's filtering, features in float32 or bfloat16, all
// else in float32: forward (which is the gradient of the features as well, with the kernel turned and transposed) and
// the gradient of the weights.
//
// A task is some 32 tiles: their inputs, from any layout, to 16 matrices of tiles and channels; the products with the
// weight's 16; the results back to positions. All of it stays in a core's cache. Complex weights by Gauss's three
// products p = A re, q = B im, r = (A + B)(re + im), the parts p - q and r - p - q; real ones by A re and A im.
#include <torch/csrc/stable/library.h>

#include <cstddef>
#include <memory>
#include <tuple>

#include "../common/shape.h"
#include "planes.h"
#include "winograd.h"

namespace cvk {
namespace {

constexpr int64_t TILES = 32;  // of a task, about: 32 x 16 points x 96 channels are 196 KiB
// The gradient of the weights is the work of units, the same for any number of threads: each adds up some of the tiles
// for some of the input channels.
constexpr int64_t UNITS = 16;
constexpr int64_t EACH = 256;      // tiles of a unit at least: to clear its sums and to add them up takes as long as 8
constexpr int64_t CHANNELS = 64;   // input channels of a unit at most: its sums should not leave the cache
constexpr int64_t MOST = 1 << 24;  // elements of all sums

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

// Lines [begin, end) of the task's samples of a contiguous feature as rows of channels: the field they can then be read
// in, or written in before they go `back`.
template <class T>
Field<T> rows_of(const Side<T>& side, const Task& t, int64_t begin, int64_t end, T* to, bool back) {
  const int64_t lines = (end - begin) * side.w, plane = t.samples * lines * side.c;
  for (int64_t n = 0; n < t.samples; ++n) {
    T* z = side.data + (t.n + n) * side.v.sample;
    T* rows = to + (n * lines - begin * side.w) * side.c;
    if (back) {
      join_span<T, PARTS>(Rows<const T>{{rows, rows + plane, rows}, side.c}, z, z + side.v.part, side.c, side.v.s,
                          begin * side.w, end * side.w);
    } else {
      split_span<T, PARTS>(z, z + side.v.part, Rows<T>{{rows, rows + plane, rows}, side.c}, side.c, side.v.s,
                           begin * side.w, end * side.w);
    }
  }
  const int64_t shift = (t.n * lines + begin * side.w) * side.c;
  return {to - shift, plane, lines * side.c, side.w * side.c, side.c};
}

template <class T>
Field<T> inputs_of(const Job<T>& j, const Task& t, const Room<T>& room) {
  if (!j.in.turned()) return j.in.field();
  const int64_t begin = std::max<int64_t>(0, 2 * t.first - j.top);
  return rows_of(j.in, t, begin, std::max(begin, std::min(j.in.h, 2 * t.last + 2 - j.top)), room.rows_in, false);
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

// f(row of the window, row of the feature or null beyond its edges, part) for a window that reaches beyond them.
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

template <int L, int SIZE, class T>
CVK_INLINE void load_window(const T* from, const Window<T>& w, int64_t c, int64_t channels, floats<L>* to) {
  if (c + L <= channels) {
    CVK_UNROLL
    for (int k = 0; k < SIZE * SIZE; ++k) {
      load_floats<L>(from + k / SIZE * w.row + k % SIZE * w.position + c, to[k]);
    }
  } else {
    for (int k = 0; k < SIZE * SIZE; ++k) {
      load_some<L>(from + k / SIZE * w.row + k % SIZE * w.position + c, channels - c, to[k]);
    }
  }
}

template <int L>
CVK_INLINE void store_points(const floats<L>* x, float* to, int64_t step) {
  CVK_UNROLL
  for (int k = 0; k < POINTS; ++k) store_floats<L>(to + k * step, x[k]);
}

// Inputs of one tile, all channels: re, im and, for complex weights, their sum.
template <int L, class T>
CVK_INLINE void enter_tile(const Job<T>& j, const Room<T>& room, const Window<T>& w, int64_t tile) {
  const int64_t plane = POINTS * room.in_step;
  float* to = room.inputs + tile * j.in_row();
  for (int64_t c = 0; c < j.in.c; c += L) {
    floats<L> x[POINTS], y[POINTS];
    load_window<L, 4>(w.re, w, c, j.in.c, x);
    transform_input<L>(x);
    store_points<L>(x, to + c, room.in_step);
    load_window<L, 4>(w.im, w, c, j.in.c, y);
    transform_input<L>(y);
    store_points<L>(y, to + plane + c, room.in_step);
    if (j.complex) {
      CVK_UNROLL
      for (int k = 0; k < POINTS; ++k) {
        floats<L> re;
        load_floats<L>(to + k * room.in_step + c, re);
        store_floats<L>(to + 2 * plane + k * room.in_step + c, re + y[k]);
      }
    }
  }
}

// Results of one tile, all channels.
template <int L, class T>
CVK_INLINE void leave_tile(const Job<T>& j, const Room<T>& room, const Window<T>& w, int64_t tile) {
  const int64_t plane = POINTS * room.out_step;
  const float* from = room.results + tile * j.out_row();
  for (int64_t c = 0; c < j.out.c; c += L) {
    for (int part = 0; part < 2; ++part) {
      floats<L> m[POINTS], y[4];
      CVK_UNROLL
      for (int k = 0; k < POINTS; ++k) {
        const float* at = from + k * room.out_step + c;
        if (!j.complex) {
          load_floats<L>(at + part * plane, m[k]);
          continue;
        }
        floats<L> p, q;
        load_floats<L>(at, p);
        load_floats<L>(at + plane, q);
        if (part == 0) {
          m[k] = p - q;
        } else {
          load_floats<L>(at + 2 * plane, m[k]);
          m[k] = m[k] - p - q;
        }
      }
      transform_output<L>(m, y);
      T* to = part == 0 ? w.re : w.im;
      if (c + L <= j.out.c) {
        CVK_UNROLL
        for (int k = 0; k < 4; ++k) store_floats<L>(to + k / 2 * w.row + k % 2 * w.position + c, y[k]);
      } else {
        for (int k = 0; k < 4; ++k) store_some<L>(to + k / 2 * w.row + k % 2 * w.position + c, j.out.c - c, y[k]);
      }
    }
  }
}

// Gradients of one tile's results, as the products' own.
template <int L, class T>
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
      transform_gradient<L>(given, q);
      store_points<L>(q, to + p * plane + c, room.out_step);
    }
  }
}

template <int L, class T>
CVK_INLINE void enter_tiles(const Job<T>& j, const Task& t, const Room<T>& room) {
  const Field<T> in = inputs_of(j, t, room);
  int64_t tile = 0;
  for (int64_t n = t.n; n < t.n + t.samples; ++n) {
    for (int64_t y = t.first; y < t.last; ++y) {
      for (int64_t x = 0; x < j.across; ++x) {
        const Window<T> w = read_window<4>(j.in, in, n, 2 * y - j.top, 2 * x - j.left, room.edge);
        enter_tile<L>(j, room, w, tile++);
      }
    }
  }
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

template <int L, class T>
CVK_INLINE void convolve(const Job<T>& j, int64_t begin, int64_t end) {
  const Room<T> room(j);
  for (int64_t index = begin; index < end; ++index) {
    const Task t = task_of(j, index);
    enter_tiles<L>(j, t, room);
    for (int64_t k = 0; k < POINTS; ++k) {
      for (int64_t p = 0; p < j.planes(); ++p) {
        const int64_t point = p * POINTS + k, weight = j.complex ? point : k;
        multiply<L, false>({room.inputs + point * room.in_step, j.in_row(), 1, j.weight + weight * j.in.c * j.out_row(),
                            0, room.results + point * room.out_step, j.out_row(), j.in.c},
                           t.tiles, j.out_row());
      }
    }
    const int64_t top = 2 * t.first, bottom = std::min(j.out.h, 2 * t.last);
    Field<T> out = j.out.field();
    if (j.out.turned()) {
      const int64_t lines = (bottom - top) * j.out.w, shift = (t.n * lines + top * j.out.w) * j.out.c;
      out = {room.rows_out - shift, t.samples * lines * j.out.c, lines * j.out.c, j.out.w * j.out.c, j.out.c};
    }
    int64_t tile = 0;
    for (int64_t n = t.n; n < t.n + t.samples; ++n) {
      for (int64_t y = t.first; y < t.last; ++y) {
        for (int64_t x = 0; x < j.across; ++x) {
          if (inside<2>(j.out, 2 * y, 2 * x)) {
            leave_tile<L>(j, room, at(out, n, 2 * y, 2 * x), tile++);
            continue;
          }
          const Window<T> w{room.edge, room.edge + POINTS * j.out.c, 2 * j.out.c, j.out.c};
          leave_tile<L>(j, room, w, tile++);
          for_rows<2>(j.out, out, w, n, 2 * y, 2 * x, [&](const T* from, T* row) {
            if (row) std::memcpy(row, from, static_cast<size_t>(j.out.c) * sizeof(T));
          });
        }
      }
    }
    if (j.out.turned()) rows_of(j.out, t, top, bottom, room.rows_out, true);
    if (j.relu.scale) relu(j, t, top, bottom);
  }
}

template <int L, class T>
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
      enter_tiles<L>(j, t, room);
      const int64_t top = 2 * t.first, bottom = std::min(j.out.h, 2 * t.last);
      const Field<T> given = j.out.turned() ? rows_of(j.out, t, top, bottom, room.rows_out, false) : j.out.field();
      int64_t tile = 0;
      for (int64_t n = t.n; n < t.n + t.samples; ++n) {
        for (int64_t y = t.first; y < t.last; ++y) {
          for (int64_t x = 0; x < j.across; ++x) {
            enter_gradient<L>(j, room, read_window<2>(j.out, given, n, 2 * y, 2 * x, room.edge), tile++);
          }
        }
      }
      for (int64_t k = 0; k < POINTS; ++k) {
        for (int64_t p = 0; p < j.planes(); ++p) {
          const int64_t from = p * POINTS + k;
          multiply<L, true>({room.inputs + from * room.in_step, 1, j.in_row(), room.results + from * room.out_step,
                             j.out_row(), sums + (j.complex ? from : k) * point, j.out_row(), t.tiles},
                            j.in.c, j.out_row());
        }
      }
    }
  }
}

// The kernels [O, I, 3, 3] of a convolution from `in` to `out` channels, or their gradients. `back`: of the one that
// gives the gradient of the features, its kernels turned, transposed and conjugated.
struct Kernels {
  float *re, *im;  // no im: real weights
  int64_t in, out;
  bool back;
  float* points;  // [1 or 3][POINTS][in][rounded out]; several of them one behind the other
  int64_t partials;

  int64_t row() const { return rounded_up(out); }
  int64_t plane() const { return POINTS * in * row(); }
  int64_t count() const { return im ? 3 : 1; }
  int64_t place(int64_t i, int64_t o) const { return 9 * (back ? i * out + o : o * in + i); }
};

// The points of the kernels of input channels [begin, end).
template <int L>
CVK_INLINE void enter_weights(const Kernels& w, int64_t begin, int64_t end) {
  const int64_t point = w.in * w.row();
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t o = 0; o < w.row(); o += L) {
      float held[9][L] = {};
      floats<L> kernel[9], re[POINTS], im[POINTS];
      for (int part = 0; part < (w.im ? 2 : 1); ++part) {
        const float* from = part == 0 ? w.re : w.im;
        for (int64_t lane = 0; lane < std::min<int64_t>(L, w.out - o); ++lane) {
          const float* k = from + w.place(i, o + lane);
          for (int at = 0; at < 9; ++at) held[at][lane] = k[w.back ? 8 - at : at];
        }
        for (int at = 0; at < 9; ++at) load_floats<L>(held[at], kernel[at]);
        transform_weight<L>(kernel, part == 0 ? re : im);
      }
      float* to = w.points + panel_at(o, w.in) + i * panel_width(o, w.row());
      store_points<L>(re, to, point);
      if (!w.im) continue;
      for (int k = 0; k < POINTS; ++k) {
        im[k] = w.back ? -im[k] : im[k];
        re[k] += im[k];
      }
      store_points<L>(im, to + w.plane(), point);
      store_points<L>(re, to + 2 * w.plane(), point);
    }
  }
}

// From the sums of the points to the gradients of these kernels.
template <int L>
CVK_INLINE void leave_weights(const Kernels& w, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t o = 0; o < w.row(); o += L) {
      floats<L> sum[POINTS], kernel[3][9];
      for (int64_t p = 0; p < w.count(); ++p) {
        for (int k = 0; k < POINTS; ++k) {
          const float* from = w.points + p * w.plane() + (k * w.in + i) * w.row() + o;
          load_floats<L>(from, sum[k]);
          for (int64_t partial = 1; partial < w.partials; ++partial) {
            floats<L> more;
            load_floats<L>(from + partial * w.count() * w.plane(), more);
            sum[k] += more;
          }
        }
        transform_weight_back<L>(sum, kernel[p]);
      }
      for (int part = 0; part < (w.im ? 2 : 1); ++part) {
        float held[9][L];
        for (int at = 0; at < 9; ++at) {
          store_floats<L>(held[at], w.im ? kernel[part][at] + kernel[2][at] : kernel[0][at]);
        }
        float* to = part == 0 ? w.re : w.im;
        for (int64_t lane = 0; lane < std::min<int64_t>(L, w.out - o); ++lane) {
          for (int at = 0; at < 9; ++at) to[w.place(i, o + lane) + at] = held[at][lane];
        }
      }
    }
  }
}

// --- one clone for each width of vector
// -------------------------------------------------------------------------------

template <class Work>
using Worker = void (*)(const Work&, int64_t, int64_t);

template <class T>
struct Convolution {
  Worker<Job<T>> convolve, add_weights;
};

struct Workers {
  Worker<Kernels> enter_weights, leave_weights;
  Convolution<float> whole;
  Convolution<StoredBFloat16> half;

  const Convolution<float>& of(float) const { return whole; }
  const Convolution<StoredBFloat16>& of(StoredBFloat16) const { return half; }
};

#define CVK_WORKER(name, as, Work, L, ...) \
  __VA_ARGS__ void name##_##as##_##L(const Work& work, int64_t begin, int64_t end) { name<L>(work, begin, end); }
#define CVK_WORKERS(L, ...)                                                  \
  CVK_WORKER(enter_weights, all, Kernels, L, __VA_ARGS__)                    \
  CVK_WORKER(leave_weights, all, Kernels, L, __VA_ARGS__)                    \
  CVK_WORKER(convolve, whole, Job<float>, L, __VA_ARGS__)                    \
  CVK_WORKER(convolve, half, Job<StoredBFloat16>, L, __VA_ARGS__)            \
  CVK_WORKER(add_weights, whole, Job<float>, L, __VA_ARGS__)                 \
  CVK_WORKER(add_weights, half, Job<StoredBFloat16>, L, __VA_ARGS__)         \
  constexpr Workers workers_##L{enter_weights_all_##L,                       \
                                leave_weights_all_##L,                       \
                                {convolve_whole_##L, add_weights_whole_##L}, \
                                {convolve_half_##L, add_weights_half_##L}};

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
CVK_WORKERS(4)
CVK_WORKERS(8, __attribute__((target("avx2,fma"))))
CVK_WORKERS(16, __attribute__((target("avx2,fma,avx512f,avx512dq,avx512bw,avx512vl"))))

// lanes: 0 for as many as this processor has
const Workers& workers(int64_t lanes) {
  const bool some = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool wide = some && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  const int64_t most = wide ? 16 : some ? 8 : 4;
  STD_TORCH_CHECK(lanes <= most, "lanes must be at most ", most, " on this processor");
  lanes = lanes == 0 ? most : lanes;
  return lanes == 16 ? workers_16 : lanes == 8 ? workers_8 : workers_4;
}
#elif defined(__GNUC__) || defined(__clang__)
CVK_WORKERS(4)
const Workers& workers(int64_t) { return workers_4; }
#else
CVK_WORKERS(1)
const Workers& workers(int64_t) { return workers_1; }
#endif

// --- operators
// --------------------------------------------------------------------------------------------------------

template <class T>
Side<T> side_of(const Tensor& z, const char* name) {
  const Planar v = planar(z, name, true);
  STD_TORCH_CHECK(v.layout != Layout::interleaved, name, " must not be interleaved");
  return {data<T>(z), v, v.c, z.size(3), z.size(4)};
}

// f(T{}) for the dtype of features
template <class F>
void with_feature(const Tensor& z, const char* name, const F& f) {
  const bool whole = z.scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(z.dim() == 5 && (whole || z.scalar_type() == ScalarType::BFloat16), name,
                  " must be [N, 2, C, H, W], float32 or bfloat16");
  whole ? f(float{}) : f(StoredBFloat16{});
}

void check_kernel(const Tensor& w, int64_t out, int64_t in, const char* name) {
  STD_TORCH_CHECK(w.dim() == 4 && w.size(0) == out && w.size(1) == in && w.size(2) == 3 && w.size(3) == 3 &&
                      w.is_contiguous() && w.scalar_type() == ScalarType::Float,
                  name, " must be [O, I, 3, 3] of the features' channels, contiguous, float32");
}

// f(begin, end) over input channels
template <class F>
void for_inputs(const Kernels& w, const F& f) {
  const int64_t each = 2 * w.count() * POINTS * w.row() * std::max<int64_t>(1, w.partials);
  torch::stable::parallel_for(0, w.in, std::max<int64_t>(1, GRAIN / each), f);
}

template <class T>
void check_geometry(const Job<T>& j) {
  STD_TORCH_CHECK(j.top >= 0 && j.top <= 2 && j.left >= 0 && j.left <= 2, "padding must be 0, 1 or 2");
  STD_TORCH_CHECK(j.out.v.n == j.in.v.n && j.out.h == j.in.h + 2 * j.top - 2 && j.out.w == j.in.w + 2 * j.left - 2,
                  "the result must have the samples and the size that z and the padding give");
}

// layout: 0 contiguous, 1 channels-last, 2 planes-last
Tensor result(const Tensor& z, int64_t c, int64_t h, int64_t w, int64_t layout) {
  const int64_t n = z.size(0), s = h * w;
  const std::vector<int64_t> sizes{n, 2, c, h, w};
  STD_TORCH_CHECK(h > 0 && w > 0, "z must be no smaller than the kernel, with the padding");
  STD_TORCH_CHECK(layout >= 0 && layout <= 2, "layout must be 0, 1 or 2");
  if (layout == 1) return strided_like(z, sizes, {2 * c * s, c, 1, 2 * c * w, 2 * c});
  if (layout == 2) return strided_like(z, sizes, {2 * c * s, c * s, 1, c * w, c});
  return torch::stable::new_empty(z, sizes);
}

Tensor run(const Tensor& z, const Tensor& re, const std::optional<Tensor>& im, const std::vector<int64_t>& padding,
           bool back, int64_t layout, int64_t lanes, const std::optional<Tensor>& scale,
           const std::optional<Tensor>& residual, double c) {
  STD_TORCH_CHECK(padding.size() == 2, "padding must be a pair");
  std::optional<Tensor> out;
  with_feature(z, "z", [&](auto zero) {
    using T = decltype(zero);
    Job<T> j{};
    j.in = side_of<T>(z, "z");
    const int64_t channels = re.size(back ? 1 : 0);
    check_kernel(re, back ? j.in.c : channels, back ? channels : j.in.c, "re");
    if (im) check_kernel(*im, re.size(0), re.size(1), "im");
    j.top = padding[0], j.left = padding[1], j.complex = im.has_value(), j.channels = j.in.c;
    out = result(z, channels, j.in.h + 2 * j.top - 2, j.in.w + 2 * j.left - 2, layout);
    j.out = side_of<T>(*out, "out");
    check_geometry(j);
    if (scale) {
      check_vector(*scale, channels, "scale");
      STD_TORCH_CHECK(scale->scalar_type() == ScalarType::Float, "scale must be float32");
      STD_TORCH_CHECK(layout != 2, "a result that the ReLU follows is contiguous or channels-last");
      if (residual) check_alike(*residual, j.out.v, *out, "residual");
      j.relu = {data<const float>(*scale), data_or_null<const T>(residual), static_cast<float>(c)};
    }
    if (out->numel() == 0) return;
    if (j.in.c == 0) return void(torch::stable::zero_(*out));
    Kernels w{data<float>(re), im ? data<float>(*im) : nullptr, j.in.c, channels, back, nullptr, 1};
    const Tensor points = torch::stable::new_empty(z, {j.weight_size()}, ScalarType::Float);
    w.points = j.weight = data<float>(points);
    const Workers& work = workers(lanes);
    for_inputs(w, [&](int64_t begin, int64_t end) { work.enter_weights(w, begin, end); });
    j.cut(TILES);
    const auto convolve = work.of(zero).convolve;
    torch::stable::parallel_for(0, j.tasks(), 1, [&](int64_t begin, int64_t end) { convolve(j, begin, end); });
  });
  return *out;
}

Tensor forward(Tensor z, Tensor re, std::optional<Tensor> im, std::vector<int64_t> padding, bool back, int64_t layout,
               int64_t lanes) {
  return run(z, re, im, padding, back, layout, lanes, std::nullopt, std::nullopt, 1.0);
}

Tensor relu_forward(Tensor z, Tensor re, std::optional<Tensor> im, std::vector<int64_t> padding, Tensor scale,
                    std::optional<Tensor> residual, int64_t layout, double c) {
  return run(z, re, im, padding, false, layout, 0, scale, residual, c);
}

std::tuple<Tensor, Tensor> backward(Tensor grad, Tensor z, bool complex, std::vector<int64_t> padding, int64_t lanes) {
  STD_TORCH_CHECK(padding.size() == 2, "padding must be a pair");
  STD_TORCH_CHECK(grad.dim() == 5 && grad.scalar_type() == z.scalar_type(), "grad must be like z, of its dtype");
  std::optional<Tensor> re, im;
  with_feature(z, "z", [&](auto zero) {
    using T = decltype(zero);
    Job<T> j{};
    j.in = side_of<T>(z, "z"), j.out = side_of<T>(grad, "grad");
    j.top = padding[0], j.left = padding[1], j.complex = complex;
    check_geometry(j);
    const int64_t in = j.in.c, out = j.out.c;
    re = torch::stable::new_empty(z, {out, in, 3, 3}, ScalarType::Float);
    im = complex ? torch::stable::empty_like(*re) : none_like(*re);
    if (re->numel() == 0) return;
    j.channels = in;
    j.blocks = (in + CHANNELS - 1) / CHANNELS;
    j.cut(TILES);
    const int64_t most = std::min({UNITS / j.blocks, j.across * j.down * j.in.v.n / EACH, MOST / j.weight_size()});
    for (j.chunks = 1; 2 * j.chunks <= most;) j.chunks *= 2;
    const Tensor partial = torch::stable::new_empty(*re, {j.chunks * j.weight_size()});
    j.partial = data<float>(partial);
    const Workers& work = workers(lanes);
    const auto add = work.of(zero).add_weights;
    torch::stable::parallel_for(0, j.chunks * j.blocks, 1, [&](int64_t begin, int64_t end) { add(j, begin, end); });
    const Kernels w{data<float>(*re), complex ? data<float>(*im) : nullptr, in, out, false, j.partial, j.chunks};
    for_inputs(w, [&](int64_t begin, int64_t end) { work.leave_weights(w, begin, end); });
  });
  return {*re, *im};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("conv_winograd_forward", TORCH_BOX(&cvk::forward));
  m.impl("conv_winograd_relu_forward", TORCH_BOX(&cvk::relu_forward));
  m.impl("conv_winograd_backward", TORCH_BOX(&cvk::backward));
}
