// Winograd's minimal filtering F(2x2, 3x3) over rows of channels: a tile of 2x2 outputs takes 16 products where a
// direct convolution takes 36.            (Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks)
//
//     y = A^T [ (G w G^T) . (B^T d B) ] A        d 4x4 inputs, w 3x3 weights, y 2x2 outputs, . per point of 16
//
// Summed over input channels each point is a matrix product. An output is made of those points alone that are made of
// its own inputs, so what is not finite goes exactly where a direct convolution takes it.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>

#include "product.h"

namespace cvk {

using StoredBFloat16 = torch::headeronly::BFloat16;

constexpr int64_t POINTS = 16;
// The points of one row of channels, `step` apart.
template <int L>
CVK_INLINE void store_points(const floats<L>* x, float* to, int64_t step) {
  CVK_UNROLL
  for (int k = 0; k < POINTS; ++k) store_vector<L>(to + k * step, x[k]);
}

// B^T d B in place
template <int L>
CVK_INLINE void transform_input(floats<L>* d) {
  CVK_UNROLL
  for (int j = 0; j < 4; ++j) {
    const floats<L> a = d[j], b = d[4 + j], c = d[8 + j], e = d[12 + j];
    d[j] = a - c, d[4 + j] = b + c, d[8 + j] = c - b, d[12 + j] = b - e;
  }
  CVK_UNROLL
  for (int i = 0; i < 16; i += 4) {
    const floats<L> a = d[i], b = d[i + 1], c = d[i + 2], e = d[i + 3];
    d[i] = a - c, d[i + 1] = b + c, d[i + 2] = c - b, d[i + 3] = b - e;
  }
}

// A^T m A
template <int L>
CVK_INLINE void transform_output(const floats<L>* m, floats<L>* y) {
  floats<L> t[8];
  CVK_UNROLL
  for (int j = 0; j < 4; ++j) {
    t[j] = m[j] + m[4 + j] + m[8 + j];
    t[4 + j] = m[4 + j] - m[8 + j] - m[12 + j];
  }
  CVK_UNROLL
  for (int i = 0; i < 2; ++i) {
    y[2 * i] = t[4 * i] + t[4 * i + 1] + t[4 * i + 2];
    y[2 * i + 1] = t[4 * i + 1] - t[4 * i + 2] - t[4 * i + 3];
  }
}

// A g A^T, the transpose of transform_output
template <int L>
CVK_INLINE void transform_gradient(const floats<L>* g, floats<L>* q) {
  floats<L> t[8];
  CVK_UNROLL
  for (int j = 0; j < 2; ++j) {
    t[j] = g[j], t[2 + j] = g[j] + g[2 + j], t[4 + j] = g[j] - g[2 + j], t[6 + j] = -g[2 + j];
  }
  CVK_UNROLL
  for (int i = 0; i < 4; ++i) {
    const floats<L> a = t[2 * i], b = t[2 * i + 1];
    q[4 * i] = a, q[4 * i + 1] = a + b, q[4 * i + 2] = a - b, q[4 * i + 3] = -b;
  }
}

// G w G^T
template <int L>
CVK_INLINE void transform_weight(const floats<L>* w, floats<L>* u) {
  floats<L> t[12];
  CVK_UNROLL
  for (int j = 0; j < 3; ++j) {
    const floats<L> ends = 0.5F * (w[j] + w[6 + j]), middle = 0.5F * w[3 + j];
    t[j] = w[j], t[3 + j] = ends + middle, t[6 + j] = ends - middle, t[9 + j] = w[6 + j];
  }
  CVK_UNROLL
  for (int i = 0; i < 4; ++i) {
    const floats<L> ends = 0.5F * (t[3 * i] + t[3 * i + 2]), middle = 0.5F * t[3 * i + 1];
    u[4 * i] = t[3 * i], u[4 * i + 1] = ends + middle, u[4 * i + 2] = ends - middle, u[4 * i + 3] = t[3 * i + 2];
  }
}

// G^T u G, its transpose
template <int L>
CVK_INLINE void transform_weight_back(const floats<L>* u, floats<L>* w) {
  floats<L> t[12];
  CVK_UNROLL
  for (int j = 0; j < 4; ++j) {
    const floats<L> sum = 0.5F * (u[4 + j] + u[8 + j]);
    t[j] = u[j] + sum, t[4 + j] = 0.5F * (u[4 + j] - u[8 + j]), t[8 + j] = sum + u[12 + j];
  }
  CVK_UNROLL
  for (int i = 0; i < 3; ++i) {
    const floats<L> b = t[4 * i + 1], c = t[4 * i + 2], sum = 0.5F * (b + c);
    w[3 * i] = t[4 * i] + sum, w[3 * i + 1] = 0.5F * (b - c), w[3 * i + 2] = sum + t[4 * i + 3];
  }
}

}  // namespace cvk
