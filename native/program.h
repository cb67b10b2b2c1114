// A recorded forward pass: the list of kernel calls of one step with their buffers, run by one native call.
//
// Python records a program once (ops/cpu.py) by running a model on arrays that only remember what was done to
// them. Rows of a buffer are tokens of the step, or sampled rows. All threads walk the list together, share
// the work of each phase and wait for each other before the next. Neighbouring instructions that work row by
// row are one phase: a row stays with the thread, and in the cache, that began it.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "threads.h"
#include "weights.h"

namespace pagemill {

// Keys and values of all layers in pages of `page_size` tokens.
class KvCache {
 public:
  KvCache(int layers, int num_pages, int page_size, int heads, int dim, bool half);
  KvCache(const KvCache&) = delete;
  KvLayer layer(int index) const;
  int layers() const { return layers_; }
  int page_size() const { return page_size_; }
  int64_t num_slots() const { return (int64_t)num_pages_ * page_size_; }
  int heads() const { return heads_; }
  int dim() const { return dim_; }
  size_t bytes() const { return memory_.size(); }

 private:
  int layers_, num_pages_, page_size_, heads_, dim_, padded_dim_;
  bool half_;
  size_t layer_bytes_;
  Block memory_;
};

// A norm weight or a bias.
struct Vector {
  std::vector<float> values;
};

// Cosines and sines of all positions, (positions, half).
struct RopeTable {
  int half = 0;
  std::vector<float> cos, sin;
  int positions() const { return half ? (int)(cos.size() / half) : 0; }
};

// The arrays of one step; see Step in ops/interface.py.
struct StepView {
  int tokens = 0, rows = 0, sampled = 0, page_size = 0, pages_per_row = 0;
  const int32_t *token_ids = nullptr, *positions = nullptr, *slots = nullptr, *row_starts = nullptr,
                *kv_lens = nullptr, *page_table = nullptr, *out_rows = nullptr;
};

// A part of each row of a buffer: `offset` floats from its start.
struct View {
  int buffer, offset;
};

class Program {
 public:
  Program(const Kernels& kernels, std::shared_ptr<Pool> pool) : kernels_(kernels), pool_(std::move(pool)) {}

  // A buffer of `width` floats a row, of sampled rows or of all tokens.
  int buffer(int width, bool sampled);

  // Each adds one instruction. `quantized`: the result is wanted as int8 too, for the products that follow.
  void embed(std::shared_ptr<Matrix> table, int out);
  // out = rms_norm(x), or, with `added`, sum = x + added and out = rms_norm(sum). `heads` norms a row of
  // `width`.
  void norm(View x, View added, View sum, std::shared_ptr<Vector> weight, float eps, int heads, View out,
            bool quantized);
  void quantize(View x, int width);
  void linear(View x, std::shared_ptr<Matrix> weight, int out);
  void silu_mul(View x, int width, View out, bool quantized);  // width: of the result
  // linear, then silu_mul of its halves: who computed a column of gate and up goes on with it. `between` is
  // linear's buffer.
  void linear_silu_mul(View x, std::shared_ptr<Matrix> weight, int between, View out, bool quantized);
  void rope(View x, int heads, int dim, std::shared_ptr<RopeTable> table);
  void store_kv(View k, View v, std::shared_ptr<KvCache> kv, int layer);
  void attend(View q, int heads, std::shared_ptr<KvCache> kv, int layer, float scale, View out,
              bool quantized);
  void add(View a, View b, int width, View out);
  void gather(int from, int out);

  // Runs all instructions. The caller has checked that indices lie within their tables.
  void run(const StepView& step);

  // Makes room for that many rows, so that buffers can be filled before a run.
  void reserve(int tokens, int sampled) {
    place_buffers(tokens, sampled), step_.tokens = tokens, step_.sampled = sampled;
  }

  float* data(int buffer) const;
  int stride(int buffer) const { return buffers_[buffer].stride; }
  int rows(int buffer) const { return buffers_[buffer].sampled ? step_.sampled : step_.tokens; }
  size_t arena_bytes() const { return arena_.size(); }
  // Seconds spent in each kind of instruction during one run, in order of first use.
  std::vector<std::pair<std::string, double>> profile(const StepView& step);

 private:
  enum class Op {
    embed,
    norm,
    quantize,
    linear,
    linear_silu_mul,
    silu_mul,
    rope,
    store_kv,
    attend,
    add,
    gather
  };
  struct Buffer {
    int width, stride;
    bool sampled, quantized;
    size_t offset = 0, q = 0, scale = 0, scaled_sum = 0, neg_sum = 0;  // into the arena
  };
  struct Instruction {
    Op op;
    View a{-1, 0}, b{-1, 0}, sum{-1, 0}, out{-1, 0};
    int width = 0, heads = 1, layer = 0;
    float number = 0;
    bool quantized = false;
    std::shared_ptr<Matrix> matrix = nullptr;
    std::shared_ptr<Vector> vector = nullptr;
    std::shared_ptr<RopeTable> rope = nullptr;
    std::shared_ptr<KvCache> kv = nullptr;
  };
  struct Phase {  // instructions that need no barrier between them: one product, or row work on the same rows
    int first, last;
  };
  struct Task {  // query tokens of one row that attend together
    int row, first, count, cost;
  };

  Instruction& append(Op op) { return instructions_.emplace_back(Instruction{op}); }
  void prepare(const StepView& step);
  void place_buffers(int tokens, int sampled);
  void plan_attention(int heads, int kv_heads, int padded_dim);
  void plan_phases();
  void execute(const Phase& phase, Shares& shares, int thread);
  void run_linear(const Instruction& instruction, Shares& shares);
  void run_linear_silu_mul(const Instruction& instruction, Shares& shares);
  void run_attention(const Instruction& instruction, Shares& shares, int thread);
  void run_rows(const Phase& phase, Shares& shares);
  void product(const Instruction& instruction, int from, int to, int buffer);
  void one_row(const Instruction& instruction, int row);
  // Logits decide: the few rows that are sampled go into their product with twice the bits.
  static int planes(const Buffer& buffer) { return buffer.sampled ? 2 : 1; }
  float* at(View view, int row) const {
    return data(view.buffer) + (size_t)row * buffers_[view.buffer].stride + view.offset;
  }
  Activation activation(int buffer) const;

  const Kernels& kernels_;
  std::shared_ptr<Pool> pool_;
  std::vector<Buffer> buffers_;
  std::vector<Instruction> instructions_;
  std::vector<Phase> phases_;
  std::vector<Shares> shares_;  // one a phase
  std::vector<Task> tasks_;     // of the attention, the longest first
  int task_group_ = 0;          // query heads of a task
  StepView step_;
  int placed_tokens_ = 0, placed_sampled_ = 0;
  Block arena_, scratch_;
  size_t scratch_stride_ = 0;  // floats a thread
};

}  // namespace pagemill
