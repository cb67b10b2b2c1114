// A recorded forward pass: the list of kernel calls of one step with their buffers, run by one native call.
//
// Python records a program once (ops/recorder.py) by running a model on arrays that only remember what was
// done to them. Rows of a buffer are tokens of the step, or sampled rows. All threads walk the list together,
// share the work of each phase and wait for each other before the next. Neighbouring instructions that work
// row by row are one phase: a row stays with the thread, and in the cache, that began it.
//
// program.cpp builds and walks the list; program_rows.cpp, program_products.cpp, program_experts.cpp,
// program_attention.cpp and program_recurrent.cpp run its instructions.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "kv_cache.h"
#include "memory.h"
#include "states.h"
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

// How router logits become experts and weights; see Routing in ops/interface.py.
struct Routing {
  int top_k;
  bool sigmoid, normalize;
  float scale;
  int groups, top_groups;
  bool group_pairs;
};

// The routes of one mixture in one step: which experts each row visits, and the visits sorted by expert.
struct Routes {
  Routing routing;
  int experts;
  std::vector<int32_t> chosen;  // (rows, top_k), in the order of choice
  std::vector<float> weights;   // (rows, top_k)
  std::vector<int32_t> visit;   // (rows, top_k): where among the sorted visits it is
  std::vector<int32_t> source;  // (visits) the row that visits
  std::vector<int32_t> starts;  // (experts + 1) of the sorted visits
  std::vector<int32_t> active;  // experts with visits, the most visited first
};

// Tiles of all segments of a matrix.
int num_tiles(const Matrix& matrix);

enum class Ids : int { tokens, positions, types };
enum class Pooling : int { mean, first, last };

class Program {
 public:
  using Floats = std::shared_ptr<Vector>;  // may be null where a weight or bias is optional
  using Weight = std::shared_ptr<Matrix>;

  Program(const Kernels& kernels, std::shared_ptr<Pool> pool) : kernels_(kernels), pool_(std::move(pool)) {}

  // A buffer of `width` floats a row, of sampled rows or of all tokens, each of them `repeat` times.
  int buffer(int width, bool sampled, int repeat, int planes);

  // Each adds one instruction. `width` is of the result. `heads` repeats it along a row; where there are
  // strides, heads lie that far apart, else they are neighbours.
  void embed(Ids ids, Weight table, View out);
  // The weight is of a head, or of all heads.
  void rms_norm(View x, Floats weight, float eps, int width, int heads, View out);
  void layer_norm(View x, Floats weight, Floats shift, float eps, int heads, View out);
  void normalize(View x, int width, int heads, View out);
  void curve(View x, Curve kind, int width, View out);
  void gate(View gates, View x, Curve kind, int width, View out);
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

  // A matrix for each head, stacked in `weight`. `between` is a buffer of heads for int8, or -1.
  void linear_heads(View x, int heads, Weight weight, int between, View out);

  // A mixture of experts. `route` chooses (`scores` is a buffer of two floats an expert) and says under which
  // number the others find its routes; `spread` copies rows to the sorted visits; the products take each
  // expert's visits; `combine` adds up what came of a row's visits.
  int route(View logits, int experts, Routing routing, Floats selection_bias, int scores);
  void spread(View x, int width, int routes, View out, bool quantized);
  void experts_linear(View x, std::vector<Weight> weights, std::vector<Floats> biases, int routes, View out);
  void experts_gate(View x, std::vector<Weight> weights, std::vector<Floats> biases, Curve kind, int routes,
                    int between, View out, bool quantized);
  void combine(View x, int width, int routes, View out);

  void store_kv(View k, View v, std::shared_ptr<KvCache> kv, int layer);
  // The latent vector of a token is its value and, with the rotated part behind it, its key.
  void store_latent(View latent, int width, View rope, std::shared_ptr<KvCache> kv, int layer);
  void attend(View q, int heads, std::shared_ptr<KvCache> kv, int layer, int value_dim, Scoring scoring,
              Floats sinks, View out, bool quantized);
  // Rows are whole texts; nothing is stored.
  void attend_dense(View q, View k, View v, int heads, int kv_heads, int dim, Scoring scoring, View out,
                    bool quantized);

  // Along each row's sequence; `states` has what came before.
  void short_conv(View x, Floats weight, Floats bias, std::shared_ptr<States> states, int layer, View out);
  void mamba2(View x, View dt, View b, View c, int heads, int groups, int dim, Floats a, Floats d,
              std::shared_ptr<States> states, int layer, View out);

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
  int rows(int buffer) const { return rows_of(buffers_[buffer], step_.tokens, step_.sampled); }
  size_t arena_bytes() const { return arena_.size(); }
  // Seconds spent in each kind of instruction during one run, in order of first use.
  std::vector<std::pair<std::string, double>> profile(const StepView& step);

 private:
  enum class Op {  // in an order that by_row and by_own_row know
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
    quantize_heads,
    store_kv,
    store_latent,
    gather,
    pool,
    spread,
    combine,
    route,
    group,
    linear,
    linear_curve,
    linear_gate,
    linear_heads,
    experts_linear,
    experts_gate,
    attend,
    attend_dense,
    short_conv,
    mamba2,
  };
  static const char* name(Op op);
  // Works row by row; the first of them read no row but their own.
  static bool by_row(Op op) { return op <= Op::route; }
  static bool by_own_row(Op op) { return op <= Op::store_latent || op == Op::route; }

