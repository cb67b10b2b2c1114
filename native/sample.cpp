#include "sample.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace pagemill {
namespace {

struct Candidate {
  float logit;
  int id;
  bool operator<(const Candidate& other) const {  // better first; equal logits: lower id first
    return logit != other.logit ? logit > other.logit : id < other.id;
  }
};

class Row {
 public:
  Row(const Kernels& kernels, const SampleArrays& arrays, int row)
      : kernels_(kernels), a_(arrays), row_(row), logits_(arrays.logits + row * arrays.logits_stride) {}

  void run() {
    const bool report = a_.num_logprobs[row_] >= 0;
    float norm = 0;
    if (report) norm = report_top();
    const int chosen = a_.ids[row_] = edit_and_choose();
    if (report && chosen >= 0) a_.logprobs[row_] = raw_logit(chosen) - norm;
  }

 private:
  // Log-probabilities of the most likely tokens; returns what turns a logit into one.
  float report_top() {
    const float top = kernels_.max_value(logits_, a_.vocab);
    const float norm = top + (float)std::log(kernels_.exp_sum(logits_, a_.vocab, top, 1, nullptr));
    const int count = std::min(a_.num_logprobs[row_], a_.vocab);
    if (!count) return norm;
    best(count);
    for (int i = 0; i < count && i < (int)candidates_.size(); i++) {
      a_.top_ids[row_ * a_.most_top + i] = candidates_[i].id;
      a_.top_logprobs[row_ * a_.most_top + i] = candidates_[i].logit - norm;
    }
    return norm;
  }

  int edit_and_choose() {
    for (int e = a_.edit_starts[row_]; e < a_.edit_starts[row_ + 1]; e++) {
      float& logit = logits_[a_.edit_ids[e]];
      before_.push_back({logit, a_.edit_ids[e]});
      logit = (logit > 0 ? logit / a_.edit_mul[e] : logit * a_.edit_mul[e]) + a_.edit_add[e];
    }
    top_ = kernels_.max_value(logits_, a_.vocab);
    if (!std::isfinite(top_)) return -1;
    if (a_.temperature[row_] == 0) return first_of(top_);
    factor_ = 1 / a_.temperature[row_];
    const float u = uniform(a_.seeds[row_], (uint32_t)a_.positions[row_]);
    const bool limited = (a_.top_k[row_] > 0 && a_.top_k[row_] < a_.vocab) || a_.top_p[row_] < 1;
    return limited ? walk_candidates(u) : walk_all(u);
  }

  // The first id with the largest logit: block by block, as comparing one by one takes longer than a row's
  // other work.
  int first_of(float top) const {
    int start = 0;
    while (start + kBlock < a_.vocab && kernels_.max_value(logits_ + start, kBlock) < top) start += kBlock;
    return (int)(std::find(logits_ + start, logits_ + a_.vocab, top) - logits_);
  }

  float raw_logit(int id) const {  // the first edit of an id saw its raw value
    for (const Candidate& c : before_)
      if (c.id == id) return c.logit;
    return logits_[id];
  }

  int walk_all(float u) {
    weights_.resize(a_.vocab);
    double total = kernels_.exp_sum(logits_, a_.vocab, top_, factor_, weights_.data());
    const float least = a_.min_p[row_];
    if (least > 0) {
      total = 0;
      for (float& w : weights_) total += w = w < least ? 0 : w;
    }
    double sum = 0;
    int last = 0;
    for (int id = 0; id < a_.vocab; id++) {
      if (!weights_[id]) continue;
      sum += weights_[id];
      last = id;
      if (sum > u * total) break;
    }
    return last;
  }

