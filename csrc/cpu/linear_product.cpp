// P Q of complex matrices in float32, their parts apart, by Gauss's three real products:
//
//     re = Pr Qr - Pi Qi        im = (Pr + Pi)(Qr + Qi) - Pr Qr - Pi Qi
//
// A task is a few columns of Q, packed into panels, times as many rows of P as leave their results in the second-level
// cache. With P = z and Q = W^T it is a linear map, with the conjugates of W and of z its gradients.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "lanes.h"
#include "product.h"
#include "simd.h"

namespace cvk {
namespace {

constexpr int64_t DEPTH = 256;      // terms of a sum that are done in one go: a panel of them fits the first-level cache
constexpr int64_t ROWS = 256;       // of a task
constexpr int64_t SIDE = 32;        // rows whose sums re + im are made at a time
constexpr int64_t WIDE = 2 * PANEL;  // columns of a task where there are many

// A matrix in its two parts, of any strides; `sign` of the imaginary one.
struct Operand {
  const float *re, *im;
  int64_t rows, columns, row, column;
  float sign;
};

struct Work {
  Operand p, q;
  float *re, *im;
  int64_t out_row, wide, rows_of_tasks;
  int64_t columns_of_tasks() const { return (q.columns + wide - 1) / wide; }
};

// The three matrices that are multiplied: the parts and their sum.
struct Three {
  float *re, *im, *sum;
};

CVK_INLINE void put(const Three& to, int64_t at, float re, float im) {
  to.re[at] = re, to.im[at] = im, to.sum[at] = re + im;
}

// Rows first .. + depth and `count` columns from `left` of q into panels, zeros up to the next multiple of ROUND.
CVK_INLINE void pack(const Operand& q, int64_t first, int64_t depth, int64_t left, int64_t count, const Three& to) {
  const int64_t all = rounded_up(count);
  for (int64_t j = 0; j < all; j += PANEL) {
    const int64_t width = panel_width(j, all), given = std::min(width, count - j), at = panel_at(j, depth);
    const float* re = q.re + first * q.row + (left + j) * q.column;
    const float* im = q.im + first * q.row + (left + j) * q.column;
    const Three panel{to.re + at, to.im + at, to.sum + at};
    int64_t done = 0;  // columns
#if defined(CVK_SHUFFLE)
    if (q.row == 1) {  // squares of four, turned over
      using L = LanesOf<4>;
      for (; done + 4 <= given; done += 4) {
        int64_t k = 0;
        for (; k + 4 <= depth; k += 4) {
          L::vector x[4], y[4];
          for (int i = 0; i < 4; ++i) {
            x[i] = load<L>(re + (done + i) * q.column + k);
            y[i] = load<L>(im + (done + i) * q.column + k) * q.sign;
          }
          turn_over<L>(x), turn_over<L>(y);
          for (int i = 0; i < 4; ++i) {
            const int64_t place = (k + i) * width + done;
            store<L>(panel.re + place, x[i]), store<L>(panel.im + place, y[i]), store<L>(panel.sum + place, x[i] + y[i]);
          }
        }
        for (; k < depth; ++k) {
          for (int64_t i = done; i < done + 4; ++i) {
            put(panel, k * width + i, re[i * q.column + k], im[i * q.column + k] * q.sign);
          }
        }
      }
    }
#endif
    for (int64_t k = 0; k < depth; ++k) {
      const float *x = re + k * q.row, *y = im + k * q.row;
      if (q.column == 1) {
        CVK_SIMD
        for (int64_t i = done; i < given; ++i) put(panel, k * width + i, x[i], y[i] * q.sign);
      } else {
        for (int64_t i = done; i < given; ++i) {
          put(panel, k * width + i, x[i * q.column], y[i * q.column] * q.sign);
        }
      }
      for (int64_t i = given; i < width; ++i) put(panel, k * width + i, 0.0F, 0.0F);
    }
  }
}

// The sums of the parts of `rows` rows of p and `depth` columns, and the parts themselves where their rows are not
// dense: in the order that p has, rows DEPTH apart or columns SIDE.
CVK_INLINE void copy_side(const Operand& p, int64_t top, int64_t rows, int64_t first, int64_t depth, const Three& to) {
  const bool dense = p.column == 1;
  const int64_t outer = dense ? rows : depth, inner = dense ? depth : rows;
  const int64_t step = dense ? p.row : p.column, within = dense ? p.column : p.row, width = dense ? DEPTH : SIDE;
  for (int64_t i = 0; i < outer; ++i) {
    const int64_t from = top * p.row + first * p.column + i * step;
    const float *re = p.re + from, *im = p.im + from;
    float* sum = to.sum + i * width;
    if (dense) {
      CVK_SIMD
      for (int64_t k = 0; k < inner; ++k) sum[k] = re[k] + im[k];
    } else if (within == 1) {
      CVK_SIMD
      for (int64_t k = 0; k < inner; ++k) put(to, i * width + k, re[k], im[k]);
    } else {
      for (int64_t k = 0; k < inner; ++k) put(to, i * width + k, re[k * within], im[k * within]);
    }
  }
}

// results: three matrices of ROWS x wide
template <int L, bool ADD>
CVK_INLINE void multiply_three(const Work& w, const Three& panels, const Three& side, const Three& results, int64_t top,
                               int64_t rows, int64_t first, int64_t depth, int64_t columns) {
  const Operand& p = w.p;
  for (int64_t i = 0; i < rows; i += SIDE) {
    const int64_t here = std::min(SIDE, rows - i);
    copy_side(p, top + i, here, first, depth, side);
    const bool dense = p.column == 1;
    const int64_t row = dense ? DEPTH : 1, column = dense ? 1 : SIDE;
    const int64_t from = (top + i) * p.row + first, out = i * w.wide;
    if (dense) {
      multiply<L, ADD>({p.re + from, p.row, 1, panels.re, 0, results.re + out, w.wide, depth}, here, columns);
      multiply<L, ADD>({p.im + from, p.row, 1, panels.im, 0, results.im + out, w.wide, depth}, here, columns);
    } else {
      multiply<L, ADD>({side.re, row, column, panels.re, 0, results.re + out, w.wide, depth}, here, columns);
      multiply<L, ADD>({side.im, row, column, panels.im, 0, results.im + out, w.wide, depth}, here, columns);
    }
    multiply<L, ADD>({side.sum, row, column, panels.sum, 0, results.sum + out, w.wide, depth}, here, columns);
  }
}

template <int L>
CVK_INLINE void tasks(const Work& w, int64_t begin, int64_t end) {
  const auto three = [](std::vector<float>& room, int64_t size) {
    room.resize(static_cast<size_t>(3 * size));
    return Three{room.data(), room.data() + size, room.data() + 2 * size};
  };
  std::vector<float> of_panels, of_side, of_results;
  const Three panels = three(of_panels, DEPTH * w.wide), side = three(of_side, SIDE * DEPTH);
  const Three results = three(of_results, std::min(w.rows_of_tasks, w.p.rows) * w.wide);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t left = task % w.columns_of_tasks() * w.wide, count = std::min(w.wide, w.q.columns - left);
    const int64_t top = task / w.columns_of_tasks() * w.rows_of_tasks;
    const int64_t rows = std::min(w.rows_of_tasks, w.p.rows - top), columns = rounded_up(count);
    const int64_t parts = std::max<int64_t>(1, (w.q.rows + DEPTH - 1) / DEPTH);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = w.q.rows * part / parts, depth = w.q.rows * (part + 1) / parts - first;
      pack(w.q, first, depth, left, count, panels);
      part ? multiply_three<L, true>(w, panels, side, results, top, rows, first, depth, columns)
           : multiply_three<L, false>(w, panels, side, results, top, rows, first, depth, columns);
    }
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t from = i * w.wide, to = (top + i) * w.out_row + left;
      CVK_SIMD
      for (int64_t j = 0; j < count; ++j) {
        const float x = results.re[from + j], y = results.im[from + j];
        w.re[to + j] = x - y;
        w.im[to + j] = results.sum[from + j] - x - y;
      }
    }
  }
}

