// Vectors of sixteen lanes on AVX2 with FMA and F16C: two registers each. Same names as simd_avx512.h.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace pagemill {
namespace {

constexpr const char* kName = "avx2";
constexpr bool kSignedQ8 = true;
constexpr int kRows = 2, kColumns = 1;
constexpr bool kKeepsSmall = true;  // products of small unsigned codes are cheaper
constexpr int kAhead = 2048;        // bytes from what is read to what is fetched
constexpr int kDenseRows = 4;
constexpr int kScoredRows = 2, kWeighedRows = 2;  // blocks of query rows in attention
constexpr int kValueVectors = 2;                  // of a value row, held while tokens are added up

struct F32 {
  __m256 a, b;
};
struct I32 {
  __m256i a, b;
};
struct Bytes {
  __m256i a, b;
};

inline F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F32 splat(float x) {
  const __m256 v = _mm256_set1_ps(x);
  return {v, v};
}
inline F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F32 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
inline F32 load_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)),
          _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
}
inline void store_half(uint16_t* p, F32 x) {
  _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
inline __m256 widen_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
}
inline F32 load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
inline F32 load_int8(const uint8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p))),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8))))};
}
template <int kFrom, int kBits>
inline __m256 field_float(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p));
  return _mm256_cvtepi32_ps(
      _mm256_and_si256(_mm256_srli_epi32(wide, kFrom), _mm256_set1_epi32((1 << kBits) - 1)));
}
template <int kFrom, int kBits>
inline F32 load_field(const uint8_t* p) {
  return {field_float<kFrom, kBits>(p), field_float<kFrom, kBits>(p + 8)};
}
inline __m256 power_float(const uint8_t* p) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)), 23));
}
inline F32 load_power(const uint8_t* p) { return {power_float(p), power_float(p + 8)}; }
inline __m256 float8_float(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_slli_epi16(_mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i*)p)), 7));
}
inline F32 load_float8(const uint8_t* p) { return {float8_float(p), float8_float(p + 8)}; }
inline F32 add(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F32 sub(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F32 mul(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F32 div(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F32 fma(F32 x, F32 y, F32 z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
inline F32 max(F32 x, F32 y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F32 min(F32 x, F32 y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F32 abs(F32 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
}
inline F32 round(F32 x) {
  constexpr int kMode = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.a, kMode), _mm256_round_ps(x.b, kMode)};
}
inline float sum(F32 x) {
  const __m256 s = _mm256_add_ps(x.a, x.b);
  __m128 h = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  h = _mm_add_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
}
inline float largest(F32 x) {
  const __m256 s = _mm256_max_ps(x.a, x.b);
  __m128 h = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
  h = _mm_max_ps(h, _mm_movehl_ps(h, h));
  return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
}
inline __m256 power_half(__m256 n) {
  const __m256i bias = _mm256_set1_epi32(127);
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), bias), 23));
}
inline F32 power_of_two(F32 n) { return {power_half(n.a), power_half(n.b)}; }
inline F32 times_power_of_two(F32 a, F32 n) { return mul(a, power_of_two(n)); }
inline F32 keep_if_at_least(F32 x, F32 limit, F32 v) {
  return {_mm256_and_ps(_mm256_cmp_ps(x.a, limit.a, _CMP_GE_OQ), v.a),
          _mm256_and_ps(_mm256_cmp_ps(x.b, limit.b, _CMP_GE_OQ), v.b)};
}
inline F32 first_lanes(F32 x, F32 y, int n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
  const __m256i high = _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane);
  return {_mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(low)),
          _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(high))};
}
inline int32_t store_int8(int8_t* p, F32 x) {
  const __m256i a = _mm256_cvtps_epi32(x.a), b = _mm256_cvtps_epi32(x.b);
  const __m256i w = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
  _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(w), _mm256_extracti128_si256(w, 1)));
  const __m256i s = _mm256_add_epi32(a, b);
  __m128i h = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xB1)));
}
// Rounds to 32 int8; returns their sum and, in `first`, that of the first 16.
inline int32_t store_int8(int8_t* p, F32 low, F32 high, int32_t& first) {
  first = store_int8(p, low);
  return first + store_int8(p + 16, high);
}

inline I32 int_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline I32 int_splat(int32_t x) {
  const __m256i v = _mm256_set1_epi32(x);
  return {v, v};
}
inline I32 int_add(I32 x, I32 y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I32 int_sub(I32 x, I32 y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
template <int kBits>
inline I32 shift_left(I32 x) {
  return {_mm256_slli_epi32(x.a, kBits), _mm256_slli_epi32(x.b, kBits)};
}
template <int kBits>
inline I32 shift_right(I32 x) {
  return {_mm256_srai_epi32(x.a, kBits), _mm256_srai_epi32(x.b, kBits)};
}
inline F32 to_float(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline Bytes load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
}
inline void store_bytes(uint8_t* p, Bytes x) {
  _mm256_storeu_si256((__m256i*)p, x.a);
  _mm256_storeu_si256((__m256i*)(p + 32), x.b);
}
template <int kFrom, int kBits, int kTo>
inline __m256i field_half(__m256i x) {
  if constexpr (kFrom > kTo) x = _mm256_srli_epi16(x, kFrom - kTo);
  if constexpr (kFrom < kTo) x = _mm256_slli_epi16(x, kTo - kFrom);
  return _mm256_and_si256(x, _mm256_set1_epi8((char)(((1 << kBits) - 1) << kTo)));
}
template <int kFrom, int kBits, int kTo>
inline Bytes field(Bytes x) {
  return {field_half<kFrom, kBits, kTo>(x.a), field_half<kFrom, kBits, kTo>(x.b)};
}
inline Bytes merge(Bytes x, Bytes y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
inline Bytes add_to_bytes(Bytes x, int y) {
  const __m256i v = _mm256_set1_epi8((char)y);
  return {_mm256_add_epi8(x.a, v), _mm256_add_epi8(x.b, v)};
}
inline Bytes load_table(const uint8_t* p) {
  const __m256i v = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)p));
  return {v, v};
}
inline Bytes look_up(Bytes table, Bytes codes) {
  return {_mm256_shuffle_epi8(table.a, codes.a), _mm256_shuffle_epi8(table.b, codes.b)};
}
inline Bytes splat_bytes(const int8_t* four) {
  int32_t x;
  __builtin_memcpy(&x, four, 4);
  const __m256i v = _mm256_set1_epi32(x);
  return {v, v};
}
// Products of weights up to 15 (or 128, below) with int8 pairwise: at most 2 * 128 * 127, so int16 does not
// overflow.
inline __m256i dot_half(__m256i acc, __m256i w, __m256i x) {
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1)));
}
inline I32 dot_small(I32 acc, Bytes w, Bytes x) {
  return {dot_half(acc.a, w.a, x.a), dot_half(acc.b, w.b, x.b)};
}
inline I32 dot_q8(I32 acc, Bytes w, Bytes x) {
  return {dot_half(acc.a, _mm256_abs_epi8(w.a), _mm256_sign_epi8(x.a, w.a)),
          dot_half(acc.b, _mm256_abs_epi8(w.b), _mm256_sign_epi8(x.b, w.b))};
}

__attribute__((always_inline)) inline void prefetch(const void* p) {
  _mm_prefetch((const char*)p, _MM_HINT_T0);
}
// Into the second level only, which can wait for more lines at once.
__attribute__((always_inline)) inline void prefetch_far(const void* p) {
  _mm_prefetch((const char*)p, _MM_HINT_T1);
}

}  // namespace
}  // namespace pagemill
