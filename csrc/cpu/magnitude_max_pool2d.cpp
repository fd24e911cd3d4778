// Of each window the element of largest modulus; which one, as a byte. The winner's rule is common/window.h's.
#include <torch/csrc/stable/library.h>

#include <cmath>
#include <tuple>

#include "../common/window.h"
#include "pool_halves.h"
#include "results.h"

namespace cvk {
namespace {

struct Window {
  Axis<int64_t> y, x;
  int64_t places() const { return y.kernel * x.kernel; }
  bool halves() const {  // 2x2, stride 2, nothing else: the pooling of most networks
    return y.kernel == 2 && x.kernel == 2 && y.stride == 2 && x.stride == 2 && !y.padding && !x.padding &&
           y.dilation == 1 && x.dilation == 1 && y.out * 2 <= y.size && x.out * 2 <= x.size;
  }
};

Window window_of(int64_t h, int64_t w, const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                 const std::vector<int64_t>& padding, const std::vector<int64_t>& dilation) {
  for (const auto* p : {&kernel, &stride, &padding, &dilation}) {
    STD_TORCH_CHECK(p->size() == 2, "kernel_size, stride, padding and dilation must be pairs");
  }
  STD_TORCH_CHECK(kernel[0] >= 1 && kernel[1] >= 1 && kernel[0] * kernel[1] <= kNothing && stride[0] >= 1 &&
                      stride[1] >= 1 && dilation[0] >= 1 && dilation[1] >= 1 && padding[0] >= 0 && padding[1] >= 0,
                  "a window must have 1 to 255 places, its stride and dilation be positive");
  return {{h, kernel[0], stride[0], padding[0], dilation[0], 0}, {w, kernel[1], stride[1], padding[1], dilation[1], 0}};
}

// Neighbouring planes whose rows pair up without a rest are one tall plane: short ones are pooled many at once.
int64_t stacked(const Window& w, int64_t channels) {
  if (w.y.out * 2 != w.y.size) return 1;
  return std::max<int64_t>(1, std::min(channels, CHUNK / (w.y.size * w.x.size)));
}

// 2x2 windows in vectors of the processor's widest, `height` rows of outputs; what a vector does not do, one by one.
CVK_HALVES(pool, Halves)
CVK_HALVES(spread, Halves)

template <class T>
void pool_halves(const Halves<T>& h) {
  if (CVK_CALL_HALVES(pool, h)) return;
  const Axis<int64_t> both{2, 2, 2, 0, 1, 1};
  for (int64_t y = 0; y < h.height; ++y) {
    for (int64_t x = 0; x < h.width; ++x) {
      const int64_t at = 2 * y * h.row + 2 * x, to = y * h.width + x;
      const Winner<T> best = strongest<T>(h.re + at, h.im + at, h.row, 1, both, both, int64_t{0}, int64_t{0});
      h.to_re[to] = best.re, h.to_im[to] = best.im, h.index[to] = static_cast<uint8_t>(best.place);
    }
  }
}

template <class T>
void spread_halves(const Halves<T>& h) {
  if (CVK_CALL_HALVES(spread, h)) return;
  for (int64_t y = 0; y < h.height; ++y) {
    for (int64_t x = 0; x < h.width; ++x) {
      const int64_t from = y * h.width + x, at = 2 * y * h.row + 2 * x;
      for (int place = 0; place < 4; ++place) {
        const int64_t to = at + place / 2 * h.row + place % 2;
        h.to_re[to] = h.index[from] == place ? h.re[from] : T{};
        h.to_im[to] = h.index[from] == place ? h.im[from] : T{};
      }
    }
  }
}

// The best of each of `count` windows so far, in float or double. Places are kept as numbers, to be selected in the
// same lanes as the values.
template <class A>
struct Best {
  A *power, *re, *im, *place;
};

template <class A>
struct Scratch {
  std::vector<A> memory;
  Best<A> best;
  explicit Scratch(int64_t count) : memory(static_cast<size_t>(4 * count)) {
    A* p = memory.data();
    best = {p, p + count, p + 2 * count, p + 3 * count};
  }
};

template <class A>
CVK_CLONES void start(Best<A> b, int64_t count) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    b.power[i] = -1;
    b.re[i] = b.im[i] = 0;
    b.place[i] = kNothing;
  }
}

