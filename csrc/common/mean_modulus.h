// The magnitude ReLU where c is a mean of moduli: the modulus itself, and the gradient through the mean.
#pragma once

#include "modulus.h"

namespace cvk {

// |v|, also where its square overflows or underflows.
template <class T>
CVK_INLINE T modulus_of(T re, T im) {
  const T power = re * re + im * im;
  if (power > T(1e-30) && power < T(1e30)) return std::sqrt(power);
  re = std::fabs(re), im = std::fabs(im);
  const T larger = re > im ? re : im, smaller = re > im ? im : re;
  if (larger == T(0) || larger - larger != T(0)) return larger + smaller;  // 0, Inf, NaN
  const T ratio = smaller / larger;
  return larger * std::sqrt(T(1) + ratio * ratio);
}

// What an element adds to dL/dc:  -|v| Re(conj(v) g) / c^2 where |v| < c.
template <class T>
CVK_INLINE T limit_slope(T re, T im, T g_re, T g_im, T c) {
  const T power = re * re + im * im;
  const T term = (re * g_re + im * g_im) * (std::sqrt(power) / c) / c;
  return power < c * c ? -term : T(0);
}

// The gradient of share |v|: share v / |v|, 0 at v = 0.
template <class T>
CVK_INLINE Complex<T> along(T re, T im, T share) {
  const T power = re * re + im * im;
  const T scale = power > T(0) ? share / std::sqrt(power) : T(0);
  return {scale * re, scale * im};
}

// dL/dv where c is a mean modulus: a mean of 0 is one of zeros, whose gradient is 0. share: dL/dc over how many it is
// of.
template <class T>
CVK_INLINE Complex<T> relu_mean_backward(T re, T im, T g_re, T g_im, T c, T share, bool detach) {
  const Complex<T> g = relu_backward(re, im, g_re, g_im, c, detach), more = along(re, im, share);
  return c == T(0) ? Complex<T>{T(0), T(0)} : Complex<T>{g.re + more.re, g.im + more.im};
}

}  // namespace cvk
