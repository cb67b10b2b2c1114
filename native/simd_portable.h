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

struct F32 {
  float v[16];
};
struct I32 {
  int32_t v[16];
};
struct Bytes {
  int8_t v[64];
};

template <class F>
inline F32 each(F f) {
  F32 r;
  for (int i = 0; i < 16; i++) r.v[i] = f(i);
  return r;
}
inline F32 zero() {
  return each([](int) { return 0.0f; });
}
inline F32 splat(float x) {
  return each([=](int) { return x; });
}
inline F32 load(const float* p) {
  return each([=](int i) { return p[i]; });
}
inline void store(float* p, F32 a) {
  for (int i = 0; i < 16; i++) p[i] = a.v[i];
}
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
inline F32 add(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] + b.v[i]; });
}
inline F32 sub(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] - b.v[i]; });
}
inline F32 mul(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] * b.v[i]; });
}
inline F32 div(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] / b.v[i]; });
}
// Not fused: a fused multiply-add in software would be slower than everything else together.
inline F32 fma(F32 a, F32 b, F32 c) {
  return each([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline F32 max(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 min(F32 a, F32 b) {
  return each([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline F32 abs(F32 a) {
  return each([&](int i) { return std::fabs(a.v[i]); });
}
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
inline F32 keep_if_at_least(F32 x, F32 limit, F32 a) {
  return each([&](int i) { return x.v[i] >= limit.v[i] ? a.v[i] : 0.0f; });
}
inline F32 first_lanes(F32 a, F32 b, int n) {
  return each([&](int i) { return i < n ? a.v[i] : b.v[i]; });
}
inline int32_t store_int8(int8_t* p, F32 a) {
  int32_t total = 0;
  for (int i = 0; i < 16; i++) total += p[i] = (int8_t)std::nearbyint(a.v[i]);
  return total;
}

inline I32 int_splat(int32_t x) {
  I32 r;
  for (int i = 0; i < 16; i++) r.v[i] = x;
  return r;
}
inline I32 int_zero() { return int_splat(0); }
inline I32 int_add(I32 a, I32 b) {
  for (int i = 0; i < 16; i++) a.v[i] += b.v[i];
  return a;
}
inline I32 int_sub(I32 a, I32 b) {
  for (int i = 0; i < 16; i++) a.v[i] -= b.v[i];
  return a;
}
template <int kBits>
inline I32 shift_left(I32 a) {
  for (int i = 0; i < 16; i++) a.v[i] *= 1 << kBits;
  return a;
}
template <int kBits>
inline I32 shift_right(I32 a) {
  for (int i = 0; i < 16; i++) a.v[i] >>= kBits;
  return a;
}
inline F32 to_float(I32 a) {
  return each([&](int i) { return (float)a.v[i]; });
}
inline Bytes load_bytes(const uint8_t* p) {
  Bytes r;
  __builtin_memcpy(r.v, p, 64);
  return r;
}
inline void store_bytes(uint8_t* p, Bytes a) { __builtin_memcpy(p, a.v, 64); }
template <int kFrom, int kBits, int kTo>
inline Bytes field(Bytes a) {
  for (int i = 0; i < 64; i++) a.v[i] = (int8_t)(((uint8_t)a.v[i] >> kFrom & ((1 << kBits) - 1)) << kTo);
  return a;
}
inline Bytes merge(Bytes a, Bytes b) {
  for (int i = 0; i < 64; i++) a.v[i] |= b.v[i];
  return a;
}
inline Bytes add_to_bytes(Bytes a, int b) {
  for (int i = 0; i < 64; i++) a.v[i] = (int8_t)(a.v[i] + b);
  return a;
}
inline Bytes load_table(const uint8_t* p) {
  Bytes r;
  for (int i = 0; i < 64; i++) r.v[i] = (int8_t)p[i % 16];
  return r;
}
inline Bytes look_up(Bytes table, Bytes codes) {
  for (int i = 0; i < 64; i++) codes.v[i] = table.v[codes.v[i]];
  return codes;
}
inline Bytes splat_bytes(const int8_t* four) {
  Bytes r;
  for (int i = 0; i < 64; i++) r.v[i] = four[i % 4];
  return r;
}
inline I32 dot_small(I32 acc, Bytes w, Bytes x) {
  for (int i = 0; i < 64; i++) acc.v[i / 4] += w.v[i] * x.v[i];
  return acc;
}
inline I32 dot_q8(I32 acc, Bytes w, Bytes x) { return dot_small(acc, w, x); }

__attribute__((always_inline)) inline void prefetch(const void*) {}
// Into the second level only.
__attribute__((always_inline)) inline void prefetch_far(const void*) {}

}  // namespace
}  // namespace pagemill
