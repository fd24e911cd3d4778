// The arithmetic of the norms: one channel's numbers, and one element's gradient.
#pragma once

#include <cmath>

#include "inline.h"

namespace cvk {

// 0 where there is nothing to divide by (a channel of zeros and no eps), as in torch's batch norm: zeros stay zeros.
template <class A>
CVK_INLINE A rstd_of(A mean, A eps) {
  const A whole = mean + eps;
  return whole == A(0) ? A(0) : A(1) / std::sqrt(whole);
}

// A running statistic on its way to this batch's.
template <class A>
CVK_INLINE A moved(A kept, A batch, A rate) {
  return kept + rate * (batch - kept);
}

// Through the norm of x = rstd z, scaled by the weight: dL/dz = alpha g + beta x with
// alpha = rstd w,  beta = -alpha E[Re(conj(x) g)], or 0 where the statistics were frozen.
template <class A>
struct Slopes {
  A alpha, beta;
};

template <class A>
CVK_INLINE Slopes<A> slopes_of(A rstd, A weight, A sum, A count, bool batch) {
  const A alpha = rstd * weight;
  return {alpha, batch ? -alpha * (sum / count) : A(0)};
}

// max(0, x), and NaN where x is
template <class A>
CVK_INLINE A relu(A x) {
  return x <= A(0) ? A(0) : x;
}

// Mean and sum of squared distances from it, of n values; joined without a difference of large sums (Chan, Golub,
// LeVeque 1983).
template <class A>
struct Moments {
  A n, mean, squares;

  static CVK_INLINE Moments zero() { return {A(0), A(0), A(0)}; }

  CVK_INLINE void add(const Moments& o) {
    const A both = n + o.n;
    if (both == A(0)) return;
    const A share = o.n / both, apart = o.mean - mean;
    mean += apart * share;
    squares += o.squares + apart * apart * (n * share);
    n = both;
  }
};

// One value more; `inverse` = 1 / the count with it (Welford).
template <class A>
CVK_INLINE void include(A x, A inverse, A* mean, A* squares) {
  const A before = x - *mean;
  *mean += before * inverse;
  *squares += before * (x - *mean);
}

}  // namespace cvk
