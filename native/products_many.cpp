// Many rows are bound by arithmetic. A block is kR rows and kC tiles: one load of codes feeds kR rows, one
// broadcast of activations kC tiles. Codes that are cheap to unpack are unpacked by each block; of others the
// first block leaves a span of groups in the caches as bytes and floats for all others. It also asks for the
// tiles that come next.
#include "half.h"
#include PAGEMILL_SIMD
#include "products.h"

namespace pagemill {
namespace {

using Span = Expanded<kSpanGroups>;

// Large blocks of rows have time to unpack codes of one plane beside the products.
constexpr bool is_cheap(const Layout& layout) {
  return kRows * kColumns >= 8 && !layout.high && !layout.table;
}

// With scales that are cheap as well, each block unpacks for itself: packed there is less to read.
constexpr bool unpacks_always(const Layout& layout) {
  return is_cheap(layout) &&
         (layout.scale == Scale::half || layout.scale == Scale::pair || layout.scale == Scale::column);
}

// Sources of a span's codes and scales, by its chunks. First, packed chunks, unpacked in registers; kAsks for
// what comes next.
template <Kind kKind, bool kAsks>
struct Packed {
  static constexpr bool kFetches = kAsks;
  PAGEMILL_INLINE Chunk<kKind> chunk(int first, int groups) const {
    constexpr size_t kBytes = layout_of(kKind).chunk_bytes(kChunkGroups);
    return Chunk<kKind>(*w, data + first / kChunkGroups * kBytes, groups);
  }

  const PackedWeight* w;
  const uint8_t* data;
};

// Packed chunks that are expanded, too.
template <Kind kKind>
struct Unpacked {
  static constexpr bool kFetches = true;
  PAGEMILL_INLINE Expanding<kKind, kSpanGroups> chunk(int first, int groups) const {
    return {packed.chunk(first, groups), span, first};
  }

  Packed<kKind, true> packed;
  Span* span;
};

// What was expanded.
struct Plain {
  static constexpr bool kFetches = false;
  PAGEMILL_INLINE Plain chunk(int first, int) const { return {span, first}; }
  template <int kStep>
  PAGEMILL_INLINE Bytes step(int group) const {
    return load_bytes(span->codes[at + group] + kStep * kLine);
  }
  PAGEMILL_INLINE F32 scale(int group, int half) const { return load(span->scale[at + group][half]); }
  PAGEMILL_INLINE F32 minimum(int group) const { return load(span->minimum[at + group][0]); }
  PAGEMILL_INLINE F32 first_minimum(int group) const { return load(span->minimum[at + group][1]); }

