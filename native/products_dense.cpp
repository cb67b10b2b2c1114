// Products with weights of 16 and 32 bits, in single precision; and rows of matrices of every kind.
#include "half.h"
#include PAGEMILL_SIMD
#include "products.h"

namespace pagemill {
namespace {

template <Kind kKind>
inline F32 load_dense(const uint8_t* data, size_t element) {
  if constexpr (kKind == Kind::f32) return load((const float*)data + element);
  if constexpr (kKind == Kind::f16) return load_half((const uint16_t*)data + element);
  return load_bf16((const uint16_t*)data + element);
}

template <Kind kKind, int kR>
void dense_rows(const PackedWeight& w, const float* x, size_t x_stride, int row, int rows, int tile, float* y,
                size_t y_stride) {
  for (; rows >= kR; rows -= kR, row += kR) {
    F32 sums[kR];
    EACH (r, kR) sums[r] = zero();
    const float* at = x + row * x_stride;
    for (int k = 0; k < w.k; k++) {
      const F32 column = load_dense<kKind>(w.data, ((size_t)tile * w.k + k) * kTile);
      EACH (r, kR) sums[r] = fma(column, splat(at[r * x_stride + k]), sums[r]);
    }
    EACH (r, kR) store_tile(y + (row + r) * y_stride + tile * kTile, sums[r], w.n - tile * kTile);
  }
  if constexpr (kR > 1)
    if (rows) dense_rows<kKind, kR - 1>(w, x, x_stride, row, rows, tile, y, y_stride);
}

template <Kind kKind>
void expand_row(const PackedWeight& w, int row, float* out) {
  constexpr Layout kLayout = layout_of(kKind);
  constexpr bool kSmall = kKeepsSmall && is_small(kLayout);
  constexpr int kZero = kSmall ? kLayout.zero : kSignedQ8 ? 0 : 128;
  const uint8_t* data = w.data + row / kTile * w.tile_bytes;
  const int column = row % kTile;
  Expanded<kChunkGroups> chunk;
  for (int first = 0; first < w.groups; first += kChunkGroups) {
    const int groups = w.groups - first < kChunkGroups ? w.groups - first : kChunkGroups;
    const Expanding<kKind, kChunkGroups> expanding{Chunk<kKind>(w, data, groups), &chunk, 0};
    data += kLayout.chunk_bytes(groups);
    for (int g = 0; g < groups; g++) {
      for (int half = 0; half < (kLayout.halves() ? 2 : 1); half++) expanding.scale(g, half);
      if constexpr (kLayout.minimum) expanding.minimum(g);
      if constexpr (kLayout.minimum && kLayout.halves()) expanding.first_minimum(g);
      unroll<0, 8>([&](auto s) PAGEMILL_INLINE { expanding.template step<decltype(s)::value>(g); });
      for (int in = 0; in < kGroup; in++) {
        const bool second = in >= kGroup / 2;
        const uint8_t code = chunk.codes[g][in / 4 * kLine + column * 4 + in % 4];
        const int value = (kSmall || !kSignedQ8 ? code : (int8_t)code) - kZero;
        float x = chunk.scale[g][kLayout.halves() && second][column] * (float)value;
        if (kLayout.minimum) x += chunk.minimum[g][0][column];
        if (kLayout.minimum && kLayout.halves() && !second) x += chunk.minimum[g][1][column];
        out[(first + g) * kGroup + in] = x;
      }
    }
  }
}

}  // namespace

void PAGEMILL_ISA::linear_dense(const PackedWeight& w, const float* x, size_t x_stride, int rows, int from,
                                int to, float* y, size_t y_stride) {
  for (int tile = from; tile < to; tile++) switch (w.kind) {
      case Kind::f32:
        dense_rows<Kind::f32, kDenseRows>(w, x, x_stride, 0, rows, tile, y, y_stride);
        break;
      case Kind::f16:
        dense_rows<Kind::f16, kDenseRows>(w, x, x_stride, 0, rows, tile, y, y_stride);
        break;
      case Kind::bf16:
        dense_rows<Kind::bf16, kDenseRows>(w, x, x_stride, 0, rows, tile, y, y_stride);
        break;
      default:
        return;
    }
}

void PAGEMILL_ISA::embed_row(const PackedWeight& w, int row, float* out) {
  if (is_quantized(w.kind))
    return with_kind(w.kind, [&](auto k) { expand_row<(Kind) decltype(k)::value>(w, row, out); });
  const size_t first = (size_t)(row / kTile) * w.k * kTile + row % kTile;
  for (int k = 0; k < w.k; k++) {
    const size_t at = first + (size_t)k * kTile;
    if (w.kind == Kind::f32)
      out[k] = ((const float*)w.data)[at];
    else if (w.kind == Kind::f16)
      out[k] = half_to_float(((const uint16_t*)w.data)[at]);
    else
      out[k] = bf16_to_float(((const uint16_t*)w.data)[at]);
  }
}

}  // namespace pagemill