// One place of `count` windows, `step` elements apart, against the best so far.
template <class T>
CVK_CLONES void challenge(Best<wide_t<T>> b, const T* re, const T* im, int64_t step, int64_t count, wide_t<T> place) {
  using A = wide_t<T>;
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const A r = re[i * step], m = im[i * step], p = power(r, m), q = b.power[i];
    const bool take = wins(p, q);
    b.power[i] = take ? p : q;
    b.re[i] = take ? r : b.re[i];
    b.im[i] = take ? m : b.im[i];
    b.place[i] = take ? place : b.place[i];
  }
}

template <class T>
CVK_CLONES void finish(Best<wide_t<T>> b, T* re, T* im, uint8_t* index, int64_t step, int64_t index_step,
                       int64_t count) {
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    re[i * step] = b.re[i];
    im[i * step] = b.im[i];
    index[i * index_step] = static_cast<uint8_t>(static_cast<int>(b.place[i]));
  }
}

// Any window: one place after another, along a row of outputs.
template <class T>
void pool_rows(const T* re, const T* im, T* out_re, T* out_im, uint8_t* index, int64_t step, const Window& w,
               Scratch<wide_t<T>>& scratch) {
  for (int64_t oy = 0; oy < w.y.out; ++oy) {
    start(scratch.best, w.x.out);
    const int64_t top = oy * w.y.stride - w.y.padding;
    const Span<int64_t> rows = inside(w.y, top);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      const int64_t row = (top + i * w.y.dilation) * w.x.size;
      for (int64_t j = 0; j < w.x.kernel; ++j) {
        // the outputs whose place j lies inside the row
        const int64_t left = j * w.x.dilation - w.x.padding;
        const int64_t first = left < 0 ? (-left + w.x.stride - 1) / w.x.stride : 0;
        const int64_t room = w.x.size - 1 - left;
        const int64_t end = room < 0 ? 0 : std::min(w.x.out, room / w.x.stride + 1);
        if (first >= end) continue;
        const int64_t at = (row + first * w.x.stride + left) * step;
        const Best<wide_t<T>> b{scratch.best.power + first, scratch.best.re + first, scratch.best.im + first,
                                scratch.best.place + first};
        challenge<T>(b, re + at, im + at, w.x.stride * step, end - first, i * w.x.kernel + j);
      }
    }
    const int64_t to = oy * w.x.out;
    finish(scratch.best, out_re + to * step, out_im + to * step, index + to, step, 1, w.x.out);
  }
}

// Channels-last: one place after another, along the channels of one output.
template <class T>
void pool_channels(const T* z, T* out, uint8_t* index, const Planar& v, const Window& w, int64_t oy,
                   Scratch<wide_t<T>>& scratch) {
  const int64_t top = oy * w.y.stride - w.y.padding;
  const Span<int64_t> rows = inside(w.y, top);
  for (int64_t ox = 0; ox < w.x.out; ++ox) {
    start(scratch.best, v.c);
    const int64_t left = ox * w.x.stride - w.x.padding;
    const Span<int64_t> columns = inside(w.x, left);
    for (int64_t i = rows.begin; i < rows.end; ++i) {
      for (int64_t j = columns.begin; j < columns.end; ++j) {
        const T* at = z + ((top + i * w.y.dilation) * w.x.size + left + j * w.x.dilation) * 2 * v.c;
        challenge<T>(scratch.best, at, at + v.c, 1, v.c, i * w.x.kernel + j);
      }
    }
    T* to = out + (oy * w.x.out + ox) * 2 * v.c;
    finish(scratch.best, to, to + v.c, index + oy * w.x.out + ox, 1, w.y.out * w.x.out, v.c);
  }
}

