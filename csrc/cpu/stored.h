// The four types a tensor may be kept in on the CPU, half precision included, and the way into each.
#pragma once

#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Exception.h>
#include <torch/headeronly/util/Half.h>

#include "../common/wide.h"

namespace cvk {

using torch::headeronly::ScalarType;

// f(T{}) for a dtype.
template <class F>
void with_stored(ScalarType dtype, const char* op, F f) {
  if (dtype == ScalarType::Float) {
    f(float{});
  } else if (dtype == ScalarType::Double) {
    f(double{});
  } else if (dtype == ScalarType::BFloat16) {
    f(torch::headeronly::BFloat16{});
  } else if (dtype == ScalarType::Half) {
    f(torch::headeronly::Half{});
  } else {
    STD_TORCH_CHECK(false, op, " on the CPU takes float32, float64, bfloat16 and float16");
  }
}

template <class To, class From>
To stored(From x) {
  return static_cast<To>(static_cast<wide_t<To>>(x));
}

}  // namespace cvk
