// What arithmetic is done in, for each type a feature is kept in: float32 or wider.
#pragma once

namespace cvk {

template <class T>
struct Wide {
  using type = float;
};
template <>
struct Wide<double> {
  using type = double;
};
template <class T>
using wide_t = typename Wide<T>::type;

}  // namespace cvk
