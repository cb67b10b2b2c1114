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
    if (first % kSpanGroups == 0) unroll<0, kR>([&](auto r) PAGEMILL_INLINE { part[r.value] = zero(); });
    for (int g = 0; g < count; g++) {
      chunk.template fetch<false>(g, kAhead);
      const ActivationGroup* group = of + first + g;
      I32 dots[kVectors][kHalves];
      unroll<0, kVectors>([&](auto v) PAGEMILL_INLINE {
        unroll<0, kHalves>([&](auto half) PAGEMILL_INLINE {
          dots[v.value][half.value] = start_of<kHalves, kZero>(group[v.value * groups], half.value);
        });
      });
      unroll<0, 8>([&](auto s) PAGEMILL_INLINE {
        constexpr int kStep = decltype(s)::value, kHalf = kStep / 4 * (kHalves - 1);
        const Bytes codes = chunk.template step<kStep>(g);
        unroll<0, kVectors>([&](auto v) PAGEMILL_INLINE {
          I32& dot = dots[v.value][kHalf];
          const Bytes four = splat_bytes(group[v.value * groups].q + kStep * 4);
          dot = kSmall ? dot_small(dot, codes, four) : dot_q8(dot, codes, four);
        });
      });
      F32 scales[kHalves], minimum[2];
      unroll<0, kHalves>([&](auto half) PAGEMILL_INLINE { scales[half.value] = chunk.scale(g, half.value); });
      if constexpr (kLayout.minimum) minimum[0] = chunk.minimum(g);
      if constexpr (kLayout.minimum && kHalves == 2) minimum[1] = chunk.first_minimum(g);
      unroll<0, kR>([&](auto r) PAGEMILL_INLINE {
        constexpr int kFirst = decltype(r)::value * kPlanes, kLast = kFirst + kPlanes - 1;
        F32& sum = part[r.value];
        if constexpr (kLayout.minimum)
          unroll<kFirst, kLast + 1>([&](auto v) PAGEMILL_INLINE {
            sum = add_minimum<kHalves>(sum, minimum, group[v.value * groups]);
          });
        if constexpr (kPlanes == 2)
          unroll<0, kHalves>([&](auto half) PAGEMILL_INLINE {
            I32& dot = dots[kLast][half.value];
            dot = int_add(shift_left<kPlaneBits>(dots[kFirst][half.value]), dot);
          });
        sum = add_group<num_scales(kLayout)>(sum, dots[kLast], scales, group[kLast * groups].scale);
      });
    }
    if (first % kSpanGroups + kChunkGroups < kSpanGroups && first + kChunkGroups < groups) continue;
    unroll<0, kR>([&](auto r) PAGEMILL_INLINE {
      F32 more = part[r.value];
      if constexpr (num_scales(kLayout) == 0) more = mul(more, chunk.d);
      sums[r.value] = first < kSpanGroups ? more : add(sums[r.value], more);
    });
  }
  unroll<0, kR>([&](auto r) PAGEMILL_INLINE {
    store_tile(y + (row + r.value) * y_stride + tile * kTile, sums[r.value], w.n - tile * kTile);
  });
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
        blocks<kKind, kMost, 2>(w, a, 0, rows, tile, y, stride);
      else
        blocks<kKind, kMost, 1>(w, a, 0, rows, tile, y, stride);
    }
  });
}

}  // namespace pagemill
