// Means over windows, of both parts: of [planes, H, W, inner] whatever the layout, inner the channels (channels-last),
// the parts (interleaved) or 1. Rows are added up first, then along the row that gives.
#include <torch/csrc/stable/library.h>

#include "halves.h"
#include "lane_sums.h"
#include "mean_windows.h"
#include "results.h"

namespace cvk {
namespace {

struct Grid {
  int64_t planes, inner;
};

Grid grid(const Planar& v) {
  if (v.layout == Layout::channels_last) return {v.n, 2 * v.c};
  if (v.layout == Layout::interleaved) return {v.n * v.c, 2};
  return {v.n * 2 * v.c, 1};
}

// One plane, or several neighbouring ones with no rows between their windows.
template <class T>
struct Means {
  const T* from;
  T* to;
  int64_t row, width, height;  // from one row of the large map to the next; outputs
  wide_t<T> share;
};

#if defined(CVK_VECTORS)
template <class T, int L>
CVK_INLINE bool mean_halves(const Means<T>& m) {
  using A = wide_t<T>;
  constexpr int lanes = L * sizeof(float) / sizeof(A);
  const auto each = [&](int64_t at, int64_t second, int64_t to) __attribute__((always_inline)) {
    vector<A, lanes> left, right, low_left, low_right;
    load_vector<lanes>(m.from + at, left), load_vector<lanes>(m.from + second, right);
    load_vector<lanes>(m.from + at + m.row, low_left), load_vector<lanes>(m.from + second + m.row, low_right);
    left += low_left, right += low_right;
    into_columns<A, lanes>(left, right, std::make_index_sequence<lanes>());
    store_vector<lanes>(m.to + to, (left + right) * m.share);
  };
  if (by_vectors<lanes>(m.row, m.width, m.height, each)) return true;
  if constexpr (L > 4) {
    return mean_halves<T, L / 2>(m);
  } else {
    return false;
  }
}

// The transpose: a share of each output's gradient to its four places.
template <class T, int L>
CVK_INLINE bool share_halves(const Means<T>& m) {
  using A = wide_t<T>;
  constexpr int lanes = L * sizeof(float) / sizeof(A);
  const auto each = [&](int64_t at, int64_t second, int64_t from) __attribute__((always_inline)) {
    vector<A, lanes> low;
    load_vector<lanes>(m.from + from, low);
    low *= m.share;
    auto high = low;
    out_of_columns<A, lanes>(low, high, std::make_index_sequence<lanes>());
    store_vector<lanes>(m.to + at, low), store_vector<lanes>(m.to + second, high);
    store_vector<lanes>(m.to + at + m.row, low), store_vector<lanes>(m.to + second + m.row, high);
  };
  if (by_vectors<lanes>(m.row, m.width, m.height, each)) return true;
  if constexpr (L > 4) {
    return share_halves<T, L / 2>(m);
  } else {
    return false;
  }
}
#endif

CVK_HALVES(mean, Means)
CVK_HALVES(share, Means)

template <class T>
void mean_halves(const Means<T>& m) {
  if (CVK_CALL_HALVES(mean, m)) return;
  using A = wide_t<T>;
  for (int64_t y = 0; y < m.height; ++y) {
    const T *up = m.from + 2 * y * m.row, *low = up + m.row;
    for (int64_t x = 0; x < m.width; ++x) {
      const A left = static_cast<A>(up[2 * x]) + static_cast<A>(low[2 * x]);
      const A right = static_cast<A>(up[2 * x + 1]) + static_cast<A>(low[2 * x + 1]);
      m.to[y * m.width + x] = (left + right) * m.share;
    }
  }
}

template <class T>
void share_halves(const Means<T>& m) {
  if (CVK_CALL_HALVES(share, m)) return;
  for (int64_t y = 0; y < m.height; ++y) {
    for (int64_t x = 0; x < m.width; ++x) {
      T share;
      share = static_cast<wide_t<T>>(m.from[y * m.width + x]) * m.share;
      for (const int64_t at : {2 * x, 2 * x + 1, m.row + 2 * x, m.row + 2 * x + 1}) m.to[2 * y * m.row + at] = share;
    }
  }
}

// f(group of planes, how many) in parallel: neighbouring planes whose rows pair up without a rest are one tall plane.
template <class F>
void for_tall_planes(int64_t planes, int64_t area, bool no_rest, const F& f) {
  const int64_t group = no_rest ? std::max<int64_t>(1, std::min(planes, CHUNK / area)) : 1;
  const int64_t tasks = (planes + group - 1) / group, grain = std::max<int64_t>(1, GRAIN / (area * group));
  torch::stable::parallel_for(0, tasks, grain, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(t * group, std::min(group, planes - t * group));
  });
}

// sum[i] (+)= row[i] * share
template <class T>
CVK_CLONES void add_row(const T* row, wide_t<T>* sum, int64_t count, wide_t<T> share, bool first) {
  using A = wide_t<T>;
  if (first) {
    CVK_SIMD
    for (int64_t i = 0; i < count; ++i) sum[i] = static_cast<A>(row[i]) * share;
  } else {
    CVK_SIMD
    for (int64_t i = 0; i < count; ++i) sum[i] += static_cast<A>(row[i]) * share;
  }
}

// out[x] = the share of the sum over its window of a row of single elements.
template <class T>
CVK_CLONES void mean_along(const wide_t<T>* row, T* out, wide_t<T>* sum, const Windows& w, const wide_t<T>* share) {
  using A = wide_t<T>;
  const int64_t count = w.out();
  if (w.stride == 0) {
    for (int64_t x = 0; x < count; ++x) {
      A total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t i = w.begin[x]; i < w.end[x]; ++i) total += row[i];
      out[x] = total * share[x];
    }
    return;
  }
  std::fill_n(sum, count, A(0));
  for (int64_t j = 0; j < w.kernel; ++j) {  // one place after another, of the outputs where it lies inside the row
    const int64_t left = j - w.padding, room = w.size - 1 - left;
    const int64_t first = left < 0 ? (-left + w.stride - 1) / w.stride : 0;
    const int64_t end = room < 0 ? 0 : std::min(count, room / w.stride + 1);
    const A* at = row + left;
    if (w.stride == 1) {
      CVK_SIMD
      for (int64_t x = first; x < end; ++x) sum[x] += at[x];
    } else if (w.stride == 2) {
      CVK_SIMD
      for (int64_t x = first; x < end; ++x) sum[x] += at[2 * x];
    } else {
      for (int64_t x = first; x < end; ++x) sum[x] += at[x * w.stride];
    }
  }
  CVK_SIMD
  for (int64_t x = 0; x < count; ++x) out[x] = sum[x] * share[x];
}

