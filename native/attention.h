// Paged attention: a few query rows that share one key/value head read that head's pages once.
//
// The history is reduced in segments of 1,024 tokens, counted from its beginning, and the segments are
// combined in order. Within a segment: scores, their maximum, exponentials, then the weighted sum of the
// values. Rows see different tokens (causality, windows); what a row does not see has weight zero and changes
// nothing. What the cache is made of knows how to score and to weigh: see cache_floats.h and cache_q8.h.
#pragma once

#include "cache_floats.h"
#include "cache_q8.h"
#include "rows.h"

namespace pagemill {
namespace {

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

template <class Cache, int kM>
void attend_rows(const KvLayer& layer, const AttentionTask& task) {
  const int dim = layer.padded_dim, wanted = padded(task.value_dim);
  const float factor = task.softcap > 0 ? 1.0f : task.scale;
  const Chunks chunk{task.pages, task.chunks_per_page, (size_t)task.kv_head, (size_t)layer.heads_apart,
                     layer.chunk_bytes};
  Chunks next_chunk = chunk;
  next_chunk.pages = task.next_pages, next_chunk.head = (size_t)task.next_kv_head;
  const Soon next{(const char*)layer.data, next_chunk, task.next_first,
                  task.next_chunks < Cache::kSoon ? task.next_chunks : Cache::kSoon};
  float *q = task.scratch, *sums = q + kM * (dim + 16);  // int8 queries of 16 elements need more than these
  float *part = sums + kM * dim, *weights = part + kM * dim;
  const typename Cache::template Rows<kM> rows(layer, task, q, weights + kM * kSegment);
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
    rows.score(chunk, first / kChunk, tokens, fetch, weights);
    Running now[kM];
    for (int m = 0; m < kM; m++) now[m] = row_weights(task, m, first, tokens, weights + m * kSegment);
    float* into = segment == first_segment ? sums : part;
    const int rest = (end + kChunk - 1) / kChunk - (first + tokens) / kChunk;
    const Soon soon = segment + kSegment < end
                          ? Soon{(const char*)layer.data, chunk, (first + tokens) / kChunk,
                                 rest < Cache::kSoon ? rest : Cache::kSoon}
                          : next;
    rows.weigh(chunk, soon, first / kChunk, tokens, wanted, weights, into);
    for (int m = 0; m < kM; m++) {
      if (segment == first_segment)
        run[m] = now[m];
      else if (now[m].total > 0)
        combine(run[m], sums + m * dim, now[m], part + m * dim, wanted, factor);
    }
  }
  for (int m = 0; m < kM; m++) finish_row(task, m, run[m], sums + m * dim);
}

// Calls work(the type of a cache).
template <class F>
inline void with_cache(CacheKind kind, F work) {
  if (kind == CacheKind::f16) return work(Floats<true>());
  if (kind == CacheKind::f32) return work(Floats<false>());
  work(Q8());
}

template <class Cache, int kM>
void attend_with(const KvLayer& layer, const AttentionTask& task) {
  if (task.count * task.group == kM) return attend_rows<Cache, kM>(layer, task);
  if constexpr (kM > 1) attend_with<Cache, kM - 1>(layer, task);
}

void attend(const KvLayer& layer, const AttentionTask& task) {
  with_cache(layer.kind, [&](auto cache) { attend_with<decltype(cache), kQueryRows>(layer, task); });
}

inline char* chunk_of(const KvLayer& layer, int64_t slot, int head) {
  return (char*)layer.data + ((size_t)(slot / kChunk) * layer.heads_apart + head) * layer.chunk_bytes;
}

void store_key(const KvLayer& layer, int64_t slot, int head, const float* key, int first, int n) {
  with_cache(layer.kind, [&](auto cache) {
    cache.store_key(chunk_of(layer, slot, head), layer.padded_dim, (int)(slot % kChunk), key, first, n);
  });
}

void store_value(const KvLayer& layer, int64_t slot, int head, const float* value, int n) {
  with_cache(layer.kind, [&](auto cache) {
    cache.store_value(chunk_of(layer, slot, head), layer.padded_dim, (int)(slot % kChunk), value, n);
  });
}

}  // namespace
}  // namespace pagemill
