// Attention: how a step's rows are cut into tasks, and how the tasks run.
#include <algorithm>
#include <climits>

#include "program.h"

namespace pagemill {

int Program::plan_of(int group, int window) {
  for (size_t i = 0; i < plans_.size(); i++)
    if (plans_[i].group == group && plans_[i].window == window) return (int)i;
  plans_.push_back({group, window, std::min(group, kernels_.max_query_rows), {}});
  return (int)plans_.size() - 1;
}

// Cuts each row's tokens into tasks of as many query rows as the kernel holds in registers.
void Program::plan_attention(AttentionPlan& plan) const {
  const int together = std::max(1, kernels_.max_query_rows / plan.together);
  plan.tasks.clear();
  for (int row = 0; row < step_.rows; row++) {
    const int count = step_.row_starts[row + 1] - step_.row_starts[row];
    for (int first = 0; first < count; first += together) {
      const int n = std::min(together, count - first), history = step_.kv_lens[row] - count + first + n;
      plan.tasks.push_back({row, first, n, (plan.window ? std::min(history, plan.window + n) : history) * n});
    }
  }
  std::stable_sort(plan.tasks.begin(), plan.tasks.end(),
                   [](const Task& a, const Task& b) { return a.cost > b.cost; });
}

void Program::run_attention(const Instruction& i, Shares& shares, int thread) {
  const KvLayer layer = i.kv->layer(i.layer);
  const AttentionPlan& plan = plans_[i.plan];
  const int parts = (plan.group + plan.together - 1) / plan.together, per_task = layer.kv_heads * parts;
  const int behind = i.scoring.window ? i.scoring.window - 1 : INT_MAX;
  float* scratch = scratch_.as<float>() + scratch_stride_ * thread;
  shares.each((int)plan.tasks.size() * per_task, 1, [&](int item, int) {
    const Task& task = plan.tasks[item / per_task];
    const int kv_head = item % per_task / parts, part = item % parts;
    const int head = kv_head * plan.group + part * plan.together,
              heads = std::min(plan.together, plan.group - part * plan.together);
    const int token = step_.row_starts[task.row] + task.first;
    const size_t column = (size_t)head * layer.dim;
    // A last part with fewer heads than the others still fits: the kernel takes count * group rows.
    kernels_.attend(
        layer, {at(i.a, token) + column, (size_t)buffers_[i.a.buffer].stride, at(i.out, token) + column,
                (size_t)buffers_[i.out.buffer].stride, task.count, heads, step_.positions[token],
                step_.kv_lens[task.row], behind, 0, step_.page_table + (size_t)task.row * step_.pages_per_row,
                step_.page_size / kChunk, kv_head, layer.dim, i.scoring.scale, i.scoring.softcap,
                i.vector ? i.vector->values.data() + head : nullptr, scratch});
    if (!i.quantized) return;
    for (int t = 0; t < task.count; t++)
      kernels_.quantize(at(i.out, token + t), (int)column / kGroup, (int)column + heads * layer.dim,
                        activation(i.out.buffer), token + t);
  });
}

}  // namespace pagemill
