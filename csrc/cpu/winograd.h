// Winograd's minimal filtering F(2x2, 3x3) over rows of channels: a tile of 2x2 outputs takes 16 products where a
// direct convolution takes 36.            (Lavin and Gray 2016, Fast Algorithms for Convolutional Neural Networks)
//
//     y = A^T [ (G w G^T) . (B^T d B) ] A        d 4x4 inputs, w 3x3 weights, y 2x2 outputs, . per point of 16
//
// Summed over input channels each point is a matrix product. NaN goes exactly where a direct convolution takes it: an
// output is made of those points alone that are made of its own inputs. Inf becomes NaN where two of them meet.
#pragma once

#include <torch/headeronly/util/BFloat16.h>

#include <cstdint>

#include "vectors.h"

namespace cvk {

using StoredBFloat16 = torch::headeronly::BFloat16;

constexpr int64_t POINTS = 16;
constexpr int64_t ROUND = 16;  // rows of channels are held in multiples of the widest vector

inline int64_t rounded_up(int64_t count) { return (count + ROUND - 1) / ROUND * ROUND; }

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

constexpr int64_t PANEL = 32;  // columns that are read together, of any width of vector

// Where column j of a matrix in panels begins; its rows are the panel's width apart.
CVK_INLINE int64_t panel_at(int64_t j, int64_t rows) { return j / PANEL * PANEL * rows + j % PANEL; }
CVK_INLINE int64_t panel_width(int64_t j, int64_t columns) {
  const int64_t left = columns - j / PANEL * PANEL;
  return left < PANEL ? left : PANEL;
}

// Operands of out[i][j] (+)= sum over k of a[i][k] b[k][j]: out's rows are dense, a may be turned over, b is in panels
// (b_row 0) or has dense rows.
struct Product {
  const float* a;
  int64_t a_row, a_column;
  const float* b;
  int64_t b_row;
  float* out;
  int64_t out_row, inner;
};

// ROWS x COLUMNS vectors of the result stay in registers through the whole sum.
template <int L, int ROWS, int COLUMNS, bool ADD>
CVK_INLINE void multiply_block(const Product& p, int64_t row) {
  floats<L> sum[ROWS][COLUMNS];
  float* out = p.out + row * p.out_row;
  CVK_UNROLL
  for (int i = 0; i < ROWS; ++i) {
    CVK_UNROLL
    for (int j = 0; j < COLUMNS; ++j) {
      if constexpr (ADD) {
        load_vector<L>(out + i * p.out_row + j * L, sum[i][j]);
      } else {
        sum[i][j] = floats<L>{};
      }
    }
  }
  const float *a = p.a + row * p.a_row, *b = p.b;
  for (int64_t k = 0; k < p.inner; ++k) {
    floats<L> y[COLUMNS];
    CVK_UNROLL
    for (int j = 0; j < COLUMNS; ++j) load_vector<L>(b + j * L, y[j]);
    CVK_UNROLL
    for (int i = 0; i < ROWS; ++i) {
      const float x = a[i * p.a_row];
      CVK_UNROLL
      for (int j = 0; j < COLUMNS; ++j) sum[i][j] += x * y[j];
    }
    a += p.a_column, b += p.b_row;
  }
  CVK_UNROLL
  for (int i = 0; i < ROWS; ++i) {
    CVK_UNROLL
    for (int j = 0; j < COLUMNS; ++j) store_vector<L>(out + i * p.out_row + j * L, sum[i][j]);
  }
}

template <int L, int COLUMNS, bool ADD>
CVK_INLINE void multiply_rows(const Product& p, int64_t rows) {
  constexpr int SIDE = L == 16 ? 8 : 4;  // 16 sums and what they read fit the registers, of which AVX2 has 16
  int64_t i = 0;
  for (; i + SIDE <= rows; i += SIDE) multiply_block<L, SIDE, COLUMNS, ADD>(p, i);
  if (SIDE > 4 && i + 4 <= rows) multiply_block<L, 4, COLUMNS, ADD>(p, i), i += 4;
  for (; i < rows; ++i) multiply_block<L, 1, COLUMNS, ADD>(p, i);
}

// columns: a multiple of ROUND
template <int L, bool ADD>
CVK_INLINE void multiply(const Product& whole, int64_t rows, int64_t columns) {
  for (int64_t j = 0; j < columns;) {
    const bool both = j + 2 * L <= columns;
    Product p = whole;
    p.out += j;
    p.b += whole.b_row ? j : panel_at(j, whole.inner);
    p.b_row = whole.b_row ? whole.b_row : panel_width(j, columns);
    both ? multiply_rows<L, 2, ADD>(p, rows) : multiply_rows<L, 1, ADD>(p, rows);
    j += both ? 2 * L : L;
  }
}

}  // namespace cvk
