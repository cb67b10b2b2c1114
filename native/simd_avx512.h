// Vectors of sixteen lanes on AVX-512 (F, BW, VL, DQ, VNNI), and pairs of bf16 where it is compiled for
// those. All simd_*.h offer the same names, but for pairs.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace pagemill {
namespace {

constexpr bool kSignedQ8 = false;       // vpdpbusd multiplies unsigned by signed bytes
constexpr int kRows = 6, kColumns = 2;  // the register block of the quantized product
constexpr bool kKeepsSmall = false;
constexpr int kAhead = 4096;  // bytes from what is read to what is fetched
constexpr int kDenseRows = 12;
constexpr int kScoredRows = 8, kWeighedRows = 6;  // blocks of query rows in attention
constexpr int kValueVectors = 4;                  // of a value row, held while tokens are added up

struct F32 {
  __m512 v;
};
struct I32 {
  __m512i v;
};
struct Bytes {
  __m512i v;
};  // 16 columns of 4 bytes

inline F32 zero() { return {_mm512_setzero_ps()}; }
inline F32 splat(float x) { return {_mm512_set1_ps(x)}; }
inline F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline void store(float* p, F32 a) { _mm512_storeu_ps(p, a.v); }
inline F32 load_half(const uint16_t* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
inline void store_half(uint16_t* p, F32 a) {
  _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline F32 load_bf16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
inline F32 load_int8(const uint8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)))};
}
// Fields of bytes as floats.
template <int kFrom, int kBits>
inline F32 load_field(const uint8_t* p) {
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
  return {_mm512_cvtepi32_ps(
      _mm512_and_si512(_mm512_srli_epi32(wide, kFrom), _mm512_set1_epi32((1 << kBits) - 1)))};
}
// 2^(e - 127) of bytes e; zero for 0
inline F32 load_power(const uint8_t* p) {
  const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 23))};
}
// Bytes as floats of 4 bits of exponent and 3 of mantissa, over 256; bit 7 is clear
inline F32 load_float8(const uint8_t* p) {
  const __m256i wide = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i*)p));
  return {_mm512_cvtph_ps(_mm256_slli_epi16(wide, 7))};
}
inline F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
inline F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
inline F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }
inline F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }
inline F32 abs(F32 a) { return {_mm512_abs_ps(a.v)}; }
inline F32 round(F32 a) { return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)}; }
inline float sum(F32 a) { return _mm512_reduce_add_ps(a.v); }
inline float largest(F32 a) { return _mm512_reduce_max_ps(a.v); }
// 2^n for whole n in [-126, 127]
inline F32 power_of_two(F32 n) {
  return {_mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}
inline F32 times_power_of_two(F32 a, F32 n) { return {_mm512_scalef_ps(a.v, n.v)}; }
// a where x >= limit, else zero; false for NaN
inline F32 keep_if_at_least(F32 x, F32 limit, F32 a) {
  return {_mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_GE_OQ), a.v)};
}
// the first n lanes of a, the others from b
inline F32 first_lanes(F32 a, F32 b, int n) {
  return {_mm512_mask_mov_ps(b.v, (__mmask16)((1u << n) - 1), a.v)};
}
// Rounds to 16 int8 and returns their sum.
inline int32_t store_int8(int8_t* p, F32 a) {
  const __m512i x = _mm512_cvtps_epi32(a.v);
  _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(x));
  return _mm512_reduce_add_epi32(x);
}
// Rounds to 32 int8; returns their sum and, in `first`, that of the first 16.
inline int32_t store_int8(int8_t* p, F32 low, F32 high, int32_t& first) {
  const __m128i a = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(low.v)),
                b = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(high.v));
  const __m256i all = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
  _mm256_storeu_si256((__m256i*)p, all);
  // Of unsigned bytes, 128 more than they mean, eight at a time.
  const __m256i eights =
      _mm256_sad_epu8(_mm256_xor_si256(all, _mm256_set1_epi8(-128)), _mm256_setzero_si256());
  const __m256i both = _mm256_add_epi64(eights, _mm256_srli_si256(eights, 8));
  first = _mm256_extract_epi32(both, 0) - 16 * 128;
  return first + _mm256_extract_epi32(both, 4) - 16 * 128;
}

