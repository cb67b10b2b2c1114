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

}  // namespace

const char* Program::name(Op op) {
  constexpr const char* kNames[] = {
      "embed",        "rms_norm",    "layer_norm",     "normalize",      "curve",        "gate",
      "sigmoid_mul",  "scale",       "softcap",        "bias",           "add",          "copy",
      "rope",         "quantize",    "quantize_heads", "store_kv",       "store_latent", "gather",
      "pool",         "spread",      "combine",        "route",          "group",        "linear",
      "linear_curve", "linear_gate", "linear_heads",   "experts_linear", "experts_gate", "attend",
      "attend_dense", "short_conv",  "mamba2"};
  return kNames[(int)op];
}

int Program::buffer(int width, bool sampled, int repeat, int planes) {
  buffers_.push_back({width, row_stride(width), sampled, repeat, planes});
  return (int)buffers_.size() - 1;
}

Program::Instruction& Program::append(Op op, View a, View out, int width, int heads) {
  Instruction& i = instructions_.emplace_back();
  i.op = op, i.a = a, i.out = out, i.width = width, i.heads = heads;
  return i;
}

void Program::embed(Ids ids, Weight table, View out) {
  auto& i = append(Op::embed, {}, out, table->k());
  i.ids = ids, i.matrix = std::move(table);
}

void Program::rms_norm(View x, Floats weight, float eps, int width, int heads, View out) {
  const bool own = weight->values.size() != (size_t)width;
  if (own && weight->values.size() != (size_t)width * heads)
    throw std::invalid_argument("a norm's weight is neither of a head nor of all");
  auto& i = append(Op::rms_norm, x, out, width, heads);
  i.number = eps, i.vector = std::move(weight), i.from_stride = own ? width : 0;
}

void Program::layer_norm(View x, Floats weight, Floats shift, float eps, int heads, View out) {
  auto& i = append(Op::layer_norm, x, out, (int)weight->values.size(), heads);
  i.number = eps, i.vector = std::move(weight), i.shift = std::move(shift);
}

void Program::normalize(View x, int width, int heads, View out) {
  append(Op::normalize, x, out, width, heads);
}

void Program::curve(View x, Curve kind, int width, View out) {
  append(Op::curve, x, out, width).curve = kind;
}

void Program::gate(View gates, View x, Curve kind, int width, View out) {
  auto& i = append(Op::gate, gates, out, width);
  i.b = x, i.curve = kind;
}

void Program::sigmoid_mul(View x, View gates, bool one_gate, int width, View out) {
  auto& i = append(Op::sigmoid_mul, x, out, width);
  i.b = gates, i.one_gate = one_gate;
}

void Program::scale(View x, float factor, int width, View out) {
  append(Op::scale, x, out, width).number = factor;
}

void Program::softcap(View x, float cap, int width, View out) {
  append(Op::softcap, x, out, width).number = cap;
}

void Program::bias(View x, Floats values, int heads, View out) {
  append(Op::bias, x, out, (int)values->values.size(), heads).vector = values;
}

void Program::add(View a, View b, int width, View out) { append(Op::add, a, out, width).b = b; }

void Program::copy(View x, int heads, int width, int from_stride, View out, int to_stride) {
  auto& i = append(Op::copy, x, out, width, heads);
  i.from_stride = from_stride, i.to_stride = to_stride;
}

void Program::rope(View x, int heads, int stride, std::shared_ptr<RopeTable> table) {
  auto& i = append(Op::rope, x, x, 0, heads);
  i.from_stride = stride, i.rope = std::move(table);
}

void Program::quantize(View x, int width) {
  append(Op::quantize, x, x, width);
  buffers_[x.buffer].quantized = true;
}

void Program::gather(View x, int width, View out) { append(Op::gather, x, out, width); }

void Program::pool(View x, Pooling kind, int width, View out) {
  append(Op::pool, x, out, width).pooling = kind;
}

void Program::linear(View x, Weight weight, Floats bias, View out) {
  auto& i = append(Op::linear, x, out, weight->n());
  i.matrix = std::move(weight), i.shift = std::move(bias);
}

void Program::linear_curve(View x, Weight weight, Floats bias, Curve kind, View out, bool quantized) {
  auto& i = append(Op::linear_curve, x, out, weight->n());
  i.matrix = std::move(weight), i.shift = std::move(bias), i.curve = kind, i.quantized = quantized;
  if (quantized) buffers_[out.buffer].quantized = true;
}

void Program::linear_gate(View x, Weight weight, Floats bias, Curve kind, int between, View out,
                          bool quantized) {
  auto& i = append(Op::linear_gate, x, out, weight->n() / 2);
  i.matrix = std::move(weight), i.shift = std::move(bias), i.curve = kind, i.quantized = quantized;
  i.b = {between, 0};
  if (quantized) buffers_[out.buffer].quantized = true;
}

