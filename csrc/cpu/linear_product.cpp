// P Q of complex matrices in float32, their parts apart, by Gauss's three real products:
//
//     re = Pr Qr - Pi Qi        im = (Pr + Pi)(Qr + Qi) - Pr Qr - Pi Qi
//
// Where that gave what is not finite, all is done again directly, im = Pr Qi + Pi Qr: sums that come before the
// products make NaN of an infinity, and overflow where the result need not (but see not_finite.h).
//
// A task is a few columns of Q, packed into panels, times as many rows of P as leave their results in the second-level
// cache. With P = z and Q = W^T it is a linear map, with the conjugates of W and of z its gradients.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <tuple>
#include <vector>

#include "lanes.h"
#include "not_finite.h"
#include "product.h"
#include "simd.h"

namespace cvk {
namespace {

constexpr int64_t DEPTH = 256;  // terms of a sum that are done in one go: their panel fits the first-level cache
constexpr int64_t DEPTH_STEP = DEPTH + 16;  // from row to row of a side: not a power of two, which would share one set
constexpr int64_t ROWS = 256;               // of a task
constexpr int64_t SIDE = 48;                // rows that are copied at a time

// A matrix in its two parts, of any strides; `sign` of the imaginary one.
struct Operand {
  const float *re, *im;
  int64_t rows, columns, row, column;
  float sign;
};

struct Work {
  Operand p, q;
  float *re, *im;
  int64_t out_row, wide;  // columns of a task
  bool direct;
  std::atomic<bool>* spoiled;  // whether a result is not finite
  int64_t tasks_across() const { return (q.columns + wide - 1) / wide; }
};

// The three matrices that are multiplied: the parts and their sum.
struct Three {
  float *re, *im, *sum;
};

CVK_INLINE void put(const Three& to, int64_t at, float re, float im) {
  to.re[at] = re, to.im[at] = im, to.sum[at] = re + im;
}

// Rows first .. + depth and `count` columns from `left` of q into panels of 2 L columns, zeros where the last is wider.
template <int L>
CVK_INLINE void pack(const Operand& q, int64_t first, int64_t depth, int64_t left, int64_t count, const Three& to) {
  constexpr int64_t WIDTH = 2 * L;
  for (int64_t j = 0; j < count; j += WIDTH) {
    const int64_t given = std::min(WIDTH, count - j);
    const float* re = q.re + first * q.row + (left + j) * q.column;
    const float* im = q.im + first * q.row + (left + j) * q.column;
    const Three panel{to.re + j * depth, to.im + j * depth, to.sum + j * depth};
    int64_t done = 0;  // columns
#if defined(CVK_SHUFFLE)
    if (q.row == 1) {  // squares of four, turned over
      using Four = LanesOf<4>;
      for (; done + 4 <= given; done += 4) {
        int64_t k = 0;
        for (; k + 4 <= depth; k += 4) {
          Four::vector x[4], y[4];
          for (int i = 0; i < 4; ++i) {
            x[i] = load<Four>(re + (done + i) * q.column + k);
            y[i] = load<Four>(im + (done + i) * q.column + k) * q.sign;
          }
          turn_over<Four>(x), turn_over<Four>(y);
          for (int i = 0; i < 4; ++i) {
            const int64_t at = (k + i) * WIDTH + done;
            store<Four>(panel.re + at, x[i]), store<Four>(panel.im + at, y[i]);
            store<Four>(panel.sum + at, x[i] + y[i]);
          }
        }
        for (; k < depth; ++k) {
          for (int64_t i = done; i < done + 4; ++i) {
            put(panel, k * WIDTH + i, re[i * q.column + k], im[i * q.column + k] * q.sign);
          }
        }
      }
    }
#endif
    if (q.column == 1 && given == WIDTH) {
      for (int64_t k = 0; k < depth; ++k) {
        CVK_UNROLL
        for (int64_t i = 0; i < WIDTH; i += L) {
          floats<L> x, y;
          load_vector<L>(re + k * q.row + i, x), load_vector<L>(im + k * q.row + i, y);
          y *= q.sign;
          const int64_t at = k * WIDTH + i;
          store_vector<L>(panel.re + at, x), store_vector<L>(panel.im + at, y), store_vector<L>(panel.sum + at, x + y);
        }
      }
      continue;
    }
    for (int64_t k = 0; k < depth && done < WIDTH; ++k) {
      for (int64_t i = done; i < given; ++i) {
        const int64_t from = k * q.row + i * q.column;
        put(panel, k * WIDTH + i, re[from], im[from] * q.sign);
      }
      for (int64_t i = given; i < WIDTH; ++i) put(panel, k * WIDTH + i, 0.0F, 0.0F);
    }
  }
}

// Whether the parts of p are read where they stand: rows of it, unless those share sets of the first-level cache.
inline bool in_place(const Operand& p) { return p.column == 1 && p.row % 256 != 0; }

// `rows` rows and `depth` columns of the sums of p's parts, and of the parts where they are not read in place, in the
// order that p has: rows DEPTH_STEP apart, or columns SIDE.
template <int L>
CVK_INLINE void copy_side(const Operand& p, int64_t top, int64_t rows, int64_t first, int64_t depth, const Three& to) {
  const bool dense = p.column == 1, only_sums = in_place(p);
  const int64_t outer = dense ? rows : depth, inner = dense ? depth : rows, width = dense ? DEPTH_STEP : SIDE;
  const int64_t step = dense ? p.row : p.column, within = dense ? p.column : p.row;
  for (int64_t i = 0; i < outer; ++i) {
    const int64_t from = top * p.row + first * p.column + i * step;
    const float *re = p.re + from, *im = p.im + from;
    int64_t k = 0;
    if (within == 1) {
      for (; k + L <= inner; k += L) {
        floats<L> x, y;
        load_vector<L>(re + k, x), load_vector<L>(im + k, y);
        const int64_t at = i * width + k;
        if (!only_sums) store_vector<L>(to.re + at, x), store_vector<L>(to.im + at, y);
        store_vector<L>(to.sum + at, x + y);
      }
    }
    for (; k < inner; ++k) put(to, i * width + k, re[k * within], im[k * within]);
  }
}

// results: three matrices of rows w.wide apart; directly Pr Qr, Pi Qi and the imaginary part
template <int L, bool ADD>
CVK_INLINE void multiply_three(const Work& w, const Three& panels, const Three& side, const Three& results, int64_t top,
                               int64_t rows, int64_t first, int64_t depth, int64_t columns) {
  const bool dense = w.p.column == 1, here = in_place(w.p);
  const int64_t row = dense ? DEPTH_STEP : 1, column = dense ? 1 : SIDE, row_of_parts = here ? w.p.row : row;
  for (int64_t i = 0; i < rows; i += SIDE) {
    const int64_t count = std::min(SIDE, rows - i), from = (top + i) * w.p.row + first;
    copy_side<L>(w.p, top + i, count, first, depth, side);
    const float *re = here ? w.p.re + from : side.re, *im = here ? w.p.im + from : side.im;
    const float* const left[]{re, im, w.direct ? re : side.sum, im};
    const float* const right[]{panels.re, panels.im, w.direct ? panels.im : panels.sum, panels.re};
    float* const to[]{results.re, results.im, results.sum, results.sum};
    for (int64_t j = 0; j < columns; j += 2 * L) {
      const int64_t panel = j * depth, out = i * w.wide + j;
      for (int k = 0; k < (w.direct ? 4 : 3); ++k) {
        multiply<L, ADD>({left[k], left[k] == side.sum ? row : row_of_parts, column, right[k] + panel, 2 * L,
                          to[k] + out, w.wide, depth},
                         count, 2 * L);
      }
    }
  }
}

// `count` results of a row from the three matrices.
template <int L>
CVK_INLINE void leave_row(const Work& w, const Three& results, int64_t from, int64_t to, int64_t count,
                          floats<L>& not_finite) {
  for (int64_t j = 0; j < count; j += L) {
    floats<L> x, y, sum;  // rows of the matrices are whole vectors, and 0 behind the last column
    load_vector<L>(results.re + from + j, x), load_vector<L>(results.im + from + j, y);
    load_vector<L>(results.sum + from + j, sum);
    const floats<L> re = x - y, im = w.direct ? sum : sum - x - y;
    not_finite += 0.0F * (re + im);
    if (j + L <= count) {
      store_vector<L>(w.re + to + j, re), store_vector<L>(w.im + to + j, im);
    } else {
      store_some<L>(w.re + to + j, count - j, re), store_some<L>(w.im + to + j, count - j, im);
    }
  }
}

template <int L>
CVK_INLINE void tasks(const Work& w, int64_t begin, int64_t end) {
  const int64_t deepest = std::min(DEPTH, w.q.rows), tallest = std::min(ROWS, w.p.rows);
  const int64_t of_panels = deepest * w.wide, of_results = tallest * w.wide;
  const int64_t of_side = w.p.column == 1 ? std::min(SIDE, tallest) * DEPTH_STEP : deepest * SIDE;
  const std::unique_ptr<float[]> room(new float[static_cast<size_t>(3 * (of_panels + of_side + of_results))]);
  float* free = room.get();
  const auto three = [&](int64_t size) {
    free += 3 * size;
    return Three{free - 3 * size, free - 2 * size, free - size};
  };
  const Three panels = three(of_panels), side = three(of_side), results = three(of_results);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t left = task % w.tasks_across() * w.wide, count = std::min(w.wide, w.q.columns - left);
    const int64_t top = task / w.tasks_across() * ROWS;
    const int64_t rows = std::min(ROWS, w.p.rows - top);
    const int64_t parts = std::max<int64_t>(1, (w.q.rows + DEPTH - 1) / DEPTH);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t first = w.q.rows * part / parts, depth = w.q.rows * (part + 1) / parts - first;
      pack<L>(w.q, first, depth, left, count, panels);
      if (w.direct && part == 0) std::fill(results.re, results.re + 3 * of_results, 0.0F);
      part || w.direct ? multiply_three<L, true>(w, panels, side, results, top, rows, first, depth, count)
                       : multiply_three<L, false>(w, panels, side, results, top, rows, first, depth, count);
    }
    floats<L> not_finite{};  // NaN, where a result is
    for (int64_t i = 0; i < rows; ++i) {
      leave_row<L>(w, results, i * w.wide, (top + i) * w.out_row + left, count, not_finite);
    }
    if (!is_zero<L>(not_finite)) w.spoiled->store(true, std::memory_order_relaxed);
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

// What is given: two matrices and where the parts of their product go, rows out_row apart.
struct Given {
  Operand p, q;
  float *re, *im;
  int64_t out_row;
};

void multiply_all(const Given& given) {
  const int64_t m = given.p.rows, n = given.q.columns;
  if (m * n == 0) return;
  // p is read once for each task across: few wide ones, unless that leaves threads without any
  const int64_t down = (m + ROWS - 1) / ROWS;
  const int64_t wide = (n + 63) / 64 * down >= torch::stable::get_num_threads() ? 64 : 32;
  std::atomic<bool> spoiled{false};
  Work w{given.p, given.q, given.re, given.im, given.out_row, wide, false, &spoiled};
  const int64_t count = w.tasks_across() * down;
  const int64_t work = std::min(m, ROWS) * w.wide * std::max<int64_t>(1, w.q.rows) / 16;  // a vector of products a step
  const int64_t grain = std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, work));
  const auto all = [&] {
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { run(w, begin, end); });
  };
  all();
  if (!spoiled.load()) return;
  NotFinite seen;
  for (const Operand* m : {&given.p, &given.q}) {
    for (const float* part : {m->re, m->im}) seen.look(part, m->rows, m->columns, m->row, m->column);
  }
  if (seen.stands()) return;
  w.direct = true;
  all();
}

