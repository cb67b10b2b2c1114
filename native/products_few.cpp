// Few rows are bound by memory: each tile is one stream, its codes are unpacked in registers.
#include "half.h"
#include PAGEMILL_SIMD
#include "products.h"

namespace pagemill {
namespace {

// kR rows from `row` on with one tile.
template <Kind kKind, int kR, int kPlanes>
void block(const PackedWeight& w, const Activation& a, int row, int tile, float* y, size_t y_stride) {
  constexpr Layout kLayout = layout_of(kKind);
  constexpr bool kSmall = is_small(kLayout);
  constexpr int kVectors = kR * kPlanes, kHalves = kLayout.halves() ? 2 : 1;
  constexpr int kZero = kSmall ? kLayout.zero : kSignedQ8 ? 0 : 128;
  const uint8_t* data = w.data + tile * w.tile_bytes;
  const size_t groups = w.groups;
  const ActivationGroup* of = a.of + (size_t)row * kPlanes * groups;
  F32 sums[kR], part[kR];
  for (size_t first = 0; first < groups; first += kChunkGroups) {
    const int count = groups - first < kChunkGroups ? (int)(groups - first) : kChunkGroups;
    const Chunk<kKind> chunk(w, data, count);
    data += kLayout.chunk_bytes(count);
    if (first % kSpanGroups == 0)
      EACH (r, kR) part[r] = zero();
    for (int g = 0; g < count; g++) {
      chunk.template fetch<false>(g, kAhead);
      const ActivationGroup* group = of + first + g;
      I32 dots[kVectors][kHalves];
      EACH (v, kVectors)
        EACH (half, kHalves) dots[v][half] = start_of<kHalves, kZero>(group[v * groups], half);
      unroll<0, 8>([&](auto s) PAGEMILL_INLINE {
        constexpr int kStep = decltype(s)::value, kHalf = kStep / 4 * (kHalves - 1);
        const Bytes codes = chunk.template step<kStep>(g);
        EACH (v, kVectors) {
          I32& dot = dots[v][kHalf];
          const Bytes four = splat_bytes(group[v * groups].q + kStep * 4);
          dot = kSmall ? dot_small(dot, codes, four) : dot_q8(dot, codes, four);
        }
      });
      F32 scales[kHalves], minimum[2];
      EACH (half, kHalves) scales[half] = chunk.scale(g, half);
      if constexpr (kLayout.minimum) minimum[0] = chunk.minimum(g);
      if constexpr (kLayout.minimum && kHalves == 2) minimum[1] = chunk.first_minimum(g);
      EACH (r, kR) {
        const int first_plane = r * kPlanes, last = first_plane + kPlanes - 1;
        if constexpr (kLayout.minimum)
          EACH (plane, kPlanes)
            part[r] = add_minimum<kHalves>(part[r], minimum, group[(first_plane + plane) * groups]);
        if constexpr (kPlanes == 2)
          EACH (half, kHalves)
            dots[last][half] = int_add(shift_left<kPlaneBits>(dots[first_plane][half]), dots[last][half]);
        part[r] = add_group<num_scales(kLayout)>(part[r], dots[last], scales, group[last * groups].scale);
      }
    }
    if (first % kSpanGroups + kChunkGroups < kSpanGroups && first + kChunkGroups < groups) continue;
    EACH (r, kR) {
      F32 more = part[r];
      if constexpr (num_scales(kLayout) == 0) more = mul(more, chunk.d);
      sums[r] = first < kSpanGroups ? more : add(sums[r], more);
    }
  }
  EACH (r, kR) store_tile(y + (row + r) * y_stride + tile * kTile, sums[r], w.n - tile * kTile);
}

// Blocks of kR rows, then of fewer.
template <Kind kKind, int kR, int kPlanes>
void blocks(const PackedWeight& w, const Activation& a, int row, int rows, int tile, float* y,
            size_t y_stride) {
  for (; rows >= kR; rows -= kR, row += kR) block<kKind, kR, kPlanes>(w, a, row, tile, y, y_stride);
  if constexpr (kR > 1)
    if (rows) blocks<kKind, kR - 1, kPlanes>(w, a, row, rows, tile, y, y_stride);
}

}  // namespace

void PAGEMILL_ISA::few_rows(const PackedWeight& w, const Activation& a, int rows, int from, int to, float* y,
                            size_t stride) {
  constexpr int kMost = kRows - 1 < 4 ? kRows - 1 : 4;
  with_kind(w.kind, [&](auto k) {
    constexpr Kind kKind = (Kind) decltype(k)::value;
    for (int tile = from; tile < to; tile++) {
      if (a.planes == 2)
        blocks<kKind, (kMost + 1) / 2, 2>(w, a, 0, rows, tile, y, stride);
      else
        blocks<kKind, kMost, 1>(w, a, 0, rows, tile, y, stride);
    }
  });
}

}  // namespace pagemill