void Program::linear_heads(View x, int heads, Weight weight, int between, View out) {
  if (between >= 0) {
    auto& i = append(Op::quantize_heads, x, x, weight->k(), heads);
    i.b = {between, 0};
    buffers_[between].quantized = true, buffers_[between].floats = false;
  }
  auto& i = append(Op::linear_heads, x, out, weight->n() / heads, heads);
  i.b = {between, 0}, i.matrix = std::move(weight);
}

int Program::route(View logits, int experts, Routing routing, Floats selection_bias, int scores) {
  const int number = (int)routes_.size();
  if (routing.top_k < 1 || routing.top_k > experts || routing.groups < 1 || experts % routing.groups ||
      routing.top_groups < 1)
    throw std::invalid_argument("a routing of " + std::to_string(experts) + " experts cannot choose " +
                                std::to_string(routing.top_k) + " of " + std::to_string(routing.groups) +
                                " groups");
  if (selection_bias && (int)selection_bias->values.size() != experts)
    throw std::invalid_argument("a selection bias is not as long as there are experts");
  routes_.push_back({routing, experts, {}, {}, {}, {}, {}, {}});
  auto& choose = append(Op::route, logits, {scores, 0}, experts);
  choose.routes = number, choose.shift = std::move(selection_bias);
  append(Op::group, logits, logits, experts).routes = number;
  return number;
}

void Program::spread(View x, int width, int routes, View out, bool quantized) {
  auto& i = append(Op::spread, x, out, width);
  i.routes = routes, i.quantized = quantized;
  if (quantized) buffers_[out.buffer].quantized = true, buffers_[out.buffer].floats = false;
}

void Program::experts_linear(View x, std::vector<Weight> weights, std::vector<Floats> biases, int routes,
                             View out) {
  auto& i = append(Op::experts_linear, x, out, weights[0]->n());
  i.routes = routes, i.matrices = std::move(weights), i.biases = std::move(biases);
}

void Program::experts_gate(View x, std::vector<Weight> weights, std::vector<Floats> biases, Curve kind,
                           int routes, int between, View out, bool quantized) {
  auto& i = append(Op::experts_gate, x, out, weights[0]->n() / 2);
  i.routes = routes, i.matrices = std::move(weights), i.biases = std::move(biases);
  i.b = {between, 0}, i.curve = kind, i.quantized = quantized;
  if (quantized) buffers_[out.buffer].quantized = true;
}

void Program::combine(View x, int width, int routes, View out) {
  append(Op::combine, x, out, width).routes = routes;
}

void Program::store_kv(View k, View v, std::shared_ptr<KvCache> kv, int layer) {
  auto& i = append(Op::store_kv, k, k, 0);
  i.b = v, i.kv = std::move(kv), i.layer = layer;
}

void Program::store_latent(View latent, int width, View rope, std::shared_ptr<KvCache> kv, int layer) {
  auto& i = append(Op::store_latent, latent, latent, width);
  i.b = rope, i.kv = std::move(kv), i.layer = layer;
}

void Program::attend(View q, int heads, std::shared_ptr<KvCache> kv, int layer, int value_dim,
                     Scoring scoring, Floats sinks, View out, bool quantized) {
  if (heads % kv->heads() || value_dim > kv->dim() || layer < 0 || layer >= kv->layers())
    throw std::invalid_argument("a cache of other heads or layers than attention asks for");
  if (sinks && (int)sinks->values.size() != heads)
    throw std::invalid_argument("attention has not as many sinks as heads");
  auto& i = append(Op::attend, q, out, value_dim, heads);
  i.layer = layer, i.scoring = scoring, i.vector = std::move(sinks), i.quantized = quantized;
  i.plan = plan_of(heads / kv->heads(), scoring.window, false, kv->heads());
  i.kv = std::move(kv);
  if (quantized) buffers_[out.buffer].quantized = true;
}

void Program::attend_dense(View q, View k, View v, int heads, int kv_heads, int dim, Scoring scoring,
                           View out, bool quantized) {
  auto& i = append(Op::attend_dense, q, out, dim, heads);
  i.b = k, i.c = v, i.kv_heads = kv_heads, i.scoring = scoring, i.quantized = quantized;
  i.plan = plan_of(heads / kv_heads, scoring.window, true, kv_heads);
  if (quantized) buffers_[out.buffer].quantized = true;
}

