// A cache of int8: how rows that attend score its keys and add up its values, in integers.
//
// Keys have a scale for each 32 elements of a token: outliers stay among themselves. Values have one for each
// 128, which is all of a usual head. A chunk is
//
//   keys    for each 4 elements a line: of 16 tokens 4 bytes, as q8 tiles hold theirs
//   scales  of each group the keys' of 16 tokens, half precision; up to a cache line
//   values  for each 4 tokens, padded_dim / 16 lines: of each element 4 bytes
//   scales  likewise
//
// Queries are rounded as the rows of a head's product are, in two planes of int8. What weighs a value, times
// the value's scale, is rounded to 14 bits of the largest in its segment, in two planes of 7. Beside the
// rounding of keys and values neither costs anything.
#pragma once

#include "chunks.h"
#include "products.h"
#include "rows.h"

namespace pagemill {
namespace {

struct Q8 {
  static constexpr int kSoon = kSegment / kChunk;
  static constexpr int kPlanes = 2;                         // of queries and weights
  static constexpr float kHigh = 128, kMost = 127 * kHigh;  // a unit of the first plane; the largest weight
  static constexpr float kLargestScale = 65504;
  static constexpr int kZero = kSignedQ8 ? 0 : 128;  // what key codes stand for more than they mean

  // Where in a chunk they lie.
  static constexpr size_t key_scales_at(int dim) { return (size_t)kChunk * dim; }
  static constexpr size_t values_at(int dim) { return q8_bytes(dim, kKeyGroup); }
  static constexpr size_t value_scales_at(int dim) { return values_at(dim) + (size_t)kChunk * dim; }

  // kM rows that attend together.
  template <int kM>
  struct Rows {
    const char* data;
    int dim;
    size_t size;
    Activation q;
    float* scales;   // of a segment's values
    int8_t* planes;  // (kM, kPlanes, kSegment)

    Rows(const KvLayer& layer, const AttentionTask& task, float* scratch, float* more)
        : data((const char*)layer.data),
          dim(layer.padded_dim),
          size(layer.chunk_bytes),
          q{(ActivationGroup*)scratch, num_groups(dim, kKeyGroup), kPlanes},
          scales(more),
          planes((int8_t*)(more + kSegment)) {
      for (int m = 0; m < kM; m++)
        quantize(task.q + m / task.group * task.q_stride + (size_t)(m % task.group) * layer.dim, 0, layer.dim,
                 q, m);
    }

    void score(const Chunks& chunk, int first_chunk, int tokens, bool fetch, float* scores) const {
      const int chunks = (tokens + kChunk - 1) / kChunk;
      for (int c = 0; c < chunks; c++) {
        const char* at = data + chunk(first_chunk + c);
        if (fetch) {
          if (c + kChunksAhead < chunks) ask(data + chunk(first_chunk + c + kChunksAhead), 0, values_at(dim));
          ask(at, values_at(dim), size);
        }
        score_chunk(at, scores + c * kChunk);
      }
    }

    // The first `wanted` elements of the weighted sums.
    void weigh(const Chunks& chunk, const Soon& soon, int first_chunk, int tokens, int wanted,
               const float* weights, float* out) const {
      for (int d = 0; d < wanted; d += kValueGroup) {
        for (int t = 0; t < tokens; t += kChunk) {
          const char* at = data + chunk(first_chunk + t / kChunk) + value_scales_at(dim);
          store(scales + t, load_half((const uint16_t*)at + d / kValueGroup * kChunk));
        }
        float steps[kM];
        for (int m = 0; m < kM; m++)
          steps[m] = round_weights(weights + m * kSegment, tokens, planes + m * kPlanes * kSegment);
        const int end = wanted < d + kValueGroup ? wanted : d + kValueGroup;
        weigh_block<0>(chunk, soon, first_chunk, tokens, d, end, steps, out);
      }
    }

   private:
    static void ask(const char* chunk, size_t from, size_t to) {
      for (size_t byte = from; byte < to; byte += kLine) prefetch_far(chunk + byte);
    }