// The parts of a feature [N, 2, I], as N x I.
Operand feature(const Tensor& z, const char* name) {
  STD_TORCH_CHECK(z.dim() == 3 && z.size(1) == 2 && z.scalar_type() == torch::headeronly::ScalarType::Float, name,
                  " must be float32 [N, 2, I]");
  const float* re = data<float>(z);
  return {re, re + z.stride(1), z.size(0), z.size(2), z.stride(0), z.stride(2), 1.0F};
}

// A weight [O, I]; its parts in one set of strides.
Operand weight(const Tensor& a, const Tensor& b) {
  for (const Tensor* part : {&a, &b}) {
    STD_TORCH_CHECK(part->dim() == 2 && part->scalar_type() == torch::headeronly::ScalarType::Float,
                    "the weight must be two float32 [O, I]");
  }
  for (int64_t d = 0; d < 2; ++d) {
    STD_TORCH_CHECK(a.size(d) == b.size(d) && a.stride(d) == b.stride(d), "the weight's parts must be laid out alike");
  }
  return {data<float>(a), data<float>(b), a.size(0), a.size(1), a.stride(0), a.stride(1), 1.0F};
}

Operand turned_over(const Operand& m) { return {m.re, m.im, m.columns, m.rows, m.column, m.row, m.sign}; }

