// How the threads of a launch walk a feature, in each of its dense layouts.
//
// A feature is parted into groups, which share a number (a sample its angle, a channel its scale), a group into rows
// and columns, columns being neighbours in memory. A block takes a tile of kThreads x V elements, as many columns as a
// row has and the rest of the threads on further rows; `programs` blocks share a group's tiles. Where the channel is
// the fastest axis (`last`), a walk by channels has blocks of columns for groups.
#pragma once

#include <algorithm>

#include "../common/planar.h"
#include "form.h"

namespace cvk {

struct Walk {
  int64_t rows, columns;    // rows of a group, elements of a row
  int64_t group, row;       // strides, in elements
  int64_t part, step;       // from the real to the imaginary part, from column to column
  uint32_t groups, across;  // groups, tiles along a row
  uint32_t tiles, programs;
  int32_t shift;  // log2 of the threads along a row
  bool last;

  int64_t blocks() const { return static_cast<int64_t>(groups) * programs; }
};

struct Program {
  uint32_t group, k;
};

CVK_INLINE Program program(const Walk& w, uint32_t block) {
  const uint32_t group = block / w.programs;
  return {group, block - group * w.programs};
}

// Where a thread stands in a tile.
struct Place {
  int64_t base;    // offset of its row
  int64_t column;  // its first element of that row
  int64_t at;      // offset of that element's real part
  bool inside;

  // the same element of a real feature in the layout of the planar one
  CVK_INLINE int64_t real() const { return base / 2 + column; }
};

template <int V>
CVK_INLINE Place place(const Walk& w, uint32_t group, uint32_t tile, uint32_t thread) {
  const uint32_t x = thread & ((1u << w.shift) - 1), y = thread >> w.shift;
  const uint32_t down = w.last ? tile : tile / w.across;
  const uint32_t left = w.last ? group : tile - down * w.across;
  const int64_t r = (static_cast<int64_t>(down) * kThreads >> w.shift) + y;
  Place p;
  p.column = ((static_cast<int64_t>(left) << w.shift) + x) * V;
  p.base = (w.last ? 0 : group * w.group) + r * w.row;
  p.at = p.base + p.column * w.step;
  p.inside = r < w.rows && p.column < w.columns;
  return p;
}

// --- host ------------------------------------------------------------------------------------------------------------

enum class By { everything, sample, channel };

#if !defined(CVK_PROGRAMS)
#define CVK_PROGRAMS 128
#endif
// What a reduction leaves to be added up again by every block of the next launch.
constexpr int64_t kPrograms = CVK_PROGRAMS;
// Blocks enough for the largest GPU, twice over.
constexpr int64_t kBlocks = 2048;

inline int32_t log2_up(int64_t n) {
  int32_t shift = 0;
  while ((int64_t{1} << shift) < n) ++shift;
  return shift;
}

// parts: 2 for a planar feature, 1 for a real one, whose n, c, s and layout stand in v too.
inline Walk walk(const Planar& v, By by, int V, int parts = 2) {
  const bool last = v.layout == Layout::channels_last || (v.layout == Layout::contiguous && v.s == 1);
  Walk w{};
  w.last = last && by == By::channel;
  w.columns = last ? v.c : by == By::channel ? v.s : v.c * v.s;
  w.rows = last ? (by == By::sample ? v.s : v.n * v.s) : by == By::sample ? 1 : v.n;
  const int64_t sample = parts * v.c * v.s;
  w.step = parts == 2 && v.layout == Layout::interleaved ? 2 : 1;
  w.part = w.step == 2 ? 1 : last ? v.c : v.c * v.s;
  w.row = last ? parts * v.c : sample;
  w.group = by == By::sample ? sample : by == By::channel ? w.step * v.s : 0;
  const int64_t vectors = (w.columns + V - 1) / V;
  int32_t widest = log2_up(kThreads);
  if (w.last) widest = std::min(widest, 5);
  w.shift = std::min(log2_up(std::max<int64_t>(vectors, 1)), widest);
  const int64_t across = (vectors + (int64_t{1} << w.shift) - 1) >> w.shift;
  const int64_t down = (w.rows + (kThreads >> w.shift) - 1) / (kThreads >> w.shift);
  const int64_t groups = w.last ? across : by == By::sample ? v.n : by == By::channel ? v.c : 1;
  const int64_t tiles = w.last ? down : down * across;
  STD_TORCH_CHECK(groups <= kMostBlocks && tiles <= kMostBlocks, "more elements than one launch holds");
  w.groups = static_cast<uint32_t>(groups);
  w.across = static_cast<uint32_t>(std::max<int64_t>(across, 1));
  w.tiles = static_cast<uint32_t>(tiles);
  w.programs = static_cast<uint32_t>(std::max<int64_t>(1, std::min(tiles, kMostBlocks / std::max<int64_t>(1, groups))));
  return w;
}

// At most so many blocks a group, and no more than fill the GPU `waves` times: each then takes several tiles.
inline Walk shared(Walk w, int64_t most, int64_t waves = 1) {
  const int64_t enough = (waves * kBlocks + w.groups - 1) / std::max<int64_t>(1, w.groups);
  w.programs = static_cast<uint32_t>(std::max<int64_t>(1, std::min<int64_t>({w.programs, most, enough})));
  return w;
}

// Whether V elements of every row can be read at once, given 16-byte aligned pointers.
inline bool even(const Walk& w, int V) { return w.columns % V == 0 && (w.step == 2 || w.part % V == 0); }

}  // namespace cvk