    void score_chunk(const char* keys, float* scores) const {
      const uint16_t* key_scales = (const uint16_t*)(keys + key_scales_at(dim));
      F32 sums[kM];
#pragma GCC unroll 8
      for (int m = 0; m < kM; m++) sums[m] = zero();
      int g = 0;
      for (; (g + 1) * kKeyGroup <= dim; g++) score_group<kKeyGroup / 4>(keys, g, key_scales, sums);
      if (dim % kKeyGroup) score_group<kKeyGroup / 8>(keys, g, key_scales, sums);
#pragma GCC unroll 8
      for (int m = 0; m < kM; m++) store(scores + m * kSegment, sums[m]);
    }

    template <int kLines>
    PAGEMILL_INLINE void score_group(const char* keys, int g, const uint16_t* key_scales, F32* sums) const {
      const uint8_t* codes = (const uint8_t*)keys + (size_t)g * kKeyGroup * kChunk;
      const ActivationGroup* group[kM * kPlanes];
      I32 dots[kM * kPlanes];
#pragma GCC unroll 16
      for (int i = 0; i < kM * kPlanes; i++) {
        group[i] = q.of + i * q.groups + g;
        dots[i] = start_of<1, kZero>(*group[i], 0);
      }
#pragma GCC unroll 8
      for (int line = 0; line < kLines; line++) {
        const Bytes four = load_bytes(codes + line * kLine);
#pragma GCC unroll 16
        for (int i = 0; i < kM * kPlanes; i++)
          dots[i] = dot_q8(dots[i], four, splat_bytes(group[i]->q + 4 * line));
      }
      const F32 scale = load_half(key_scales + g * kChunk);
#pragma GCC unroll 8
      for (int m = 0; m < kM; m++) {
        const int i = m * kPlanes;
        const F32 high = mul(to_float(dots[i]), splat(group[i]->scale));
        sums[m] = fma(fma(to_float(dots[i + 1]), splat(group[i + 1]->scale), high), scale, sums[m]);
      }
    }

    // Fills a row's planes and returns what a unit of the second is worth.
    float round_weights(const float* weights, int tokens, int8_t* to) const {
      F32 most = zero();
      for (int t = 0; t < tokens; t += kChunk) most = max(mul(load(weights + t), load(scales + t)), most);
      const float top = largest(most);
      const F32 inverse = splat(top > 1e-30f ? kMost / top : 0.0f);
      const F32 down = splat(-63.5f / kHigh), part = splat(1 / kHigh), whole = splat(-kHigh);
      for (int t = 0; t < tokens; t += kChunk) {
        const F32 n = round(mul(mul(load(weights + t), load(scales + t)), inverse));
        const F32 high = round(fma(n, part, down));  // exactly n / 128 without its fraction
        store_int8(to + t, high);
        store_int8(to + kSegment + t, fma(high, whole, n));
      }
      return top / kMost;
    }

    // Rows from kFirst on, as many as registers hold, then the others.
    template <int kFirst>
    void weigh_block(const Chunks& chunk, Soon soon, int first_chunk, int tokens, int first, int end,
                     const float* steps, float* out) const {
      constexpr int kLeft = kM - kFirst, kR = kLeft < kValueVectors ? kLeft : kValueVectors,
                    kWide = (kValueVectors + 1) / 2;
      int d = first;
      for (; d + 16 * kWide <= end; d += 16 * kWide, soon.count = 0)
        weigh_some<kFirst, kR, kWide>(chunk, soon, first_chunk, tokens, d, steps, out);
      if constexpr (kWide > 1)
        for (; d < end; d += 16, soon.count = 0)
          weigh_some<kFirst, kR, 1>(chunk, soon, first_chunk, tokens, d, steps, out);
      if constexpr (kLeft > kR)
        weigh_block<kFirst + kR>(chunk, soon, first_chunk, tokens, first, end, steps, out);
    }

