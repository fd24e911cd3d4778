// Which positions each window of average pooling covers, and by how much its sum is divided.
#pragma once

#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "../common/window.h"

namespace cvk {
namespace {

// The windows of one axis, each clipped to the input, and how many elements each is divided by.
struct Windows {
  int64_t size, kernel, stride, padding;  // stride 0: windows that follow no rule
  std::vector<int64_t> begin, end, count;
  std::vector<int64_t> first, last;  // the outputs whose windows cover an input position

  int64_t out() const { return static_cast<int64_t>(begin.size()); }
  bool halves() const { return kernel == 2 && stride == 2 && !padding && 2 * out() <= size; }
  void cover() {  // begin and end grow from output to output
    int64_t from = 0, to = 0;
    for (int64_t i = 0; i < size; ++i) {
      while (from < out() && end[from] <= i) ++from;
      while (to < out() && begin[to] <= i) ++to;
      first.push_back(from), last.push_back(to);
    }
  }
};

Windows regular(int64_t size, int64_t out, int64_t kernel, int64_t stride, int64_t padding, bool count_padding) {
  Windows w{size, kernel, stride, padding, {}, {}, {}, {}, {}};
  for (int64_t o = 0; o < out; ++o) {
    const int64_t start = o * stride - padding, stop = std::min(start + kernel, size + padding);
    w.begin.push_back(std::max<int64_t>(start, 0));
    w.end.push_back(std::max(w.begin.back(), std::min(stop, size)));
    w.count.push_back(std::max<int64_t>(1, count_padding ? stop - start : w.end.back() - w.begin.back()));
  }
  w.cover();
  return w;
}

Windows adaptive(int64_t size, int64_t out) {
  Windows w{size, 0, 0, 0, {}, {}, {}, {}, {}};
  for (int64_t o = 0; o < out; ++o) {
    w.begin.push_back(o * size / out);
    w.end.push_back(((o + 1) * size + out - 1) / out);
    w.count.push_back(w.end.back() - w.begin.back());
  }
  w.cover();
  return w;
}

// divisor: in place of each window's count; 0: none.
template <class A>
std::vector<A> shares(const Windows& w, int64_t divisor, bool first_axis) {
  std::vector<A> out;
  for (const int64_t count : w.count) {
    out.push_back(divisor && !first_axis ? A(1) : A(1) / static_cast<A>(divisor ? divisor : count));
  }
  return out;
}

bool one_window(const Windows& y, const Windows& x) {
  return y.out() == 1 && x.out() == 1 && y.begin[0] == 0 && x.begin[0] == 0 && y.end[0] == y.size && x.end[0] == x.size;
}

void check_window(const std::vector<int64_t>& kernel, const std::vector<int64_t>& stride,
                  const std::vector<int64_t>& padding) {
  for (int64_t i = 0; i < 2; ++i) {
    STD_TORCH_CHECK(kernel.size() == 2 && stride.size() == 2 && padding.size() == 2 && kernel[i] >= 1 &&
                        stride[i] >= 1 && padding[i] >= 0 && 2 * padding[i] <= kernel[i],
                    "kernel_size, stride and padding must be pairs, positive, and padding at most half a window");
  }
}

}  // namespace
}  // namespace cvk