// The same of rows of `inner` elements.
template <class T>
CVK_CLONES void mean_of_rows(const wide_t<T>* rows, T* out, int64_t inner, int64_t begin, int64_t end, wide_t<T>* sum,
                             wide_t<T> share) {
  using A = wide_t<T>;
  std::fill_n(sum, inner, A(0));
  for (int64_t x = begin; x < end; ++x) {
    CVK_SIMD
    for (int64_t k = 0; k < inner; ++k) sum[k] += rows[x * inner + k];
  }
  CVK_SIMD
  for (int64_t k = 0; k < inner; ++k) out[k] = sum[k] * share;
}

// The elements themselves, for add_planes.
template <class T>
struct Elements {
  const T* x;

  template <int L>
  CVK_INLINE void of(int64_t at, int64_t, vector<wide_t<T>, L>& term) const {
    load_vector<L>(x + at, term);
  }
  CVK_INLINE wide_t<T> one(int64_t at, int64_t) const { return static_cast<wide_t<T>>(x[at]); }
};

// Planes that are one window each.
template <class T>
void mean_of_planes(const T* from, T* to, int64_t planes, int64_t area, wide_t<T> share) {
  constexpr int64_t TOGETHER = 64;
  std::vector<wide_t<T>> lanes(TOGETHER * LANES<wide_t<T>>);
  std::vector<double> sums(TOGETHER);
  for (int64_t first = 0; first < planes; first += TOGETHER) {
    const int64_t count = std::min(TOGETHER, planes - first);
    std::fill(lanes.begin(), lanes.end(), wide_t<T>(0));
    std::fill(sums.begin(), sums.end(), 0.0);
    add_planes(Elements<T>{from + first * area}, count, count, area, lanes.data());
    fold_lanes(lanes.data(), count, sums.data());
    for (int64_t p = 0; p < count; ++p) to[first + p] = static_cast<wide_t<T>>(sums[p]) * share;
  }
}

template <class T>
CVK_CLONES void fill_planes(const T* from, T* to, int64_t planes, int64_t area, wide_t<T> share) {
  for (int64_t p = 0; p < planes; ++p, to += area) {
    T value;
    value = static_cast<wide_t<T>>(from[p]) * share;
    for (int64_t i = 0; i < area; ++i) to[i] = value;
  }
}