    // Weighted sums for kR rows, 16 * kV elements of the head at a time.
    template <int kFirst, int kR, int kV>
    void weigh_some(const Chunks& chunk, const Soon& soon, int first_chunk, int tokens, int d,
                    const float* steps, float* out) const {
      const int8_t* weights = planes + kFirst * kPlanes * kSegment;
      F32 sums[kR * kPlanes][kV];
      unroll<0, kR * kPlanes>([&](auto r) PAGEMILL_INLINE {
        unroll<0, kV>([&](auto v) PAGEMILL_INLINE { sums[r.value][v.value] = zero(); });
      });
      for (int t = 0; t < tokens; t += kChunk) {
        const uint8_t* values =
            (const uint8_t*)data + chunk(first_chunk + t / kChunk) + values_at(dim) + (size_t)d * 4;
        if (const char* next = soon.of(t / kChunk)) ask(next, 0, values_at(dim));
        I32 dots[kR * kPlanes][kV];
        unroll<0, kChunk / 4>([&](auto i) PAGEMILL_INLINE {
          Bytes value[kV];
          unroll<0, kV>([&](auto v) PAGEMILL_INLINE {
            value[v.value] = load_bytes(values + (size_t)i.value * 4 * dim + 64 * v.value);
          });
          unroll<0, kR * kPlanes>([&](auto r) PAGEMILL_INLINE {
            const Bytes weight = splat_bytes(weights + r.value * kSegment + t + 4 * i.value);
            unroll<0, kV>([&](auto v) PAGEMILL_INLINE {
              I32& dot = dots[r.value][v.value];
              dot = dot_small(i.value ? dot : int_zero(), weight, value[v.value]);
            });
          });
        });
        unroll<0, kR * kPlanes>([&](auto r) PAGEMILL_INLINE {
          unroll<0, kV>([&](auto v) PAGEMILL_INLINE {
            F32& sum = sums[r.value][v.value];
            sum = add(sum, to_float(dots[r.value][v.value]));
          });
        });
      }
      unroll<0, kR>([&](auto r) PAGEMILL_INLINE {
        constexpr int kHighRow = decltype(r)::value * kPlanes;
        unroll<0, kV>([&](auto v) PAGEMILL_INLINE {
          const F32 both = fma(sums[kHighRow][v.value], splat(kHigh), sums[kHighRow + 1][v.value]);
          store(out + (kFirst + r.value) * dim + d + 16 * v.value, mul(both, splat(steps[kFirst + r.value])));
        });
      });
    }
  };

  // The scale of `n` elements as it is kept, rounded.
  static uint16_t scale_of(const float* x, int n) {
    F32 top = zero();
    for (int d = 0; d < n; d += 16) top = max(abs(load_first(x + d, n - d)), top);
    return float_to_half(largest(top) / 127.0f);
  }

  // Sixteen codes of elements with that scale.
  static void round_codes(const float* x, int n, uint16_t scale, int8_t* codes) {
    const float step = half_to_float(scale);
    const F32 inverse = splat(step > 0 ? 1 / step : 0), most = splat(127), least = splat(-127);
    store_int8(codes, min(most, max(least, round(mul(load_first(x, n), inverse)))));
  }

  // `first` is a multiple of kKeyGroup.
  static void store_key(char* chunk, int dim, int token, const float* key, int first, int n) {
    for (int d = 0; d < n; d += kKeyGroup) {
      const int left = n - d < kKeyGroup ? n - d : kKeyGroup, at = first + d;
      const uint16_t scale = scale_of(key + d, left);
      memcpy(chunk + key_scales_at(dim) + (size_t)(at / kKeyGroup * kChunk + token) * 2, &scale, 2);
      for (int i = 0; i < left; i += 16) {
        int8_t codes[16];
        round_codes(key + d + i, left - i, scale, codes);
        for (int four = 0; four < 16; four += 4) {
          uint32_t bytes;
          memcpy(&bytes, codes + four, 4);
          bytes ^= kZero * 0x01010101u;
          memcpy(chunk + (size_t)(at + i + four) * kChunk + token * 4, &bytes, 4);
        }
      }
    }
  }

  static void store_value(char* chunk, int dim, int token, const float* value, int n) {
    char* to = chunk + values_at(dim) + (size_t)(token / 4) * 4 * dim + token % 4;
    for (int d = 0; d < n; d += kValueGroup) {
      const int left = n - d < kValueGroup ? n - d : kValueGroup;
      uint16_t scale = scale_of(value + d, left);
      // One that is no number would spoil the sums of those who must not see this token.
      if (!(half_to_float(scale) <= kLargestScale)) scale = float_to_half(kLargestScale);
      memcpy(chunk + value_scales_at(dim) + (size_t)(d / kValueGroup * kChunk + token) * 2, &scale, 2);
      for (int i = 0; i < left; i += 16) {
        int8_t codes[16];
        round_codes(value + d + i, left - i, scale, codes);
        for (int j = 0; j < 16; j++) to[(size_t)(d + i + j) * 4] = (char)codes[j];
      }
    }
  }
};

}  // namespace
}  // namespace pagemill
