// What a core can do at most: the instructions of the kernels with nothing around them. Their operands come
// from a few kilobytes that stay in the nearest cache, so that no compiler finds the same product twice.
#pragma once

#include "unroll.h"

namespace pagemill {
namespace {

constexpr int kSpinBytes = 8192;  // of operands
constexpr int kSpinVectors = kSpinBytes / 64;

// Products of int8, `rounds` times kSpinVectors vectors of 64.
int32_t spin_int8(const uint8_t* operands, int64_t rounds) {
  const int8_t four[4] = {1, -2, 3, -4};
  const Bytes x = splat_bytes(four);
  I32 acc[kDenseRows];
  for (I32& a : acc) a = int_zero();
  for (int64_t r = 0; r < rounds; r++)
    for (int v = 0; v + kDenseRows <= kSpinVectors; v += kDenseRows)
      EACH (j, kDenseRows) acc[j] = dot_small(acc[j], load_bytes(operands + 64 * (v + j)), x);
  float total = 0;
  for (const I32& a : acc) total += sum(to_float(a));
  return total > 0;
}

// Products of fp32 that are added up, `rounds` times kSpinVectors vectors of 16.
int32_t spin_fp32(const float* operands, int64_t rounds) {
  const F32 x = splat(1.0f / 1048576.0f);
  F32 acc[kDenseRows];
  for (F32& a : acc) a = zero();
  for (int64_t r = 0; r < rounds; r++)
    for (int v = 0; v + kDenseRows <= kSpinVectors; v += kDenseRows)
      EACH (j, kDenseRows) acc[j] = fma(load(operands + 16 * (v + j)), x, acc[j]);
  float total = 0;
  for (const F32& a : acc) total += sum(a);
  return total > 0;
}

#if defined(PAGEMILL_BF16)
// As spin_int8, of vectors of 32 bf16.
int32_t spin_bf16(const uint8_t* operands, int64_t rounds) {
  const uint16_t two[2] = {0x3580, 0x3580};  // 1 / 1048576
  const Pairs x = splat_pair(two);
  F32 acc[kDenseRows];
  for (F32& a : acc) a = zero();
  for (int64_t r = 0; r < rounds; r++)
    for (int v = 0; v + kDenseRows <= kSpinVectors; v += kDenseRows)
      EACH (j, kDenseRows) acc[j] = dot_pairs(acc[j], as_pairs(load_bytes(operands + 64 * (v + j))), x);
  float total = 0;
  for (const F32& a : acc) total += sum(a);
  return total > 0;
}
#else
constexpr int32_t (*spin_bf16)(const uint8_t*, int64_t) = nullptr;
#endif

// Reads `bytes`, a multiple of 256.
int32_t read_through(const uint8_t* p, size_t bytes) {
  Bytes a = load_bytes(p), b = a, c = a, d = a;
  for (const uint8_t* end = p + bytes; p < end; p += 256) {
    for (int line = 0; line < 256; line += 64) prefetch(p + kAhead + line);
    a = merge(a, load_bytes(p)), b = merge(b, load_bytes(p + 64));
    c = merge(c, load_bytes(p + 128)), d = merge(d, load_bytes(p + 192));
  }
  uint8_t all[64];
  store_bytes(all, merge(merge(a, b), merge(c, d)));
  return all[0];
}

// Of what a round of spin_* computes, the part that is whole blocks of accumulators.
constexpr int kSpun = kSpinVectors / kDenseRows * kDenseRows;

}  // namespace
}  // namespace pagemill
