// Products of matrices of float32, for kernels that have their operands at hand: no packing, no threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "vectors.h"

namespace cvk {

constexpr int64_t ROUND = 16;  // columns are held in multiples of the widest vector

inline int64_t rounded_up(int64_t count) { return (count + ROUND - 1) / ROUND * ROUND; }

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
  // 16 sums and what they read fit the registers of AVX-512, 12 those of others; 8 would wait for each other. Of 8 rows
  // that are left two blocks of 4 are better than 6 and 2.
  constexpr int SIDE = L == 16 ? 8 : 6;
  int64_t i = 0;
  for (; i + SIDE <= rows && (SIDE == 8 || rows - i != 8); i += SIDE) multiply_block<L, SIDE, COLUMNS, ADD>(p, i);
  for (; i + 4 <= rows; i += 4) multiply_block<L, 4, COLUMNS, ADD>(p, i);
  for (; i < rows; ++i) multiply_block<L, 1, COLUMNS, ADD>(p, i);
}

inline void clear(const Product& p, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; ++i) std::fill(p.out + i * p.out_row, p.out + i * p.out_row + columns, 0.0F);
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
