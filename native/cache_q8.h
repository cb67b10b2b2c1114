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
  static constexpr int kPlanes = 2;                         // of queries and weights
  static constexpr float kHigh = 128, kMost = 127 * kHigh;  // a unit of the first plane; the largest weight
  static constexpr float kLargestScale = 65504;
  static constexpr int kZero = kSignedQ8 ? 0 : 128;  // what key codes stand for more than they mean

  static constexpr int kPlane = kSegment + kLine;  // bytes of a row's weights in a plane; see kWeights

  // Where in a chunk they lie.
  static constexpr size_t key_scales_at(int dim) { return (size_t)kChunk * dim; }
  static constexpr size_t values_at(int dim) { return q8_bytes(dim, kKeyGroup); }
  static constexpr size_t value_scales_at(int dim) { return values_at(dim) + (size_t)kChunk * dim; }

  // What is kept of 16 weights; all of a segment's are rounded later, together.
  static F32 store_weights(float* row, int t, F32 weights) {
    store(row + t, weights);
    return weights;
  }

  // Rows that attend together.
  class Rows {
   public:
    static constexpr int kWidth = kValueGroup;  // elements of values that are weighed before the next ones
    static constexpr int kWeighed = kValueVectors;  // rows at once

    Rows(const KvLayer& layer, int rows, const float* weights, float* scratch, float* more)
        : dim(layer.padded_dim),
          head_dim(layer.dim),
          size(layer.chunk_bytes),
          q{(ActivationGroup*)scratch, num_groups(dim, kKeyGroup), kPlanes},
          weights(weights),
          scales(more),
          planes((int8_t*)(scales + kSegment)),
          totals((float*)(planes + rows * kPlanes * kPlane)),
          steps(totals + rows * kPlanes * kValueGroup) {}

    void set_query(int row, const float* x) { quantize(x, 0, head_dim, q, row); }

    // Scores of kM rows.
    template <int kM>
    void score(int row, const Run& run, Ahead& ahead, float* scores) const {
      for (int c = 0; c < run.size(); c++) {
        ask(ahead);
        score_chunk<kM>(row, run[c], scores + c * kChunk);
      }
    }

    // Of some rows of a sequence, for kWidth elements of its values from d on.
    void round_weights(int row, int rows, const Run& run, int d) {
      for (int t = 0; t < run.tokens; t += kChunk) {
        const char* at = run[t / kChunk] + value_scales_at(dim);
        store(scales + t, load_half((const uint16_t*)at + d / kValueGroup * kChunk));
      }
      for (int m = row; m < row + rows; m++) steps[m] = round_row(m, run.tokens);
    }

    // Adds to the sums of kR rows, from nothing on if `fresh`, what tokens from `at` on in a segment weigh.
    template <int kR>
    void weigh(int row, const Run& run, int at, Ahead ahead, int first, int end, bool fresh, float*) const {
      constexpr int kWide = (kValueVectors + 1) / 2;
      const int8_t* w = planes + row * kPlanes * kPlane + at;
      float* sums = totals + row * kPlanes * kValueGroup - first;
      int d = first;
      for (; d + 16 * kWide <= end; d += 16 * kWide, ahead = {})
        weigh_some<kR, kWide>(run, ahead, d, fresh, w, sums);
      if constexpr (kWide > 1)
        for (; d < end; d += 16, ahead = {}) weigh_some<kR, 1>(run, ahead, d, fresh, w, sums);
    }

    void finish(int row, int rows, int first, int end, float* sums) const {
      for (int m = row; m < row + rows; m++) {
        const float *high = totals + m * kPlanes * kValueGroup - first, *low = high + kValueGroup;
        for (int d = first; d < end; d += 16) {
          const F32 both = fma(load(high + d), splat(kHigh), load(low + d));
          store(sums + m * dim + d, mul(both, splat(steps[m])));
        }
      }
    }

   private:
    void ask(Ahead& ahead) const {
      const char* next = ahead.next();
      if (!next) return;
      for (size_t byte = 0; byte < (size_t)ahead.halves() * size / 2; byte += kLine)
        prefetch_far(next + byte);
    }

    template <int kM>
    void score_chunk(int row, const char* keys, float* scores) const {
      const uint16_t* key_scales = (const uint16_t*)(keys + key_scales_at(dim));
      F32 sums[kM];
      EACH (m, kM) sums[m] = zero();
      int g = 0;
      for (; (g + 1) * kKeyGroup <= dim; g++) score_group<kM, kKeyGroup / 4>(row, keys, g, key_scales, sums);
      if (dim % kKeyGroup) score_group<kM, kKeyGroup / 8>(row, keys, g, key_scales, sums);
      EACH (m, kM) store(scores + m * kWeights, sums[m]);
    }

    template <int kM, int kLines>
    PAGEMILL_INLINE void score_group(int row, const char* keys, int g, const uint16_t* key_scales,
                                     F32* sums) const {
      const uint8_t* codes = (const uint8_t*)keys + (size_t)g * kKeyGroup * kChunk;
      const ActivationGroup* group[kM * kPlanes];
      I32 dots[kM * kPlanes];
      EACH (i, kM * kPlanes) {
        group[i] = q.of + (row * kPlanes + i) * q.groups + g;
        dots[i] = start_of<1, kZero>(*group[i], 0);
      }
      EACH (line, kLines) {
        const Bytes four = load_bytes(codes + line * kLine);
        EACH (i, kM * kPlanes) dots[i] = dot_q8(dots[i], four, splat_bytes(group[i]->q + 4 * line));
      }
      const F32 scale = load_half(key_scales + g * kChunk);
      EACH (m, kM) {
        const int i = m * kPlanes;
        const F32 high = mul(to_float(dots[i]), splat(group[i]->scale));
        sums[m] = fma(fma(to_float(dots[i + 1]), splat(group[i + 1]->scale), high), scale, sums[m]);
      }
    }

    // Fills a row's planes and returns what a unit of the second is worth.
    float round_row(int row, int tokens) const {
      const float* from = weights + row * kWeights;
      int8_t* to = planes + row * kPlanes * kPlane;
      F32 most = zero();
      for (int t = 0; t < tokens; t += kChunk) most = max(mul(load(from + t), load(scales + t)), most);
      const float top = largest(most);
      const F32 inverse = splat(top > 1e-30f ? kMost / top : 0.0f);
      const F32 down = splat(-63.5f / kHigh), part = splat(1 / kHigh), whole = splat(-kHigh);
      for (int t = 0; t < tokens; t += kChunk) {
        const F32 n = round(mul(mul(load(from + t), load(scales + t)), inverse));
        const F32 high = round(fma(n, part, down));  // exactly n / 128 without its fraction
        store_int8(to + t, high);
        store_int8(to + kPlane + t, fma(high, whole, n));
      }
      return top / kMost;
    }

    // Sums of both planes for kR rows, 16 * kV elements of the head at a time.
    template <int kR, int kV>
    void weigh_some(const Run& run, Ahead& ahead, int d, bool fresh, const int8_t* w, float* out) const {
      constexpr int kSums = kR * kPlanes;
      F32 sums[kSums][kV];
      EACH (r, kSums)
        EACH (v, kV) sums[r][v] = fresh ? zero() : load(out + r * kValueGroup + d + 16 * v);
      for (int t = 0; t < run.tokens; t += kChunk) {
        const uint8_t* values = (const uint8_t*)run[t / kChunk] + values_at(dim) + (size_t)d * 4;
        ask(ahead);
        I32 dots[kSums][kV];
        EACH (i, kChunk / 4) {
          Bytes value[kV];
          EACH (v, kV) value[v] = load_bytes(values + (size_t)i * 4 * dim + 64 * v);
          EACH (r, kSums) {
            const Bytes weight = splat_bytes(w + r * kPlane + t + 4 * i);
            EACH (v, kV) dots[r][v] = dot_small(i ? dots[r][v] : int_zero(), weight, value[v]);
          }
        }
        EACH (r, kSums)
          EACH (v, kV) sums[r][v] = add(sums[r][v], to_float(dots[r][v]));
      }
      EACH (r, kSums)
        EACH (v, kV) store(out + r * kValueGroup + d + 16 * v, sums[r][v]);
    }

    int dim, head_dim;
    size_t size;
    Activation q;
    const float* weights;
    float* scales;   // of a segment's values
    int8_t* planes;  // (rows, kPlanes, kPlane)
    float* totals;   // (rows, kPlanes, kValueGroup)
    float* steps;    // of each row, what a unit of the second plane is worth
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
