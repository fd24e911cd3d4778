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
  if (re == T(INFINITY) || im == T(INFINITY)) return T(INFINITY);  // whatever the other part is, as in C's hypot
  const T larger = re > im ? re : im, smaller = re > im ? im : re;
  if (larger == T(0)) return larger + smaller;  // the other part may be NaN
  const T ratio = smaller / larger;
  return larger * std::sqrt(T(1) + ratio * ratio);
}

// What an element adds to dL/dc:  -|v| Re(conj(v) g) / c^2 where |v| < c. NaN, and not 0, where c is.
template <class T>
CVK_INLINE T limit_slope(T re, T im, T g_re, T g_im, limit_t<T> c) {
  const T power = re * re + im * im;
  const T term = (re * g_re + im * g_im) * (std::sqrt(power) * c.inverse) * c.inverse;
  return power >= c.square ? T(0) : -term;
}

// The gradient of share |v|: share v / |v|, 0 at v = 0.
template <class T>
CVK_INLINE Complex<T> along(T re, T im, T share) {
  const T power = re * re + im * im, scale = power <= T(0) ? T(0) : share / std::sqrt(power);
  return {scale * re, scale * im};
}

// dL/dv where c is a mean modulus: a mean of 0 is one of zeros, whose gradient is 0. share: dL/dc over how many it is
// of, which a detached modulus has none of.
template <class T>
CVK_INLINE Complex<T> relu_mean_backward(T re, T im, T g_re, T g_im, limit_t<T> c, T share, bool detach) {
  const Complex<T> g = relu_backward(re, im, g_re, g_im, c, detach);
  const Complex<T> more = detach ? Complex<T>{T(0), T(0)} : along(re, im, share);
  return c.c == T(0) ? Complex<T>{T(0), T(0)} : Complex<T>{g.re + more.re, g.im + more.im};
}

}  // namespace cvk
