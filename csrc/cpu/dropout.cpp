// Dropout with one mask for both parts, which is drawn anew from its seed wherever it is needed and kept nowhere.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "philox.h"
#include "results.h"

namespace cvk {
namespace {

typedef uint16_t Half __attribute__((may_alias));

// What is drawn below `limit`, in units of 2^-48, drops its element. Of an element that is 16 bits, half a word: all of
// 32 only where those do not tell. A product, so that NaN stays NaN.
template <class A>
struct Keep {
  int64_t limit;
  A scale;
  explicit Keep(double p)
      : limit(static_cast<int64_t>(std::floor(p * 0x1p48 + 0.5))), scale(p < 1 ? static_cast<A>(1 / (1 - p)) : A(0)) {}
  A of_word(uint32_t word) const { return word >= limit >> 16 ? scale : A(0); }
};

// Whether a half came out as the limit's own first 16 bits; that one is kept here.
template <class T, int64_t STEP>
CVK_CLONES bool drop_run(const T* re, const T* im, T* out_re, T* out_im, const Half* drawn, int64_t count,
                         const Keep<wide_t<T>>& keep) {
  using A = wide_t<T>;
  const int32_t limit = static_cast<int32_t>(keep.limit >> 32);
  const A scale = keep.scale;
  int32_t even = 0;
  _Pragma("omp simd reduction(| : even)") for (int64_t i = 0; i < count; ++i) {
    const int32_t half = drawn[i];
    const A factor = half >= limit ? scale : A(0);
    even |= half == limit;
    out_re[i * STEP] = static_cast<A>(re[i * STEP]) * factor;
    out_im[i * STEP] = static_cast<A>(im[i * STEP]) * factor;
  }
  return even != 0;
}

// Of those halves, a word each decides: its place is the counter, in a stream that no drawing reaches.
template <class T>
void drop_even(const T* re, const T* im, T* out_re, T* out_im, int64_t step, const Half* drawn, int64_t first,
               int64_t count, const Stream& s, const Keep<wide_t<T>>& keep) {
  for (int64_t i = 0; i < count; ++i) {
    if (drawn[i] != keep.limit >> 32) continue;
    const Stream own{s.seed, s.task, s.piece | 0x80000000};
    if (philox(static_cast<uint32_t>(first + i), own)[0] >= static_cast<uint32_t>(keep.limit)) continue;
    out_re[i * step] = static_cast<wide_t<T>>(re[i * step]) * wide_t<T>(0);
    out_im[i * step] = static_cast<wide_t<T>>(im[i * step]) * wide_t<T>(0);
  }
}

template <class T>
void drop_elements(const T* from, T* to, const Planar& v, bool past, uint64_t seed, const Keep<wide_t<T>>& keep) {
  const int64_t most = piece_of<T>(past);
  with_step(v, [&](auto step) {
    for_runs(v, [&](int64_t task, int64_t, int64_t re, int64_t, const Block& b) {
      alignas(64) uint32_t words[CHUNK / 2];
      const auto* drawn = reinterpret_cast<const Half*>(words);
      const int64_t together = std::min<int64_t>(b.rows * b.count, CHUNK);  // a long row alone is drawn in pieces
      for (int64_t first = 0; first < b.count; first += together) {
        const int64_t count = std::min(together, b.count - first), all = b.rows > 1 ? b.rows * b.count : count;
        const Stream stream{seed, static_cast<uint64_t>(task), static_cast<uint32_t>(first / CHUNK)};
        draw(words, (all + 2 * DRAWS - 1) / (2 * DRAWS), stream);
        for (int64_t row = 0; row < b.rows; ++row) {
          const int64_t end = row * b.count + (b.rows > 1 ? b.count : count);
          const T* in = from + re + row * b.stride + first * step.value;
          for (int64_t before = row * b.count; before < end; before += most, in += most * step.value) {
            const int64_t length = std::min(most, end - before);
            T* out = to + (in - from);
            write_parts(past, out, out + v.part, Block{1, length, 0}, [&](T* out_re, T* out_im) {
              const T* im = in + v.part;
              if (!drop_run<T, step.value>(in, im, out_re, out_im, drawn + before, length, keep)) return;
              drop_even(in, im, out_re, out_im, step.value, drawn + before, before, length, stream, keep);
            });
          }
        }
      }
      if (past) settle_streams();
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
      for (int64_t i = 0; i < count; ++i) factors[first + i] = keep.of_word(drawn[i]);
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
void drop_channels(const T* from, T* to, const Planar& v, bool past, uint64_t seed, const Keep<wide_t<T>>& keep) {
  const auto factors = channel_factors(v.n * v.c, seed, keep);
  with_step(v, [&](auto step) {
    const auto run = [&](int64_t, int64_t n, int64_t re, int64_t real, const Block& b) {
      const int64_t im = re + v.part;
      write_parts(past, to + re, to + im, b, [&](T* out_re, T* out_im) {
        if (v.layout == Layout::channels_last) {
          scale_rows(from + re, from + im, out_re, out_im, b, factors.data() + n * v.c);
        } else {
          scale_run<T, step.value>(from + re, from + im, out_re, out_im, b.count, factors.data() + real / v.s,
                                   real % v.s, v.s);
        }
      });
    };
    for_runs(v, run, piece_of<T>(past));
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
    const bool past = output_past_caches(out);
    if (channels) {
      drop_channels(data<T>(z), data<T>(out), v, past, key, keep);
    } else {
      drop_elements(data<T>(z), data<T>(out), v, past, key, keep);
    }
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) { m.impl("dropout_forward", TORCH_BOX(&cvk::forward)); }
