// The arithmetic of the rotations: e^{i theta}, and one element turned by it, read back, or asked for dL/dtheta.
#pragma once

#include <cmath>

#include "inline.h"
#include "modulus.h"

namespace cvk {

// sin and cos of |r| <= pi/4, one unit in the last place apart at most.
CVK_INLINE Complex<float> small_turn(float r) {
  const float z = r * r;
  const float sin = ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f) * (z * r) + r;
  const float cos = ((2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f) * (z * z);
  return {cos - 0.5f * z + 1.0f, sin};
}

CVK_INLINE Complex<double> small_turn(double r) {
  const double z = r * r;
  const double s =
      8.33333333332248946124e-3 +
      z * (-1.98412698298579493134e-4 +
           z * (2.75573137070700676789e-6 + z * (-2.50507602534068634195e-8 + z * 1.58969099521155010221e-10)));
  const double c =
      4.16666666666666019037e-2 +
      z * (-1.38888888888741095749e-3 +
           z * (2.48015872894767294178e-5 +
                z * (-2.75573143513906633035e-7 + z * (2.08757232129817482790e-9 - z * 1.13596475577881948265e-11))));
  return {1.0 - (0.5 * z - z * z * c), r + z * r * (-1.66666666666666324348e-1 + z * s)};
}

// e^{i theta}. The angle is reduced in double (6.2 rad in a narrower type is already a different angle), by a quarter
// turn in three parts: exact to beyond 1e12 rad, and some rotation up to where a double resolves no angle at all. A
// library's sine would keep a table for any angle, which a GPU puts on the stack. NaN for what is not finite.
template <class W>
CVK_INLINE Complex<W> turn_of(double theta) {
  const double k = std::rint(theta * 0.63661977236758134308);
  double r = std::fma(-k, 1.5707963267948966192, theta);
  r = std::fma(-k, 6.1232339957367658860e-17, r);
  r = std::fma(-k, -1.4973849048591832770e-33, r);
  r = r > 1.0 ? 1.0 : r < -1.0 ? -1.0 : r;
  const Complex<W> t = small_turn(static_cast<W>(r));
  const double quarter = k - 4.0 * std::floor(0.25 * k);
  const bool across = quarter == 1.0 || quarter == 3.0;
  const W cos = across ? t.im : t.re, sin = across ? t.re : t.im;
  return {quarter == 1.0 || quarter == 2.0 ? -cos : cos, quarter >= 2.0 ? -sin : sin};
}

// z t
template <class W>
CVK_INLINE Complex<W> turned(W re, W im, const Complex<W>& t) {
  return {re * t.re - im * t.im, re * t.im + im * t.re};
}

// z conj(t): turned back, and the gradient of what was turned
template <class W>
CVK_INLINE Complex<W> turned_back(W re, W im, const Complex<W>& t) {
  return {re * t.re + im * t.im, im * t.re - re * t.im};
}

// Im(conj(x) g): what an element adds to dL/dtheta, x = z e^{i theta}
template <class W>
CVK_INLINE W turn_slope(W x_re, W x_im, W g_re, W g_im) {
  return x_re * g_im - x_im * g_re;
}

// Re(h conj(t)), and g d/dtheta of it
template <class W>
CVK_INLINE W reading(W re, W im, const Complex<W>& t) {
  return re * t.re + im * t.im;
}

template <class W>
CVK_INLINE W reading_slope(W g, W re, W im, const Complex<W>& t) {
  return g * (im * t.re - re * t.im);
}

}  // namespace cvk
