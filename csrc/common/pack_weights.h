// Where each layer's block weight and each weight's gradient stand in their flat buffers.
#pragma once

#include <cstdint>
#include <vector>

#include "inline.h"
#include "planar.h"
#include "shape.h"

namespace cvk {

constexpr int64_t PACK_ALIGN = 16;  // elements: 32 bytes in half precision, a full vector load

CVK_INLINE int64_t pack_aligned(int64_t elements) { return (elements + PACK_ALIGN - 1) / PACK_ALIGN * PACK_ALIGN; }

struct PackedLayer {
  int64_t o, i, k;      // output and input channels of A, elements of a kernel window
  int64_t block, pair;  // where its block weight starts; where the gradient of A does, B's follows aligned
  CVK_INLINE int64_t size() const { return o * i * k; }
};

struct PackedLayers {
  std::vector<PackedLayer> each;
  int64_t blocks = 0, pairs = 0;  // elements of the two buffers
};

// Of weights [O, I, *], or of blocks [2O, 2I, *] (halves 2).
inline PackedLayers packed_layers(const std::vector<Tensor>& weights, int64_t halves) {
  STD_TORCH_CHECK(!weights.empty(), "there must be a weight to pack");
  PackedLayers all;
  for (const Tensor& w : weights) {
    STD_TORCH_CHECK(w.dim() >= 2 && w.size(0) % halves == 0 && w.size(1) % halves == 0, "a weight must be [O, I, *]");
    STD_TORCH_CHECK(w.scalar_type() == weights[0].scalar_type(), "weights packed together must have one dtype");
    PackedLayer layer{w.size(0) / halves, w.size(1) / halves, 1, all.blocks, all.pairs};
    for (int64_t d = 2; d < w.dim(); ++d) layer.k *= w.size(d);
    all.each.push_back(layer);
    all.blocks += pack_aligned(4 * layer.size());
    all.pairs += 2 * pack_aligned(layer.size());
  }
  return all;
}

// Both parts contiguous, of one shape and dtype.
inline void check_pairs(const std::vector<Tensor>& re, const std::vector<Tensor>& im) {
  STD_TORCH_CHECK(re.size() == im.size(), "there must be as many imaginary weights as real ones");
  for (size_t n = 0; n < re.size(); ++n) {
    bool alike = re[n].dim() == im[n].dim() && re[n].scalar_type() == im[n].scalar_type();
    for (int64_t d = 0; alike && d < re[n].dim(); ++d) alike = re[n].size(d) == im[n].size(d);
    STD_TORCH_CHECK(alike && re[n].is_contiguous() && im[n].is_contiguous(),
                    "the parts of a weight must be contiguous and of one shape and dtype");
  }
}

// The gradients of blocks, each dense in the order its block was packed in.
inline void check_blocks(const std::vector<Tensor>& grads, bool channels_last) {
  for (const Tensor& g : grads) {
    const bool dense = channels_last ? dense_in_order(g, {{0}, 2, g.dim(), {1}}) : dense_in_order(g, {{}, 0, g.dim()});
    STD_TORCH_CHECK(g.numel() == 0 || dense, "the gradient of a block must be dense in its order");
  }
}

}  // namespace cvk
