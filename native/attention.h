// Paged attention: a few query rows that share one key/value head read that head's pages once.
//
// The history is reduced in segments of 1,024 tokens, counted from its beginning, and the segments are
// combined in order. Within a segment: scores (keys lie transposed, so a chunk of 16 tokens is one vector),
// their maximum, exponentials, then the weighted sum of the values token by token. Rows see different
// tokens (causality, windows); what a row does not see has weight zero and changes nothing.
#pragma once

#include "rows.h"

namespace pagemill {
namespace {

template <bool kHalf>
inline F32 load_kv(const void* base, size_t element) {
  if constexpr (kHalf) return load_half((const uint16_t*)base + element);
  return load((const float*)base + element);
}

struct Chunks {  // finds the chunk that holds tokens 16 i .. 16 i + 15 of a sequence
  const int32_t* pages;
  int per_page;
  size_t head, heads, size;  // size: elements of one head's keys and values in a chunk
  size_t operator()(int i) const {
    // Most pages are one chunk; a division here is felt.
    const size_t chunk =
        per_page == 1 ? (size_t)pages[i] : (size_t)pages[i / per_page] * per_page + i % per_page;
    return (chunk * heads + head) * size;
  }
};

constexpr int kChunksAhead = 6;

// Chunks are scattered over the cache, where the hardware cannot guess the next one: all of `ahead`, keys and
// values, is asked for meanwhile, unless it is null. Into the second level: the first cannot wait for so many
// lines at once.
template <bool kHalf, int kM>
void chunk_scores(const void* keys, size_t at, const char* ahead, const float* q, int dim, float* scores,
                  size_t stride) {
  constexpr int kBytes = kHalf ? 128 : 256;  // of a chunk, for each two elements
  F32 even[kM], odd[kM];  // two chains a row hide the latency of the additions when there are few rows
#pragma GCC unroll 8
  for (int m = 0; m < kM; m++) even[m] = odd[m] = zero();
  for (int d = 0; d < dim; d += 2) {
    if (ahead)
      for (int byte = 0; byte < kBytes; byte += 64) prefetch_far(ahead + (size_t)(d / 2) * kBytes + byte);
    const F32 first = load_kv<kHalf>(keys, at + d * kChunk),
              second = load_kv<kHalf>(keys, at + (d + 1) * kChunk);
#pragma GCC unroll 8
    for (int m = 0; m < kM; m++) {
      even[m] = fma(first, splat(q[m * dim + d]), even[m]);
      odd[m] = fma(second, splat(q[m * dim + d + 1]), odd[m]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kM; m++) store(scores + m * stride, add(even[m], odd[m]));
}

// Where a thread goes on: the first chunks are asked for while values are added up.
struct Soon {
  const char* data;
  Chunks chunk;
  int first, count;
  const char* of(int i, size_t element) const {
    return i < count ? data + chunk(first + i) * element : nullptr;
  }
};

// Weighted sums of values for kM rows, 16 * kV elements of the head at a time.
template <bool kHalf, int kM, int kV>
void weigh_values(const void* values, const Chunks& chunk, const Soon& soon, int first_chunk, int tokens,
                  int dim, int d, const float* weights, size_t stride, float* out) {
  constexpr int kElement = kHalf ? 2 : 4;
  F32 sums[kM][kV];
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++)
#pragma GCC unroll 4
    for (int v = 0; v < kV; v++) sums[m][v] = zero();
  for (int t = 0; t < tokens; t += kChunk) {
    const size_t at = chunk(first_chunk + t / kChunk) + (size_t)dim * kChunk + d;
    const int n = tokens - t < kChunk ? tokens - t : kChunk;
    const char* ask = soon.of(t / kChunk, kElement);
    for (int i = 0; i < n; i++) {
      if (ask)
        for (int byte = 0; byte < kV * 32 * kElement; byte += 64)
          prefetch_far(ask + (size_t)2 * kElement * (i * dim + d) + byte);
      F32 value[kV];
#pragma GCC unroll 4
      for (int v = 0; v < kV; v++) value[v] = load_kv<kHalf>(values, at + i * dim + 16 * v);
#pragma GCC unroll 4
      for (int m = 0; m < kM; m++) {
        const F32 weight = splat(weights[m * stride + t + i]);
#pragma GCC unroll 4
        for (int v = 0; v < kV; v++) sums[m][v] = fma(value[v], weight, sums[m][v]);
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < kM; m++)
#pragma GCC unroll 4
    for (int v = 0; v < kV; v++) store(out + m * dim + d + 16 * v, sums[m][v]);
}

// The first `wanted` elements of the weighted sums.
template <bool kHalf, int kM>
void weigh_rows(const void* values, const Chunks& chunk, const Soon& soon, int first_chunk, int tokens,
                int dim, int wanted, const float* weights, size_t stride, float* out) {
  int d = 0;
  for (; d + 16 * kValueVectors <= wanted; d += 16 * kValueVectors)
    weigh_values<kHalf, kM, kValueVectors>(values, chunk, soon, first_chunk, tokens, dim, d, weights, stride,
                                           out);
  if constexpr (kValueVectors > 2)
    for (; d + 32 <= wanted; d += 32)
      weigh_values<kHalf, kM, 2>(values, chunk, soon, first_chunk, tokens, dim, d, weights, stride, out);
  for (; d < wanted; d += 16)
    weigh_values<kHalf, kM, 1>(values, chunk, soon, first_chunk, tokens, dim, d, weights, stride, out);
}

struct Running {  // of one row: the largest score so far and the sum of exponentials relative to it
  float top, total;
};

// Lanes from .. to of x that begins at lane t; the others from `other`.
inline F32 lanes_between(F32 x, F32 other, int from, int to, int t) {
  if (to - t < 16) x = first_lanes(x, other, to - t);
  return from > t ? first_lanes(other, x, from - t) : x;
}

// scores[from..to) become exponentials, the others up to `tokens` zero; returns the maximum and the sum.
inline Running soften(float* scores, int from, int to, int tokens, float scale) {
  const F32 lowest = splat(-__builtin_inff());
  const int first = from / 16 * 16;
  F32 most = lowest;
  for (int t = first; t < to; t += 16) most = max(lanes_between(load(scores + t), lowest, from, to, t), most);
  const float top = largest(most);
  const F32 shift = splat(top), factor = splat(scale);
  F32 total = zero();
  for (int t = 0; t < tokens; t += 16) {
    F32 e = zero();
    if (t >= first && t < to) {
      e = lanes_between(exp(mul(sub(load(scores + t), shift), factor)), zero(), from, to, t);
      total = add(total, e);
    }
    store(scores + t, e);
  }
  return {top, sum(total)};
}

inline void cap_scores(float* scores, int tokens, float scale, float cap) {
  for (int t = 0; t < tokens; t += 16)
    store(scores + t, mul(splat(cap), tanh(mul(load(scores + t), splat(scale / cap)))));
}

// Adds a segment's result to what came before it.
inline void combine(Running& run, float* out, const Running& next, const float* more, int dim, float scale) {
  const float top = run.top > next.top ? run.top : next.top;
  const float keep = exp_one((run.top - top) * scale), take = exp_one((next.top - top) * scale);
  for (int d = 0; d < dim; d += 16)
    store(out + d, fma(load(more + d), splat(take), mul(load(out + d), splat(keep))));
  run = {top, run.total * keep + next.total * take};
}

template <bool kHalf, int kM>
void segment_scores(const KvLayer& layer, const Chunks& chunk, int first_chunk, int tokens, bool fetch,
                    const float* q, float* scores) {
  const int chunks = (tokens + kChunk - 1) / kChunk;
  for (int c = 0; c < chunks; c++) {
    const int later = c + kChunksAhead < chunks ? c + kChunksAhead : chunks - 1;
    const char* ahead =
        fetch ? (const char*)layer.data + chunk(first_chunk + later) * (kHalf ? 2 : 4) : nullptr;
    chunk_scores<kHalf, kM>(layer.data, chunk(first_chunk + c), ahead, q, layer.padded_dim,
                            scores + c * kChunk, kSegment);
  }
}

// A row's scores of `tokens` tokens from `first` on become weights of those that it sees.
inline Running row_weights(const AttentionTask& task, int m, int first, int tokens, float* scores) {
  if (task.softcap > 0) cap_scores(scores, tokens, task.scale, task.softcap);
  const int position = task.first_position + m / task.group - first;
  const int from = position > task.behind ? position - task.behind : 0;
  const int to = tokens - position > task.ahead ? position + task.ahead + 1 : tokens;
  if (from >= to) {
    soften(scores, 0, 0, tokens, 1.0f);
    return {-__builtin_inff(), 0.0f};
  }
  return soften(scores, from, to, tokens, task.softcap > 0 ? 1.0f : task.scale);
}

// Divides by the sum of exponentials, in which a sink takes part.
inline void finish_row(const AttentionTask& task, int m, const Running& run, const float* sums) {
  float* out = task.out + m / task.group * task.out_stride + (size_t)(m % task.group) * task.value_dim;
  float keep = 1.0f, total = run.total;
  if (task.sinks) {
    const float sink = task.sinks[m % task.group], own = run.top * (task.softcap > 0 ? 1.0f : task.scale);
    const float top = own > sink ? own : sink;
    keep = exp_one(own - top), total = run.total * keep + exp_one(sink - top);
  }
  for (int d = 0; d < task.value_dim; d += 16)
    store_first(out + d, div(mul(load(sums + d), splat(keep)), splat(total)), task.value_dim - d);
}

template <bool kHalf, int kM>
void attend_rows(const KvLayer& layer, const AttentionTask& task) {
  const int dim = layer.padded_dim, wanted = padded(task.value_dim);
  const float factor = task.softcap > 0 ? 1.0f : task.scale;
  const Chunks chunk{task.pages, task.chunks_per_page, (size_t)task.kv_head, (size_t)layer.heads_apart,
                     (size_t)2 * kChunk * dim};
  Chunks next_chunk = chunk;
  next_chunk.pages = task.next_pages, next_chunk.head = (size_t)task.next_kv_head;
  const Soon next{(const char*)layer.data, next_chunk, task.next_first,
                  task.next_chunks < kChunksAhead ? task.next_chunks : kChunksAhead};
  float *q = task.scratch, *sums = q + kM * dim, *part = sums + kM * dim, *weights = part + kM * dim;
  for (int m = 0; m < kM; m++) {
    const float* from = task.q + m / task.group * task.q_stride + (size_t)(m % task.group) * layer.dim;
    for (int d = 0; d < dim; d += 16) store(q + m * dim + d, load_first(from + d, layer.dim - d));
  }
  Running run[kM];
  // Nobody sees what lies before the first token's window: chunks there are not read.
  const int last = task.first_position + task.count - 1;
  const int begin = task.first_position > task.behind ? task.first_position - task.behind : 0;
  const int end = task.length - last > task.ahead ? last + task.ahead + 1 : task.length;
  const int first_segment = begin / kSegment * kSegment;
  for (int segment = first_segment; segment < end; segment += kSegment) {
    const int first = segment > begin ? segment : begin / kChunk * kChunk;
    const int tokens = (end - segment < kSegment ? end : segment + kSegment) - first;
    // Of a text's many tokens, those before have brought it.
    const bool fetch = task.count == 1;
    segment_scores<kHalf, kM>(layer, chunk, first / kChunk, tokens, fetch, q, weights);
    Running now[kM];
    for (int m = 0; m < kM; m++) now[m] = row_weights(task, m, first, tokens, weights + m * kSegment);
    float* into = segment == first_segment ? sums : part;
    const int rest = (end + kChunk - 1) / kChunk - (first + tokens) / kChunk;
    const Soon soon = segment + kSegment < end
                          ? Soon{(const char*)layer.data, chunk, (first + tokens) / kChunk,
                                 rest < kChunksAhead ? rest : kChunksAhead}
                          : next;
    constexpr int kBlock = kM < 4 ? kM : 4;
    weigh_rows<kHalf, kBlock>(layer.data, chunk, soon, first / kChunk, tokens, dim, wanted, weights, kSegment,
                              into);
    if constexpr (kM > kBlock)
      weigh_rows<kHalf, kM - kBlock>(layer.data, chunk, {}, first / kChunk, tokens, dim, wanted,
                                     weights + kBlock * kSegment, kSegment, into + kBlock * dim);
    for (int m = 0; m < kM; m++) {
      if (segment == first_segment)
        run[m] = now[m];
      else if (now[m].total > 0)
        combine(run[m], sums + m * dim, now[m], part + m * dim, wanted, factor);
    }
  }
  for (int m = 0; m < kM; m++) finish_row(task, m, run[m], sums + m * dim);
}

template <int kM>
void attend_with(const KvLayer& layer, const AttentionTask& task) {
  if (task.count * task.group != kM) {
    if constexpr (kM > 1) attend_with<kM - 1>(layer, task);
    return;
  }
  if (layer.half)
    attend_rows<true, kM>(layer, task);
  else
    attend_rows<false, kM>(layer, task);
}

void attend(const KvLayer& layer, const AttentionTask& task) { attend_with<kQueryRows>(layer, task); }

void store_key(const KvLayer& layer, int64_t slot, int head, const float* key, int first, int n) {
  const size_t chunk = (size_t)(slot / kChunk) * layer.heads_apart + head;
  const size_t at = (chunk * 2 * layer.padded_dim + first) * kChunk + slot % kChunk;
  for (int d = 0; d < n; d += 16) {
    uint16_t halves[16];
    if (layer.half) store_half(halves, load_first(key + d, n - d));
    for (int i = 0; i < 16 && d + i < n; i++) {
      if (layer.half)
        ((uint16_t*)layer.data)[at + (d + i) * kChunk] = halves[i];
      else
        ((float*)layer.data)[at + (d + i) * kChunk] = key[d + i];
    }
  }
}

void store_value(const KvLayer& layer, int64_t slot, int head, const float* value, int n) {
  const size_t chunk = (size_t)(slot / kChunk) * layer.heads_apart + head;
  const size_t at = (chunk * 2 * kChunk + kChunk + slot % kChunk) * layer.padded_dim;
  for (int d = 0; d < n; d += 16) {
    const F32 row = load_first(value + d, n - d);
    if (layer.half)
      store_half((uint16_t*)layer.data + at + d, row);
    else
      store((float*)layer.data + at + d, row);
  }
}

}  // namespace
}  // namespace pagemill
