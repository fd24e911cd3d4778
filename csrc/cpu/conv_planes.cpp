// Planar features to the planes that oneDNN's convolutions read without a reorder of their own, and back; the sums of a
// Gauss product on the way.
#include <torch/csrc/stable/library.h>

#include <type_traits>

#include "../common/modulus.h"
#include "../common/shape.h"
#include "lanes.h"
#include "simd.h"
#include "stored.h"

// A SIMD clone whose loop body is a call of a lambda that was compiled without it is no SIMD clone.
#if defined(__GNUC__) || defined(__clang__)
#define CVK_INLINE_LAMBDA __attribute__((always_inline))
#else
#define CVK_INLINE_LAMBDA
#endif

namespace cvk {
namespace {

constexpr const char* NAME = "conv_planes";
constexpr int64_t SPAN = 64;  // positions of a task: with 256 channels its rows still fit the second-level cache

constexpr int64_t TILE = 16;  // positions of one round: a line of the cache of float32, used up before it is lost

// TURNS: one plane [2N, C, H, W], the parts of a sample one behind the other.
enum Form : int64_t { PARTS = 0, SUM = 1, DIFFERENCE = 2, BLOCK = 3, TURNS = 4 };

// Whether a form moves the parts and computes nothing.
constexpr bool moves(int64_t form) { return form == PARTS || form == BLOCK || form == TURNS; }

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
    if constexpr (moves(FORM)) {
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
    if constexpr (moves(FORM)) {
      re[i] = a[i], im[i] = b[i];
    } else {
      const W p = static_cast<W>(a[i]), q = static_cast<W>(b[i]), r = static_cast<W>(c[i]);
      re[i] = stored<T>(FORM == SUM ? p + r : p - q);
      im[i] = stored<T>(FORM == SUM ? q + r : r - p - q);
    }
  }
}

// Whether this form of this type is moved in vectors of LanesOf: sums of half precision go through float32.
template <class T, int64_t FORM>
constexpr bool in_lanes = LanesOf<sizeof(T)>::count > 1 && (sizeof(T) > 2 || moves(FORM));

// A square of channels and positions, from rows of positions to rows of channels.
template <class T, int64_t FORM>
CVK_INLINE void split_square(const T* re, const T* im, const Rows<T>& to, int64_t positions) {
  using L = LanesOf<sizeof(T)>;
  typename L::vector x[L::count], y[L::count];
  for (int k = 0; k < L::count; ++k) x[k] = load<L>(re + k * positions), y[k] = load<L>(im + k * positions);
  turn_over<L>(x);
  turn_over<L>(y);
  for (int k = 0; k < L::count; ++k) {
    const int64_t at = k * to.step;
    if constexpr (moves(FORM)) {
      store<L>(to.first[0] + at, x[k]);
      store<L>(to.first[1] + at, y[k]);
    } else {
      store<L>(to.first[0] + at, FORM == SUM ? x[k] : x[k] - y[k]);
      store<L>(to.first[1] + at, FORM == SUM ? y[k] : -x[k] - y[k]);
      store<L>(to.first[2] + at, FORM == SUM ? x[k] + y[k] : y[k]);
    }
  }
}

template <class T, int64_t FORM>
CVK_INLINE void join_square(const Rows<const T>& from, T* re, T* im, int64_t positions) {
  using L = LanesOf<sizeof(T)>;
  typename L::vector x[L::count], y[L::count];
  for (int k = 0; k < L::count; ++k) {
    const int64_t at = k * from.step;
    const auto p = load<L>(from.first[0] + at), q = load<L>(from.first[1] + at);
    if constexpr (moves(FORM)) {
      x[k] = p, y[k] = q;
    } else {
      const auto r = load<L>(from.first[2] + at);
      x[k] = FORM == SUM ? p + r : p - q;
      y[k] = FORM == SUM ? q + r : r - p - q;
    }
  }
  turn_over<L>(x);
  turn_over<L>(y);
  for (int k = 0; k < L::count; ++k) store<L>(re + k * positions, x[k]), store<L>(im + k * positions, y[k]);
}

// f(channel, position, 0) for squares that fit into positions [begin, end), and f(channel, position, 1) for what is
// left, an element at a time. A few channels through a whole line of positions: rows of a power of two of bytes share
// their place in the cache, and with more of them open a line was gone before it was used up.
template <int64_t SIDE, class F>
CVK_INLINE void for_squares(int64_t channels, int64_t begin, int64_t end, const F& f) {
  const int64_t whole = SIDE > 1 ? channels / SIDE * SIDE : 0;
  for (int64_t s = begin; s < end; s += TILE) {
    const int64_t stop = std::min(end, s + TILE), full = SIDE > 1 ? s + (stop - s) / SIDE * SIDE : s;
    for (int64_t c = 0; c < whole; c += SIDE) {
      for (int64_t j = s; j < full; j += SIDE) f(c, j, std::false_type{});
      for (int64_t j = full; j < stop; ++j) {
        for (int64_t i = c; i < c + SIDE; ++i) f(i, j, std::true_type{});
      }
    }
    for (int64_t c = whole; c < channels; ++c) {
      for (int64_t j = s; j < stop; ++j) f(c, j, std::true_type{});
    }
  }
}

// Positions [begin, end) of one sample; z contiguous: channels are rows of positions.
template <class T, int64_t FORM>
CVK_CLONES void split_span(const T* re, const T* im, Rows<T> out, int64_t channels, int64_t positions, int64_t begin,
                           int64_t end) {
  constexpr int64_t SIDE = in_lanes<T, FORM> ? LanesOf<sizeof(T)>::count : 1;
  for_squares<SIDE>(channels, begin, end, [&](int64_t c, int64_t s, auto single) CVK_INLINE_LAMBDA {
    const int64_t at = c * positions + s;
    if constexpr (single()) {
      split_row<T, FORM>(re + at, im + at, out.from(s, c), 1);
    } else if constexpr (SIDE > 1) {
      split_square<T, FORM>(re + at, im + at, out.from(s, c), positions);
    }
  });
}

template <class T, int64_t FORM>
CVK_CLONES void join_span(Rows<const T> in, T* re, T* im, int64_t channels, int64_t positions, int64_t begin,
                          int64_t end) {
  constexpr int64_t SIDE = in_lanes<T, FORM> ? LanesOf<sizeof(T)>::count : 1;
  for_squares<SIDE>(channels, begin, end, [&](int64_t c, int64_t s, auto single) CVK_INLINE_LAMBDA {
    const int64_t at = c * positions + s;
    if constexpr (single()) {
      join_row<T, FORM>(in.from(s, c), re + at, im + at, 1);
    } else if constexpr (SIDE > 1) {
      join_square<T, FORM>(in.from(s, c), re + at, im + at, positions);
    }
  });
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

// y = magnitude_relu(y scale + residual, c) in place: `count` elements next to each other, scale one for each (EACH) or
// one for all.
template <class T, bool EACH, bool RESIDUAL>
CVK_INLINE void relu_run(T* re, T* im, const T* res_re, const T* res_im, const wide_t<T>* scale, int64_t count,
                         wide_t<T> c) {
  using W = wide_t<T>;
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const W s = scale[EACH ? i : 0];
    W x = static_cast<W>(re[i]) * s, y = static_cast<W>(im[i]) * s;
    if constexpr (RESIDUAL) x += static_cast<W>(res_re[i]), y += static_cast<W>(res_im[i]);
    const W factor = relu_factor(x, y, c);
    re[i] = stored<T>(x * factor);
    im[i] = stored<T>(y * factor);
  }
}

// Positions [begin, end) of one sample: runs of positions in contiguous features, of channels in channels-last ones.
template <class T, bool LAST, bool RESIDUAL>
CVK_CLONES void relu_span(T* y, const T* residual, const wide_t<T>* scale, int64_t channels, int64_t positions,
                          int64_t begin, int64_t end, wide_t<T> c) {
  if constexpr (LAST) {
    for (int64_t s = begin; s < end; ++s) {
      const int64_t re = s * 2 * channels, im = re + channels;
      relu_run<T, true, RESIDUAL>(y + re, y + im, residual + re, residual + im, scale, channels, c);
    }
  } else {
    for (int64_t k = 0; k < channels; ++k) {
      const int64_t re = k * positions + begin, im = re + channels * positions;
      relu_run<T, false, RESIDUAL>(y + re, y + im, residual + re, residual + im, scale + k, end - begin, c);
    }
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
    case TURNS:
      return f(std::integral_constant<int64_t, TURNS>{});
    default:
      STD_TORCH_CHECK(false, "form must be 0 to 4");
  }
}

int64_t planes_of(int64_t form) { return form == BLOCK || form == TURNS ? 1 : form == PARTS ? 2 : 3; }

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
  const int64_t samples = form == TURNS ? 2 * v.n : v.n;
  const Tensor out = strided_like(z, {count, samples, row, h, w}, {samples * v.s * row, v.s * row, 1, w * row, row});
  with_stored(z.scalar_type(), NAME, [&](auto zero) {
    using T = decltype(zero);
    with_form(form, [&](auto known) {
      const T* from = data<T>(z);
      T* to = data<T>(out);
      const int64_t plane = form == BLOCK ? v.c : form == TURNS ? v.s * v.c : v.n * v.s * v.c;
      for_spans(v.n, v.c, v.s, [&](int64_t n, int64_t begin, int64_t end) {
        T* first = to + (form == TURNS ? 2 * n : n) * v.s * row;
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

// What follows on the spans that have just been written; nothing where there is no scale.
struct Relu {
  std::optional<Tensor> scale, residual;
  double c;
};

Tensor joined(const std::vector<Tensor>& planes, int64_t form, bool channels_last, const Relu& relu) {
  STD_TORCH_CHECK(static_cast<int64_t>(planes.size()) == planes_of(form), "there must be the planes of that form");
  for (const Tensor& p : planes) {
    bool alike = p.dim() == 4 && p.scalar_type() == planes[0].scalar_type();
    for (int64_t d = 0; alike && d < 4; ++d) alike = p.size(d) == planes[0].size(d);
    STD_TORCH_CHECK(alike && (p.numel() == 0 || dense_in_order(p, {0, 2, 3, 1})),
                    "planes must be [N, C, H, W] channels-last, of one shape and dtype");
  }
  const int64_t n = planes[0].size(0) / (form == TURNS ? 2 : 1), row = planes[0].size(1);
  const int64_t h = planes[0].size(2), w = planes[0].size(3);
  STD_TORCH_CHECK(form != BLOCK || row % 2 == 0, "a plane of both parts must have an even number of channels");
  STD_TORCH_CHECK(form != TURNS || planes[0].size(0) % 2 == 0, "a plane of parts in turns must have an even number");
  const int64_t c = form == BLOCK ? row / 2 : row, s = h * w;
  const std::vector<int64_t> sizes{n, 2, c, h, w};
  const Tensor out = channels_last ? strided_like(planes[0], sizes, {2 * c * s, c, 1, 2 * c * w, 2 * c})
                                   : torch::stable::new_empty(planes[0], sizes);
  if (relu.residual) check_alike(*relu.residual, planar(out, "out"), out, "residual");
  with_stored(planes[0].scalar_type(), NAME, [&](auto zero) {
    using T = decltype(zero);
    using W = wide_t<T>;
    if (relu.scale) {
      check_vector(*relu.scale, c, "scale");
      STD_TORCH_CHECK(relu.scale->scalar_type() == (std::is_same_v<W, double> ? ScalarType::Double : ScalarType::Float),
                      "scale must be float32, or float64 for planes in float64");
    }
    const W *scale = relu.scale ? data<const W>(*relu.scale) : nullptr, limit = static_cast<W>(relu.c);
    const T* residual = relu.residual ? data<const T>(*relu.residual) : nullptr;
    with_form(form, [&](auto known) {
      T* to = data<T>(out);
      for_spans(n, c, s, [&](int64_t sample, int64_t begin, int64_t end) {
        Rows<const T> rows{{}, row};
        for (int64_t p = 0; p < 3; ++p) {
          const size_t given = std::min(planes.size() - 1, static_cast<size_t>(p));
          const int64_t place = form == TURNS ? (2 * sample + (p == 1)) * s * row : sample * s * row;
          rows.first[p] = data<const T>(planes[given]) + place + (form == BLOCK && p == 1 ? c : 0);
        }
        T* re = to + sample * 2 * c * s;
        if (channels_last) {
          join_rows<T, known()>(rows, re, c, begin, end);
        } else {
          join_span<T, known()>(rows, re, re + c * s, c, s, begin, end);
        }
        if (scale == nullptr) return;
        const T* beside = residual == nullptr ? re : residual + sample * 2 * c * s;
        if (channels_last) {
          residual ? relu_span<T, true, true>(re, beside, scale, c, s, begin, end, limit)
                   : relu_span<T, true, false>(re, beside, scale, c, s, begin, end, limit);
        } else {
          residual ? relu_span<T, false, true>(re, beside, scale, c, s, begin, end, limit)
                   : relu_span<T, false, false>(re, beside, scale, c, s, begin, end, limit);
        }
      });
    });
  });
  return out;
}

Tensor backward(std::vector<Tensor> grads, int64_t form, bool channels_last) {
  return joined(grads, form, channels_last, Relu{std::nullopt, std::nullopt, 1.0});
}

Tensor relu_forward(std::vector<Tensor> planes, Tensor scale, std::optional<Tensor> residual, int64_t form,
                    bool channels_last, double c) {
  return joined(planes, form, channels_last, Relu{scale, residual, c});
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("conv_planes_forward", TORCH_BOX(&cvk::forward));
  m.impl("conv_planes_backward", TORCH_BOX(&cvk::backward));
  m.impl("conv_planes_relu_forward", TORCH_BOX(&cvk::relu_forward));
}