  int walk_candidates(float u) {
    const int k = a_.top_k[row_];
    double total;
    if (k > 0 && k < a_.vocab) {
      best(k);
      total = weigh();
    } else {
      total = kernels_.exp_sum(logits_, a_.vocab, top_, factor_, nullptr);
      nucleus(a_.top_p[row_] * total);
    }
    size_t kept = 0;
    double sum = 0;
    while (kept < candidates_.size() && weights_[kept] > 0) {
      if (weights_[kept] < a_.min_p[row_]) break;  // weights are relative to the largest, which is 1
      sum += weights_[kept++];
      if (a_.top_p[row_] < 1 && sum >= a_.top_p[row_] * total) break;
    }
    candidates_.resize(kept);
    std::sort(candidates_.begin(), candidates_.end(),
              [](const Candidate& x, const Candidate& y) { return x.id < y.id; });
    sum = weigh();
    double walked = 0;
    for (size_t i = 0; i < kept; i++)
      if ((walked += weights_[i]) > u * sum) return candidates_[i].id;
    return candidates_.back().id;
  }

  // Candidates sorted, best first, until they hold at least `mass` of the weight.
  void nucleus(double mass) {
    for (float reach = 8;; reach *= 2) {
      gather(top_ - reach / factor_);
      std::sort(candidates_.begin(), candidates_.end());
      if (weigh() >= mass || reach > 200) return;  // e^-200 is zero
    }
  }

  // The `count` best candidates, sorted.
  void best(int count) {
    // The count-th largest of the blocks' maxima bounds the count-th largest logit from below.
    const int block = count * 4 <= a_.vocab / 64 ? 64 : 16, blocks = a_.vocab / block;
    float bound = -std::numeric_limits<float>::infinity();
    if (count <= blocks) {
      weights_.resize(blocks);
      for (int b = 0; b < blocks; b++) weights_[b] = kernels_.max_value(logits_ + b * block, block);
      std::nth_element(weights_.begin(), weights_.begin() + (count - 1), weights_.end(),
                       std::greater<float>());
      bound = weights_[count - 1];
    }
    gather(bound);
    const size_t keep = std::min((size_t)count, candidates_.size());
    std::partial_sort(candidates_.begin(), candidates_.begin() + keep, candidates_.end());
    candidates_.resize(keep);
  }

  void gather(float bound) {
    candidates_.clear();
    for (int start = 0; start < a_.vocab; start += 64) {
      const int n = std::min(64, a_.vocab - start);
      if (kernels_.max_value(logits_ + start, n) < bound) continue;
      for (int id = start; id < start + n; id++)
        if (logits_[id] >= bound) candidates_.push_back({logits_[id], id});
    }
  }

  // weights_[i] = exp of candidate i relative to the largest logit; returns their sum.
  double weigh() {
    weights_.resize(candidates_.size());
    for (size_t i = 0; i < candidates_.size(); i++) weights_[i] = candidates_[i].logit;
    return kernels_.exp_sum(weights_.data(), (int)weights_.size(), top_, factor_, weights_.data());
  }

  static constexpr int kBlock = 512;

  const Kernels& kernels_;
  const SampleArrays& a_;
  const int row_;
  float* const logits_;
  float top_ = 0, factor_ = 1;
  std::vector<Candidate> candidates_, before_;
  std::vector<float> weights_;
};

}  // namespace

float uniform(uint64_t seed, uint32_t position) {
  uint32_t c[4] = {position, 0, 0, 0}, key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
  for (int round = 0; round < 10; round++) {  // Philox4x32-10 (Salmon et al., 2011)
    const uint64_t a = (uint64_t)0xD2511F53 * c[0], b = (uint64_t)0xCD9E8D57 * c[2];
    const uint32_t next[4] = {(uint32_t)(b >> 32) ^ c[1] ^ key[0], (uint32_t)b,
                              (uint32_t)(a >> 32) ^ c[3] ^ key[1], (uint32_t)a};
    std::copy(next, next + 4, c);
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return (float)(c[0] >> 8) * 0x1p-24f;
}

void sample(const Kernels& kernels, Pool& pool, const SampleArrays& arrays) {
  // One row needs no other thread, which may be away: the server takes a core between two steps.
  if (arrays.rows == 1) return Row(kernels, arrays, 0).run();
  Shares shares;
  pool.run([&](int) { shares.each(arrays.rows, 1, [&](int row, int) { Row(kernels, arrays, row).run(); }); });
}

}  // namespace pagemill