inline I32 int_zero() { return {_mm512_setzero_si512()}; }
inline I32 int_splat(int32_t x) { return {_mm512_set1_epi32(x)}; }
inline I32 int_add(I32 a, I32 b) { return {_mm512_add_epi32(a.v, b.v)}; }
inline I32 int_sub(I32 a, I32 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
template <int kBits>
inline I32 shift_left(I32 a) {
  return {_mm512_slli_epi32(a.v, kBits)};
}
template <int kBits>
inline I32 shift_right(I32 a) {
  return {_mm512_srai_epi32(a.v, kBits)};
}
inline F32 to_float(I32 a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Bytes load_bytes(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
inline void store_bytes(uint8_t* p, Bytes a) { _mm512_storeu_si512(p, a.v); }
// Bits kFrom .. kFrom + kBits of each byte, moved to kTo; zero elsewhere.
template <int kFrom, int kBits, int kTo>
inline Bytes field(Bytes a) {
  if constexpr (kFrom > kTo) a.v = _mm512_srli_epi16(a.v, kFrom - kTo);
  if constexpr (kFrom < kTo) a.v = _mm512_slli_epi16(a.v, kTo - kFrom);
  return {_mm512_and_si512(a.v, _mm512_set1_epi8((char)(((1 << kBits) - 1) << kTo)))};
}
inline Bytes merge(Bytes a, Bytes b) { return {_mm512_or_si512(a.v, b.v)}; }
inline Bytes add_to_bytes(Bytes a, int b) { return {_mm512_add_epi8(a.v, _mm512_set1_epi8((char)b))}; }
// Sixteen values, and those that codes of four bits stand for.
inline Bytes load_table(const uint8_t* p) {
  return {_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)p))};
}
inline Bytes look_up(Bytes table, Bytes codes) { return {_mm512_shuffle_epi8(table.v, codes.v)}; }
inline Bytes splat_bytes(const int8_t* four) {
  int32_t x;
  __builtin_memcpy(&x, four, 4);
  return {_mm512_set1_epi32(x)};
}
// Adds four products a column. dot_small: weights 0..15. dot_q8: weights as q8 tiles hold them.
inline I32 dot_small(I32 acc, Bytes w, Bytes x) { return {_mm512_dpbusd_epi32(acc.v, w.v, x.v)}; }
inline I32 dot_q8(I32 acc, Bytes w, Bytes x) { return {_mm512_dpbusd_epi32(acc.v, w.v, x.v)}; }

#if defined(__AVX512BF16__)
#define PAGEMILL_BF16  // there are pairs
constexpr const char* kName = "avx512_bf16";

struct Pairs {
  __m512bh v;
};  // 16 columns of 2 bf16

// Rounds to 16 bf16 and returns these.
inline F32 store_bf16(uint16_t* p, F32 a) {
  const __m256i halves = (__m256i)_mm512_cvtneps_pbh(a.v);
  _mm256_storeu_si256((__m256i*)p, halves);
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16))};
}
// From pairs of fp16.
inline Pairs load_pairs(const char* p) {
  const uint16_t* halves = (const uint16_t*)p;
  return {_mm512_cvtne2ps_pbh(load_half(halves + 16).v, load_half(halves).v)};
}
inline Pairs as_pairs(Bytes a) { return {(__m512bh)a.v}; }
inline Pairs splat_pair(const uint16_t* two) {
  int32_t x;
  __builtin_memcpy(&x, two, 4);
  return {(__m512bh)_mm512_set1_epi32(x)};
}
// The second of each pair becomes zero.
inline Pairs first_of(Pairs a) {
  return {(__m512bh)_mm512_and_si512((__m512i)a.v, _mm512_set1_epi32(0xffff))};
}
// Adds two products a column.
inline F32 dot_pairs(F32 acc, Pairs a, Pairs b) { return {_mm512_dpbf16_ps(acc.v, a.v, b.v)}; }
// The first or the second of 16 pairs of fp16; the others stay.
inline void store_halves_in_pairs(uint16_t* p, F32 a, bool second) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
  _mm512_mask_storeu_epi16(p, second ? 0xaaaaaaaau : 0x55555555u,
                           second ? _mm512_slli_epi32(wide, 16) : wide);
}
#else
constexpr const char* kName = "avx512";
#endif

__attribute__((always_inline)) inline void prefetch(const void* p) {
  _mm_prefetch((const char*)p, _MM_HINT_T0);
}
// Into the second level only, which can wait for more lines at once.
__attribute__((always_inline)) inline void prefetch_far(const void* p) {
  _mm_prefetch((const char*)p, _MM_HINT_T1);
}

}  // namespace
}  // namespace pagemill
