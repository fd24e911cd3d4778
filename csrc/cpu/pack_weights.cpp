// Block weights [[A, -B], [B, A]] of many layers in one buffer, and back from the gradient of that to those of A and B
#include "../common/pack_weights.h"

#include <torch/csrc/stable/library.h>

#include <type_traits>

#include "simd.h"
#include "stored.h"

namespace cvk {
namespace {

constexpr const char* NAME = "pack_weights";

// One run of a block's row: elements `step` apart in a weight's row (channels of one window position) or next to
// each other.
template <class From, class To>
CVK_CLONES void copy_run(const From* from, To* to, int64_t count, int64_t step, wide_t<From> sign) {
  if (step == 1) {
    CVK_SIMD
    for (int64_t i = 0; i < count; ++i) to[i] = stored<To>(sign * static_cast<wide_t<From>>(from[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = stored<To>(sign * static_cast<wide_t<From>>(from[i * step]));
  }
}

// to[i step] = x[i] + sign y[i], in the wider of the two dtypes
template <class From, class To>
CVK_CLONES void add_run(const From* x, const From* y, To* to, int64_t count, int64_t step, wide_t<To> sign) {
  using W = std::conditional_t<std::is_same_v<To, double>, double, wide_t<From>>;
  if (step == 1) {
    CVK_SIMD
    for (int64_t i = 0; i < count; ++i) to[i] = stored<To>(static_cast<W>(x[i]) + sign * static_cast<W>(y[i]));
  } else {
    for (int64_t i = 0; i < count; ++i) to[i * step] = stored<To>(static_cast<W>(x[i]) + sign * static_cast<W>(y[i]));
  }
}

// f(layer, its number, output channel of A) for every output channel of every layer, over threads
template <class F>
void for_channels(const PackedLayers& all, const F& f) {
  int64_t rows = 0;
  std::vector<int64_t> first;
  for (const PackedLayer& layer : all.each) first.push_back(rows), rows += layer.o;
  if (all.blocks == 0) return;
  const int64_t grain = std::max<int64_t>(1, GRAIN * rows / all.blocks);
  torch::stable::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
    size_t n = static_cast<size_t>(std::upper_bound(first.begin(), first.end(), begin) - first.begin()) - 1;
    for (int64_t row = begin; row < end; ++row) {
      while (row >= first[n] + all.each[n].o) ++n;
      f(all.each[n], n, row - first[n]);
    }
  });
}

// f(offset in a weight's row, offset of the first of them in a block's row, how many, how far apart in the weight's
// row): the runs of one half of a block's row.
template <class F>
void for_row(const PackedLayer& layer, bool channels_last, const F& f) {
  if (!channels_last || layer.k == 1) {
    f(int64_t{0}, int64_t{0}, layer.i * layer.k, int64_t{1});
  } else {
    for (int64_t k = 0; k < layer.k; ++k) f(k, k * 2 * layer.i, layer.i, layer.k);
  }
}

// From the first input half of a block's row to the second.
int64_t half_of(const PackedLayer& layer, bool channels_last) { return channels_last ? layer.i : layer.i * layer.k; }

Tensor forward(std::vector<Tensor> re, std::vector<Tensor> im, ScalarType dtype, bool channels_last) {
  check_pairs(re, im);
  const PackedLayers all = packed_layers(re, 1);
  Tensor out = empty_of(re[0], {all.blocks}, dtype);
  with_stored(re[0].scalar_type(), NAME, [&](auto from_zero) {
    with_stored(dtype, NAME, [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      To* to = data<To>(out);
      for_channels(all, [&](const PackedLayer& layer, size_t n, int64_t o) {
        const int64_t row = layer.i * layer.k, half = half_of(layer, channels_last);
        const From *a = data<From>(re[n]) + o * row, *b = data<From>(im[n]) + o * row;
        To *upper = to + layer.block + o * 2 * row, *lower = upper + layer.o * 2 * row;
        for_row(layer, channels_last, [&](int64_t from, int64_t at, int64_t count, int64_t step) {
          copy_run<From, To>(a + from, upper + at, count, step, 1);
          copy_run<From, To>(b + from, upper + at + half, count, step, -1);
          copy_run<From, To>(b + from, lower + at, count, step, 1);
          copy_run<From, To>(a + from, lower + at + half, count, step, 1);
        });
      });
      for (const PackedLayer& layer : all.each) {
        const int64_t end = layer.block + 4 * layer.size();
        std::fill(to + end, to + layer.block + pack_aligned(4 * layer.size()), To(0));
      }
    });
  });
  return out;
}

Tensor backward(std::vector<Tensor> grads, ScalarType dtype, bool channels_last) {
  const PackedLayers all = packed_layers(grads, 2);
  check_blocks(grads, channels_last);
  Tensor out = empty_of(grads[0], {all.pairs}, dtype);
  with_stored(grads[0].scalar_type(), NAME, [&](auto from_zero) {
    with_stored(dtype, NAME, [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      To* to = data<To>(out);
      for_channels(all, [&](const PackedLayer& layer, size_t n, int64_t o) {
        const int64_t row = layer.i * layer.k, half = half_of(layer, channels_last);
        const From *upper = data<From>(grads[n]) + o * 2 * row, *lower = upper + layer.o * 2 * row;
        To *a = to + layer.pair + o * row, *b = a + pack_aligned(layer.size());
        for_row(layer, channels_last, [&](int64_t from, int64_t at, int64_t count, int64_t step) {
          add_run<From, To>(upper + at, lower + at + half, a + from, count, step, 1);
          add_run<From, To>(lower + at, upper + at + half, b + from, count, step, -1);
        });
      });
      for (const PackedLayer& layer : all.each) {
        for (To* part : {to + layer.pair, to + layer.pair + pack_aligned(layer.size())}) {
          std::fill(part + layer.size(), part + pack_aligned(layer.size()), To(0));
        }
      }
    });
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CPU, m) {
  m.impl("pack_weights_forward", TORCH_BOX(&cvk::forward));
  m.impl("pack_weights_backward", TORCH_BOX(&cvk::backward));
}
