// Planar features to the planes that oneDNN's convolutions read without a reorder of their own, and back; the sums of a
// Gauss product on the way.
#include <torch/csrc/stable/library.h>

#include <type_traits>

#include "../common/shape.h"
#include "simd.h"
#include "stored.h"
#include "turn_over.h"

namespace cvk {
namespace {

constexpr const char* NAME = "conv_planes";
constexpr int64_t SPAN = 64;  // positions of a task: with 256 channels its rows still fit the second-level cache

enum Form : int64_t { PARTS = 0, SUM = 1, DIFFERENCE = 2, BLOCK = 3 };

// A row of C channels of each plane at one position; the same row of the next position is `step` further. BLOCK: the
// two parts are neighbours in one row.
template <class T>
struct Rows {
  T* first[3];
  int64_t step;
  CVK_INLINE Rows from(int64_t position, int64_t channel) const {
    const int64_t at = position * step + channel;
    return {{first[0] + at, first[1] + at, first[2] + at}, step};
  }
};

// The planes of one row of channels.
template <class T, int64_t FORM>
CVK_INLINE void split_row(const T* re, const T* im, const Rows<T>& to, int64_t count) {
  using W = wide_t<T>;
  T *p = to.first[0], *q = to.first[1], *r = to.first[2];
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (FORM == PARTS || FORM == BLOCK) {
      p[i] = re[i], q[i] = im[i];
    } else {
      const W x = static_cast<W>(re[i]), y = static_cast<W>(im[i]);
      p[i] = FORM == SUM ? re[i] : stored<T>(x - y);
      q[i] = FORM == SUM ? im[i] : stored<T>(-x - y);
      r[i] = FORM == SUM ? stored<T>(x + y) : im[i];
    }
  }
}

template <class T, int64_t FORM>
CVK_INLINE void join_row(const Rows<const T>& in, T* re, T* im, int64_t count) {
  using W = wide_t<T>;
  const T *a = in.first[0], *b = in.first[1], *c = in.first[2];
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (FORM == PARTS || FORM == BLOCK) {
      re[i] = a[i], im[i] = b[i];
    } else {
      const W p = static_cast<W>(a[i]), q = static_cast<W>(b[i]), r = static_cast<W>(c[i]);
      re[i] = stored<T>(FORM == SUM ? p + r : p - q);
      im[i] = stored<T>(FORM == SUM ? q + r : r - p - q);
    }
  }
}

// Positions [begin, end) of one sample; z contiguous: channels are rows of v.s positions.
template <class T, int64_t FORM>
CVK_CLONES void split_span(const T* re, const T* im, Rows<T> out, int64_t channels, int64_t positions, int64_t begin,
                           int64_t end) {
  alignas(64) T x[TILE * TILE], y[TILE * TILE];
  for (int64_t c = 0; c < channels; c += TILE) {
    const int64_t wide = std::min(TILE, channels - c);
    for (int64_t s = begin; s < end; s += TILE) {
      const int64_t high = std::min(TILE, end - s), at = c * positions + s;
      if (wide == TILE && high == TILE) {
        read_turned(re + at, positions, x);
        read_turned(im + at, positions, y);
      } else {
        for (int64_t j = 0; j < high; ++j) {
          for (int64_t i = 0; i < wide; ++i) {
            x[j * TILE + i] = re[at + i * positions + j];
            y[j * TILE + i] = im[at + i * positions + j];
          }
        }
      }
      for (int64_t j = 0; j < high; ++j) {
        const Rows<T> to = out.from(s + j, c);
        if (wide == TILE) {
          split_row<T, FORM>(x + j * TILE, y + j * TILE, to, TILE);
        } else {
          split_row<T, FORM>(x + j * TILE, y + j * TILE, to, wide);
        }
      }
    }
  }
}

template <class T, int64_t FORM>
CVK_CLONES void join_span(Rows<const T> in, T* re, T* im, int64_t channels, int64_t positions, int64_t begin,
                          int64_t end) {
  alignas(64) T x[TILE * TILE], y[TILE * TILE];
  for (int64_t c = 0; c < channels; c += TILE) {
    const int64_t wide = std::min(TILE, channels - c);
    for (int64_t s = begin; s < end; s += TILE) {
      const int64_t high = std::min(TILE, end - s), at = c * positions + s;
      for (int64_t j = 0; j < high; ++j) {
        const Rows<const T> from = in.from(s + j, c);
        if (wide == TILE) {
          join_row<T, FORM>(from, x + j * TILE, y + j * TILE, TILE);
        } else {
          join_row<T, FORM>(from, x + j * TILE, y + j * TILE, wide);
        }
      }
      for (T* part : {re, im}) {
        const T* rows = part == re ? x : y;
        if (wide == TILE && high == TILE) {
          write_turned(rows, part + at, positions);
        } else {
          for (int64_t i = 0; i < wide; ++i) {
            for (int64_t j = 0; j < high; ++j) part[at + i * positions + j] = rows[j * TILE + i];
          }
        }
      }
    }
  }
}

// z channels-last: rows of channels on both sides.
template <class T, int64_t FORM>
CVK_CLONES void split_rows(const T* z, Rows<T> out, int64_t channels, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; ++s) {
    split_row<T, FORM>(z + s * 2 * channels, z + s * 2 * channels + channels, out.from(s, 0), channels);
  }
}

