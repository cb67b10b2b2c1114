// A recorded forward pass: the list of kernel calls of one step with their buffers, run by one native call.
//
// Python records a program once (ops/recorder.py) by running a model on arrays that only remember what was
// done to them. Rows of a buffer are tokens of the step, or sampled rows. All threads walk the list together,
// share the work of each phase and wait for each other before the next. Neighbouring instructions that work
// row by row are one phase: a row stays with the thread, and in the cache, that began it.
//
// program.cpp builds and walks the list; program_rows.cpp, program_products.cpp and program_attention.cpp
// run its instructions.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "kv_cache.h"
#include "memory.h"
#include "step.h"
#include "threads.h"
#include "weights.h"

namespace pagemill {

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

// A part of each row of a buffer: `offset` floats from its start.
struct View {
  int buffer = -1, offset = 0;
};

// How attention scores; see Scoring in ops/interface.py.
struct Scoring {
  float scale;
  int window;
  float softcap;
};

enum class Ids : int { tokens, positions, types };
enum class Pooling : int { mean, first, last };

class Program {
 public:
  using Floats = std::shared_ptr<Vector>;  // may be null where a weight or bias is optional
  using Weight = std::shared_ptr<Matrix>;

  Program(const Kernels& kernels, std::shared_ptr<Pool> pool) : kernels_(kernels), pool_(std::move(pool)) {}

  // A buffer of `width` floats a row, of sampled rows or of all tokens.
  int buffer(int width, bool sampled);

  // Each adds one instruction. `width` is of the result. `heads` repeats it along a row; where there are
  // strides, heads lie that far apart, else they are neighbours.
  void embed(Ids ids, Weight table, View out);
  void rms_norm(View x, Floats weight, float eps, int heads, View out);
  void layer_norm(View x, Floats weight, Floats shift, float eps, int heads, View out);
  void normalize(View x, int width, int heads, View out);
  void curve(View x, Curve kind, int width, View out);
  void gate(View x, Curve kind, int width, View out);
  void sigmoid_mul(View x, View gates, bool one_gate, int width, View out);
  void scale(View x, float factor, int width, View out);
  void softcap(View x, float cap, int width, View out);
  void bias(View x, Floats values, int heads, View out);
  void add(View a, View b, int width, View out);
  void copy(View x, int heads, int width, int from_stride, View out, int to_stride);
  void rope(View x, int heads, int stride, std::shared_ptr<RopeTable> table);  // in place
  void quantize(View x, int width);  // makes the int8 of a whole row, for the products that follow
  void gather(View x, int width, View out);
  void pool(View x, Pooling kind, int width, View out);

  // `quantized`: the result is wanted as int8 too. The bias may be null.
  void linear(View x, Weight weight, Floats bias, View out);
  void linear_curve(View x, Weight weight, Floats bias, Curve kind, View out, bool quantized);
  // linear, then the gate of its halves: who computed a column of both goes on with it. `between` is
  // linear's buffer.
  void linear_gate(View x, Weight weight, Floats bias, Curve kind, int between, View out, bool quantized);

  void store_kv(View k, View v, std::shared_ptr<KvCache> kv, int layer);
  void attend(View q, int heads, std::shared_ptr<KvCache> kv, int layer, Scoring scoring, Floats sinks,
              View out, bool quantized);
  // Rows are whole texts; nothing is stored.
  void attend_dense(View q, View k, View v, int heads, int kv_heads, int dim, Scoring scoring, View out,
                    bool quantized);

  // What the instructions index with a step.
  Limits limits() const;

  // Runs all instructions. The caller has checked the step against `limits`.
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
    rms_norm,
    layer_norm,
    normalize,
    curve,
    gate,
    sigmoid_mul,
    scale,
    softcap,
    bias,
    add,
    copy,
    rope,
    quantize,
    store_kv,
    gather,
    pool,
    linear,
    linear_curve,
    linear_gate,
    attend,
    attend_dense,
  };
  static const char* name(Op op);
  // Works on one row at a time, and reads no other row.
  static bool by_row(Op op) { return op <= Op::store_kv; }

  struct Buffer {
    int width, stride;
    bool sampled, quantized;
    size_t offset = 0, q = 0, scale = 0, scaled_sum = 0, neg_sum = 0;  // into the arena
  };
  struct Instruction {
    Op op;
    View a, b, c, out;
    int width = 0, heads = 1, from_stride = 0, to_stride = 0;
    float number = 0;
    bool quantized = false, one_gate = false;
    Ids ids = Ids::tokens;
    Curve curve = Curve::silu;
    Pooling pooling = Pooling::mean;
    Weight matrix = nullptr;
    Floats vector = nullptr, shift = nullptr;  // shift: a bias
    std::shared_ptr<RopeTable> rope = nullptr;
    std::shared_ptr<KvCache> kv = nullptr;
    int layer = 0, plan = 0, kv_heads = 0;
    Scoring scoring{};
  };
  struct Phase {  // instructions that need no barrier between them: one product, or row work on the same rows
    int first, last;
  };
  struct Task {  // query tokens of one row that attend together
    int row, first, count;
    int64_t cost;
  };
  // How the rows of a step are cut for attention; layers of one shape share a plan.
  struct AttentionPlan {
    int group, window;        // query heads that share a kv head
    bool dense;               // of whole texts
    int together = 0;         // of them, those of a task
    std::vector<Task> tasks;  // the longest first
  };

  Instruction& append(Op op, View a, View out, int width, int heads = 1);
  void prepare(const StepView& step);
  void place_buffers(int tokens, int sampled);
  int plan_of(int group, int window, bool dense);
  void plan_attention(AttentionPlan& plan) const;
  void place_scratch();
  void plan_phases();
  void execute(const Phase& phase, Shares& shares, int thread);
  void run_rows(const Phase& phase, Shares& shares);
  void one_row(const Instruction& instruction, int row);
  void pool_row(const Instruction& instruction, int row);
  void run_linear(const Instruction& instruction, Shares& shares);
  void run_linear_curve(const Instruction& instruction, Shares& shares);
  void run_linear_gate(const Instruction& instruction, Shares& shares);
  void product(const Instruction& instruction, int from, int to, View out);
  void run_attention(const Instruction& instruction, Shares& shares, int thread);
  void run_dense_attention(const Instruction& instruction, Shares& shares, int thread);
  void attend_packed(const Instruction& instruction, const Task& task, int kv_head, float* scratch);
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
  std::vector<AttentionPlan> plans_;
  StepView step_;
  int placed_tokens_ = 0, placed_sampled_ = 0;
  Block arena_, scratch_;
  size_t scratch_stride_ = 0;  // floats a thread
};

}  // namespace pagemill
