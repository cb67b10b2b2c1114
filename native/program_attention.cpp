// Attention: how a step's rows are cut into tasks, and how the tasks run.
#include <algorithm>
#include <climits>

#include "program.h"

namespace pagemill {

namespace {

constexpr int kPackedQueries = 256;  // tokens of a text that share keys and values packed for one head

constexpr int num_chunks(int tokens) { return (tokens + kChunk - 1) / kChunk; }

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Floats that the packed keys and values of one head need, for `queries` tokens of a text.
size_t packed_size(int tokens, int dim, int window, int queries) {
  if (window) tokens = (int)std::min<int64_t>(tokens, (int64_t)queries + 2 * (int64_t)window);
  return (size_t)(round_up(tokens, kChunk) + kChunk) * 2 * padded(dim);
}

}  // namespace

int Program::plan_of(int group, int window, bool dense) {
  for (size_t i = 0; i < plans_.size(); i++)
    if (plans_[i].group == group && plans_[i].window == window && plans_[i].dense == dense) return (int)i;
  plans_.push_back({group, window, dense, std::min(group, kernels_.max_query_rows), {}});
  return (int)plans_.size() - 1;
}

// Cuts each row's tokens into tasks: over pages, of as many query rows as the kernel holds in registers; in
// whole texts, of as many as make packing keys and values worth it.
void Program::plan_attention(AttentionPlan& plan) const {
  const int together = plan.dense ? kPackedQueries : std::max(1, kernels_.max_query_rows / plan.together);
  plan.tasks.clear();
  for (int row = 0; row < step_.rows; row++) {
    const int count = step_.row_starts[row + 1] - step_.row_starts[row];
    for (int first = 0; first < count; first += together) {
      const int n = std::min(together, count - first);
      int seen = plan.dense ? count : step_.kv_lens[row] - count + first + n;
      if (plan.window) seen = std::min(seen, plan.window * (plan.dense ? 2 : 1) + n);
      plan.tasks.push_back({row, first, n, (int64_t)seen * n});
    }
  }
  std::stable_sort(plan.tasks.begin(), plan.tasks.end(),
                   [](const Task& a, const Task& b) { return a.cost > b.cost; });
}

// What a thread needs for the largest task of this step.
void Program::place_scratch() {
  int longest = 0;
  for (int row = 0; row < step_.rows; row++)
    longest = std::max(longest, step_.row_starts[row + 1] - step_.row_starts[row]);
  for (const Instruction& i : instructions_) {
    size_t size = 0;
    if (i.op == Op::attend) size = scratch_size(kernels_.max_query_rows, i.kv->layer(0).padded_dim);
    if (i.op == Op::attend_dense)
      size = scratch_size(kernels_.max_query_rows, padded(i.width)) +
             packed_size(longest, i.width, i.scoring.window, kPackedQueries);
    if (i.op == Op::linear_heads) size = padded(i.matrix->n()) + kTile;
    scratch_stride_ = std::max(scratch_stride_, (size + 15) / 16 * 16);
  }
  for (int chunk = (int)chunks_.size(); chunk * kChunk < longest + kChunk; chunk++) chunks_.push_back(chunk);
  const size_t bytes = scratch_stride_ * sizeof(float) * pool_->size();
  if (scratch_.size() < bytes) scratch_ = Block(bytes);
}

void Program::run_attention(const Instruction& i, Shares& shares, int thread) {
  const KvLayer layer = i.kv->layer(i.layer);
  const AttentionPlan& plan = plans_[i.plan];
  const int parts = (plan.group + plan.together - 1) / plan.together, per_task = layer.kv_heads * parts;
  const int behind = i.scoring.window ? i.scoring.window - 1 : INT_MAX;
  float* scratch = scratch_.as<float>() + scratch_stride_ * thread;
  const auto pages = [&](const Task& task) {
    return step_.page_table + (size_t)task.row * step_.pages_per_row;
  };
  const auto position = [&](const Task& task) {
    return step_.positions[step_.row_starts[task.row] + task.first];
  };
  const auto attend = [&](int item, int after) {
    const Task &task = plan.tasks[item / per_task], &next = plan.tasks[std::max(after, 0) / per_task];
    const int kv_head = item % per_task / parts, part = item % parts;
    const int head = kv_head * plan.group + part * plan.together,
              heads = std::min(plan.together, plan.group - part * plan.together);
    const int token = step_.row_starts[task.row] + task.first;
    const size_t column = (size_t)head * i.width;
    const int next_first = std::max(0, position(next) - behind) / kChunk;
    // A last part with fewer heads than the others still fits: the kernel takes count * group rows.
    kernels_.attend(layer, {.q = at(i.a, token) + (size_t)head * layer.dim,
                            .q_stride = (size_t)buffers_[i.a.buffer].stride,
                            .out = at(i.out, token) + column,
                            .out_stride = (size_t)buffers_[i.out.buffer].stride,
                            .count = task.count,
                            .group = heads,
                            .first_position = position(task),
                            .length = step_.kv_lens[task.row],
                            .behind = behind,
                            .ahead = 0,
                            .pages = pages(task),
                            .chunks_per_page = step_.page_size / kChunk,
                            .kv_head = kv_head,
                            .value_dim = i.width,
                            .scale = i.scoring.scale,
                            .softcap = i.scoring.softcap,
                            .sinks = i.vector ? i.vector->values.data() + head : nullptr,
                            .scratch = scratch,
                            .next_pages = pages(next),
                            .next_first = next_first,
                            .next_chunks = after < 0 ? 0 : num_chunks(step_.kv_lens[next.row]) - next_first,
                            .next_kv_head = std::max(after, 0) % per_task / parts});
    if (!i.quantized) return;
    for (int t = 0; t < task.count; t++)
      kernels_.quantize(at(i.out, token + t), (int)column / kGroup, (int)column + heads * i.width,
                        activation(i.out.buffer), token + t);
  };
  const int items = (int)plan.tasks.size() * per_task;
  if (items < 4 * pool_->size())  // too few for a thread to hold two
    shares.each(items, 1, [&](int item, int) { attend(item, -1); });
  else
    shares.each_ahead(items, attend);
}

void Program::run_dense_attention(const Instruction& i, Shares& shares, int thread) {
  const AttentionPlan& plan = plans_[i.plan];
  float* scratch = scratch_.as<float>() + scratch_stride_ * thread;
  shares.each((int)plan.tasks.size() * i.kv_heads, 1, [&](int item, int) {
    attend_packed(i, plan.tasks[item / i.kv_heads], item % i.kv_heads, scratch);
  });
}

// Packs one head's keys and values of what the task's tokens see, as a cache of one page, and attends.
void Program::attend_packed(const Instruction& i, const Task& task, int kv_head, float* scratch) {
  const AttentionPlan& plan = plans_[i.plan];
  const int dim = i.width, start = step_.row_starts[task.row], count = step_.row_starts[task.row + 1] - start;
  const int reach = i.scoring.window ? i.scoring.window - 1 : count;
  const int from = std::max(0, task.first - reach) / kChunk * kChunk,
            to = (int)std::min<int64_t>(count, (int64_t)task.first + task.count + reach);
  float* packed = scratch + scratch_size(kernels_.max_query_rows, padded(dim));
  const KvLayer layer{packed, CacheKind::f32, 1, dim, padded(dim), chunk_bytes(CacheKind::f32, dim), 1};
  if (dim < layer.padded_dim)
    std::fill_n(packed, (size_t)round_up(to - from, kChunk) * 2 * layer.padded_dim, 0);
  // A head's columns of successive tokens lie far apart: they are asked for ahead of their use.
  constexpr int kAhead = 12;
  const auto fetch = [&](View view, int token, int head, int width) {
    const char* line = (const char*)(at(view, start + token) + (size_t)head * dim);
    for (size_t byte = 0; byte < width * sizeof(float); byte += 64) __builtin_prefetch(line + byte);
  };
  for (int token = from; token < to; token++) {
    if (token + kAhead < to)
      fetch(i.b, token + kAhead, kv_head, dim), fetch(i.c, token + kAhead, kv_head, dim);
    if (token >= task.first && token < task.first + task.count)
      fetch(i.a, token, kv_head * plan.group, plan.group * dim);
    kernels_.store_key(layer, token - from, 0, at(i.b, start + token) + (size_t)kv_head * dim, 0, dim);
    kernels_.store_value(layer, token - from, 0, at(i.c, start + token) + (size_t)kv_head * dim, dim);
  }
  const int together = std::max(1, kernels_.max_query_rows / plan.together);
  for (int first = task.first; first < task.first + task.count; first += together)
    for (int part = 0; part < plan.group; part += plan.together) {
      const int head = kv_head * plan.group + part, heads = std::min(plan.together, plan.group - part);
      const int tokens = std::min(together, task.first + task.count - first), token = start + first;
      const size_t column = (size_t)head * dim;
      kernels_.attend(layer, {.q = at(i.a, token) + column,
                              .q_stride = (size_t)buffers_[i.a.buffer].stride,
                              .out = at(i.out, token) + column,
                              .out_stride = (size_t)buffers_[i.out.buffer].stride,
                              .count = tokens,
                              .group = heads,
                              .first_position = first - from,
                              .length = to - from,
                              .behind = reach,
                              .ahead = reach,
                              .pages = chunks_.data(),
                              .chunks_per_page = 1,
                              .kv_head = 0,
                              .value_dim = dim,
                              .scale = i.scoring.scale,
                              .softcap = i.scoring.softcap,
                              .scratch = scratch});
      if (!i.quantized) continue;
      for (int t = token; t < token + tokens; t++)
        kernels_.quantize(at(i.out, t), (int)column / kGroup, (int)column + heads * dim,
                          activation(i.out.buffer), t);
    }
}

}  // namespace pagemill