Operand conjugate(Operand m) {
  m.sign = -m.sign;
  return m;
}

Tensor forward(Tensor z, Tensor a, Tensor b) {
  const Operand in = feature(z, "z"), w = weight(a, b);
  STD_TORCH_CHECK(in.columns == w.columns, "the weight must take as many features as z has");
  const int64_t n = w.rows;
  Tensor out = empty_of(z, {in.rows, 2, n});
  float* to = data<float>(out);
  multiply_all({in, turned_over(w), to, to + n, 2 * n});
  return out;
}

// dL/dz = g conj(W) and dL/dW = g^T conj(z): one number a complex gradient, as torch has them.
std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, Tensor z, Tensor a, Tensor b, bool of_z, bool of_weight) {
  const Operand g = feature(grad, "grad"), in = feature(z, "z"), w = weight(a, b);
  STD_TORCH_CHECK(g.rows == in.rows && g.columns == w.rows && in.columns == w.columns,
                  "grad, z and the weight must fit together");
  const int64_t n = in.columns;
  Tensor grad_z = of_z ? empty_of(z, {in.rows, 2, n}) : empty_of(z, {0});
  const std::vector<int64_t> size = of_weight ? std::vector<int64_t>{w.rows, n} : std::vector<int64_t>{0};
  Tensor grad_a = empty_of(a, size), grad_b = empty_of(b, size);
  if (of_z) {
    float* to = data<float>(grad_z);
    multiply_all({g, conjugate(w), to, to + n, 2 * n});
  }
  if (of_weight) multiply_all({turned_over(g), conjugate(in), data<float>(grad_a), data<float>(grad_b), n});
  return {grad_z, grad_a, grad_b};
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("linear_product_forward", TORCH_BOX(&cvk::forward));
  m.impl("linear_product_backward", TORCH_BOX(&cvk::backward));
}
