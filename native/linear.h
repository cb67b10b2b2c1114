// Products with quantized weights: y = x W^T. A row's sum goes over the chunks of its weights in order, and
// in a chunk over the groups, whatever else is computed beside it: it does not depend on the batch.
//
// Few rows are bound by memory: each tile is one stream, unpacked in registers. For many rows a chunk is
// unpacked once, into the first cache, and multiplied with all of them there. A register block of kR rows
// and kC tiles lets one load of weights feed kR rows and one broadcast of activations feed kC tiles.
#pragma once

#include "codes.h"

namespace pagemill {
namespace {

constexpr int kFewRows = 8;  // up to here rows are multiplied with codes unpacked in registers

inline void store_tile(float* y, F32 values, int columns) {
  if (columns >= kTile) return store(y, values);
  float all[kTile];
  store(all, values);
  for (int i = 0; i < columns; i++) y[i] = all[i];
}

inline F32 load_tile(const float* y, int columns) {
  if (columns >= kTile) return load(y);
  float all[kTile] = {};
  for (int i = 0; i < columns; i++) all[i] = y[i];
  return load(all);
}

// What a group of one row adds to its chunk. kScales: floats of weights a group has, see Layout.
template <int kScales>
PAGEMILL_INLINE inline F32 add_group(F32 sum, const I32* dots, const F32* scales, float scale) {
  if constexpr (kScales == 0) return fma(to_float(dots[0]), splat(scale), sum);
  if constexpr (kScales == 1) return fma(to_float(dots[0]), mul(scales[0], splat(scale)), sum);
  const F32 both = fma(to_float(dots[1]), scales[1], mul(to_float(dots[0]), scales[0]));
  return fma(both, splat(scale), sum);
}

template <bool kHalves>
PAGEMILL_INLINE inline F32 add_minimum(F32 sum, const F32* minimum, const ActivationGroup& x) {
  sum = fma(minimum[0], splat(x.sum), sum);
  if constexpr (kHalves) sum = fma(minimum[1], splat(x.scale * (float)(x.first_offset / -128)), sum);
  return sum;
}

constexpr int num_scales(const Layout& layout) { return layout.whole_chunks() ? 0 : layout.halves() ? 2 : 1; }

// kR rows from `row` on with one tile.
template <Kind kKind, int kR, int kPlanes>
void few_rows(const PackedWeight& w, const Activation& a, int row, int tile, float* y, size_t y_stride) {
  constexpr Layout kLayout = layout_of(kKind);
  constexpr bool kSmall = kLayout.low < 8 && !kLayout.table;
  constexpr int kVectors = kR * kPlanes, kHalves = kLayout.halves() ? 2 : 1;
  constexpr int kZero = kSmall ? kLayout.zero : kSignedQ8 ? 0 : 128;
  const uint8_t* data = w.data + tile * w.tile_bytes;
  const size_t groups = w.groups;
  const int8_t* q = a.q + (size_t)row * kPlanes * groups * kGroup;
  const ActivationGroup* of = a.of + (size_t)row * kPlanes * groups;
  F32 sums[kR];
  for (size_t first = 0; first < groups; first += kChunkGroups) {
    const int count = groups - first < kChunkGroups ? (int)(groups - first) : kChunkGroups;
    const Chunk<kKind> chunk(w, data, count);
    data += kLayout.chunk_bytes(count);
    F32 part[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) part[v] = zero();
    for (int g = 0; g < count; g++) {
      const int8_t* x = q + (first + g) * kGroup;
      const ActivationGroup* group = of + first + g;
      I32 dots[kVectors][kHalves];
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) {
        const ActivationGroup& now = group[v * groups];
        if constexpr (kHalves == 2) dots[v][1] = int_splat((now.offset - now.first_offset) / 128 * kZero);
        dots[v][0] = int_splat((kHalves == 2 ? now.first_offset : now.offset) / 128 * kZero);
      }
      chunk.each_step(g, [&](auto s, Bytes codes) PAGEMILL_INLINE {
        constexpr int kStep = decltype(s)::value, kHalf = kHalves == 2 ? kStep / 4 : 0;
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; v++) {
          const Bytes four = splat_bytes(x + v * groups * kGroup + kStep * 4);
          dots[v][kHalf] =
              kSmall ? dot_small(dots[v][kHalf], codes, four) : dot_q8(dots[v][kHalf], codes, four);
        }
      });
      F32 scales[kHalves], minimum[2];
      for (int half = 0; half < kHalves; half++) scales[half] = chunk.scale(g, half);
      if constexpr (kLayout.minimum) minimum[0] = chunk.minimum(g);
      if constexpr (kLayout.minimum && kHalves == 2) minimum[1] = chunk.first_minimum(g);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; v++) {
        const ActivationGroup& now = group[v * groups];
        if constexpr (kLayout.minimum) part[v] = add_minimum<kHalves == 2>(part[v], minimum, now);
        part[v] = add_group<num_scales(kLayout)>(part[v], dots[v], scales, now.scale);
      }
    }
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; v++) {
      if constexpr (kLayout.whole_chunks()) part[v] = mul(part[v], chunk.d);
      sums[v / kPlanes] = first || v % kPlanes ? add(sums[v / kPlanes], part[v]) : part[v];
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kR; r++)
    store_tile(y + (row + r) * y_stride + tile * kTile, sums[r], w.n - tile * kTile);
}

