// Tensors that an operator makes: sizes and strides that follow from those it was given.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <cstdint>
#include <vector>

#include "planar.h"

namespace cvk {

// What stands for a gradient nobody asked for.
inline Tensor none_like(const Tensor& t) { return torch::stable::new_empty(t, {0}); }

// An uninitialised tensor of t's dtype and device with these sizes and strides.
inline Tensor strided_like(const Tensor& t, const std::vector<int64_t>& sizes, const std::vector<int64_t>& strides) {
  AtenTensorHandle out;
  int32_t dtype, device_type, device_index;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &device_index));
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(),
                                                  dtype, device_type, device_index, &out));
  return Tensor(out);
}

// Whether a real feature [N, C, H, W] has the channel as its fastest axis, and is not contiguous as well.
inline bool channels_last(const Tensor& a) {
  return a.dim() == 4 && a.numel() > 0 && !dense_in_order(a, {0, 1, 2, 3}) && dense_in_order(a, {0, 2, 3, 1});
}

// A planar feature [N, 2, C, *] of the shape and layout of a real one [N, C, *].
inline Tensor planar_from(const Tensor& a) {
  std::vector<int64_t> sizes{a.size(0), 2};
  for (int64_t d = 1; d < a.dim(); ++d) sizes.push_back(a.size(d));
  if (channels_last(a)) {
    const int64_t c = sizes[2], w = sizes[4], h = sizes[3];
    return strided_like(a, sizes, {h * w * 2 * c, c, 1, w * 2 * c, 2 * c});
  }
  return torch::stable::new_empty(a, sizes);
}

// A real feature [N, C, *] of the shape and layout of a planar one that is not interleaved.
inline Tensor real_from(const Tensor& z, const Planar& v) {
  std::vector<int64_t> sizes{z.size(0)};
  for (int64_t d = 2; d < z.dim(); ++d) sizes.push_back(z.size(d));
  if (v.layout == Layout::channels_last) {
    const int64_t c = sizes[1], h = sizes[2], w = sizes[3];
    return strided_like(z, sizes, {h * w * c, 1, w * c, c});
  }
  return torch::stable::new_empty(z, sizes);
}

// Real readings [N, (K,) C, *] of h, one for each angle, in its layout; channels-last: [N, (K,) *, C] underneath.
inline Tensor readings_of(const Tensor& h, const Planar& v, const Tensor& theta) {
  std::vector<int64_t> sizes, strides;
  for (int64_t d = 0; d < theta.dim(); ++d) sizes.push_back(theta.size(d));
  for (int64_t d = 2; d < h.dim(); ++d) sizes.push_back(h.size(d));
  if (v.layout != Layout::channels_last) return torch::stable::new_empty(h, sizes);
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
  std::vector<int64_t> sizes{theta.size(0), 2}, plain, last;
  for (int64_t d = 0; d < readings.dim(); ++d) plain.push_back(d);
  for (int64_t d = lead; d < readings.dim(); ++d) sizes.push_back(readings.size(d));
  for (int64_t d = 0; d < lead; ++d) last.push_back(d);
  for (int64_t d = lead + 1; d < readings.dim(); ++d) last.push_back(d);
  last.push_back(lead);
  if (readings.numel() == 0 || dense_in_order(readings, plain)) return torch::stable::new_empty(readings, sizes);
  STD_TORCH_CHECK(dense_in_order(readings, last), "grad must be contiguous or channels-last");
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
  return torch::stable::new_empty(like, sizes);
}

}  // namespace cvk