  struct Buffer {
    int width, stride;
    bool sampled;
    int repeat, planes;
    bool floats = true, quantized = false;
    size_t offset = 0, int8 = 0;  // into the arena
  };
  struct Instruction {
    Op op;
    View a, b, c, d, out;
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
    std::shared_ptr<States> states = nullptr;
    int layer = 0, plan = 0, kv_heads = 0;
    Scoring scoring{};
    std::vector<Weight> matrices = {};  // of experts
    std::vector<Floats> biases = {};
    int routes = -1;
  };
  struct Product {  // rows of floats or int8 times a matrix, plus a bias that may be null
    const Matrix* matrix;
    const Vector* bias;
    int rows;
    Activation q;
    const float* x;
    size_t x_stride;
    float* y;
    size_t y_stride;
  };
  struct Phase {  // instructions that a thread does one after another: one product, or row work on the same
                  // rows
    int first, last;
  };
  struct Piece {  // query tokens of one row
    int row, first, count;
    int shared;  // tokens that its history begins with as that of the piece before
  };
  struct Task {  // pieces that attend together
    int first, count;
    int shared;  // chunks that their histories begin with
    int64_t cost;
  };
  // How the rows of a step are cut for attention; layers of one shape share a plan.
  struct AttentionPlan {
    int group, window;  // query heads that share a kv head
    bool dense;         // of whole texts
    int kv_heads;
    int together = 0;  // of the group, the heads of a task
    std::vector<Piece> pieces;
    std::vector<Task> tasks;  // those of texts, then those of one token, the longest of each first
    int first_lonely = 0;     // of the tasks
  };
  struct Neighbour {  // a row, in an order in which those with the same first pages are neighbours
    int row;
    int shared;  // tokens of the pages that it begins with as the one before
  };

  Instruction& append(Op op, View a, View out, int width, int heads = 1);
  void prepare(const StepView& step);
  void place_buffers(int tokens, int sampled);
  int plan_of(int group, int window, bool dense, int kv_heads);
  void find_neighbours();
  void plan_attention(AttentionPlan& plan) const;
  int chunks_before(const AttentionPlan& plan, const Piece& piece) const;
  int end_of_group(const AttentionPlan& plan, int from) const;
  void cut_group(AttentionPlan& plan, int from, int to, int most) const;
  int64_t cost_of(const AttentionPlan& plan, const Piece& piece) const;
  bool is_lonely(const AttentionPlan& plan, const Task& task) const;
  void place_scratch();
  void plan_phases();
  void execute(const Phase& phase, Shares& shares, int thread);
  void run_rows(const Phase& phase, Shares& shares);
  void one_row(const Instruction& instruction, int row);
  void pool_row(const Instruction& instruction, int row);
  void product(const Product& product, int from, int to) const;
  Product product_of(const Instruction& instruction, View out) const;
  void run_linear(const Instruction& instruction, Shares& shares, int thread);
  void run_linear_curve(const Instruction& instruction, Shares& shares, int thread);
  void run_linear_gate(const Instruction& instruction, Shares& shares, int thread);
  void gate_columns(const Instruction& instruction, const Product& product, int first_row, int from, int to);
  void run_linear_heads(const Instruction& instruction, Shares& shares, int thread);
  void route_row(const Instruction& instruction, int row);
  void group_visits(Routes& routes, int rows);
  void spread_row(const Instruction& instruction, int visit);
  void combine_row(const Instruction& instruction, int row);
  Product product_of(const Instruction& instruction, int expert, View out) const;
  void run_experts(const Instruction& instruction, Shares& shares);
  void run_attention(const Instruction& instruction, Shares& shares, int thread);
  void run_dense_attention(const Instruction& instruction, Shares& shares, int thread);
  std::pair<const float*, float*> states_of(const Instruction& instruction, int row) const;
  void run_short_conv(const Instruction& instruction, Shares& shares);
  void run_mamba2(const Instruction& instruction, Shares& shares);
  void attend_packed(const Instruction& instruction, const Piece& piece, int kv_head, float* scratch);
  static int rows_of(const Buffer& buffer, int tokens, int sampled) {
    return (buffer.sampled ? sampled : tokens) * buffer.repeat;
  }
  float* at(View view, int row) const {
    return data(view.buffer) + (size_t)row * buffers_[view.buffer].stride + view.offset;
  }
  Activation activation(int buffer, int first_row = 0) const;

  const Kernels& kernels_;
  std::shared_ptr<Pool> pool_;
  std::vector<Buffer> buffers_;
  std::vector<Instruction> instructions_;
  std::vector<Phase> phases_;
  std::deque<Shares> shares_;  // one a phase
  std::vector<AttentionPlan> plans_;
  std::vector<Neighbour> neighbours_;
  std::vector<int32_t> chunks_;  // 0, 1, 2 ..: the pages of what is packed
  std::vector<Routes> routes_;
  StepView step_;
  int placed_tokens_ = 0, placed_sampled_ = 0;
  Block arena_, scratch_;
  size_t scratch_stride_ = 0;  // floats a thread
};

}  // namespace pagemill