// One row of the input's gradient: what each output's share, added up over rows, gives to its window.
template <class T>
CVK_CLONES void share_along(const wide_t<T>* g, T* out, wide_t<T>* sum, int64_t inner, const Windows& w,
                            const wide_t<T>* share) {
  using A = wide_t<T>;
  std::fill_n(sum, w.size * inner, A(0));
  for (int64_t o = 0; o < w.out(); ++o) {
    const A* from = g + o * inner;
    for (int64_t x = w.begin[o]; x < w.end[o]; ++x) {
      A* to = sum + x * inner;
      CVK_SIMD
      for (int64_t k = 0; k < inner; ++k) to[k] += from[k] * share[o];
    }
  }
  CVK_SIMD
  for (int64_t i = 0; i < w.size * inner; ++i) out[i] = sum[i];
}

Tensor means(const Tensor& z, const Windows& y, const Windows& x, int64_t divisor) {
  const Planar v = planar(z, "z");
  Tensor out = resized(z, v, y.out(), x.out());
  if (out.numel() == 0) return out;
  const Grid g = grid(v);
  with_dtype(z, "avg_pool2d", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const T* from = data<T>(z);
    T* to = data<T>(out);
    const auto share_y = shares<A>(y, divisor, true), share_x = shares<A>(x, divisor, false);
    const int64_t area = y.size * x.size, out_area = y.out() * x.out();
    if (g.inner == 1 && y.halves() && x.halves()) {
      for_tall_planes(g.planes, area, 2 * y.out() == y.size, [&](int64_t plane, int64_t planes) {
        mean_halves<T>(
            {from + plane * area, to + plane * out_area, x.size, x.out(), y.out() * planes, share_y[0] * share_x[0]});
      });
      return;
    }
    const int64_t width = x.size * g.inner, out_width = x.out() * g.inner;
    if (g.inner == 1 && one_window(y, x)) {
      const int64_t grain = std::max<int64_t>(1, GRAIN / area);
      torch::stable::parallel_for(0, g.planes, grain, [&](int64_t begin, int64_t end) {
        mean_of_planes<T>(from + begin * area, to + begin, end - begin, area, share_y[0] * share_x[0]);
      });
      return;
    }
    const int64_t tall = std::max<int64_t>(1, area / y.out() * g.inner);  // what a row of outputs reads, about
    torch::stable::parallel_for(0, g.planes * y.out(), std::max<int64_t>(1, GRAIN / tall), [&](int64_t b, int64_t e) {
      std::vector<A> row(static_cast<size_t>(width)), sum(static_cast<size_t>(std::max(g.inner, x.out())));
      for (int64_t task = b; task < e; ++task) {
        const int64_t plane = task / y.out(), oy = task % y.out();
        const T* rows = from + plane * area * g.inner;
        if (y.begin[oy] == y.end[oy]) std::fill(row.begin(), row.end(), A(0));
        for (int64_t i = y.begin[oy]; i < y.end[oy]; ++i) {
          add_row<T>(rows + i * width, row.data(), width, A(1), i == y.begin[oy]);
        }
        T* line = to + (plane * y.out() + oy) * out_width;
        std::vector<A> share = share_x;
        for (A& s : share) s *= share_y[oy];
        if (g.inner == 1) {
          mean_along<T>(row.data(), line, sum.data(), x, share.data());
        } else {
          for (int64_t ox = 0; ox < x.out(); ++ox) {
            mean_of_rows<T>(row.data(), line + ox * g.inner, g.inner, x.begin[ox], x.end[ox], sum.data(), share[ox]);
          }
        }
      }
    });
  });
  return out;
}