#if defined(CVK_VECTORS)
void tasks_4(const Work& w, int64_t begin, int64_t end) { tasks<4>(w, begin, end); }
#else
void tasks_1(const Work& w, int64_t begin, int64_t end) { tasks<1>(w, begin, end); }
#endif
#if defined(CVK_TARGETS)
CVK_TARGET_8 void tasks_8(const Work& w, int64_t begin, int64_t end) { tasks<8>(w, begin, end); }
CVK_TARGET_16 void tasks_16(const Work& w, int64_t begin, int64_t end) { tasks<16>(w, begin, end); }
#endif

void run(const Work& w, int64_t begin, int64_t end) {
#if defined(CVK_TARGETS)
  if (lanes_here() == 16) return tasks_16(w, begin, end);
  if (lanes_here() == 8) return tasks_8(w, begin, end);
#endif
#if defined(CVK_VECTORS)
  tasks_4(w, begin, end);
#else
  tasks_1(w, begin, end);
#endif
}

Operand operand(const Tensor& re, const Tensor& im, float sign, const char* name) {
  const auto whole = torch::headeronly::ScalarType::Float;
  STD_TORCH_CHECK(re.dim() == 2 && re.scalar_type() == whole && im.scalar_type() == whole, name,
                  " must be float32 matrices");
  for (int64_t d = 0; d < 2; ++d) {
    STD_TORCH_CHECK(re.size(d) == im.size(d) && re.stride(d) == im.stride(d), name, " must be alike in both parts");
  }
  return {data<float>(re), data<float>(im), re.size(0), re.size(1), re.stride(0), re.stride(1), sign};
}

// [rows, 2, columns] or, stacked, [2, rows, columns]
Tensor product(Tensor p_re, Tensor p_im, Tensor q_re, Tensor q_im, bool conjugate, bool stacked) {
  Work w{};
  w.p = operand(p_re, p_im, 1.0F, "p"), w.q = operand(q_re, q_im, conjugate ? -1.0F : 1.0F, "q");
  STD_TORCH_CHECK(w.p.columns == w.q.rows, "p must have as many columns as q has rows");
  const int64_t m = w.p.rows, n = w.q.columns;
  Tensor out = torch::stable::new_empty(p_re, stacked ? std::vector<int64_t>{2, m, n} : std::vector<int64_t>{m, 2, n});
  if (out.numel() == 0) return out;
  w.re = data<float>(out), w.im = w.re + (stacked ? m * n : n), w.out_row = stacked ? n : 2 * n;
  w.wide = n >= 4 * WIDE ? WIDE : PANEL, w.rows_of_tasks = ROWS;
  const int64_t count = w.columns_of_tasks() * ((m + ROWS - 1) / ROWS);
  const int64_t work = std::min(m, ROWS) * w.wide * std::max<int64_t>(1, w.q.rows) / 16;  // a vector of products a step
  torch::stable::parallel_for(0, count, std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, work)),
                              [&](int64_t begin, int64_t end) { run(w, begin, end); });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) { m.impl("linear_product", TORCH_BOX(&cvk::product)); }