std::tuple<Tensor, Tensor> forward(Tensor z, std::vector<int64_t> kernel_size, std::vector<int64_t> stride,
                                   std::vector<int64_t> padding, std::vector<int64_t> dilation, bool ceil_mode) {
  STD_TORCH_CHECK(z.dim() == 5, "z must be planar [N, 2, C, H, W]");
  const Planar v = planar(z, "z");
  Window w = window_of(z.size(3), z.size(4), kernel_size, stride, padding, dilation);
  w.y.out = output_size(w.y.size, w.y.kernel, w.y.stride, w.y.padding, w.y.dilation, ceil_mode);
  w.x.out = output_size(w.x.size, w.x.kernel, w.x.stride, w.x.padding, w.x.dilation, ceil_mode);
  const int64_t area = w.y.out * w.x.out;
  Tensor out = resized(z, v, w.y.out, w.x.out);
  Tensor index = empty_of(z, {v.n, v.c, w.y.out, w.x.out}, torch::headeronly::ScalarType::Byte);
  if (out.numel() == 0) return {out, index};
  const Planar o = planar(out, "out");
  const bool last = v.layout == Layout::channels_last;
  // a feature and its pooled form may fall into different names for one layout (axes of size 1): strides decide
  const int64_t out_part = last ? v.c : v.layout == Layout::interleaved ? 1 : v.c * area;
  const int64_t out_channel = v.layout == Layout::interleaved ? 2 * area : area;
  with_dtype(z, "magnitude_max_pool2d", [&](auto zero) {
    using T = decltype(zero);
    const T* in = data<T>(z);
    T* to = data<T>(out);
    uint8_t* bytes = data<uint8_t>(index);
    if (last) {
      const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, v.c * w.x.out));
      torch::stable::parallel_for(0, v.n * w.y.out, grain, [&](int64_t begin, int64_t end) {
        Scratch<wide_t<T>> scratch(v.c);
        for (int64_t r = begin; r < end; ++r) {
          const int64_t n = r / w.y.out;
          pool_channels(in + n * v.sample, to + n * o.sample, bytes + n * v.c * area, v, w, r % w.y.out, scratch);
        }
      });
      return;
    }
    const bool halves = v.layout == Layout::contiguous && w.halves();
    const int64_t group = halves ? stacked(w, v.c) : 1, groups = (v.c + group - 1) / group;
    const int64_t grain = std::max<int64_t>(1, GRAIN / (v.s * group));
    torch::stable::parallel_for(0, v.n * groups, grain, [&](int64_t begin, int64_t end) {
      Scratch<wide_t<T>> scratch(halves ? 0 : w.x.out);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t n = task / groups, c = task % groups * group;
        const T* re = in + n * v.sample + c * v.channel;
        T* out_re = to + n * o.sample + c * out_channel;
        uint8_t* places = bytes + (n * v.c + c) * area;
        if (halves) {
          const int64_t height = w.y.out * std::min(group, v.c - c);
          pool_halves<T>({re, re + v.part, out_re, out_re + out_part, places, w.x.size, w.x.out, height});
        } else {
          pool_rows(re, re + v.part, out_re, out_re + out_part, places, v.position, w, scratch);
        }
      }
    });
  });
  return {out, index};
}

// Any window: added up in `sum` [2][positions], which overlapping windows of a narrow type must not round in between.
template <class T>
void spread_any(const T* g, int64_t g_part, int64_t g_step, const uint8_t* index, const Window& w,
                std::vector<wide_t<T>>& sum) {
  const int64_t area = w.y.size * w.x.size;
  std::fill(sum.begin(), sum.end(), wide_t<T>(0));
  for (int64_t oy = 0; oy < w.y.out; ++oy) {
    for (int64_t ox = 0; ox < w.x.out; ++ox) {
      const int64_t o = oy * w.x.out + ox, place = index[o];
      if (place >= w.places()) continue;  // a window of padding only
      const int64_t y = oy * w.y.stride - w.y.padding + place / w.x.kernel * w.y.dilation;
      const int64_t x = ox * w.x.stride - w.x.padding + place % w.x.kernel * w.x.dilation;
      // never from our forward; never out of bounds
      if (y < 0 || y >= w.y.size || x < 0 || x >= w.x.size) continue;
      sum[y * w.x.size + x] += g[o * g_step];
      sum[area + y * w.x.size + x] += g[o * g_step + g_part];
    }
  }
}

