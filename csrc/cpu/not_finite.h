// What to do where a product that adds before it multiplies gave what is not finite. A sum that has a NaN is one in any
// order, so where NaNs came in and no infinity, what came out stands: a network that has diverged is not slowed down.
// Else, with an infinity or a sum that overflowed, the product is done again directly. (A sum that overflows beside a
// NaN elsewhere stands too.)
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace cvk {

class NotFinite {
 public:
  // `rows` of `columns` elements, with the strides of both
  template <class T>
  void look(const T* x, int64_t rows, int64_t columns, int64_t row, int64_t column) {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < columns; ++j) {
        const float value = static_cast<float>(x[i * row + j * column]);
        nan_ |= std::isnan(value), infinite_ |= std::isinf(value);
      }
    }
  }
  template <class T>
  void look(const T* x, int64_t count) {
    look(x, 1, count, count, 1);
  }
  bool stands() const { return nan_ && !infinite_; }

 private:
  bool nan_ = false, infinite_ = false;
};

template <class T>
bool all_nan(const T* x, int64_t count) {
  return std::all_of(x, x + count, [](const T& value) { return std::isnan(static_cast<float>(value)); });
}

}  // namespace cvk
