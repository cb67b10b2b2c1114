// A cache of floats, fp16 or fp32: how rows that attend score its keys and add up its values.
//
// Keys lie transposed, so a chunk of 16 tokens is one vector for each of their elements; values lie token by
// token.
#pragma once

#include "chunks.h"
#include "functions.h"

namespace pagemill {
namespace {

template <bool kHalf>
struct Floats {
  static constexpr int kElement = kHalf ? 2 : 4;

  static F32 load_kv(const char* p) {
    if constexpr (kHalf) return load_half((const uint16_t*)p);
    return load((const float*)p);
  }

  // What is kept of 16 weights: how they will be multiplied.
  static F32 store_weights(float* row, int t, F32 weights) {
    store(row + t, weights);
    return weights;
  }

  // Rows that attend together.
  class Rows {
   public:
    static constexpr int kWidth = INT32_MAX;       // elements of values that are weighed before the next ones
    static constexpr int kWeighed = kWeighedRows;  // rows at once

    Rows(const KvLayer& layer, int, const float* weights, float* scratch, float*)
        : dim(layer.padded_dim), head_dim(layer.dim), weights(weights), q(scratch) {}

    void set_query(int row, const float* x) {
      for (int d = 0; d < dim; d += 16) store(q + row * dim + d, load_first(x + d, head_dim - d));
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
      const float* w = weights + row * kWeights + at;
      float* out = sums + row * dim;
      int d = first;
      for (; d + 16 * kValueVectors <= end; d += 16 * kValueVectors)
        weigh_some<kR, kValueVectors>(run, ahead, d, fresh, w, out);
      if constexpr (kValueVectors > 2)
        for (; d + 32 <= end; d += 32) weigh_some<kR, 2>(run, ahead, d, fresh, w, out);
      for (; d < end; d += 16) weigh_some<kR, 1>(run, ahead, d, fresh, w, out);
    }

    void finish(int, int, int, int, float*) const {}

   private:
    // `ask`: halves of a chunk to be asked for, or null.
    template <int kM>
    void score_chunk(const float* q, const char* keys, const char* ask, int halves, float* scores) const {
      const int bytes = 32 * kElement * halves;  // of what is asked for, for each two elements
      F32 even[kM], odd[kM];  // two chains a row hide the latency of the additions when there are few rows
      EACH (m, kM) even[m] = odd[m] = zero();
      for (int d = 0; d < dim; d += 2) {
        if (ask)
          for (int byte = 0; byte < bytes; byte += kLine) prefetch_far(ask + (size_t)(d / 2) * bytes + byte);
        const F32 first = load_kv(keys + (size_t)d * kChunk * kElement),
                  second = load_kv(keys + (size_t)(d + 1) * kChunk * kElement);
        EACH (m, kM) {
          even[m] = fma(first, splat(q[m * dim + d]), even[m]);
          odd[m] = fma(second, splat(q[m * dim + d + 1]), odd[m]);
        }
      }
      EACH (m, kM) store(scores + m * kWeights, add(even[m], odd[m]));
    }

    // Weighted sums for kR rows, 16 * kV elements of the head at a time.
    template <int kR, int kV>
    void weigh_some(const Run& run, Ahead ahead, int d, bool fresh, const float* w, float* out) const {
      const int element = kElement * ahead.halves();  // bytes to ask for, for each element of a value
      F32 sums[kR][kV];
      EACH (m, kR)
        EACH (v, kV) sums[m][v] = fresh ? zero() : load(out + m * dim + d + 16 * v);
      for (int t = 0; t < run.tokens; t += kChunk) {
        const char* values = run[t / kChunk] + ((size_t)dim * kChunk + d) * kElement;
        const int n = run.tokens - t < kChunk ? run.tokens - t : kChunk;
        const char* ask = ahead.next();
        for (int i = 0; i < n; i++) {
          if (ask)
            for (int byte = 0; byte < kV * 16 * element; byte += kLine)
              prefetch_far(ask + (size_t)element * (i * dim + d) + byte);
          F32 value[kV];
          EACH (v, kV) value[v] = load_kv(values + (size_t)(i * dim + 16 * v) * kElement);
          EACH (m, kR) {
            const F32 weight = splat(w[m * kWeights + t + i]);
            EACH (v, kV) sums[m][v] = fma(value[v], weight, sums[m][v]);
          }
        }
      }
      EACH (m, kR)
        EACH (v, kV) store(out + m * dim + d + 16 * v, sums[m][v]);
    }

    int dim, head_dim;
    const float* weights;
    float* q;
  };

  static void store_key(char* chunk, int, int token, const float* key, int first, int n) {
    for (int d = 0; d < n; d += 16) {
      uint16_t halves[16];
      if constexpr (kHalf) store_half(halves, load_first(key + d, n - d));
      for (int i = 0; i < 16 && d + i < n; i++) {
        const int at = (first + d + i) * kChunk + token;
        if constexpr (kHalf)
          ((uint16_t*)chunk)[at] = halves[i];
        else
          ((float*)chunk)[at] = key[d + i];
      }
    }
  }

  static void store_value(char* chunk, int dim, int token, const float* value, int n) {
    for (int d = 0; d < n; d += 16) {
      const F32 row = load_first(value + d, n - d);
      const int at = (kChunk + token) * dim + d;
      if constexpr (kHalf)
        store_half((uint16_t*)chunk + at, row);
      else
        store((float*)chunk + at, row);
    }
  }
};

}  // namespace
}  // namespace pagemill