// last: grad is channels-last; a map of one position looks like a contiguous one.
Tensor spread(const Tensor& grad, const Windows& y, const Windows& x, int64_t divisor, bool last) {
  STD_TORCH_CHECK(grad.dim() == 5 && grad.size(3) == y.out() && grad.size(4) == x.out(),
                  "grad must be planar [N, 2, C, oH, oW] of these windows");
  Planar v = planar(grad, "grad");
  if (last) {
    STD_TORCH_CHECK(grad.numel() == 0 || dense_in_order(grad, {{0, 3, 4, 1, 2}}), "grad must be channels-last");
    v.layout = Layout::channels_last;
  }
  Tensor out = resized(grad, v, y.size, x.size);
  if (out.numel() == 0) return out;
  const Grid g = grid(v);
  with_dtype(grad, "avg_pool2d", [&](auto zero) {
    using T = decltype(zero);
    using A = wide_t<T>;
    const T* from = data<T>(grad);
    T* to = data<T>(out);
    const auto share_y = shares<A>(y, divisor, true), share_x = shares<A>(x, divisor, false);
    const int64_t area = y.size * x.size, out_area = y.out() * x.out();
    if (g.inner == 1 && y.halves() && x.halves()) {
      const bool rest = 2 * y.out() < y.size || 2 * x.out() < x.size, past = !rest && gradient_past_caches(out);
      for_tall_planes(g.planes, area, 2 * y.out() == y.size, [&](int64_t plane, int64_t planes) {
        T* first = to + plane * area;
        if (rest) std::fill_n(first, planes * area, T{});
        const T* given = from + plane * out_area;
        write_halves(past, first, 0, 1, x.size, y.out() * planes, [&](int64_t row, int64_t rows, T* place, int64_t) {
          share_halves<T>({given + row * x.out(), place, x.size, x.out(), rows, share_y[0] * share_x[0]});
        });
        if (past) settle_streams();
      });
      return;
    }
    const int64_t width = x.size * g.inner, out_width = x.out() * g.inner;
    if (g.inner == 1 && one_window(y, x)) {
      const int64_t grain = std::max<int64_t>(1, GRAIN / area);
      torch::stable::parallel_for(0, g.planes, grain, [&](int64_t begin, int64_t end) {
        fill_planes<T>(from + begin, to + begin * area, end - begin, area, share_y[0] * share_x[0]);
      });
      return;
    }
    torch::stable::parallel_for(0, g.planes * y.size, std::max<int64_t>(1, GRAIN / width), [&](int64_t b, int64_t e) {
      std::vector<A> row(static_cast<size_t>(out_width)), sum(static_cast<size_t>(width));
      for (int64_t task = b; task < e; ++task) {
        const int64_t plane = task / y.size, i = task % y.size;
        const T* rows = from + plane * out_area * g.inner;
        std::fill(row.begin(), row.end(), A(0));
        for (int64_t oy = y.first[i]; oy < y.last[i]; ++oy) {
          add_row<T>(rows + oy * out_width, row.data(), out_width, share_y[oy], oy == y.first[i]);
        }
        share_along<T>(row.data(), to + (plane * y.size + i) * width, sum.data(), g.inner, x, share_x.data());
      }
    });
  });
  return out;
}

Tensor forward(Tensor z, std::vector<int64_t> kernel_size, std::vector<int64_t> stride, std::vector<int64_t> padding,
               bool ceil_mode, bool count_include_pad, int64_t divisor) {
  STD_TORCH_CHECK(z.dim() == 5, "z must be planar [N, 2, C, H, W]");
  check_window(kernel_size, stride, padding);
  Windows axes[2];
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t out = output_size(z.size(3 + i), kernel_size[i], stride[i], padding[i], 1, ceil_mode);
    axes[i] = regular(z.size(3 + i), out, kernel_size[i], stride[i], padding[i], count_include_pad);
  }
  return means(z, axes[0], axes[1], divisor);
}

Tensor backward(Tensor grad, std::vector<int64_t> input_size, std::vector<int64_t> kernel_size,
                std::vector<int64_t> stride, std::vector<int64_t> padding, bool count_include_pad, int64_t divisor,
                bool channels_last) {
  STD_TORCH_CHECK(grad.dim() == 5 && input_size.size() == 2, "grad must be planar [N, 2, C, H, W], input_size a pair");
  check_window(kernel_size, stride, padding);
  Windows axes[2];
  for (int64_t i = 0; i < 2; ++i) {
    axes[i] = regular(input_size[i], grad.size(3 + i), kernel_size[i], stride[i], padding[i], count_include_pad);
  }
  return spread(grad, axes[0], axes[1], divisor, channels_last);
}

Tensor adaptive_forward(Tensor z, std::vector<int64_t> output_size) {
  STD_TORCH_CHECK(z.dim() == 5 && output_size.size() == 2, "z must be planar [N, 2, C, H, W], output_size a pair");
  return means(z, adaptive(z.size(3), output_size[0]), adaptive(z.size(4), output_size[1]), 0);
}

Tensor adaptive_backward(Tensor grad, std::vector<int64_t> input_size, bool channels_last) {
  STD_TORCH_CHECK(grad.dim() == 5 && input_size.size() == 2, "grad must be planar [N, 2, C, H, W], input_size a pair");
  return spread(grad, adaptive(input_size[0], grad.size(3)), adaptive(input_size[1], grad.size(4)), 0, channels_last);
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("avg_pool2d_forward", TORCH_BOX(&cvk::forward));
  m.impl("avg_pool2d_backward", TORCH_BOX(&cvk::backward));
  m.impl("adaptive_avg_pool2d_forward", TORCH_BOX(&cvk::adaptive_forward));
  m.impl("adaptive_avg_pool2d_backward", TORCH_BOX(&cvk::adaptive_backward));
}