template <class T, int64_t FORM>
CVK_CLONES void join_rows(Rows<const T> in, T* z, int64_t channels, int64_t begin, int64_t end) {
  for (int64_t s = begin; s < end; ++s) {
    join_row<T, FORM>(in.from(s, 0), z + s * 2 * channels, z + s * 2 * channels + channels, channels);
  }
}

template <class F>
void with_form(int64_t form, F f) {
  switch (form) {
    case PARTS:
      return f(std::integral_constant<int64_t, PARTS>{});
    case SUM:
      return f(std::integral_constant<int64_t, SUM>{});
    case DIFFERENCE:
      return f(std::integral_constant<int64_t, DIFFERENCE>{});
    case BLOCK:
      return f(std::integral_constant<int64_t, BLOCK>{});
    default:
      STD_TORCH_CHECK(false, "form must be 0 to 3");
  }
}

int64_t planes_of(int64_t form) { return form == BLOCK ? 1 : form == PARTS ? 2 : 3; }

// f(sample, first position, one past the last): SPAN positions a task, over threads
template <class F>
void for_spans(int64_t samples, int64_t channels, int64_t positions, const F& f) {
  if (samples * channels * positions == 0) return;
  const int64_t spans = (positions + SPAN - 1) / SPAN;
  const int64_t grain = std::max<int64_t>(1, GRAIN / (2 * channels * std::min(positions, SPAN)));
  torch::stable::parallel_for(0, samples * spans, grain, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t at = task % spans * SPAN;
      f(task / spans, at, std::min(positions, at + SPAN));
    }
  });
}

Tensor forward(Tensor z, int64_t form) {
  const Planar v = planar(z, "z");
  STD_TORCH_CHECK(z.dim() == 5 && v.layout != Layout::interleaved, "z must be [N, 2, C, H, W], not interleaved");
  const int64_t count = planes_of(form), h = z.size(3), w = z.size(4), row = form == BLOCK ? 2 * v.c : v.c;
  const Tensor out = strided_like(z, {count, v.n, row, h, w}, {v.n * v.s * row, v.s * row, 1, w * row, row});
  with_stored(z.scalar_type(), NAME, [&](auto zero) {
    using T = decltype(zero);
    with_form(form, [&](auto known) {
      const T* from = data<T>(z);
      T* to = data<T>(out);
      const int64_t plane = form == BLOCK ? v.c : v.n * v.s * v.c;
      for_spans(v.n, v.c, v.s, [&](int64_t n, int64_t begin, int64_t end) {
        T* first = to + n * v.s * row;
        const Rows<T> rows{{first, first + plane, count == 3 ? first + 2 * plane : first}, row};
        const T* sample = from + n * v.sample;
        if (v.layout == Layout::channels_last) {
          split_rows<T, known()>(sample, rows, v.c, begin, end);
        } else {
          split_span<T, known()>(sample, sample + v.part, rows, v.c, v.s, begin, end);
        }
      });
    });
  });
  return out;
}

Tensor backward(std::vector<Tensor> grads, int64_t form, bool channels_last) {
  STD_TORCH_CHECK(static_cast<int64_t>(grads.size()) == planes_of(form), "grads must be the planes of that form");
  for (const Tensor& g : grads) {
    bool alike = g.dim() == 4 && g.scalar_type() == grads[0].scalar_type();
    for (int64_t d = 0; alike && d < 4; ++d) alike = g.size(d) == grads[0].size(d);
    STD_TORCH_CHECK(alike && (g.numel() == 0 || dense_in_order(g, {0, 2, 3, 1})),
                    "grads must be [N, C, H, W] channels-last, of one shape and dtype");
  }
  const int64_t n = grads[0].size(0), row = grads[0].size(1), h = grads[0].size(2), w = grads[0].size(3), s = h * w;
  STD_TORCH_CHECK(form != BLOCK || row % 2 == 0, "a plane of both parts must have an even number of channels");
  const int64_t c = form == BLOCK ? row / 2 : row;
  const std::vector<int64_t> sizes{n, 2, c, h, w};
  const Tensor out = channels_last ? strided_like(grads[0], sizes, {2 * c * s, c, 1, 2 * c * w, 2 * c})
                                   : torch::stable::new_empty(grads[0], sizes);
  with_stored(grads[0].scalar_type(), NAME, [&](auto zero) {
    using T = decltype(zero);
    with_form(form, [&](auto known) {
      T* to = data<T>(out);
      for_spans(n, c, s, [&](int64_t sample, int64_t begin, int64_t end) {
        Rows<const T> rows{{}, row};
        for (int64_t p = 0; p < 3; ++p) {
          const size_t given = std::min(grads.size() - 1, static_cast<size_t>(p));
          rows.first[p] = data<const T>(grads[given]) + sample * s * row + (form == BLOCK && p == 1 ? c : 0);
        }
        T* re = to + sample * 2 * c * s;
        if (channels_last) {
          join_rows<T, known()>(rows, re, c, begin, end);
        } else {
          join_span<T, known()>(rows, re, re + c * s, c, s, begin, end);
        }
      });
    });
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("conv_planes_forward", TORCH_BOX(&cvk::forward));
  m.impl("conv_planes_backward", TORCH_BOX(&cvk::backward));
}
