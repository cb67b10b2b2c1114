// Paged attention: query rows that share one key/value head read that head's pages once, also rows of several
// sequences whose histories begin with the same pages.
//
// The history is reduced in segments of 1,024 tokens, counted from its beginning, and the segments are
// combined in order. Within a segment: scores, their maximum, exponentials, then the weighted sum of the
// values. Rows see different tokens (causality, windows); what a row does not see has weight zero and changes
// nothing. What sequences share of a segment is scored for all of their rows before what each has alone, and
// weighed likewise, so a row's sum goes over its tokens in their order whoever it is computed with. What the
// cache is made of knows how to score and to weigh: see cache_floats.h, cache_pairs.h and cache_q8.h.
#pragma once

#include "cache_floats.h"
#include "cache_q8.h"
#include "rows.h"
#if defined(PAGEMILL_BF16)
#include "cache_pairs.h"
#endif

namespace pagemill {
namespace {

#if defined(PAGEMILL_BF16)
using Halves = HalfPairs;
#else
using Halves = Floats<true>;
#endif

constexpr int kChunksAhead = 6;

struct Running {  // of one row: the largest score so far and the sum of exponentials relative to it
  float top, total;
};

// Lanes from .. to of x that begins at lane t; the others from `other`.
inline F32 lanes_between(F32 x, F32 other, int from, int to, int t) {
  if (to - t < 16) x = first_lanes(x, other, to - t);
  return from > t ? first_lanes(other, x, from - t) : x;
}

// scores[from..to) become exponentials, as Cache keeps them, the others up to `tokens` zero; returns the
// maximum and the sum.
template <class Cache>
inline Running soften(float* scores, int from, int to, int tokens, float scale) {
  const F32 lowest = splat(-__builtin_inff());
  const int first = from / 16 * 16;
  F32 most = lowest;
  for (int t = first; t < to; t += 16) most = max(lanes_between(load(scores + t), lowest, from, to, t), most);
  const float top = largest(most);
  const F32 shift = splat(top), factor = splat(scale * 1.44269504f);
  F32 total = zero();
  for (int t = 0; t < tokens; t += 16) {
    F32 e = zero();
    if (t >= first && t < to) {
      e = lanes_between(exp2_negative(mul(sub(load(scores + t), shift), factor)), zero(), from, to, t);
    }
    total = add(total, Cache::store_weights(scores, t, e));
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

// A row's scores of `tokens` tokens become weights of those that it sees from its position, counted from the
// first of them.
template <class Cache>
inline Running row_weights(const AttentionTask& task, int position, int tokens, float* scores) {
  if (task.softcap > 0) cap_scores(scores, tokens, task.scale, task.softcap);
  const int from = position > task.behind ? position - task.behind : 0;
  const int to = tokens - position > task.ahead ? position + task.ahead + 1 : tokens;
  if (from >= to) {
    soften<Cache>(scores, 0, 0, tokens, 1.0f);
    return {-__builtin_inff(), 0.0f};
  }
  return soften<Cache>(scores, from, to, tokens, task.softcap > 0 ? 1.0f : task.scale);
}

// Divides by the sum of exponentials, in which a sink takes part.
inline void finish_row(const AttentionTask& task, int head, const Running& run, const float* sums,
                       float* out) {
  float keep = 1.0f, total = run.total;
  if (task.sinks) {
    const float sink = task.sinks[head], own = run.top * (task.softcap > 0 ? 1.0f : task.scale);
    const float top = own > sink ? own : sink;
    keep = exp_one(own - top), total = run.total * keep + exp_one(sink - top);
  }
  for (int d = 0; d < task.value_dim; d += 16)
    store_first(out + d, div(mul(load(sums + d), splat(keep)), splat(total)), task.value_dim - d);
}

// One sequence's part of a task.
struct Sequence {
  const Queries* queries;
  Chunks chunk;
  int row, rows;   // its first row, and how many
  int begin, end;  // tokens that its queries see

  int first_segment() const { return begin / kSegment * kSegment; }

  // Its tokens of a segment. Nobody sees what lies before the first query's window: chunks there are not
  // read.
  Run of(const KvLayer& layer, int segment) const {
    const int from = segment > begin ? segment : begin / kChunk * kChunk;
    const int to = end - segment < kSegment ? end : segment + kSegment;
    return {(const char*)layer.data, chunk, from / kChunk, to > from ? to - from : 0};
  }
};

// Calls work(how many as a type, the first) for blocks of at most kMost rows, as even as possible.
template <int kMost, class F>
inline void with_count(int n, F work) {
  if (n == kMost) return work(Index<kMost>());
  if constexpr (kMost > 1) with_count<kMost - 1>(n, work);
}
template <int kMost, class F>
inline void in_blocks(int row, int rows, F work) {
  for (int blocks = (rows + kMost - 1) / kMost; blocks > 0; blocks--) {
    const int n = (rows + blocks - 1) / blocks;
    with_count<kMost>(n, [&](auto count) { work(count, row); });
    row += n, rows -= n;
  }
}

// One task's way through its segments.
template <class Cache>
class Attention {
 public:
  Attention(const KvLayer& layer, const AttentionTask& task)
      : layer(layer),
        task(task),
        dim(layer.padded_dim),
        wanted(padded(task.value_dim)),
        num_rows(place_sequences()),
        sums(task.scratch + num_rows * (dim + 16)),  // int8 queries of 16 elements need more than these
        part(sums + num_rows * dim),
        weights(part + num_rows * dim),
        rows(layer, num_rows, weights, task.scratch, weights + num_rows * kWeights),
        asked(task.asked && one_token()) {
    each_row([&](const Sequence& s, int m) {
      rows.set_query(s.row + m,
                     s.queries->q + m / task.group * task.q_stride + (size_t)(m % task.group) * layer.dim);
    });
  }

  void run() {
    int from = sequences[0].first_segment(), to = sequences[0].end;
    for (int i = 1; i < task.sequences; i++) {
      if (sequences[i].first_segment() < from) from = sequences[i].first_segment();
      if (sequences[i].end > to) to = sequences[i].end;
    }
    for (int segment = from; segment < to; segment += kSegment) {
      const int left = task.shared * kChunk - segment;
      shared = left < 0 ? 0 : left < kSegment ? left : kSegment;
      const Run next = segment + kSegment < to ? sequences[0].of(layer, segment + kSegment) : next_task();
      score(segment, next);
      weigh(segment, next);
      add_segment(segment);
    }
    each_row([&](const Sequence& s, int m) {
      const int token = m / task.group, head = m % task.group;
      float* out = s.queries->out + token * task.out_stride + (size_t)head * task.value_dim;
      finish_row(task, head, running[s.row + m], sums + (s.row + m) * dim, out);
    });
  }

 private:
  // Finds what sequences read; returns the number of their rows.
  int place_sequences() {
    int row = 0;
    for (int i = 0; i < task.sequences; i++) {
      const Queries& of = task.queries[i];
      const int first = of.first_position, last = first + of.count - 1;
      Sequence& s = sequences[i];
      s.queries = &of, s.row = row, s.rows = of.count * task.group;
      s.chunk = {of.pages, task.chunks_per_page, (size_t)task.kv_head, (size_t)layer.heads_apart,
                 layer.chunk_bytes};
      s.begin = first > task.behind ? first - task.behind : 0;
      s.end = of.length - last > task.ahead ? last + task.ahead + 1 : of.length;
      row += s.rows;
    }
    return row;
  }

  template <class F>
  void each_row(F work) const {
    for (int i = 0; i < task.sequences; i++)
      for (int m = 0; m < sequences[i].rows; m++) work(sequences[i], m);
  }

  Run next_task() const {
    Chunks chunk = sequences[0].chunk;
    chunk.pages = task.next_pages, chunk.head = (size_t)task.next_kv_head;
    return {(const char*)layer.data, chunk, task.next_first, task.next_chunks * kChunk};
  }

  // What all sequences share of a segment, and what one of them has alone.
  Run common(int segment) const {
    Run run = sequences[0].of(layer, segment);
    run.tokens = shared;
    return run;
  }
  Run own(int i, int segment) const {
    if (i == task.sequences) return {};
    Run run = sequences[i].of(layer, segment);
    run.first += shared / kChunk, run.tokens -= shared;
    return run;
  }

  // Whether one token attends alone. Memory is what it waits for, so each segment is asked for during all of
  // the one before: requests that come evenly never fill the queue. For others the next chunks of the same
  // keys are asked for.
  bool one_token() const { return task.sequences == 1 && sequences[0].queries->count == 1; }

  // The weights of a segment's tokens; what is needed `next` is asked for meanwhile.
  void score(int segment, const Run& next) {
    const auto score_run = [&](int row, int count, const Run& run, int at, const Run& then, bool fetch) {
      ahead = asked ? Ahead(next, {}, 0, 1) : fetch ? Ahead(run, then, kChunksAhead, 2) : Ahead();
      in_blocks<kScoredRows>(row, count, [&](auto block, int m) {
        Ahead none;
        rows.template score<decltype(block)::value>(m, run, m == row ? ahead : none,
                                                    weights + m * kWeights + at);
      });
    };
    // Of a text's many tokens, those before have brought what they see.
    const auto fetch = [&](int i) { return sequences[i].queries->count == 1; };
    if (shared) score_run(0, num_rows, common(segment), 0, own(0, segment), fetch(0));
    for (int i = 0; i < task.sequences; i++) {
      const Sequence& s = sequences[i];
      score_run(s.row, s.rows, own(i, segment), shared, own(i + 1, segment), fetch(i));
      const Run all = s.of(layer, segment);
      for (int m = 0; m < s.rows && all.tokens; m++)
        now[s.row + m] =
            row_weights<Cache>(task, s.queries->first_position + m / task.group - all.first * kChunk,
                               all.tokens, weights + (s.row + m) * kWeights);
    }
  }

  // The weighted sums of a segment's values; what is needed `next` is asked for meanwhile.
  void weigh(int segment, Run next) {
    if (!asked) {
      if (!one_token() && next.tokens > kChunksAhead * kChunk) next.tokens = kChunksAhead * kChunk;
      ahead = Ahead(next, {}, 0, 2);
    }
    asked = one_token();
    const auto weigh_run = [&](int row, int count, const Run& run, int at, int d, int end, float* into) {
      in_blocks<Cache::Rows::kWeighed>(row, count, [&](auto block, int m) {
        rows.template weigh<decltype(block)::value>(m, run, at, ahead, d, end, !at, into);
        ahead = {};
      });
    };
    constexpr int kWidth = Cache::Rows::kWidth;
    for (int d = 0; d < wanted; d += kWidth) {
      const int end = wanted - d < kWidth ? wanted : d + kWidth;
      for (int i = 0; i < task.sequences; i++)
        rows.round_weights(sequences[i].row, sequences[i].rows, sequences[i].of(layer, segment), d);
      if (shared) weigh_run(0, num_rows, common(segment), 0, d, end, sums_of(sequences[0], segment));
      for (int i = 0; i < task.sequences; i++) {
        const Sequence& s = sequences[i];
        const Run run = own(i, segment);
        if (run.tokens) weigh_run(s.row, s.rows, run, shared, d, end, sums_of(s, segment));
        if (run.tokens + shared) rows.finish(s.row, s.rows, d, end, sums_of(s, segment));
      }
    }
  }

  float* sums_of(const Sequence& s, int segment) const { return segment == s.first_segment() ? sums : part; }

  // Adds a segment to those before it.
  void add_segment(int segment) {
    const float factor = task.softcap > 0 ? 1.0f : task.scale;
    each_row([&](const Sequence& s, int m) {
      const int row = s.row + m;
      if (segment == s.first_segment())
        running[row] = now[row];
      else if (segment > s.first_segment() && segment < s.end && now[row].total > 0)
        combine(running[row], sums + row * dim, now[row], part + row * dim, wanted, factor);
    });
  }

  const KvLayer& layer;
  const AttentionTask& task;
  const int dim, wanted;
  Sequence sequences[kTaskRows];
  const int num_rows;
  float *sums, *part, *weights;
  typename Cache::Rows rows;
  int shared = 0;  // tokens of a segment that all sequences have in common
  bool asked;      // for this segment, during the one before
  Ahead ahead;
  Running running[kTaskRows], now[kTaskRows];
};

// Calls work(the type of a cache).
template <class F>
inline void with_cache(CacheKind kind, F work) {
  if (kind == CacheKind::f16) return work(Halves());
  if (kind == CacheKind::f32) return work(Floats<false>());
  work(Q8());
}

void attend(const KvLayer& layer, const AttentionTask& task) {
  with_cache(layer.kind, [&](auto cache) { Attention<decltype(cache)>(layer, task).run(); });
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
