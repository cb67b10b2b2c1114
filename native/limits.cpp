#include "limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>

#include "memory.h"

namespace pagemill {
namespace {

// Runs are short, and many: on a busy machine all threads run undisturbed only for moments. The best counts,
// since a limit is what was reached once.
constexpr int kLeastRuns = 5;
constexpr double kRunSeconds = 1e-3, kAllSeconds = 0.15;
constexpr size_t kShare = 1 << 20;

double seconds(Pool& pool, const std::function<void(int)>& work) {
  const auto start = std::chrono::steady_clock::now();
  pool.run(work);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double best_seconds(Pool& pool, const std::function<void(int)>& work, double at_least) {
  double best = 1e9, all = 0;
  for (int i = 0; i < kLeastRuns || all < at_least; i++) {
    const double took = seconds(pool, work);
    best = std::min(best, took), all += took;
  }
  return best;
}

// Vectors a second of a loop that computes `vectors` of them a round on each thread.
template <class F>
double vectors_per_second(Pool& pool, int vectors, F spin) {
  int64_t rounds = 64;
  const auto work = [&](int) { spin(rounds); };
  while (best_seconds(pool, work, 0) < kRunSeconds) rounds *= 2;
  return (double)vectors * (double)rounds * pool.size() / best_seconds(pool, work, kAllSeconds);
}

}  // namespace

Peaks measure_peaks(const Kernels& kernels, Pool& pool, size_t bytes) {
  bytes = std::max(bytes / kShare, (size_t)pool.size()) * kShare;
  const Block block(bytes);
  float* values = block.as<float>();
  std::fill(values, values + bytes / sizeof(float), 1.0f);  // and the system hands out the pages
  std::atomic<int32_t> sink{0};                             // or the loops have no purpose

  const double int8 = vectors_per_second(
      pool, kernels.spun, [&](int64_t rounds) { sink += kernels.spin_int8(block.as<uint8_t>(), rounds); });
  const double fp32 = vectors_per_second(pool, kernels.spun,
                                         [&](int64_t rounds) { sink += kernels.spin_fp32(values, rounds); });

  const double bf16 = !kernels.spin_bf16 ? 0 : vectors_per_second(pool, kernels.spun, [&](int64_t rounds) {
    sink += kernels.spin_bf16(block.as<uint8_t>(), rounds);
  });

  std::atomic<size_t> next{0};
  std::atomic<int> done{0};
  const double read = best_seconds(
      pool,
      [&](int) {
        for (size_t at; (at = next.fetch_add(kShare)) < bytes;)
          sink += kernels.read_through(block.as<uint8_t>(at), kShare);
        if (done.fetch_add(1) + 1 == pool.size()) done = 0, next = 0;
      },
      kAllSeconds);
  return {(double)bytes / read, 2 * 64 * int8, 2 * 16 * fp32, 2 * 32 * bf16};
}

}  // namespace pagemill
