#include "program.h"

#include <algorithm>
#include <chrono>
#include <stdexcept>

namespace pagemill {
namespace {

constexpr int round_up(int n, int to) { return (n + to - 1) / to * to; }

// Floats between rows: an odd number of cache lines, so that a column of many rows does not fall into few
// cache sets.
constexpr int row_stride(int width) {
  const int stride = round_up(width, kGroup);
  return stride / 16 % 2 ? stride : stride + 16;
}

constexpr const char* kOpNames[] = {"embed", "norm",     "quantize", "linear", "linear_silu_mul", "silu_mul",
                                    "rope",  "store_kv", "attend",   "add",    "gather"};

}  // namespace

KvCache::KvCache(int layers, int num_pages, int page_size, int heads, int dim, bool half)
    : layers_(layers),
      num_pages_(num_pages),
      page_size_(page_size),
      heads_(heads),
      dim_(dim),
      padded_dim_(round_up(dim, 16)),
      half_(half) {
  if (page_size % kChunk)
    throw std::invalid_argument("page_size " + std::to_string(page_size) + " is not a multiple of 16");
  layer_bytes_ = (size_t)num_pages * page_size * heads * 2 * padded_dim_ * (half ? 2 : 4);
  memory_ = Block(layer_bytes_ * layers + 4096);
}

KvLayer KvCache::layer(int index) const {
  return {memory_.as<char>(layer_bytes_ * index), half_, heads_, dim_, padded_dim_};
}

int Program::buffer(int width, bool sampled) {
  buffers_.push_back({width, row_stride(width), sampled, false});
  return (int)buffers_.size() - 1;
}

void Program::embed(std::shared_ptr<Matrix> table, int out) {
  auto& i = append(Op::embed);
  i.matrix = std::move(table);
  i.out = {out, 0};
}

void Program::norm(View x, View added, View sum, std::shared_ptr<Vector> weight, float eps, int heads,
                   View out, bool quantized) {
  auto& i = append(Op::norm);
  i.a = x, i.b = added, i.sum = sum, i.out = out;
  i.width = (int)weight->values.size(), i.heads = heads, i.number = eps, i.quantized = quantized;
  i.vector = std::move(weight);
  if (quantized) buffers_[out.buffer].quantized = true;
}

void Program::quantize(View x, int width) {
  auto& i = append(Op::quantize);
  i.a = i.out = x;
  i.width = width, i.quantized = true;
  buffers_[x.buffer].quantized = true;
}

void Program::linear(View x, std::shared_ptr<Matrix> weight, int out) {
  auto& i = append(Op::linear);
  i.a = x, i.out = {out, 0};
  i.matrix = std::move(weight);
}

void Program::silu_mul(View x, int width, View out, bool quantized) {
  auto& i = append(Op::silu_mul);
  i.a = x, i.out = out, i.width = width, i.quantized = quantized;
  if (quantized) buffers_[out.buffer].quantized = true;
}

void Program::linear_silu_mul(View x, std::shared_ptr<Matrix> weight, int between, View out, bool quantized) {
  auto& i = append(Op::linear_silu_mul);
  i.a = x, i.b = {between, 0}, i.out = out, i.width = weight->n() / 2, i.quantized = quantized;
  i.matrix = std::move(weight);
  if (quantized) buffers_[out.buffer].quantized = true;
}

void Program::rope(View x, int heads, int dim, std::shared_ptr<RopeTable> table) {
  auto& i = append(Op::rope);
  i.a = i.out = x, i.heads = heads, i.width = dim;
  i.rope = std::move(table);
}

void Program::store_kv(View k, View v, std::shared_ptr<KvCache> kv, int layer) {
  auto& i = append(Op::store_kv);
  i.a = k, i.b = v, i.out = k, i.layer = layer;
  i.kv = std::move(kv);
}

void Program::attend(View q, int heads, std::shared_ptr<KvCache> kv, int layer, float scale, View out,
                     bool quantized) {
  auto& i = append(Op::attend);
  i.quantized = quantized;
  if (quantized) buffers_[out.buffer].quantized = true;
  i.a = q, i.out = out, i.heads = heads, i.layer = layer, i.number = scale;
  i.kv = std::move(kv);
}

void Program::add(View a, View b, int width, View out) {
  auto& i = append(Op::add);
  i.a = a, i.b = b, i.out = out, i.width = width;
}

void Program::gather(int from, int out) {
  auto& i = append(Op::gather);
  i.a = {from, 0}, i.out = {out, 0}, i.width = buffers_[from].width;
}

float* Program::data(int buffer) const { return arena_.as<float>(buffers_[buffer].offset); }

Activation Program::activation(int buffer) const {
  const Buffer& b = buffers_[buffer];
  return {arena_.as<int8_t>(b.q),        arena_.as<float>(b.scale),          arena_.as<float>(b.scaled_sum),
          arena_.as<int32_t>(b.neg_sum), round_up(b.width, kGroup) / kGroup, planes(b)};
}

void Program::place_buffers(int tokens, int sampled) {
  placed_tokens_ = std::max(tokens, placed_tokens_);
  placed_sampled_ = std::max(sampled, placed_sampled_);
  size_t end = 0;
  const auto take = [&](size_t bytes) {
    const size_t at = end;
    end += (bytes + 63) / 64 * 64;
    return at;
  };
  for (Buffer& b : buffers_) {
    const size_t rows = b.sampled ? placed_sampled_ : placed_tokens_,
                 groups = rows * planes(b) * (round_up(b.width, kGroup) / kGroup);
    b.offset = take(rows * b.stride * sizeof(float));
    if (!b.quantized) continue;
    b.q = take(groups * kGroup);
    b.scale = take(groups * 4);
    b.scaled_sum = take(groups * 4);
    b.neg_sum = take(groups * 4);
  }
  arena_ = Block(end + 4096);
}

// Cuts each row's tokens into tasks of as many query rows as the kernel holds in registers.
void Program::plan_attention(int heads, int kv_heads, int padded_dim) {
  task_group_ = std::min(heads / kv_heads, kernels_.max_query_rows);
  const int together = std::max(1, kernels_.max_query_rows / task_group_);
  tasks_.clear();
  for (int row = 0; row < step_.rows; row++) {
    const int count = step_.row_starts[row + 1] - step_.row_starts[row];
    for (int first = 0; first < count; first += together) {
      const int n = std::min(together, count - first);
      tasks_.push_back({row, first, n, (step_.kv_lens[row] - count + first + n) * n});
    }
  }
  std::stable_sort(tasks_.begin(), tasks_.end(),
                   [](const Task& a, const Task& b) { return a.cost > b.cost; });
  scratch_stride_ = std::max(scratch_stride_, (size_t)scratch_size(kernels_.max_query_rows, padded_dim));
  if (scratch_.size() < scratch_stride_ * 4 * pool_->size())
    scratch_ = Block(scratch_stride_ * 4 * pool_->size());
}

void Program::prepare(const StepView& step) {
  step_ = step;
  if (step.tokens > placed_tokens_ || step.sampled > placed_sampled_)
    place_buffers(step.tokens, step.sampled);
  if (phases_.empty()) plan_phases();
  for (auto& shares : shares_) shares.next.store(0, std::memory_order_relaxed);
  for (const auto& i : instructions_)
    if (i.op == Op::attend) {
      plan_attention(i.heads, i.kv->heads(), i.kv->layer(0).padded_dim);
      break;  // all layers are alike
    }
}

void Program::plan_phases() {
  const auto by_row = [](const Instruction& i) {
    return i.op != Op::linear && i.op != Op::linear_silu_mul && i.op != Op::attend && i.op != Op::gather;
  };
  for (int i = 0; i < (int)instructions_.size(); i++) {
    const Instruction& now = instructions_[i];
    const bool joins = i && by_row(now) && by_row(instructions_[i - 1]) &&
                       buffers_[now.out.buffer].sampled == buffers_[instructions_[i - 1].out.buffer].sampled;
    if (joins)
      phases_.back().last = i + 1;
    else
      phases_.push_back({i, i + 1});
  }
  shares_ = std::vector<Shares>(phases_.size());
}

void Program::run(const StepView& step) {
  prepare(step);
  pool_->run([this](int thread) {
    for (size_t i = 0; i < phases_.size(); i++) {
      if (i) pool_->barrier();
      execute(phases_[i], shares_[i], thread);
    }
  });
}

std::vector<std::pair<std::string, double>> Program::profile(const StepView& step) {
  prepare(step);
  std::vector<std::pair<std::string, double>> seconds;
  for (size_t i = 0; i < phases_.size(); i++) {
    const auto start = std::chrono::steady_clock::now();
    pool_->run([&](int thread) { execute(phases_[i], shares_[i], thread); });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const char* name = kOpNames[(int)instructions_[phases_[i].first].op];
    auto found = std::find_if(seconds.begin(), seconds.end(), [&](const auto& s) { return s.first == name; });
    if (found == seconds.end())
      seconds.emplace_back(name, took.count());
    else
      found->second += took.count();
  }
  return seconds;
}

void Program::execute(const Phase& phase, Shares& shares, int thread) {
  const Instruction& i = instructions_[phase.first];
  switch (i.op) {
    case Op::linear:
      return run_linear(i, shares);
    case Op::linear_silu_mul:
      return run_linear_silu_mul(i, shares);
    case Op::attend:
      return run_attention(i, shares, thread);
    default:
      return run_rows(phase, shares);
  }
}

// Tiles from .. to of a product, for all rows, into `buffer`.
void Program::product(const Instruction& i, int from, int to, int buffer) {
  int before = 0;
  for (const auto& segment : i.matrix->segments()) {
    const PackedWeight& w = segment.weight;
    const int first = std::max(from - before, 0), last = std::min(to - before, w.tiles);
    before += w.tiles;
    if (first >= last) continue;
    float* y = data(buffer) + segment.first_row;
    const size_t stride = buffers_[buffer].stride;
    if (is_quantized(w.kind))
      kernels_.linear_quantized(w, activation(i.a.buffer), rows(buffer), first, last, y, stride);
    else
      kernels_.linear_dense(w, at(i.a, 0), buffers_[i.a.buffer].stride, rows(buffer), first, last, y, stride);
  }
}

void Program::run_linear(const Instruction& i, Shares& shares) {
  if (!rows(i.out.buffer)) return;
  int tiles = 0;
  for (const auto& segment : i.matrix->segments()) tiles += segment.weight.tiles;
  const int share = std::clamp(tiles / (pool_->size() * 6) / 2 * 2, 2, 64);
  shares.each(tiles, share, [&](int from, int to) { product(i, from, to, i.out.buffer); });
}

void Program::run_linear_silu_mul(const Instruction& i, Shares& shares) {
  // In groups of 32 columns, so that a share can also be quantized; small enough to stay in the core's own
  // cache.
  const int count = rows(i.out.buffer), groups = i.width / kGroup, tiles = i.width / kTile;
  if (!count) return;
  const int in_cache = (512 << 10) / (count * kGroup * 3 * (int)sizeof(float));
  const int share = std::max(1, std::min(groups / (pool_->size() * 6), in_cache));
  shares.each(groups, share, [&](int from, int to) {
    product(i, from * 2, to * 2, i.b.buffer);
    product(i, tiles + from * 2, tiles + to * 2, i.b.buffer);
    const int column = from * kGroup, end = to * kGroup;
    for (int row = 0; row < count; row++) {
      const float* gate = at(i.b, row);
      kernels_.silu_mul(gate + column, gate + i.width + column, at(i.out, row) + column, end - column);
      if (i.quantized) kernels_.quantize(at(i.out, row), from, end, activation(i.out.buffer), row);
    }
  });
}

void Program::run_attention(const Instruction& i, Shares& shares, int thread) {
  const KvLayer layer = i.kv->layer(i.layer);
  const int group = i.heads / layer.kv_heads, parts = (group + task_group_ - 1) / task_group_;
  const int per_task = layer.kv_heads * parts;
  float* scratch = scratch_.as<float>() + scratch_stride_ * thread;
  shares.each((int)tasks_.size() * per_task, 1, [&](int item, int) {
    const Task& task = tasks_[item / per_task];
    const int kv_head = item % per_task / parts, part = item % parts;
    const int head = kv_head * group + part * task_group_,
              heads = std::min(task_group_, group - part * task_group_);
    const int token = step_.row_starts[task.row] + task.first;
    const size_t column = (size_t)head * layer.dim;
    // A last part with fewer heads than the others still fits: the kernel takes count * group rows.
    kernels_.attend(
        layer, {at(i.a, token) + column, (size_t)buffers_[i.a.buffer].stride, at(i.out, token) + column,
                (size_t)buffers_[i.out.buffer].stride, task.count, heads, step_.positions[token],
                step_.page_table + (size_t)task.row * step_.pages_per_row, step_.page_size / kChunk, kv_head,
                i.number, scratch});
    if (!i.quantized) return;
    for (int t = 0; t < task.count; t++)
      kernels_.quantize(at(i.out, token + t), (int)column / kGroup, (int)column + heads * layer.dim,
                        activation(i.out.buffer), token + t);
  });
}

void Program::run_rows(const Phase& phase, Shares& shares) {
  const int count = rows(instructions_[phase.first].out.buffer);
  shares.each(count, std::max(1, count / (pool_->size() * 4)), [&](int from, int to) {
    for (int row = from; row < to; row++)
      for (int n = phase.first; n < phase.last; n++) {
        const Instruction& i = instructions_[n];
        one_row(i, row);
        if (i.quantized)
          kernels_.quantize(at(i.out, row), 0, i.width * (i.op == Op::norm ? i.heads : 1),
                            activation(i.out.buffer), row);
      }
  });
}

void Program::one_row(const Instruction& i, int row) {
  switch (i.op) {
    case Op::embed:
      return kernels_.embed_row(i.matrix->segments()[0].weight, step_.token_ids[row], at(i.out, row));
    case Op::norm: {
      const float* x = at(i.a, row);
      if (i.b.buffer >= 0) {
        kernels_.add(x, at(i.b, row), at(i.sum, row), i.width * i.heads);
        x = at(i.sum, row);
      }
      for (int h = 0; h < i.heads; h++)
        kernels_.rms_norm(x + h * i.width, i.vector->values.data(), at(i.out, row) + h * i.width, i.width,
                          i.number);
      return;
    }
    case Op::silu_mul:
      return kernels_.silu_mul(at(i.a, row), at(i.a, row) + i.width, at(i.out, row), i.width);
    case Op::rope: {
      const size_t angle = (size_t)step_.positions[row] * i.rope->half;
      for (int h = 0; h < i.heads; h++)
        kernels_.rope(at(i.a, row) + h * i.width, &i.rope->cos[angle], &i.rope->sin[angle], i.rope->half);
      return;
    }
    case Op::store_kv: {
      const KvLayer layer = i.kv->layer(i.layer);
      for (int h = 0; h < layer.kv_heads; h++)
        kernels_.store_kv(layer, step_.slots[row], h, at(i.a, row) + h * layer.dim,
                          at(i.b, row) + h * layer.dim);
      return;
    }
    case Op::add:
      return kernels_.add(at(i.a, row), at(i.b, row), at(i.out, row), i.width);
    case Op::gather: {
      const float* from = at(i.a, step_.out_rows[row]);
      std::copy(from, from + i.width, at(i.out, row));
      return;
    }
    default:
      return;  // quantize: run_rows does it
  }
}

}  // namespace pagemill
