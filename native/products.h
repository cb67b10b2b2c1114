// Products of rows with packed matrices: y = x W^T, for the instruction set PAGEMILL_ISA. Included after its
// vectors.
//
// A row's sum goes over the spans of its weights in order, in a span over the groups, whatever else is
// computed beside it: it does not depend on the batch.
#pragma once

#include "codes.h"

namespace pagemill {

namespace PAGEMILL_ISA {

void linear_dense(const PackedWeight& w, const float* x, size_t x_stride, int rows, int tile_from,
                  int tile_to, float* y, size_t y_stride);
void linear_quantized(const PackedWeight& w, const Activation& a, int rows, int tile_from, int tile_to,
                      float* y, size_t y_stride);
// The two ways of linear_quantized: for few rows, and for kRows at least.
void few_rows(const PackedWeight& w, const Activation& a, int rows, int tile_from, int tile_to, float* y,
              size_t y_stride);
void many_rows(const PackedWeight& w, const Activation& a, int rows, int tile_from, int tile_to, float* y,
               size_t y_stride);
// One row of a matrix of any kind as floats, out of its tile.
void embed_row(const PackedWeight& w, int row, float* out);

}  // namespace PAGEMILL_ISA

namespace {

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

// What undoes the offset of unsigned codes, which stand for kZero more than they mean.
template <int kHalves, int kZero>
PAGEMILL_INLINE inline I32 start_of(const ActivationGroup& x, int half) {
  if constexpr (kZero == 0) {
    return int_zero();
  } else {
    I32 offset = int_splat(kHalves == 2 && !half ? x.first_offset : x.offset);
    if (kHalves == 2 && half) offset = int_sub(offset, int_splat(x.first_offset));
    // Exact: offsets are multiples of 128.
    return kZero == 128 ? offset : shift_right<7 - __builtin_ctz(kZero)>(offset);
  }
}

// What a group of one row adds to its chunk.
template <int kScales>
PAGEMILL_INLINE inline F32 add_group(F32 sum, const I32* dots, const F32* scales, float scale) {
  if constexpr (kScales == 0) return fma(to_float(dots[0]), splat(scale), sum);
  if constexpr (kScales == 1) return fma(to_float(dots[0]), mul(scales[0], splat(scale)), sum);
  const F32 both = fma(to_float(dots[1]), scales[1], mul(to_float(dots[0]), scales[0]));
  return fma(both, splat(scale), sum);
}

template <int kHalves>
PAGEMILL_INLINE inline F32 add_minimum(F32 sum, const F32* minimum, const ActivationGroup& x) {
  sum = fma(minimum[0], splat(x.sum), sum);
  if constexpr (kHalves == 2) sum = fma(minimum[1], splat(x.scale * (float)(x.first_offset / -128)), sum);
  return sum;
}

}  // namespace
}  // namespace pagemill
