// Matrix products: y = x W^T for packed weights. A register block computes kR rows of kC tiles; one load
// of weights feeds kR rows and one broadcast of activations feeds kC tiles. Sums run over the groups in
// order whatever kR and kC are, so a row's result does not depend on the batch.
#pragma once

#include "kernels.h"

namespace pagemill {
namespace {

inline void store_tile(float* y, F32 values, int columns) {
  if (columns >= kTile) return store(y, values);
  float all[kTile];
  store(all, values);
  for (int i = 0; i < columns; i++) y[i] = all[i];
}

// What undoes the offset of unsigned quants: -8 or -128 times the sum of the group's activations.
template <Kind kKind>
inline I32 offset(int32_t neg_sum) {
  if constexpr (kKind == Kind::q4) return shift_left<3>(int_splat(neg_sum));
  if constexpr (kKind == Kind::q8 && !kSignedQ8) return shift_left<7>(int_splat(neg_sum));
  return int_zero();
}

// Integer products of one group: kR rows of int8 activations, `x_stride` bytes apart, with kC tiles.
template <Kind kKind, int kR, int kC>
inline void dot_group(const uint8_t* data, size_t tile_bytes, const int8_t* x, size_t x_stride,
                      I32 (&dots)[kC][kR]) {
  constexpr int kSteps = kKind == Kind::q8 ? 8 : 4;
#pragma GCC unroll 8
  for (int s = 0; s < kSteps; s++) {
    Bytes w[kC], high[kC];
#pragma GCC unroll 4
    for (int c = 0; c < kC; c++) {
      const uint8_t* at = data + c * tile_bytes + s * 64;
      w[c] = load_bytes(at);
      prefetch(at + 2048);
      if constexpr (kKind != Kind::q8) {
        high[c] = high_nibbles(w[c]);
        w[c] = low_nibbles(w[c]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; r++) {
      const Bytes first = splat_bytes(x + r * x_stride + s * 4);
      if constexpr (kKind == Kind::q8) {
#pragma GCC unroll 4
        for (int c = 0; c < kC; c++) dots[c][r] = dot_q8(dots[c][r], w[c], first);
      } else {
        const Bytes second = splat_bytes(x + r * x_stride + s * 4 + 16);
#pragma GCC unroll 4
        for (int c = 0; c < kC; c++) {
          dots[c][r] = dot_small(dots[c][r], w[c], first);
          dots[c][r] = dot_small(dots[c][r], high[c], second);
        }
      }
    }
  }
}

// kR rows of activations; with kPlanes 2 they are kR / 2 rows of the result, whose planes are added at the
// end.
template <Kind kKind, int kR, int kC, int kPlanes>
void quantized_block(const PackedWeight& w, const Activation& a, int row, int tile, float* y,
                     size_t y_stride) {
  constexpr size_t kData = kKind == Kind::q8 ? 512 : 256, kScales = kKind == Kind::q4m ? 32 : 16;
  const size_t groups = w.groups, tile_bytes = groups * kData, tile_scales = groups * kScales;
  const uint8_t* data = w.data + tile * tile_bytes;
  const uint16_t* scales = w.scales + tile * tile_scales;
  const int8_t* x = a.q + row * groups * kGroup;
  F32 sums[kC][kR];
#pragma GCC unroll 4
  for (int c = 0; c < kC; c++)
#pragma GCC unroll 16
    for (int r = 0; r < kR; r++) sums[c][r] = zero();

  for (size_t g = 0; g < groups; g++) {
    I32 dots[kC][kR];
#pragma GCC unroll 16
    for (int r = 0; r < kR; r++) {
      const I32 start = offset<kKind>(a.neg_sum[(row + r) * groups + g]);
#pragma GCC unroll 4
      for (int c = 0; c < kC; c++) dots[c][r] = start;
    }
    dot_group<kKind, kR, kC>(data + g * kData, tile_bytes, x + g * kGroup, groups * kGroup, dots);
#pragma GCC unroll 4
    for (int c = 0; c < kC; c++) {
      const uint16_t* at = scales + c * tile_scales + g * kScales;
      const F32 scale = load_half(at);
      F32 minimum = zero();
      if constexpr (kKind == Kind::q4m) minimum = load_half(at + kTile);
#pragma GCC unroll 16
      for (int r = 0; r < kR; r++) {
        const size_t i = (row + r) * groups + g;
        if constexpr (kKind == Kind::q4m) sums[c][r] = fma(minimum, splat(a.scaled_sum[i]), sums[c][r]);
        sums[c][r] = fma(to_float(dots[c][r]), mul(scale, splat(a.scale[i])), sums[c][r]);
      }
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < kC; c++)
#pragma GCC unroll 16
    for (int r = 0; r < kR; r += kPlanes) {
      const F32 value = kPlanes == 2 ? add(sums[c][r], sums[c][r + 1]) : sums[c][r];
      store_tile(y + (row + r) / kPlanes * y_stride + (tile + c) * kTile, value, w.n - (tile + c) * kTile);
    }
}

// Rows of activations from `row` on, for kC tiles: blocks of kR, then smaller ones.
template <Kind kKind, int kR, int kC, int kPlanes>
void quantized_rows(const PackedWeight& w, const Activation& a, int row, int rows, int tile, float* y,
                    size_t stride) {
  for (; rows >= kR; rows -= kR, row += kR)
    quantized_block<kKind, kR, kC, kPlanes>(w, a, row, tile, y, stride);
  if constexpr (kR > kPlanes)
    if (rows) quantized_rows<kKind, kR - kPlanes, kC, kPlanes>(w, a, row, rows, tile, y, stride);
}

template <Kind kKind, int kPlanes>
void quantized_tiles(const PackedWeight& w, const Activation& a, int rows, int from, int to, float* y,
                     size_t stride) {
  static_assert(kRows % 2 == 0, "a block holds whole rows of two planes");
  int tile = from;
  // Few rows are bound by memory: one tile at a time is one stream to prefetch.
  if (rows >= 4)
    for (; tile + kColumns <= to; tile += kColumns)
      quantized_rows<kKind, kRows, kColumns, kPlanes>(w, a, 0, rows, tile, y, stride);
  for (; tile < to; tile++) quantized_rows<kKind, kRows, 1, kPlanes>(w, a, 0, rows, tile, y, stride);
}

template <Kind kKind>
void linear_quantized_kind(const PackedWeight& w, const Activation& a, int rows, int from, int to, float* y,
                           size_t stride) {
  if (a.planes == 2)
    quantized_tiles<kKind, 2>(w, a, rows * 2, from, to, y, stride);
  else
    quantized_tiles<kKind, 1>(w, a, rows, from, to, y, stride);
}

void linear_quantized(const PackedWeight& w, const Activation& a, int rows, int from, int to, float* y,
                      size_t stride) {
  switch (w.kind) {
    case Kind::q8:
      return linear_quantized_kind<Kind::q8>(w, a, rows, from, to, y, stride);
    case Kind::q4:
      return linear_quantized_kind<Kind::q4>(w, a, rows, from, to, y, stride);
    case Kind::q4m:
      return linear_quantized_kind<Kind::q4m>(w, a, rows, from, to, y, stride);
    default:
      return;
  }
}

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
#pragma GCC unroll 16
    for (int r = 0; r < kR; r++) sums[r] = zero();
    const float* at = x + row * x_stride;
    for (int k = 0; k < w.k; k++) {
      const F32 column = load_dense<kKind>(w.data, ((size_t)tile * w.k + k) * kTile);
#pragma GCC unroll 16
      for (int r = 0; r < kR; r++) sums[r] = fma(column, splat(at[r * x_stride + k]), sums[r]);
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; r++)
      store_tile(y + (row + r) * y_stride + tile * kTile, sums[r], w.n - tile * kTile);
  }
  if constexpr (kR > 1)
    if (rows) dense_rows<kKind, kR - 1>(w, x, x_stride, row, rows, tile, y, y_stride);
}

void linear_dense(const PackedWeight& w, const float* x, size_t x_stride, int rows, int from, int to,
                  float* y, size_t y_stride) {
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

// One row of the matrix as floats, out of its tile.
void embed_row(const PackedWeight& w, int row, float* out) {
  const size_t tile = row / kTile, column = row % kTile;
  for (int k = 0; k < w.k; k++) {
    if (!is_quantized(w.kind)) {
      const size_t at = (tile * w.k + k) * kTile + column;
      if (w.kind == Kind::f32)
        out[k] = ((const float*)w.data)[at];
      else if (w.kind == Kind::f16)
        out[k] = half_to_float(((const uint16_t*)w.data)[at]);
      else
        out[k] = bf16_to_float(((const uint16_t*)w.data)[at]);
      continue;
    }
    const size_t group = tile * w.groups + k / kGroup, in = k % kGroup;
    const size_t byte = (in / 4 % (w.kind == Kind::q8 ? 8 : 4)) * 64 + column * 4 + in % 4;
    const uint8_t* data = w.data + group * (w.kind == Kind::q8 ? 512 : 256) + byte;
    const uint16_t* scales = w.scales + group * (w.kind == Kind::q4m ? 32 : 16) + column;
    if (w.kind == Kind::q8) {
      out[k] = half_to_float(*scales) * (kSignedQ8 ? (int8_t)*data : *data - 128);
    } else {
      const int q = in < 16 ? *data & 15 : *data >> 4;
      out[k] = w.kind == Kind::q4 ? half_to_float(*scales) * (q - 8)
                                  : half_to_float(*scales) * q + half_to_float(scales[kTile]);
    }
  }
}

}  // namespace
}  // namespace pagemill