  const Span* span;
  int at;
};

// What a block knows of a kind: scales and minima of a group, if codes are small, and what stands for zero.
struct Form {
  int planes, scales, minima;
  bool small;
  int zero;
};

// Rows to be multiplied with a span of up to kColumns tiles.
struct Work {
  int groups, columns;        // columns: that are left from the first tile on
  size_t ahead;               // bytes to the tiles that come next
  bool fresh;                 // y holds nothing yet
  size_t plane;               // groups between planes
  const ActivationGroup* of;  // of the first row and the span's first group
  size_t of_stride;           // between rows
  float* y;
  size_t y_stride;
};

// kR rows from `row` on and kC tiles.
template <Form kForm, int kR, int kC, class Source>
void block(const Work& m, const Source* sources, int row) {
  static_assert(kC <= 2);
  constexpr int kHalves = kForm.scales == 2 ? 2 : 1;
  const ActivationGroup* of = m.of + row * m.of_stride;
  F32 part[kC][kR], scales[kC][2];
  EACH (c, kC)
    EACH (r, kR) part[c][r] = zero();
  for (int first = 0; first < m.groups; first += kChunkGroups) {
    const int count = m.groups - first < kChunkGroups ? m.groups - first : kChunkGroups;
    const decltype(sources->chunk(0, 0)) chunks[] = {sources[0].chunk(first, count),
                                                     sources[kC - 1].chunk(first, count)};
    for (int g = 0; g < count; g++, of++) {
      I32 dots[kC][kR][kHalves];
      if constexpr (Source::kFetches)
        EACH (c, kC) chunks[c].template fetch<true>(g, m.ahead);
      const ActivationGroup* x = of;
#pragma GCC unroll 1  // twice the code would only be slower
      for (int plane = 0; plane < kForm.planes; plane++) {
        if (plane) x += m.plane;
        unroll<0, 8>([&](auto s) PAGEMILL_INLINE {
          constexpr int kStep = decltype(s)::value, kHalf = kStep / 4 * (kHalves - 1);
          if constexpr (kStep % (8 / kHalves) == 0) {
            EACH (r, kR) {
              const I32 start = start_of<kHalves, kForm.zero>(x[r * m.of_stride], kHalf);
              EACH (c, kC) {
                I32& dot = dots[c][r][kHalf];
                dot = plane ? int_add(shift_left<kPlaneBits>(dot), start) : start;
              }
            }
          }
          Bytes codes[kC];
          EACH (c, kC) codes[c] = chunks[c].template step<kStep>(g);
          EACH (r, kR) {
            const Bytes four = splat_bytes(x[r * m.of_stride].q + kStep * 4);
            EACH (c, kC) {
              I32& dot = dots[c][r][kHalf];
              dot = kForm.small ? dot_small(dot, codes[c], four) : dot_q8(dot, codes[c], four);
            }
          }
        });
        if constexpr (kForm.minima > 0)
          EACH (c, kC) {
            F32 minimum[2] = {chunks[c].minimum(g)};
            if constexpr (kForm.minima > 1) minimum[1] = chunks[c].first_minimum(g);
            EACH (r, kR) part[c][r] = add_minimum<kForm.minima>(part[c][r], minimum, x[r * m.of_stride]);
          }
      }
      EACH (c, kC) {
        EACH (half, kHalves) scales[c][half] = chunks[c].scale(g, half);
        EACH (r, kR)
          part[c][r] = add_group<kForm.scales>(part[c][r], dots[c][r], scales[c], x[r * m.of_stride].scale);
      }
    }
  }
  EACH (c, kC)
    EACH (r, kR) {
      float* y = m.y + (row + r) * m.y_stride + c * kTile;
      const int columns = m.columns - c * kTile;
      F32 sum = part[c][r];
      if constexpr (kForm.scales == 0) sum = mul(sum, scales[c][0]);
      store_tile(y, m.fresh ? sum : add(load_tile(y, columns), sum), columns);
    }
}

// A block of `size` rows, kR at most.
template <Form kForm, int kR, int kC, class Source>
void block_of(int size, const Work& m, const Source* sources, int row) {
  if (size == kR) return block<kForm, kR, kC>(m, sources, row);
  if constexpr (kR > 1) block_of<kForm, kR - 1, kC>(size, m, sources, row);
}

// All rows from `row` on, in blocks of nearly the same size.
template <Form kForm, int kR, int kC, class Source>
void blocks(const Work& m, const Source* sources, int row, int rows) {
  for (int left = (rows + kR - 1) / kR; left; left--) {
    const int size = (rows + left - 1) / left;
    block_of<kForm, kR, kC>(size, m, sources, row);
    row += size, rows -= size;
  }
}

// All rows with kC tiles.
template <Kind kKind, int kR, int kC, int kPlanes>
void multiply(const PackedWeight& w, const Activation& a, int rows, int tile, float* y, size_t y_stride) {
  constexpr Layout kLayout = layout_of(kKind);
  constexpr bool kAlways = unpacks_always(kLayout), kSmall = is_small(kLayout) && (kKeepsSmall || kAlways);
  constexpr int kMinima = kLayout.minimum ? kLayout.halves() ? 2 : 1 : 0;
  constexpr int kZero = kSmall ? kLayout.zero : kSignedQ8 ? 0 : 128;
  constexpr Form kForm{kPlanes, num_scales(kLayout), kMinima, kSmall, kZero};
  const size_t groups = w.groups;
  const uint8_t* data = w.data + tile * w.tile_bytes;
  Span spans[kAlways ? 1 : kC];
  for (size_t first = 0; first < groups; first += kSpanGroups) {
    const int count = groups - first < kSpanGroups ? (int)(groups - first) : kSpanGroups;
    const uint8_t* other = data + (kC - 1) * w.tile_bytes;
    const Work work{count,        w.n - tile * kTile, kC * w.tile_bytes, first == 0, groups,
                    a.of + first, kPlanes * groups,   y + tile * kTile,  y_stride};
    const auto multiply_with = [&](const auto& asking, const auto& others) {
      block<kForm, kR, kC>(work, asking, 0);
      blocks<kForm, kR, kC>(work, others, kR, rows - kR);
    };
    if constexpr (kAlways) {
      const Packed<kKind, true> asking[] = {{&w, data}, {&w, other}};
      const Packed<kKind, false> packed[] = {{&w, data}, {&w, other}};
      multiply_with(asking, packed);
    } else {
      const Unpacked<kKind> unpacked[] = {{{&w, data}, spans}, {{&w, other}, spans + kC - 1}};
      const Plain plain[] = {{spans, 0}, {spans + kC - 1, 0}};
      multiply_with(unpacked, plain);
    }
    data += kSpanGroups / kChunkGroups * kLayout.chunk_bytes(kChunkGroups);
  }
}

}  // namespace

void PAGEMILL_ISA::many_rows(const PackedWeight& w, const Activation& a, int rows, int from, int to, float* y,
                             size_t stride) {
  const int paired = from + (to - from) / kColumns * kColumns;
  with_kind(w.kind, [&](auto k) {
    for (int tile = from; tile < paired; tile += kColumns)
      (a.planes == 2 ? multiply<(Kind) decltype(k)::value, kRows, kColumns, 2>
                     : multiply<(Kind) decltype(k)::value, kRows, kColumns, 1>)(w, a, rows, tile, y, stride);
  });
  if (paired < to) few_rows(w, a, rows, paired, to, y, stride);  // a tile without a neighbour is rare
}

void PAGEMILL_ISA::linear_quantized(const PackedWeight& w, const Activation& a, int rows, int from, int to,
                                    float* y, size_t stride) {
  const int least = is_cheap(layout_of(w.kind)) ? kRows : 2 * kRows;
  (rows < least ? few_rows : many_rows)(w, a, rows, from, to, y, stride);
}

}  // namespace pagemill
