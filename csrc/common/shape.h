// Tensors that an operator makes: sizes and strides that follow from those it was given.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <vector>

#include "planar.h"

namespace cvk {

// An uninitialised tensor of this dtype on the device of `like`. torch::stable's own makers look an operator up by its
// name and box what it takes: 6000 instructions a call, and 2000 so. But where uninitialised memory is to be NaN
// (torch.utils.deterministic), only they fill it: CVKERNELS_FILL=1 takes that way, and the tests do.
inline Tensor strided(const Tensor& like, torch::headeronly::ScalarType dtype, int64_t dims, const int64_t* sizes,
                      const int64_t* strides) {
  static const bool fill = std::getenv("CVKERNELS_FILL") != nullptr;
  if (fill) {
    using torch::headeronly::IntHeaderOnlyArrayRef;
    using torch::stable::detail::from;
    const size_t count = static_cast<size_t>(dims);
    std::array<StableIValue, 7> stack{from(like),
                                      from(IntHeaderOnlyArrayRef(sizes, count)),
                                      from(IntHeaderOnlyArrayRef(strides, count)),
                                      from(std::optional(dtype)),
                                      from(std::nullopt),
                                      from(std::nullopt),
                                      from(std::nullopt)};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::new_empty_strided", "", stack.data(), TORCH_ABI_VERSION));
    return torch::stable::detail::to<Tensor>(stack[0]);
  }
  AtenTensorHandle out;
  int32_t device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(like.get(), &device_index));
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes, strides, static_cast<int32_t>(dtype), device_type, device_index, &out));
  return Tensor(out);
}

inline Tensor strided_like(const Tensor& t, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  return strided(t, t.scalar_type(), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data());
}

// Contiguous.
inline Tensor empty_of(const Tensor& like, const std::vector<int64_t>& sizes, torch::headeronly::ScalarType dtype) {
  std::vector<int64_t> strides(sizes.size());
  int64_t expected = 1;
  for (size_t d = sizes.size(); d-- > 0;) strides[d] = expected, expected *= std::max<int64_t>(1, sizes[d]);
  return strided(like, dtype, static_cast<int64_t>(sizes.size()), sizes.data(), strides.data());
}

inline Tensor empty_of(const Tensor& like, const std::vector<int64_t>& sizes) {
  return empty_of(like, sizes, like.scalar_type());
}

// Of the sizes and strides of t, which is dense in some order.
inline Tensor empty_as(const Tensor& t) {
  const auto sizes = t.sizes(), strides = t.strides();
  return strided(t, t.scalar_type(), static_cast<int64_t>(sizes.size()), sizes.data(), strides.data());
}

// What stands for a gradient nobody asked for.
inline Tensor none_like(const Tensor& t) { return empty_of(t, {0}); }

// Whether a real feature [N, C, H, W] has the channel as its fastest axis, and is not contiguous as well.
inline bool channels_last(const Tensor& a) {
  return a.dim() == 4 && a.numel() > 0 && !dense_in_order(a, {{}, 0, 4}) && dense_in_order(a, {{0, 2, 3, 1}});
}

// A planar feature [N, 2, C, *] of the shape and layout of a real one [N, C, *].
inline Tensor planar_from(const Tensor& a) {
  std::vector<int64_t> sizes{a.size(0), 2};
  for (int64_t d = 1; d < a.dim(); ++d) sizes.push_back(a.size(d));
  if (channels_last(a)) {
    const int64_t c = sizes[2], w = sizes[4], h = sizes[3];
    return strided_like(a, sizes, {h * w * 2 * c, c, 1, w * 2 * c, 2 * c});
  }
  return empty_of(a, sizes);
}

// A real feature [N, C, *] of the shape and layout of a planar one that is not interleaved.
inline Tensor real_from(const Tensor& z, const Planar& v) {
  std::vector<int64_t> sizes{z.size(0)};
  for (int64_t d = 2; d < z.dim(); ++d) sizes.push_back(z.size(d));
  if (v.layout == Layout::channels_last) {
    const int64_t c = sizes[1], h = sizes[2], w = sizes[3];
    return strided_like(z, sizes, {h * w * c, 1, w * c, c});
  }
  return empty_of(z, sizes);
}

// Real readings [N, (K,) C, *] of h, one for each angle, in its layout; channels-last: [N, (K,) *, C] underneath.
inline Tensor readings_of(const Tensor& h, const Planar& v, const Tensor& theta) {
  std::vector<int64_t> sizes, strides;
  for (int64_t d = 0; d < theta.dim(); ++d) sizes.push_back(theta.size(d));
  for (int64_t d = 2; d < h.dim(); ++d) sizes.push_back(h.size(d));
  if (v.layout != Layout::channels_last) return empty_of(h, sizes);
  strides.assign(sizes.size(), 1);
  const size_t channel = static_cast<size_t>(theta.dim());
  int64_t expected = v.c;
  for (size_t d = sizes.size() - 1; d > channel; --d) strides[d] = expected, expected *= sizes[d];
  for (size_t d = channel; d-- > 0;) strides[d] = expected, expected *= sizes[d];
  return strided_like(h, sizes, strides);
}

// The planar feature that dense readings [N, (K,) C, *] were taken of: its shape, in their layout.
inline Tensor read_from(const Tensor& readings, const Tensor& theta) {
  const int64_t lead = theta.dim();
  std::vector<int64_t> sizes{theta.size(0), 2};
  for (int64_t d = lead; d < readings.dim(); ++d) sizes.push_back(readings.size(d));
  if (readings.numel() == 0 || dense_in_order(readings, {{}, 0, readings.dim()})) return empty_of(readings, sizes);
  const bool last = lead == 1 ? dense_in_order(readings, {{0}, 2, readings.dim(), {1}})
                              : dense_in_order(readings, {{0, 1}, 3, readings.dim(), {2}});
  STD_TORCH_CHECK(last, "grad must be contiguous or channels-last");
  std::vector<int64_t> strides(sizes.size());
  strides[2] = 1, strides[1] = sizes[2];
  int64_t expected = 2 * sizes[2];
  for (size_t d = sizes.size() - 1; d > 2; --d) strides[d] = expected, expected *= sizes[d];
  strides[0] = expected;
  return strided_like(readings, sizes, strides);
}

// A planar feature [N, 2, C, h, w] in the layout of v.
inline Tensor resized(const Tensor& like, const Planar& v, int64_t h, int64_t w) {
  const std::vector<int64_t> sizes{v.n, 2, v.c, h, w};
  const int64_t s = h * w;
  if (v.layout == Layout::channels_last) return strided_like(like, sizes, {2 * v.c * s, v.c, 1, 2 * v.c * w, 2 * v.c});
  if (v.layout == Layout::interleaved) return strided_like(like, sizes, {2 * v.c * s, 1, 2 * s, 2 * w, 2});
  return empty_of(like, sizes);
}

}  // namespace cvk
