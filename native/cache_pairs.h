// A cache of fp16 where the processor multiplies pairs of bf16, twice as many in the time of fp32: how rows
// that attend score its keys and add up its values.
//
// What is kept is as exact as in any cache of fp16. Queries, keys, values and weights are rounded to bf16 as
// they are multiplied, as most networks were trained; sums are fp32, and weights are summed as rounded. Pairs
// lie side by side: a chunk is
//
//   keys    for each 2 elements a line: of 16 tokens 2 halves
//   values  for each 2 tokens: of each element 2 halves
#pragma once

#include "chunks.h"
#include "functions.h"

namespace pagemill {
namespace {

struct HalfPairs {
  static constexpr int kPair = 4;  // bytes

  // What is kept of 16 weights: how they will be multiplied.
  static F32 store_weights(float* row, int t, F32 weights) { return store_bf16((uint16_t*)row + t, weights); }

  // Rows that attend together.
  class Rows {
   public:
    static constexpr int kWidth = INT32_MAX;  // elements of values that are weighed before the next ones
    static constexpr int kWeighed = 12;       // rows at once

    Rows(const KvLayer& layer, int, const float* weights, float* scratch, float*)
        : dim(layer.padded_dim), head_dim(layer.dim), weights(weights), q((uint16_t*)scratch) {}

    void set_query(int row, const float* x) {
      for (int d = 0; d < dim; d += 16) store_bf16(q + row * dim + d, load_first(x + d, head_dim - d));
    }

    // Scores of kM rows.
    template <int kM>
    void score(int row, const Run& run, Ahead& ahead, float* scores) const {
      for (int c = 0; c < run.size(); c++)
        score_chunk<kM>(q + row * dim, run[c], ahead.next(), ahead.halves(), scores + c * kChunk);
    }

    void round_weights(int, int, const Run&, int) {}

    // Adds to the sums of kR rows, from nothing on if `fresh`, what tokens from `at` on in a segment weigh.
    template <int kR>
    void weigh(int row, const Run& run, int at, const Ahead& ahead, int first, int end, bool fresh,
               float* sums) const {
      constexpr int kWide = kR > kWeighed / 2 ? 2 : 4;
      const uint16_t* w = (const uint16_t*)(weights + row * kWeights) + at;
      float* out = sums + row * dim;
      int d = first;
      for (; d + 16 * kWide <= end; d += 16 * kWide) weigh_some<kR, kWide>(run, ahead, d, fresh, w, out);
      if constexpr (kWide > 2)
        for (; d + 32 <= end; d += 32) weigh_some<kR, 2>(run, ahead, d, fresh, w, out);
      for (; d < end; d += 16) weigh_some<kR, 1>(run, ahead, d, fresh, w, out);
    }

    void finish(int, int, int, int, float*) const {}

   private:
    // `ask`: halves of a chunk to be asked for, or null.
    template <int kM>
    void score_chunk(const uint16_t* q, const char* keys, const char* ask, int halves, float* scores) const {
      const int bytes = 2 * kLine * halves;  // of what is asked for, for each four elements
      F32 even[kM], odd[kM];  // two chains a row hide the latency of the additions when there are few rows
      EACH (m, kM) even[m] = odd[m] = zero();
      for (int d = 0; d < dim; d += 4) {
        if (ask)
          for (int byte = 0; byte < bytes; byte += kLine) prefetch_far(ask + (size_t)(d / 4) * bytes + byte);
        const Pairs first = load_pairs(keys + (size_t)d / 2 * kLine),
                    second = load_pairs(keys + (size_t)(d / 2 + 1) * kLine);
        EACH (m, kM) {
          even[m] = dot_pairs(even[m], first, splat_pair(q + m * dim + d));
          odd[m] = dot_pairs(odd[m], second, splat_pair(q + m * dim + d + 2));
        }
      }
      EACH (m, kM) store(scores + m * kWeights, add(even[m], odd[m]));
    }

    // Weighted sums for kR rows, 16 * kV elements of the head at a time.
    template <int kR, int kV>
    void weigh_some(const Run& run, Ahead ahead, int d, bool fresh, const uint16_t* w, float* out) const {
      const int pair = kPair * ahead.halves();  // bytes to ask for, for each pair of values
      F32 sums[kR][kV];
      EACH (m, kR)
        EACH (v, kV) sums[m][v] = fresh ? zero() : load(out + m * dim + d + 16 * v);
      for (int t = 0; t < run.tokens; t += kChunk) {
        const char* values = run[t / kChunk] + ((size_t)dim * kChunk / 2 + d) * kPair;
        const int n = run.tokens - t < kChunk ? run.tokens - t : kChunk;
        const char* ask = ahead.next();
        const auto add_two = [&](int i, auto read) PAGEMILL_INLINE {
          if (ask)
            for (int byte = 0; byte < kV * 16 * pair; byte += kLine)
              prefetch_far(ask + (size_t)pair * (i / 2 * dim + d) + byte);
          Pairs value[kV];
          EACH (v, kV) value[v] = read(values + (size_t)(i / 2 * dim + 16 * v) * kPair);
          EACH (m, kR) {
            const Pairs weight = splat_pair(w + m * 2 * kWeights + t + i);
            EACH (v, kV) sums[m][v] = dot_pairs(sums[m][v], value[v], weight);
          }
        };
        int i = 0;
        for (; i + 2 <= n; i += 2) add_two(i, [](const char* p) PAGEMILL_INLINE { return load_pairs(p); });
        // Behind the last token lies what nobody sees, which may be no number.
        if (i < n) add_two(i, [](const char* p) PAGEMILL_INLINE { return first_of(load_pairs(p)); });
      }
      EACH (m, kR)
        EACH (v, kV) store(out + m * dim + d + 16 * v, sums[m][v]);
    }

    int dim, head_dim;
    const float* weights;
    uint16_t* q;
  };

  static void store_key(char* chunk, int, int token, const float* key, int first, int n) {
    for (int d = 0; d < n; d += 16) {
      uint16_t halves[16];
      store_half(halves, load_first(key + d, n - d));
      for (int i = 0; i < 16 && d + i < n; i++) {
        const int at = first + d + i;
        ((uint16_t*)chunk)[(at / 2 * kChunk + token) * 2 + at % 2] = halves[i];
      }
    }
  }

  static void store_value(char* chunk, int dim, int token, const float* value, int n) {
    uint16_t* to = (uint16_t*)chunk + (size_t)(kChunk + token / 2 * 2) * dim;
    for (int d = 0; d < n; d += 16)
      store_halves_in_pairs(to + 2 * d, load_first(value + d, n - d), token % 2);
  }
};

}  // namespace
}  // namespace pagemill