Limits Program::limits() const {
  Limits limits;
  for (const Instruction& i : instructions_) {
    if (i.op == Op::embed) {
      auto& limit = i.ids == Ids::tokens      ? limits.token_ids
                    : i.ids == Ids::positions ? limits.positions
                                              : limits.token_types;
      limit = std::min<int64_t>(limit, i.matrix->n());
      limits.types |= i.ids == Ids::types;
    } else if (i.op == Op::rope) {
      limits.positions = std::min<int64_t>(limits.positions, i.rope->positions());
    } else if (i.kv) {
      limits.slots = std::min(limits.slots, i.kv->num_slots());
      limits.paged = true;
    } else if (i.states) {
      limits.state_slots = std::min<int64_t>(limits.state_slots, i.states->slots());
      limits.states = true;
    }
  }
  return limits;
}

float* Program::data(int buffer) const { return arena_.as<float>(buffers_[buffer].offset); }

Activation Program::activation(int buffer, int first_row) const {
  const Buffer& b = buffers_[buffer];
  const int groups = round_up(b.width, kGroup) / kGroup;
  return {arena_.as<ActivationGroup>(b.int8) + (size_t)first_row * b.planes * groups, groups, b.planes};
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
    const size_t rows = rows_of(b, placed_tokens_, placed_sampled_),
                 groups = rows * b.planes * (round_up(b.width, kGroup) / kGroup);
    if (b.floats) b.offset = take(rows * b.stride * sizeof(float));
    if (!b.quantized) continue;
    b.int8 = take(groups * sizeof(ActivationGroup));
  }
  arena_ = Block(end + 4096);
}

void Program::prepare(const StepView& step) {
  step_ = step;
  if (step.tokens > placed_tokens_ || step.sampled > placed_sampled_)
    place_buffers(step.tokens, step.sampled);
  if (phases_.empty()) plan_phases();
  for (auto& shares : shares_) shares.reset();
  if (!plans_.empty()) find_neighbours();
  for (auto& plan : plans_) plan_attention(plan);
  place_scratch();
  for (const Instruction& i : instructions_)
    if (i.op == Op::route) {
      Routes& routes = routes_[i.routes];
      const size_t visits = (size_t)rows(i.out.buffer) * routes.routing.top_k;
      routes.chosen.resize(visits), routes.weights.resize(visits);
      routes.visit.resize(visits), routes.source.resize(visits);
    }
}

void Program::plan_phases() {
  const auto same_rows = [&](const Instruction& a, const Instruction& b) {
    const Buffer &x = buffers_[a.out.buffer], &y = buffers_[b.out.buffer];
    return x.sampled == y.sampled && x.repeat == y.repeat;
  };
  for (int i = 0; i < (int)instructions_.size(); i++) {
    const Instruction& now = instructions_[i];
    if (i && by_own_row(now.op) && by_row(instructions_[i - 1].op) && same_rows(now, instructions_[i - 1]))
      phases_.back().last = i + 1;
    else
      phases_.push_back({i, i + 1});
  }
  for (size_t i = 0; i < phases_.size(); i++) shares_.emplace_back(pool_->size());
}

void Program::run(const StepView& step) {
  prepare(step);
  pool_->run([this](int thread) {
    for (size_t i = 0; i < phases_.size(); i++) execute(phases_[i], shares_[i], thread);
  });
}

std::vector<std::pair<std::string, double>> Program::profile(const StepView& step) {
  prepare(step);
  std::vector<std::pair<std::string, double>> seconds;
  for (size_t i = 0; i < phases_.size(); i++) {
    const auto start = std::chrono::steady_clock::now();
    pool_->run([&](int thread) { execute(phases_[i], shares_[i], thread); });
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    const std::string kind = name(instructions_[phases_[i].first].op);
    auto found = std::find_if(seconds.begin(), seconds.end(), [&](const auto& s) { return s.first == kind; });
    if (found == seconds.end())
      seconds.emplace_back(kind, took.count());
    else
      found->second += took.count();
  }
  return seconds;
}

void Program::execute(const Phase& phase, Shares& shares, int thread) {
  const Instruction& i = instructions_[phase.first];
  switch (i.op) {
    case Op::linear:
      return run_linear(i, shares, thread);
    case Op::linear_curve:
      return run_linear_curve(i, shares, thread);
    case Op::linear_gate:
      return run_linear_gate(i, shares, thread);
    case Op::linear_heads:
      return run_linear_heads(i, shares, thread);
    case Op::group:
      return shares.each(1, 1, [&](int, int) { group_visits(routes_[i.routes], rows(i.out.buffer)); });
    case Op::experts_linear:
    case Op::experts_gate:
      return run_experts(i, shares);
    case Op::attend:
      return run_attention(i, shares, thread);
    case Op::attend_dense:
      return run_dense_attention(i, shares, thread);
    case Op::short_conv:
      return run_short_conv(i, shares);
    case Op::mamba2:
      return run_mamba2(i, shares);
    default:
      return run_rows(phase, shares);
  }
}

}  // namespace pagemill
