// The 16 points of 3x3 kernels, and the gradients of kernels from those of their points.
#pragma once

#include <algorithm>
#include <atomic>

#include "winograd.h"

namespace cvk {
namespace {

// The kernels [O, I, 3, 3] of a convolution from `in` to `out` channels, or their gradients. `back`: of the one that
// gives the gradient of the features, its kernels turned, transposed and conjugated.
struct Kernels {
  float *re, *im;  // no im: real weights
  int64_t in, out;
  bool back;
  float* points;  // [1 or 3][POINTS][in][rounded out]; several of them one behind the other
  int64_t partials;
  std::atomic<bool>* spoiled;

  int64_t row() const { return rounded_up(out); }
  int64_t plane() const { return POINTS * in * row(); }
  int64_t count() const { return im ? 3 : 1; }
  int64_t place(int64_t i, int64_t o) const { return 9 * (back ? i * out + o : o * in + i); }
};

// The points of the kernels of input channels [begin, end). DIRECT: the nine weights are the points, the last seven 0.
template <int L, bool DIRECT>
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
        for (int at = 0; at < 9; ++at) load_vector<L>(held[at], kernel[at]);
        floats<L>* u = part == 0 ? re : im;
        if constexpr (DIRECT) {
          for (int at = 0; at < POINTS; ++at) u[at] = at < 9 ? kernel[at] : floats<L>{};
        } else {
          transform_weight<L>(kernel, u);
        }
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
template <int L, bool DIRECT>
CVK_INLINE void leave_weights(const Kernels& w, int64_t begin, int64_t end) {
  floats<L> not_finite{};
  for (int64_t i = begin; i < end; ++i) {
    for (int64_t o = 0; o < w.row(); o += L) {
      floats<L> sum[POINTS], kernel[3][9];
      for (int64_t p = 0; p < w.count(); ++p) {
        for (int k = 0; k < POINTS; ++k) {
          const float* from = w.points + p * w.plane() + (k * w.in + i) * w.row() + o;
          load_vector<L>(from, sum[k]);
          for (int64_t partial = 1; partial < w.partials; ++partial) {
            floats<L> more;
            load_vector<L>(from + partial * w.count() * w.plane(), more);
            sum[k] += more;
          }
        }
        if constexpr (DIRECT) {
          for (int at = 0; at < 9; ++at) kernel[p][at] = sum[at];
        } else {
          transform_weight_back<L>(sum, kernel[p]);
        }
        for (int at = 0; at < 9; ++at) not_finite += 0.0F * kernel[p][at];
      }
      for (int part = 0; part < (w.im ? 2 : 1); ++part) {
        float held[9][L];
        for (int at = 0; at < 9; ++at) {
          store_vector<L>(held[at], w.im ? kernel[part][at] + kernel[2][at] : kernel[0][at]);
        }
        float* to = part == 0 ? w.re : w.im;
        for (int64_t lane = 0; lane < std::min<int64_t>(L, w.out - o); ++lane) {
          for (int at = 0; at < 9; ++at) to[w.place(i, o + lane) + at] = held[at][lane];
        }
      }
    }
  }
  if (!is_zero<L>(not_finite)) w.spoiled->store(true, std::memory_order_relaxed);
}

}  // namespace
}  // namespace cvk
