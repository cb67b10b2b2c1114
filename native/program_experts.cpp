// Mixtures of experts: rows choose experts, visits are sorted by expert, so that a step reads the matrices of
// each chosen expert once, and what comes of a row's visits is added in the order of its choice.
#include <algorithm>
#include <numeric>

#include "program.h"

namespace pagemill {
namespace {

constexpr float kNever = -__builtin_inff();

// The best that is not `taken`, of equals the first; the first at all where nothing compares (NaN).
template <class F>
int best_of(int count, F merit, const std::vector<bool>& taken) {
  int best = -1;
  for (int i = 0; i < count; i++)
    if (!taken[i] && (best < 0 || merit(i) > merit(best))) best = i;
  return best;
}

// Merits of experts outside the best groups become -infinity.
void keep_best_groups(const Routing& r, int experts, float* merit) {
  const int size = experts / r.groups;
  std::vector<float> group_merit(r.groups);
  for (int g = 0; g < r.groups; g++) {
    float first = kNever, second = kNever;
    for (int i = g * size; i < (g + 1) * size; i++) {
      second = std::max(second, std::min(first, merit[i]));
      first = std::max(first, merit[i]);
    }
    group_merit[g] = r.group_pairs && size > 1 ? first + second : first;
  }
  std::vector<bool> kept(r.groups);
  for (int n = 0; n < std::min(r.top_groups, r.groups); n++)
    kept[best_of(r.groups, [&](int g) { return group_merit[g]; }, kept)] = true;
  for (int i = 0; i < experts; i++)
    if (!kept[i / size]) merit[i] = kNever;
}

}  // namespace

void Program::route_row(const Instruction& i, int row) {
  Routes& routes = routes_[i.routes];
  const Routing& r = routes.routing;
  const int experts = routes.experts;
  const float* logits = at(i.a, row);
  float *scores = at(i.out, row), *merit = scores + experts;
  if (r.sigmoid) {
    kernels_.curve(Curve::sigmoid, logits, scores, experts);
  } else {
    const double sum = kernels_.exp_sum(logits, experts, kernels_.max_value(logits, experts), 1.0f, scores);
    kernels_.scale(scores, (float)(1 / sum), scores, experts);
  }
  std::copy_n(scores, experts, merit);
  if (i.shift) kernels_.add(scores, i.shift->values.data(), merit, experts);
  if (r.groups > 1) keep_best_groups(r, experts, merit);
  int32_t* chosen = &routes.chosen[(size_t)row * r.top_k];
  float *weights = &routes.weights[(size_t)row * r.top_k], total = 0;
  std::vector<bool> taken(experts);
  for (int n = 0; n < r.top_k; n++) {
    chosen[n] = best_of(experts, [&](int e) { return merit[e]; }, taken);
    taken[chosen[n]] = true;
    weights[n] = scores[chosen[n]];
    total += weights[n];
  }
  kernels_.scale(weights, r.normalize ? r.scale / total : r.scale, weights, r.top_k);
}

// Sorts visits by expert; those of one expert stay in the order of rows.
void Program::group_visits(Routes& routes, int rows) {
  const int top_k = routes.routing.top_k, experts = routes.experts;
  routes.starts.assign(experts + 1, 0);
  for (int32_t expert : routes.chosen) routes.starts[expert + 1]++;
  std::partial_sum(routes.starts.begin(), routes.starts.end(), routes.starts.begin());
  std::vector<int32_t> next(routes.starts.begin(), routes.starts.end() - 1);
  for (int row = 0; row < rows; row++)
    for (int n = row * top_k; n < (row + 1) * top_k; n++) {
      routes.visit[n] = next[routes.chosen[n]]++;
      routes.source[routes.visit[n]] = row;
    }
  const auto visits = [&](int expert) { return routes.starts[expert + 1] - routes.starts[expert]; };
  routes.active.clear();
  for (int expert = 0; expert < experts; expert++)
    if (visits(expert)) routes.active.push_back(expert);
  std::stable_sort(routes.active.begin(), routes.active.end(),
                   [&](int a, int b) { return visits(a) > visits(b); });
}

void Program::spread_row(const Instruction& i, int visit) {
  const int row = routes_[i.routes].source[visit];
  if (!i.quantized) {
    std::copy_n(at(i.a, row), i.width, at(i.out, visit));
    return;
  }
  const Activation from = activation(i.a.buffer, row), to = activation(i.out.buffer, visit);
  std::copy_n(from.of, from.planes * from.groups, to.of);
}

void Program::combine_row(const Instruction& i, int row) {
  const Routes& routes = routes_[i.routes];
  float* out = at(i.out, row);
  std::fill_n(out, i.width, 0.0f);
  for (int n = row * routes.routing.top_k; n < (row + 1) * routes.routing.top_k; n++)
    kernels_.add_scaled(at(i.a, routes.visit[n]), routes.weights[n], out, i.width);
}

// The product of one expert's visits.
Program::Product Program::product_of(const Instruction& i, int expert, View out) const {
  const Routes& routes = routes_[i.routes];
  const int first = routes.starts[expert];
  return {i.matrices[expert].get(),
          i.biases.empty() ? nullptr : i.biases[expert].get(),
          routes.starts[expert + 1] - first,
          activation(i.a.buffer, first),
          at(i.a, first),
          (size_t)buffers_[i.a.buffer].stride,
          at(out, first),
          (size_t)buffers_[out.buffer].stride};
}

void Program::run_experts(const Instruction& i, Shares& shares) {
  const Routes& routes = routes_[i.routes];
  const bool gated = i.op == Op::experts_gate;
  // Units of an expert's work: groups of columns of both halves, or pairs of tiles.
  const int units = gated ? i.width / kGroup : (num_tiles(*i.matrices[0]) + 1) / 2;
  const int all = (int)routes.active.size() * units;
  const int share = std::clamp(all / (pool_->size() * 6), 1, 16);
  shares.each(all, share, [&](int from, int to) {
    for (int next; from < to; from = next) {
      const int expert = routes.active[from / units], before = from / units * units;
      next = std::min(to, before + units);
      if (gated)
        gate_columns(i, product_of(i, expert, i.b), routes.starts[expert], from - before, next - before);
      else
        product(product_of(i, expert, i.out), (from - before) * 2, (next - before) * 2);
    }
  });
}

}  // namespace pagemill
