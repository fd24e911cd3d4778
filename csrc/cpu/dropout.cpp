// Dropout with one mask for both parts, which is drawn anew from its seed wherever it is needed and kept nowhere.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "philox.h"
#include "simd.h"

namespace cvk {
namespace {

// Of the words drawn, those below `limit` drop their element. A product, so that NaN stays NaN.
template <class A>
struct Keep {
  uint32_t limit;
  A scale;
  explicit Keep(double p)
      : limit(static_cast<uint32_t>(std::min(std::floor(p * 4294967296.0 + 0.5), 4294967295.0))),
        scale(p < 1 ? static_cast<A>(1 / (1 - p)) : A(0)) {}
};

template <class T, int64_t STEP>
CVK_CLONES void drop_run(const T* re, const T* im, T* out_re, T* out_im, const uint32_t* drawn, int64_t count,
                         const Keep<wide_t<T>>& keep) {
  using A = wide_t<T>;
  const uint32_t limit = keep.limit;
  const A scale = keep.scale;
  CVK_SIMD
  for (int64_t i = 0; i < count; ++i) {
    const A factor = drawn[i] >= limit ? scale : A(0);
    out_re[i * STEP] = static_cast<A>(re[i * STEP]) * factor;
    out_im[i * STEP] = static_cast<A>(im[i * STEP]) * factor;
  }
}

template <class T>
void drop_elements(const T* from, T* to, const Planar& v, uint64_t seed, const Keep<wide_t<T>>& keep) {
  with_step(v, [&](auto step) {
    for_runs(v, [&](int64_t task, int64_t, int64_t re, int64_t, const Block& b) {
      alignas(64) uint32_t drawn[CHUNK];
      const int64_t together = std::min<int64_t>(b.rows * b.count, CHUNK);  // a long row alone is drawn in pieces
      for (int64_t first = 0; first < b.count; first += together) {
        const int64_t count = std::min(together, b.count - first), all = b.rows > 1 ? b.rows * b.count : count;
        draw(drawn, (all + DRAWS - 1) / DRAWS,
             {seed, static_cast<uint64_t>(task), static_cast<uint32_t>(first / CHUNK)});
        for (int64_t row = 0; row < b.rows; ++row) {
          const int64_t at = re + row * b.stride + first * step.value;
          const int64_t length = b.rows > 1 ? b.count : count;
          drop_run<T, step.value>(from + at, from + at + v.part, to + at, to + at + v.part, drawn + row * b.count,
                                  length, keep);
        }
      }
    });
  });
}

// Whole channels: a factor for each channel of each sample, [N * C].
template <class A>
std::vector<A> channel_factors(int64_t channels, uint64_t seed, const Keep<A>& keep) {
  std::vector<A> factors(static_cast<size_t>(channels));
  torch::stable::parallel_for(0, (channels + CHUNK - 1) / CHUNK, 2, [&](int64_t begin, int64_t end) {
    alignas(64) uint32_t drawn[CHUNK];
    for (int64_t piece = begin; piece < end; ++piece) {
      const int64_t first = piece * CHUNK, count = std::min(CHUNK, channels - first);
      draw(drawn, (count + DRAWS - 1) / DRAWS, {seed, static_cast<uint64_t>(piece), 0});
      for (int64_t i = 0; i < count; ++i) factors[first + i] = drawn[i] >= keep.limit ? keep.scale : A(0);
    }
  });
  return factors;
}

// A run that starts `offset` positions into the channel of the first factor.
template <class T, int64_t STEP>
CVK_CLONES void scale_run(const T* re, const T* im, T* out_re, T* out_im, int64_t count, const wide_t<T>* factor,
                          int64_t offset, int64_t positions) {
  using A = wide_t<T>;
  for (int64_t first = 0; first < count; ++factor, offset = 0) {
    const int64_t end = std::min(count, first + positions - offset);
    const A by = *factor;
    CVK_SIMD
    for (int64_t i = first; i < end; ++i) {
      out_re[i * STEP] = static_cast<A>(re[i * STEP]) * by;
      out_im[i * STEP] = static_cast<A>(im[i * STEP]) * by;
    }
    first = end;
  }
}

// Rows of channels.
template <class T>
CVK_CLONES void scale_rows(const T* re, const T* im, T* out_re, T* out_im, const Block& b, const wide_t<T>* factors) {
  using A = wide_t<T>;
  for (int64_t row = 0; row < b.rows; ++row) {
    CVK_SIMD
    for (int64_t i = 0; i < b.count; ++i) {
      out_re[i] = static_cast<A>(re[i]) * factors[i];
      out_im[i] = static_cast<A>(im[i]) * factors[i];
    }
    re += b.stride, im += b.stride, out_re += b.stride, out_im += b.stride;
  }
}

template <class T>
void drop_channels(const T* from, T* to, const Planar& v, uint64_t seed, const Keep<wide_t<T>>& keep) {
  const auto factors = channel_factors(v.n * v.c, seed, keep);
  with_step(v, [&](auto step) {
    for_runs(v, [&](int64_t, int64_t n, int64_t re, int64_t real, const Block& b) {
      const int64_t im = re + v.part;
      if (v.layout == Layout::channels_last) {
        scale_rows(from + re, from + im, to + re, to + im, b, factors.data() + n * v.c);
      } else {
        scale_run<T, step.value>(from + re, from + im, to + re, to + im, b.count, factors.data() + real / v.s,
                                 real % v.s, v.s);
      }
    });
  });
}

Tensor forward(Tensor z, Tensor seed, double p, bool channels) {
  const Planar v = planar(z, "z");
  STD_TORCH_CHECK(seed.numel() == 1 && seed.scalar_type() == torch::headeronly::ScalarType::Long,
                  "seed must be one int64");
  STD_TORCH_CHECK(p >= 0 && p <= 1, "p must lie in [0, 1]");
  Tensor out = empty_as(z);
  if (v.values() == 0) return out;
  const auto key = static_cast<uint64_t>(*data<int64_t>(seed));
  with_dtype(z, "dropout", [&](auto zero) {
    using T = decltype(zero);
    const Keep<wide_t<T>> keep(p);
    if (channels) {
      drop_channels(data<T>(z), data<T>(out), v, key, keep);
    } else {
      drop_elements(data<T>(z), data<T>(out), v, key, keep);
    }
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) { m.impl("dropout_forward", TORCH_BOX(&cvk::forward)); }
