// Vectors of sixteen lanes on arm64 with the dot-product extension: four registers each.
#pragma once

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>

namespace pagemill {
namespace {

constexpr const char* kName = "neon";
constexpr bool kSignedQ8 = true;
constexpr int kRows = 2, kColumns = 1;
constexpr bool kKeepsSmall = false;
constexpr int kAhead = 1024;  // bytes from what is read to what is fetched
constexpr int kDenseRows = 4;
constexpr int kScoredRows = 2, kWeighedRows = 2;  // blocks of query rows in attention
constexpr int kValueVectors = 2;                  // of a value row, held while tokens are added up

struct F32 {
  float32x4_t v[4];
};
struct I32 {
  int32x4_t v[4];
};
struct Bytes {
  int8x16_t v[4];
};

template <class F>
inline F32 each(F f) {
  return {{f(0), f(1), f(2), f(3)}};
}
inline F32 zero() {
  return each([](int) { return vdupq_n_f32(0); });
}
inline F32 splat(float x) {
  return each([=](int) { return vdupq_n_f32(x); });
}
inline F32 load(const float* p) {
  return each([=](int i) { return vld1q_f32(p + 4 * i); });
}
inline void store(float* p, F32 a) {
  for (int i = 0; i < 4; i++) vst1q_f32(p + 4 * i, a.v[i]);
}
inline F32 load_half(const uint16_t* p) {
  return each([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline void store_half(uint16_t* p, F32 a) {
  for (int i = 0; i < 4; i++) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
inline F32 load_bf16(const uint16_t* p) {
  return each([=](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}
// Sixteen bytes, widened to 32 bits.
inline uint32x4_t widen(const uint8_t* p, int i) {
  const uint8x16_t bytes = vld1q_u8(p);
  const uint16x8_t half = i < 2 ? vmovl_u8(vget_low_u8(bytes)) : vmovl_u8(vget_high_u8(bytes));
  return i % 2 ? vmovl_u16(vget_high_u16(half)) : vmovl_u16(vget_low_u16(half));
}
inline F32 load_int8(const uint8_t* p) {
  return each([=](int i) {
    return vcvtq_f32_s32(vshrq_n_s32(vreinterpretq_s32_u32(vshlq_n_u32(widen(p, i), 24)), 24));
  });
}
template <int kFrom, int kBits>
inline F32 load_field(const uint8_t* p) {
  return each([=](int i) {
    uint32x4_t x = widen(p, i);
    if constexpr (kFrom > 0) x = vshrq_n_u32(x, kFrom);
    return vcvtq_f32_u32(vandq_u32(x, vdupq_n_u32((1 << kBits) - 1)));
  });
}
inline F32 load_power(const uint8_t* p) {
  return each([=](int i) { return vreinterpretq_f32_u32(vshlq_n_u32(widen(p, i), 23)); });
}
inline F32 load_float8(const uint8_t* p) {
  return each(
      [=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(vshlq_n_u32(widen(p, i), 7)))); });
}
inline F32 add(F32 a, F32 b) {
  return each([&](int i) { return vaddq_f32(a.v[i], b.v[i]); });
}
inline F32 sub(F32 a, F32 b) {
  return each([&](int i) { return vsubq_f32(a.v[i], b.v[i]); });
}
inline F32 mul(F32 a, F32 b) {
  return each([&](int i) { return vmulq_f32(a.v[i], b.v[i]); });
}
inline F32 div(F32 a, F32 b) {
  return each([&](int i) { return vdivq_f32(a.v[i], b.v[i]); });
}
inline F32 fma(F32 a, F32 b, F32 c) {
  return each([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); });
}
// Of a NaN and a number the second, as on the other instruction sets.
inline F32 max(F32 a, F32 b) {
  return each([&](int i) { return vbslq_f32(vcgtq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline F32 min(F32 a, F32 b) {
  return each([&](int i) { return vbslq_f32(vcltq_f32(a.v[i], b.v[i]), a.v[i], b.v[i]); });
}
inline F32 abs(F32 a) {
  return each([&](int i) { return vabsq_f32(a.v[i]); });
}
inline F32 round(F32 a) {
  return each([&](int i) { return vrndnq_f32(a.v[i]); });
}
inline float sum(F32 a) {
  return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3])));
}
inline float largest(F32 a) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.v[0], a.v[2]), vmaxq_f32(a.v[1], a.v[3])));
}
inline F32 power_of_two(F32 n) {
  return each([&](int i) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(n.v[i]), vdupq_n_s32(127)), 23));
  });
}
inline F32 times_power_of_two(F32 a, F32 n) { return mul(a, power_of_two(n)); }
inline F32 keep_if_at_least(F32 x, F32 limit, F32 a) {
  return each([&](int i) {
    return vreinterpretq_f32_u32(vandq_u32(vcgeq_f32(x.v[i], limit.v[i]), vreinterpretq_u32_f32(a.v[i])));
  });
}
inline F32 first_lanes(F32 a, F32 b, int n) {
  const int32_t lane[4] = {0, 1, 2, 3};
  const int32x4_t lanes = vld1q_s32(lane);
  return each([&](int i) { return vbslq_f32(vcltq_s32(lanes, vdupq_n_s32(n - 4 * i)), a.v[i], b.v[i]); });
}
inline int32_t store_int8(int8_t* p, F32 a) {
  int32x4_t r[4];
  for (int i = 0; i < 4; i++) r[i] = vcvtnq_s32_f32(a.v[i]);
  const int16x8_t low = vcombine_s16(vmovn_s32(r[0]), vmovn_s32(r[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(r[2]), vmovn_s32(r[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  return vaddvq_s32(vaddq_s32(vaddq_s32(r[0], r[1]), vaddq_s32(r[2], r[3])));
}
// Rounds to 32 int8; returns their sum and, in `first`, that of the first 16.
inline int32_t store_int8(int8_t* p, F32 low, F32 high, int32_t& first) {
  first = store_int8(p, low);
  return first + store_int8(p + 16, high);
}

inline I32 int_splat(int32_t x) {
  const int32x4_t v = vdupq_n_s32(x);
  return {{v, v, v, v}};
}
inline I32 int_zero() { return int_splat(0); }
inline I32 int_add(I32 a, I32 b) {
  for (int i = 0; i < 4; i++) a.v[i] = vaddq_s32(a.v[i], b.v[i]);
  return a;
}
inline I32 int_sub(I32 a, I32 b) {
  for (int i = 0; i < 4; i++) a.v[i] = vsubq_s32(a.v[i], b.v[i]);
  return a;
}
template <int kBits>
inline I32 shift_left(I32 a) {
  for (auto& v : a.v) v = vshlq_n_s32(v, kBits);
  return a;
}
template <int kBits>
inline I32 shift_right(I32 a) {
  for (auto& v : a.v) v = vshrq_n_s32(v, kBits);
  return a;
}
inline F32 to_float(I32 a) {
  return each([&](int i) { return vcvtq_f32_s32(a.v[i]); });
}
inline Bytes load_bytes(const uint8_t* p) {
  Bytes r;
  for (int i = 0; i < 4; i++) r.v[i] = vreinterpretq_s8_u8(vld1q_u8(p + 16 * i));
  return r;
}
inline void store_bytes(uint8_t* p, Bytes a) {
  for (int i = 0; i < 4; i++) vst1q_u8(p + 16 * i, vreinterpretq_u8_s8(a.v[i]));
}
template <int kFrom, int kBits, int kTo>
inline Bytes field(Bytes a) {
  for (auto& v : a.v) {
    uint8x16_t x = vreinterpretq_u8_s8(v);
    if constexpr (kFrom > kTo) x = vshrq_n_u8(x, kFrom - kTo);
    if constexpr (kFrom < kTo) x = vshlq_n_u8(x, kTo - kFrom);
    v = vreinterpretq_s8_u8(vandq_u8(x, vdupq_n_u8(((1 << kBits) - 1) << kTo)));
  }
  return a;
}
inline Bytes merge(Bytes a, Bytes b) {
  for (int i = 0; i < 4; i++) a.v[i] = vorrq_s8(a.v[i], b.v[i]);
  return a;
}
inline Bytes add_to_bytes(Bytes a, int b) {
  for (auto& v : a.v) v = vaddq_s8(v, vdupq_n_s8((int8_t)b));
  return a;
}
inline Bytes load_table(const uint8_t* p) {
  const int8x16_t v = vreinterpretq_s8_u8(vld1q_u8(p));
  return {{v, v, v, v}};
}
inline Bytes look_up(Bytes table, Bytes codes) {
  for (auto& v : codes.v) v = vqtbl1q_s8(table.v[0], vreinterpretq_u8_s8(v));
  return codes;
}
inline Bytes splat_bytes(const int8_t* four) {
  int32_t x;
  __builtin_memcpy(&x, four, 4);
  const int8x16_t v = vreinterpretq_s8_s32(vdupq_n_s32(x));
  return {{v, v, v, v}};
}
inline I32 dot_q8(I32 acc, Bytes w, Bytes x) {
  for (int i = 0; i < 4; i++) acc.v[i] = vdotq_s32(acc.v[i], w.v[i], x.v[i]);
  return acc;
}
inline I32 dot_small(I32 acc, Bytes w, Bytes x) { return dot_q8(acc, w, x); }

__attribute__((always_inline)) inline void prefetch(const void* p) { __builtin_prefetch(p); }
// Into the second level only, which can wait for more lines at once.
__attribute__((always_inline)) inline void prefetch_far(const void* p) { __builtin_prefetch(p, 0, 2); }

}  // namespace
}  // namespace pagemill
