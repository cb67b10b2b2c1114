// Vectors of sixteen lanes in plain C++: runs everywhere, and says what every other simd_*.h must mean.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "half.h"

namespace pagemill {
namespace {

constexpr const char* kName = "portable";
constexpr bool kSignedQ8 = true;
constexpr int kRows = 2, kColumns = 1;
constexpr bool kKeepsSmall = false;
constexpr int kAhead = 0;  // bytes from what is read to what is fetched
constexpr int kDenseRows = 2;
constexpr int kScoredRows = 4, kWeighedRows = 4;  // blocks of query rows in attention
constexpr int kValueVectors = 1;                  // of a value row, held while tokens are added up

// GCC and Clang compute with such vectors in whatever registers there are.
using FloatLanes = float __attribute__((vector_size(64)));
using IntLanes = int32_t __attribute__((vector_size(64)));
using ShortLanes = int16_t __attribute__((vector_size(64)));
using ByteLanes = uint8_t __attribute__((vector_size(64)));

struct F32 {
  FloatLanes v;
};
struct I32 {
  IntLanes v;
};
struct Bytes {
  ByteLanes v;
};

// For what vectors have no operation for: a lane at a time.
template <class F>
inline F32 each(F f) {
  F32 r;
#pragma GCC unroll 1
  for (int i = 0; i < 16; i++) r.v[i] = f(i);
  return r;
}

inline F32 zero() { return {FloatLanes{}}; }
inline F32 splat(float x) { return {x - FloatLanes{}}; }  // not a sum: -0 stays
inline F32 load(const float* p) {
  F32 r;
  __builtin_memcpy(&r.v, p, 64);
  return r;
}
inline void store(float* p, F32 a) { __builtin_memcpy(p, &a.v, 64); }
inline F32 load_half(const uint16_t* p) {
  return each([=](int i) { return half_to_float(p[i]); });
}
inline void store_half(uint16_t* p, F32 a) {
  for (int i = 0; i < 16; i++) p[i] = float_to_half(a.v[i]);
}
inline F32 load_bf16(const uint16_t* p) {
  return each([=](int i) { return bf16_to_float(p[i]); });
}
inline F32 load_int8(const uint8_t* p) {
  return each([=](int i) { return (float)(int8_t)p[i]; });
}
template <int kFrom, int kBits>
inline F32 load_field(const uint8_t* p) {
  return each([=](int i) { return (float)(p[i] >> kFrom & ((1 << kBits) - 1)); });
}
inline F32 load_power(const uint8_t* p) {
  return each([=](int i) { return bits_to_float((uint32_t)p[i] << 23); });
}
inline F32 load_float8(const uint8_t* p) {
  return each([=](int i) { return half_to_float((uint16_t)(p[i] << 7)); });
}
inline F32 add(F32 a, F32 b) { return {a.v + b.v}; }
inline F32 sub(F32 a, F32 b) { return {a.v - b.v}; }
inline F32 mul(F32 a, F32 b) { return {a.v * b.v}; }
inline F32 div(F32 a, F32 b) { return {a.v / b.v}; }
// Not fused: a fused multiply-add in software would be slower than everything else together.
inline F32 fma(F32 a, F32 b, F32 c) { return {a.v * b.v + c.v}; }
inline F32 max(F32 a, F32 b) { return {a.v > b.v ? a.v : b.v}; }
inline F32 min(F32 a, F32 b) { return {a.v < b.v ? a.v : b.v}; }
inline F32 abs(F32 a) { return {(FloatLanes)((IntLanes)a.v & 0x7fffffff)}; }
inline F32 round(F32 a) {
  return each([&](int i) { return std::nearbyint(a.v[i]); });
}
inline float sum(F32 a) {
  for (int half = 8; half; half /= 2)
    for (int i = 0; i < half; i++) a.v[i] += a.v[i + half];
  return a.v[0];
}
inline float largest(F32 a) {
  float top = a.v[0];
  for (int i = 1; i < 16; i++) top = a.v[i] > top ? a.v[i] : top;
  return top;
}
inline F32 power_of_two(F32 n) {
  return each([&](int i) { return std::ldexp(1.0f, (int)n.v[i]); });
}
inline F32 times_power_of_two(F32 a, F32 n) { return mul(a, power_of_two(n)); }
inline F32 keep_if_at_least(F32 x, F32 limit, F32 a) { return {x.v >= limit.v ? a.v : FloatLanes{}}; }
inline F32 first_lanes(F32 a, F32 b, int n) {
  return each([&](int i) { return i < n ? a.v[i] : b.v[i]; });
}
inline int32_t store_int8(int8_t* p, F32 a) {
  int32_t total = 0;
  for (int i = 0; i < 16; i++) total += p[i] = (int8_t)std::nearbyint(a.v[i]);
  return total;
}
// Rounds to 32 int8; returns their sum and, in `first`, that of the first 16.
inline int32_t store_int8(int8_t* p, F32 low, F32 high, int32_t& first) {
  first = store_int8(p, low);
  return first + store_int8(p + 16, high);
}

inline I32 int_splat(int32_t x) { return {IntLanes{} + x}; }
inline I32 int_zero() { return {IntLanes{}}; }
inline I32 int_add(I32 a, I32 b) { return {a.v + b.v}; }
inline I32 int_sub(I32 a, I32 b) { return {a.v - b.v}; }
template <int kBits>
inline I32 shift_left(I32 a) {
  return {a.v << kBits};
}
template <int kBits>
inline I32 shift_right(I32 a) {
  return {a.v >> kBits};
}
inline F32 to_float(I32 a) { return {__builtin_convertvector(a.v, FloatLanes)}; }
inline Bytes load_bytes(const uint8_t* p) {
  Bytes r;
  __builtin_memcpy(&r.v, p, 64);
  return r;
}
inline void store_bytes(uint8_t* p, Bytes a) { __builtin_memcpy(p, &a.v, 64); }
template <int kFrom, int kBits, int kTo>
inline Bytes field(Bytes a) {
  return {(a.v >> kFrom & (uint8_t)((1 << kBits) - 1)) << kTo};
}
inline Bytes merge(Bytes a, Bytes b) { return {a.v | b.v}; }
inline Bytes add_to_bytes(Bytes a, int b) { return {a.v + (uint8_t)b}; }
inline Bytes load_table(const uint8_t* p) {
  Bytes r;
  for (int i = 0; i < 64; i += 16) __builtin_memcpy((uint8_t*)&r.v + i, p, 16);
  return r;
}
inline Bytes look_up(Bytes table, Bytes codes) {
#pragma GCC unroll 1
  for (int i = 0; i < 64; i++) codes.v[i] = table.v[codes.v[i]];
  return codes;
}
inline Bytes splat_bytes(const int8_t* four) {
  int32_t x;
  __builtin_memcpy(&x, four, 4);
  return {(ByteLanes)int_splat(x).v};
}
// Two products of bytes fit in 16 bits: no code is below -128, no activation below -127.
inline I32 dot_small(I32 acc, Bytes w, Bytes x) {
  const ShortLanes ws = (ShortLanes)w.v, xs = (ShortLanes)x.v;
  const IntLanes pairs = (IntLanes)((ws << 8 >> 8) * (xs << 8 >> 8) + (ws >> 8) * (xs >> 8));
  return {acc.v + (pairs << 16 >> 16) + (pairs >> 16)};
}
inline I32 dot_q8(I32 acc, Bytes w, Bytes x) { return dot_small(acc, w, x); }

__attribute__((always_inline)) inline void prefetch(const void*) {}
// Into the second level only.
__attribute__((always_inline)) inline void prefetch_far(const void*) {}

}  // namespace
}  // namespace pagemill
