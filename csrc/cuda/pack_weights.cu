// Block weights [[A, -B], [B, A]] of many layers in one buffer, and back from the gradient of that to those of A and B:
// one launch for as many layers as a kernel's arguments hold. One thread an element of A, in the order of the block's
// memory.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "../common/pack_weights.h"
#include "form.h"

namespace cvk {
namespace {

constexpr int kLayers = 128;  // of one launch; with their addresses under 8 KiB of arguments

struct Table {
  const void* re[kLayers];  // A, or the gradient of a block
  const void* im[kLayers];  // B
  PackedLayer layer[kLayers];
  uint32_t first[kLayers];  // block of the launch that a layer begins with
  int count;
};

// What thread t of the launch works on: an element of a layer's A, or one of the zeros that follow the layer.
struct Item {
  int layer;
  int64_t weight;  // offset in A
  int64_t upper;   // offset in the block: of A on top; half a row on: of -B
  int64_t half, lower;
  int64_t past;  // elements of A before t that are none: t - size, where that is not negative
};

CVK_INLINE Item item_of(const Table& table, uint32_t block, uint32_t thread, bool channels_last) {
  int low = 0, high = table.count - 1;
  while (low < high) {
    const int middle = (low + high + 1) / 2;
    if (table.first[middle] <= block) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  const PackedLayer& layer = table.layer[low];
  const int64_t t = static_cast<int64_t>(block - table.first[low]) * kThreads + thread, row = layer.i * layer.k;
  const int64_t o = t / row, rest = t - o * row;
  Item item{low, t, o * 2 * row + rest, row, layer.o * 2 * row, t - layer.size()};
  if (channels_last) {
    const int64_t k = rest / layer.i, i = rest - k * layer.i;
    item.weight = o * row + i * layer.k + k;
    item.upper = (o * layer.k + k) * 2 * layer.i + i;
    item.half = layer.i;
  }
  return item;
}

template <class To, class W>
CVK_INLINE To stored_as(W x) {
  return static_cast<To>(static_cast<wide_t<To>>(x));
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    pack_weights_forward_kernel(const __grid_constant__ Table table, To* __restrict__ out, bool channels_last) {
  const Item at = item_of(table, blockIdx.x, threadIdx.x, channels_last);
  const PackedLayer& layer = table.layer[at.layer];
  To* to = out + layer.block;
  if (at.past < 0) {
    const auto a = static_cast<wide_t<From>>(static_cast<const From*>(table.re[at.layer])[at.weight]);
    const auto b = static_cast<wide_t<From>>(static_cast<const From*>(table.im[at.layer])[at.weight]);
    to[at.upper] = stored_as<To>(a);
    to[at.upper + at.half] = stored_as<To>(-b);
    to[at.upper + at.lower] = stored_as<To>(b);
    to[at.upper + at.lower + at.half] = stored_as<To>(a);
  } else if (4 * layer.size() + at.past < pack_aligned(4 * layer.size())) {
    to[4 * layer.size() + at.past] = To(0.0f);
  }
}

template <class From, class To>
__global__ void __launch_bounds__(kThreads, kMinBlocks)
    pack_weights_backward_kernel(const __grid_constant__ Table table, To* __restrict__ out, bool channels_last) {
  using W = std::conditional_t<std::is_same_v<To, double>, double, wide_t<From>>;
  const Item at = item_of(table, blockIdx.x, threadIdx.x, channels_last);
  const PackedLayer& layer = table.layer[at.layer];
  To *a = out + layer.pair, *b = a + pack_aligned(layer.size());
  if (at.past < 0) {
    const From* grad = static_cast<const From*>(table.re[at.layer]) + at.upper;
    a[at.weight] = stored_as<To>(static_cast<W>(grad[0]) + static_cast<W>(grad[at.lower + at.half]));
    b[at.weight] = stored_as<To>(static_cast<W>(grad[at.lower]) - static_cast<W>(grad[at.half]));
  } else if (layer.size() + at.past < pack_aligned(layer.size())) {
    a[layer.size() + at.past] = b[layer.size() + at.past] = To(0.0f);
  }
}

// run(table, blocks) for the layers of each launch. A layer's zeros have threads of their own.
template <class Run>
void in_tables(const PackedLayers& all, const std::vector<Tensor>& re, const std::vector<Tensor>* im, const Run& run) {
  for (size_t begin = 0; begin < all.each.size(); begin += kLayers) {
    Table table{};
    int64_t blocks = 0;
    for (size_t n = begin; n < std::min(all.each.size(), begin + kLayers); ++n) {
      const PackedLayer& layer = all.each[n];
      if (layer.size() == 0) continue;
      table.re[table.count] = re[n].data_ptr();
      table.im[table.count] = im ? (*im)[n].data_ptr() : nullptr;
      table.layer[table.count] = layer;
      table.first[table.count++] = static_cast<uint32_t>(blocks);
      blocks += (layer.size() + PACK_ALIGN + kThreads - 1) / kThreads;
      STD_TORCH_CHECK(blocks <= kMostBlocks, "more elements than one launch holds");
    }
    if (table.count > 0) run(table, blocks);
  }
}

Tensor forward(std::vector<Tensor> re, std::vector<Tensor> im, ScalarType dtype, bool channels_last) {
  check_pairs(re, im);
  const PackedLayers all = packed_layers(re, 1);
  for (size_t n = 0; n < re.size(); ++n) check_device(re[n], re[0], "a weight"), check_device(im[n], re[0], "a weight");
  const OnDevice guard(re[0]);
  Tensor out = empty_of(re[0], {all.blocks}, dtype);
  with_dtype(re[0], "pack_weights", [&](auto from) {
    with_dtype(dtype, "pack_weights", [&](auto to) {
      using To = decltype(to);
      in_tables(all, re, &im, [&](const Table& table, int64_t blocks) {
        launch(out, pack_weights_forward_kernel<decltype(from), To>, blocks, table, data<To>(out), channels_last);
      });
    });
  });
  return out;
}

Tensor backward(std::vector<Tensor> grads, ScalarType dtype, bool channels_last) {
  const PackedLayers all = packed_layers(grads, 2);
  check_blocks(grads, channels_last);
  for (const Tensor& g : grads) check_device(g, grads[0], "a gradient");
  const OnDevice guard(grads[0]);
  Tensor out = empty_of(grads[0], {all.pairs}, dtype);
  with_dtype(grads[0], "pack_weights", [&](auto from) {
    with_dtype(dtype, "pack_weights", [&](auto to) {
      using To = decltype(to);
      in_tables(all, grads, nullptr, [&](const Table& table, int64_t blocks) {
        launch(out, pack_weights_backward_kernel<decltype(from), To>, blocks, table, data<To>(out), channels_last);
      });
    });
  });
  return out;
}

}  // namespace
}  // namespace cvk

STABLE_TORCH_LIBRARY_IMPL(cvkernels, CUDA, m) {
  m.impl("pack_weights_forward", TORCH_BOX(&cvk::forward));
  m.impl("pack_weights_backward", TORCH_BOX(&cvk::backward));
}
