// The magnitude ReLU of one element: v |v| / max(|v|, c), its derivative, and its inverse.
#pragma once

#include <cmath>

#include "inline.h"

namespace cvk {

template <class T>
struct Complex {
  T re, im;
};

// The modulus from which an element passes. It is divided by once: a kernel that keeps this makes products of
// quotients.
template <class T>
struct Limit {
  T c, square, inverse;
  CVK_INLINE Limit(T limit) : c(limit), square(limit * limit), inverse(T(1) / limit) {}
};

template <class T>
struct Just {  // keeps an argument from naming T: a plain number stands for its limit
  using type = T;
};
template <class T>
using limit_t = typename Just<Limit<T>>::type;

// |v| / max(|v|, c). At |v| >= c, and for NaN, exactly 1: the element itself passes, also where the square overflows.
template <class T>
CVK_INLINE T relu_factor(T re, T im, limit_t<T> c) {
  const T power = re * re + im * im;
  const T factor = std::sqrt(power) * c.inverse;
  return power < c.square ? factor : T(1);
}

// dL/dv from dL/dy = g, given v:  |v| <  c:  (|v| g + Re(conj(u) g) v) / c with u = v / |v|, and 0 at v = 0. Else g
// itself, chosen and not added to by 0 v: v may be infinite there.
template <class T>
CVK_INLINE Complex<T> relu_backward(T re, T im, T g_re, T g_im, limit_t<T> c, bool detach) {
  const T power = re * re + im * im;
  const bool inside = power < c.square;
  const T modulus = std::sqrt(power);
  const T keep = modulus * c.inverse;
  // (v / c) . g before it is divided by |v|: no larger than g, so it does not overflow
  const T dot = (re * c.inverse) * g_re + (im * c.inverse) * g_im;
  const T turn = detach || !(power > T(0)) ? T(0) : dot / modulus;
  return {inside ? keep * g_re + turn * re : g_re, inside ? keep * g_im + turn * im : g_im};
}

// The same from y, what came out (KERNELS: y = v |v| / c inside, so |v| = sqrt(c |y|)).
// gate: dL/dv = gate * (g + along * u);  root: v = root * y.
template <class T>
struct Gate {
  Complex<T> grad;  // dL/dv
  T root;
};

template <class T>
CVK_INLINE Gate<T> gate_from_output(T y_re, T y_im, T g_re, T g_im, limit_t<T> c) {
  const T power = y_re * y_re + y_im * y_im;
  const bool inside = power < c.square;
  const T gate = std::sqrt(std::sqrt(power) * c.inverse);  // |v| / c
  const T back = gate > T(0) ? T(1) / gate : T(0);
  const T inverse = (back * back) * c.inverse;  // 1 / |y|
  const T u_re = y_re * inverse, u_im = y_im * inverse;
  const T dot = u_re * g_re + u_im * g_im;
  return {{inside ? gate * (g_re + dot * u_re) : g_re, inside ? gate * (g_im + dot * u_im) : g_im},
          inside ? back : T(1)};
}

// v from y alone.
template <class T>
CVK_INLINE T root_from_output(T y_re, T y_im, limit_t<T> c) {
  const T power = y_re * y_re + y_im * y_im;
  const T gate = std::sqrt(std::sqrt(power) * c.inverse);
  const T back = gate > T(0) ? T(1) / gate : T(0);
  return power < c.square ? back : T(1);
}

// Re(conj(v) dL/dv) from y and g, without a root: inside, v is y / gate and the gate doubles what is along it.
template <class T>
CVK_INLINE T gate_dot(T y_re, T y_im, T g_re, T g_im, limit_t<T> c) {
  const T power = y_re * y_re + y_im * y_im;
  const T dot = y_re * g_re + y_im * g_im;
  return power < c.square ? dot + dot : dot;
}

}  // namespace cvk
