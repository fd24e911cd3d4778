// A planar feature [N, 2, C, *] in memory: which dense layout it has, and its strides in elements.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <cstdint>
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

// Strides of t that a dense tensor has whose axes stand in this order, slowest first (axes of size 1 do not matter).
inline bool dense_in_order(const Tensor& t, const std::vector<int64_t>& order) {
  int64_t expected = 1;
  for (auto axis = order.rbegin(); axis != order.rend(); ++axis) {
    if (t.size(*axis) != 1 && t.stride(*axis) != expected) return false;
    expected *= t.size(*axis);
  }
  return true;
}

inline Planar planar(const Tensor& t, const char* name, bool planes_last = false) {
  const int64_t dims = t.dim();
  STD_TORCH_CHECK(dims >= 3 && t.size(1) == 2, name, " must be planar [N, 2, C, *]");
  Planar v{};
  v.n = t.size(0);
  v.c = t.size(2);
  v.s = 1;
  std::vector<int64_t> plain{0, 1, 2}, last{0}, pairs{0, 2}, planes{0, 1};
  for (int64_t d = 3; d < dims; ++d) {
    v.s *= t.size(d);
    plain.push_back(d);
    last.push_back(d);
    pairs.push_back(d);
    planes.push_back(d);
  }
  last.insert(last.end(), {1, 2});
  pairs.push_back(1);
  planes.push_back(2);
  v.sample = 2 * v.c * v.s;
  if (t.numel() == 0 || dense_in_order(t, plain)) {
    v.layout = Layout::contiguous;
    v.part = v.c * v.s, v.channel = v.s, v.position = 1;
  } else if (dense_in_order(t, last)) {
    v.layout = Layout::channels_last;
    v.part = v.c, v.channel = 1, v.position = 2 * v.c;
  } else if (planes_last && dense_in_order(t, planes)) {
    v.layout = Layout::planes_last;
    v.part = v.c * v.s, v.channel = 1, v.position = v.c;
  } else {
    STD_TORCH_CHECK(dense_in_order(t, pairs), name, " must be dense: contiguous, channels-last or interleaved");
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