Tensor backward(Tensor grad, Tensor index, std::vector<int64_t> input_size, std::vector<int64_t> kernel_size,
                std::vector<int64_t> stride, std::vector<int64_t> padding, std::vector<int64_t> dilation) {
  STD_TORCH_CHECK(grad.dim() == 5 && input_size.size() == 2, "grad must be planar [N, 2, C, H, W], input_size a pair");
  const Planar v = planar(grad, "grad");
  Window w = window_of(input_size[0], input_size[1], kernel_size, stride, padding, dilation);
  w.y.out = grad.size(3), w.x.out = grad.size(4);
  STD_TORCH_CHECK(index.numel() == v.values() && index.is_contiguous() &&
                      index.scalar_type() == torch::headeronly::ScalarType::Byte,
                  "index must hold one byte for each element of grad");
  Tensor out = resized(grad, v, w.y.size, w.x.size);
  if (out.numel() == 0) return out;
  const int64_t area = w.y.size * w.x.size;
  const bool last = v.layout == Layout::channels_last, pairs = v.layout == Layout::interleaved;
  const int64_t sample = 2 * v.c * area, channel = last ? 1 : pairs ? 2 * area : area;
  const int64_t part = last ? v.c : pairs ? 1 : v.c * area, position = last ? 2 * v.c : pairs ? 2 : 1;
  with_dtype(grad, "magnitude_max_pool2d", [&](auto zero) {
    using T = decltype(zero);
    const T* g = data<T>(grad);
    T* to = data<T>(out);
    uint8_t* bytes = data<uint8_t>(index);
    const bool halves = !last && !pairs && w.halves(), rest = w.y.out * 2 < w.y.size || w.x.out * 2 < w.x.size;
    const bool past = halves && !rest && gradient_past_caches(out);
    const int64_t group = halves ? stacked(w, v.c) : 1, groups = (v.c + group - 1) / group;
    const int64_t grain = std::max<int64_t>(1, GRAIN / (area * group));
    torch::stable::parallel_for(0, v.n * groups, grain, [&](int64_t begin, int64_t end) {
      std::vector<wide_t<T>> sum(static_cast<size_t>(halves ? 0 : 2 * area));
      for (int64_t task = begin; task < end; ++task) {
        const int64_t n = task / groups, c = task % groups * group;
        T* re = to + n * sample + c * channel;
        const T* g_re = g + n * v.sample + c * v.channel;
        uint8_t* k = bytes + (n * v.c + c) * v.s;
        if (halves) {
          const int64_t planes = std::min(group, v.c - c);
          if (rest) std::fill_n(re, planes * area, T{}), std::fill_n(re + part, planes * area, T{});
          const auto spread = [&](int64_t row, int64_t rows, T* place, int64_t apart) {
            const T* given = g_re + row * w.x.out;
            uint8_t* index = k + row * w.x.out;
            spread_halves<T>({given, given + v.part, place, place + apart, index, w.x.size, w.x.out, rows});
          };
          write_halves(past, re, part, 2, w.x.size, w.y.out * planes, spread);
        } else {
          spread_any(g_re, v.part, v.position, k, w, sum);
          for (int64_t q = 0; q < area; ++q) {
            re[q * position] = sum[q];
            re[q * position + part] = sum[area + q];
          }
        }
      }
      if (past) settle_streams();
    });
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("magnitude_max_pool2d_forward", TORCH_BOX(&cvk::forward));
  m.impl("magnitude_max_pool2d_backward", TORCH_BOX(&cvk::backward));
}
