// sums of |z|^2 per channel over batch and positions
#include <torch/csrc/stable/library.h>

#include "channels.h"

namespace cvk {
namespace {

Tensor forward(Tensor z) {
  const Planar v = planar(z, "z");
  Tensor out = wide_empty(z, {v.c});
  with_dtype(z, "magnitude_power", [&](auto zero) {
    using T = decltype(zero);
    const std::vector<double> sums = power_sums(v, data<T>(z));
    for (int64_t c = 0; c < v.c; ++c) data<wide_t<T>>(out)[c] = static_cast<wide_t<T>>(sums[c]);
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) { m.impl("magnitude_power_forward", TORCH_BOX(&cvk::forward)); }