// Blocks of kR rows, then of fewer.
template <Kind kKind, int kR, int kPlanes>
void few(const PackedWeight& w, const Activation& a, int row, int rows, int tile, float* y, size_t y_stride) {
  for (; rows >= kR; rows -= kR, row += kR) few_rows<kKind, kR, kPlanes>(w, a, row, tile, y, y_stride);
  if constexpr (kR > 1)
    if (rows) few<kKind, kR - 1, kPlanes>(w, a, row, rows, tile, y, y_stride);
}

// One plane of rows, multiplied with the chunk of kC tiles that starts with group `first`.
struct ManyRows {
  const Expanded* chunks;
  int groups, zero, columns;  // columns: that are left from the first tile on
  bool minimum, fresh;        // fresh: y holds nothing yet
  const int8_t* q;            // of the first row, group `first`
  const ActivationGroup* of;
  size_t q_stride, of_stride;  // between rows
  float* y;
  size_t y_stride;
};

template <int kR, int kC, int kScales, bool kSmall>
void block(const ManyRows& m, int row) {
  constexpr int kHalves = kScales == 2 ? 2 : 1;
  const int8_t* q = m.q + row * m.q_stride;
  const ActivationGroup* of = m.of + row * m.of_stride;
  F32 part[kC][kR];
#pragma GCC unroll 4
  for (int c = 0; c < kC; c++)
#pragma GCC unroll 16
    for (int r = 0; r < kR; r++) part[c][r] = zero();
  for (int g = 0; g < m.groups; g++) {
    I32 dots[kC][kR][kHalves];
#pragma GCC unroll 2
    for (int half = 0; half < kHalves; half++) {
#pragma GCC unroll 16
      for (int r = 0; r < kR; r++) {
        const ActivationGroup& x = of[r * m.of_stride + g];
        I32 start = int_zero();
        if constexpr (kSmall || !kSignedQ8) {
          int32_t offset = x.offset;
          if constexpr (kHalves == 2) offset = half ? x.offset - x.first_offset : x.first_offset;
          start = int_splat(kSmall ? offset / 128 * m.zero : offset);
        }
#pragma GCC unroll 4
        for (int c = 0; c < kC; c++) dots[c][r][half] = start;
      }
#pragma GCC unroll 8
      for (int s = half * 4; s < (kHalves == 2 ? half * 4 + 4 : 8); s++) {
        Bytes codes[kC];
#pragma GCC unroll 4
        for (int c = 0; c < kC; c++) codes[c] = load_bytes(m.chunks[c].codes[g] + s * kLine);
#pragma GCC unroll 16
        for (int r = 0; r < kR; r++) {
          const Bytes four = splat_bytes(q + r * m.q_stride + g * kGroup + s * 4);
#pragma GCC unroll 4
          for (int c = 0; c < kC; c++)
            dots[c][r][half] = kSmall ? dot_small(dots[c][r][half], codes[c], four)
                                      : dot_q8(dots[c][r][half], codes[c], four);
        }
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < kC; c++) {
      F32 scales[kHalves], minimum[2];
      if constexpr (kScales > 0) scales[0] = load(m.chunks[c].scale[g][0]);
      if constexpr (kScales > 1) scales[1] = load(m.chunks[c].scale[g][1]);
      if (m.minimum) {
        minimum[0] = load(m.chunks[c].minimum[g][0]);
        if constexpr (kHalves == 2) minimum[1] = load(m.chunks[c].minimum[g][1]);
#pragma GCC unroll 16
        for (int r = 0; r < kR; r++)
          part[c][r] = add_minimum<kHalves == 2>(part[c][r], minimum, of[r * m.of_stride + g]);
      }
#pragma GCC unroll 16
      for (int r = 0; r < kR; r++)
        part[c][r] = add_group<kScales>(part[c][r], dots[c][r], scales, of[r * m.of_stride + g].scale);
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < kC; c++)
#pragma GCC unroll 16
    for (int r = 0; r < kR; r++) {
      float* y = m.y + (row + r) * m.y_stride + c * kTile;
      const int columns = m.columns - c * kTile;
      if (kScales == 0) part[c][r] = mul(part[c][r], load(m.chunks[c].whole));
      store_tile(y, m.fresh ? part[c][r] : add(load_tile(y, columns), part[c][r]), columns);
    }
}

// Blocks of kR rows, then of fewer.
template <int kR, int kC, int kScales, bool kSmall>
void blocks(const ManyRows& m, int row, int rows) {
  for (; rows >= kR; rows -= kR, row += kR) block<kR, kC, kScales, kSmall>(m, row);
  if constexpr (kR > 1)
    if (rows) blocks<kR - 1, kC, kScales, kSmall>(m, row, rows);
}

template <int kC, int kScales, bool kSmall>
void tiles(const PackedWeight& w, Expand expand, const Activation& a, int rows, int tile, float* y,
           size_t y_stride) {
  const Layout layout = layout_of(w.kind);
  const size_t groups = w.groups;
  Expanded chunks[kC];
  const uint8_t* data = w.data + tile * w.tile_bytes;
  for (size_t first = 0; first < groups; first += kChunkGroups) {
    const int count = groups - first < kChunkGroups ? (int)(groups - first) : kChunkGroups;
    for (int c = 0; c < kC; c++) expand(w, data + c * w.tile_bytes, count, chunks[c]);
    data += layout.chunk_bytes(count);
    for (int plane = 0; plane < a.planes; plane++)
      blocks<kRows, kC, kScales, kSmall>(
          {chunks, count, layout.zero, w.n - tile * kTile, layout.minimum, first == 0 && plane == 0,
           a.q + (plane * groups + first) * kGroup, a.of + plane * groups + first, a.planes * groups * kGroup,
           a.planes * groups, y + tile * kTile, y_stride},
          0, rows);
  }
}

template <Kind kKind>
void linear_kind(const PackedWeight& w, const Activation& a, int rows, int from, int to, float* y,
                 size_t stride) {
  constexpr Layout kLayout = layout_of(kKind);
  constexpr bool kSmall = kKeepsSmall && kLayout.low < 8 && !kLayout.table;
  constexpr int kScales = num_scales(kLayout);
  if (rows * a.planes <= kFewRows) {
    for (int tile = from; tile < to; tile++) {
      if (a.planes == 2)
        few<kKind, 2, 2>(w, a, 0, rows, tile, y, stride);
      else
        few<kKind, 4, 1>(w, a, 0, rows, tile, y, stride);
    }
    return;
  }
  int tile = from;
  for (; tile + kColumns <= to; tile += kColumns)
    tiles<kColumns, kScales, kSmall>(w, expand<kKind>, a, rows, tile, y, stride);
  for (; tile < to; tile++) tiles<1, kScales, kSmall>(w, expand<kKind>, a, rows, tile, y, stride);
}

// Calls f(Index<kind>) for a quantized kind.
template <class F>
inline void with_kind(Kind kind, F f) {
  unroll<(int)Kind::q8, (int)Kind::last + 1>([&](auto k) PAGEMILL_INLINE {
    if ((int)kind == k.value) f(k);
  });
}

void linear_quantized(const PackedWeight& w, const Activation& a, int rows, int from, int to, float* y,
                      size_t stride) {
  with_kind(w.kind, [&](auto k) { linear_kind<(Kind) decltype(k)::value>(w, a, rows, from, to, y, stride); });
}

}  // namespace
}  // namespace pagemill
