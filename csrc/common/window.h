// The arithmetic of magnitude max pooling: which positions a window covers, which element wins it, and which windows
// cover a position. I is int32_t where every coordinate fits (see `narrow`), else int64_t; offsets are always 64-bit.
#pragma once

#include <cstdint>

#include "inline.h"
#include "wide.h"

// A window has few elements and a GPU many threads: unrolled loops only cost registers there.
#if defined(__CUDA_ARCH__)
#define CVK_ROLLED _Pragma("unroll 1")
#else
#define CVK_ROLLED
#endif

namespace cvk {

constexpr int kNothing = 255;  // the index byte of a window that holds padding only

// One axis of the pooling.
template <class I>
struct Axis {
  I size, kernel, stride, padding, dilation, out;
};

// A half-open range.
template <class I>
struct Span {
  I begin, end;
};

// torch's formula: with ceil_mode the last window still starts inside the input or its left padding.
inline int64_t output_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding, int64_t dilation,
                           bool ceil_mode) {
  const int64_t reach = size + 2 * padding - dilation * (kernel - 1) - 1;
  const int64_t room = reach + (ceil_mode ? stride - 1 : 0);
  if (room < 0) return 0;
  const int64_t out = room / stride + 1;
  return ceil_mode && (out - 1) * stride >= size + padding ? out - 1 : out;
}

// Whether an axis and a count of elements can be walked in int32_t without an overflow.
inline bool narrow(const Axis<int64_t>& a, int64_t count) {
  constexpr int64_t limit = int64_t{1} << 30;
  return count < limit && a.size < limit && a.stride < limit && a.padding < limit && a.kernel * a.dilation < limit &&
         a.out * a.stride < limit;
}

template <class To>
Axis<To> as(const Axis<int64_t>& a) {
  return {To(a.size), To(a.kernel), To(a.stride), To(a.padding), To(a.dilation), To(a.out)};
}

// The places of a window, starting at `start`, that lie inside the input.
template <class I>
CVK_INLINE Span<I> inside(const Axis<I>& a, I start) {
  I begin = start < 0 ? -start : 0;
  I end = a.size > start ? a.size - start : 0;
  if (a.dilation != 1) {  // two divisions that the common window does not pay
    begin = (begin + a.dilation - 1) / a.dilation;
    end = (end + a.dilation - 1) / a.dilation;
  }
  return {begin, end < a.kernel ? end : a.kernel};
}

// The outputs whose window reaches from before input position i to after it.
template <class I>
CVK_INLINE Span<I> covering(const Axis<I>& a, I i) {
  const I last = i + a.padding, first = last - (a.kernel - 1) * a.dilation;
  const I end = last / a.stride + 1;
  return {first <= 0 ? 0 : (first + a.stride - 1) / a.stride, end < a.out ? end : a.out};
}

// The place that input position i has in the window of output o; -1 where a dilated window steps over it.
template <class I>
CVK_INLINE I place(const Axis<I>& a, I o, I i) {
  const I offset = i + a.padding - o * a.stride;
  if (a.dilation == 1) return offset;
  return offset % a.dilation == 0 ? offset / a.dilation : -1;
}

// re^2 + im^2, each square rounded for itself. A fused multiply-add would round one of them only, and (a, b) would no
// longer tie with (b, a), which a quarter turn makes of (a, -b): the first in row-major order would not win.
template <class W>
CVK_INLINE W power(W re, W im) {
#if defined(__CUDA_ARCH__)
  if constexpr (sizeof(W) == 8) {
    return __dadd_rn(__dmul_rn(re, re), __dmul_rn(im, im));
  } else {
    return __fadd_rn(__fmul_rn(re, re), __fmul_rn(im, im));
  }
#elif defined(__clang__)
#pragma clang fp contract(off)
  return re * re + im * im;
#elif defined(__GNUC__) && __GNUC__ >= 12
  return __builtin_assoc_barrier(re * re) + __builtin_assoc_barrier(im * im);
#else
  return re * re + im * im;
#endif
}

// Larger wins, the first of equals stays, NaN wins over all and the first NaN stays. Start from -1: padding never wins.
template <class W>
CVK_INLINE bool wins(W candidate, W best) {
  return !(candidate <= best) && best == best;
}

// What a window is reduced to; of padding only: {0, 0, kNothing}.
template <class T>
struct Winner {
  T re, im;
  int place;
};

// The winner of the window at (oy, ox). `re`, `im`: the planes of one sample and channel.
template <class T, class I>
CVK_INLINE Winner<T> strongest(const T* re, const T* im, int64_t step_y, int64_t step_x, const Axis<I>& y,
                               const Axis<I>& x, I oy, I ox) {
  using W = wide_t<T>;
  const I top = oy * y.stride - y.padding, left = ox * x.stride - x.padding;
  const Span<I> rows = inside(y, top), columns = inside(x, left);
  Winner<T> winner{T{}, T{}, kNothing};
  W most = -1;
  CVK_ROLLED
  for (I i = rows.begin; i < rows.end; ++i) {
    const int64_t row = int64_t(top + i * y.dilation) * step_y;
    CVK_ROLLED
    for (I j = columns.begin; j < columns.end; ++j) {
      const int64_t at = row + int64_t(left + j * x.dilation) * step_x;
      const T a = re[at], b = im[at];
      const W candidate = power(static_cast<W>(a), static_cast<W>(b));
      if (wins(candidate, most)) {
        most = candidate;
        winner = {a, b, int(i * x.kernel + j)};
      }
    }
  }
  return winner;
}

// The gradient of input position (iy, ix): a sum over the windows that it won, always in the same order. `index`: the
// bytes of one sample and channel, dense whatever the layout of the gradient.
template <class T, class I>
CVK_INLINE void gather(const T* re, const T* im, int64_t step_y, int64_t step_x, const uint8_t* index, const Axis<I>& y,
                       const Axis<I>& x, I iy, I ix, T* grad_re, T* grad_im) {
  using W = wide_t<T>;
  const Span<I> rows = covering(y, iy), columns = covering(x, ix);
  W sum_re = 0, sum_im = 0;
  CVK_ROLLED
  for (I oy = rows.begin; oy < rows.end; ++oy) {
    const I i = place(y, oy, iy);
    if (i < 0) continue;
    CVK_ROLLED
    for (I ox = columns.begin; ox < columns.end; ++ox) {
      const I j = place(x, ox, ix);
      if (j < 0 || index[int64_t(oy) * x.out + ox] != i * x.kernel + j) continue;
      const int64_t at = int64_t(oy) * step_y + int64_t(ox) * step_x;
      sum_re += static_cast<W>(re[at]);
      sum_im += static_cast<W>(im[at]);
    }
  }
  *grad_re = static_cast<T>(sum_re);
  *grad_im = static_cast<T>(sum_im);
}

}  // namespace cvk
