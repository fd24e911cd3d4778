// A planar feature [N, 2, C, *] in memory: which dense layout it has, and its strides in elements.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <string>
#include <vector>

namespace cvk {

using torch::stable::Tensor;

// planes_last, strides of [N, 2, *, C], is what passes between a convolution with real weights and the norm after it on
// a CPU: as [2N, C, *] it is channels-last. Only kernels that ask for it are given it.
enum class Layout { contiguous, channels_last, interleaved, planes_last };

struct Planar {
  Layout layout;
  int64_t n, c, s;       // samples, channels, positions
  int64_t sample, part;  // strides
  int64_t channel, position;

  int64_t values() const { return n * c * s; }  // complex elements
};

// Axes of a tensor, slowest first: some, then those from `from` up to and without `to`, then some. A list on the heap
// would cost as much as the rest of a small call.
struct Axes {
  std::initializer_list<int64_t> first;
  int64_t from = 0, to = 0;
  std::initializer_list<int64_t> last = {};
};

// Whether t has the strides of a dense tensor whose axes stand in this order (axes of size 1 do not matter).
inline bool dense_in_order(const Tensor& t, const Axes& order) {
  const auto sizes = t.sizes(), strides = t.strides();
  int64_t expected = 1;
  const auto fits = [&](int64_t axis) {
    const bool fit = sizes[axis] == 1 || strides[axis] == expected;
    expected *= sizes[axis];
    return fit;
  };
  for (auto axis = std::rbegin(order.last); axis != std::rend(order.last); ++axis) {
    if (!fits(*axis)) return false;
  }
  for (int64_t axis = order.to - 1; axis >= order.from; --axis) {
    if (!fits(axis)) return false;
  }
  for (auto axis = std::rbegin(order.first); axis != std::rend(order.first); ++axis) {
    if (!fits(*axis)) return false;
  }
  return true;
}

inline Planar planar(const Tensor& t, const char* name, bool planes_last = false) {
  const auto sizes = t.sizes();
  const int64_t dims = static_cast<int64_t>(sizes.size());
  STD_TORCH_CHECK(dims >= 3 && sizes[1] == 2, name, " must be planar [N, 2, C, *]");
  Planar v{};
  v.n = sizes[0];
  v.c = sizes[2];
  v.s = 1;
  for (int64_t d = 3; d < dims; ++d) v.s *= sizes[d];
  v.sample = 2 * v.c * v.s;
  if (v.n * v.sample == 0 || dense_in_order(t, {{}, 0, dims})) {
    v.layout = Layout::contiguous;
    v.part = v.c * v.s, v.channel = v.s, v.position = 1;
  } else if (dense_in_order(t, {{0}, 3, dims, {1, 2}})) {
    v.layout = Layout::channels_last;
    v.part = v.c, v.channel = 1, v.position = 2 * v.c;
  } else if (planes_last && dense_in_order(t, {{0, 1}, 3, dims, {2}})) {
    v.layout = Layout::planes_last;
    v.part = v.c * v.s, v.channel = 1, v.position = v.c;
  } else {
    STD_TORCH_CHECK(dense_in_order(t, {{0, 2}, 3, dims, {1}}), name,
                    " must be dense: contiguous, channels-last or interleaved");
    v.layout = Layout::interleaved;
    v.part = 1, v.channel = 2 * v.s, v.position = 2;
  }
  return v;
}

// Two features read together: one shape, one layout, one dtype.
inline void check_alike(const Tensor& x, const Planar& z, const Tensor& like, const char* name) {
  const Planar v = planar(x, name, z.layout == Layout::planes_last);
  STD_TORCH_CHECK(v.n == z.n && v.c == z.c && v.s == z.s && (v.layout == z.layout || x.numel() == 0 || v.sample == 2),
                  name, " must have the shape and the layout of the feature it is read with");
  STD_TORCH_CHECK(x.scalar_type() == like.scalar_type(), name, " must have the dtype of the feature it is read with");
}

inline void check_vector(const Tensor& x, int64_t length, const char* name) {
  STD_TORCH_CHECK(x.numel() == length && x.is_contiguous(), name, " must be contiguous with ", length, " elements");
}

}  // namespace cvk
