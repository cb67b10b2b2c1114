#include "threads.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace pagemill {
namespace {

inline void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits while `done` is false: first spinning (the others are microseconds away), then leaving the core
// to whoever wants it. Gives up after `patience`, and says so.
template <class F>
bool await(F done, std::chrono::microseconds patience) {
  for (int i = 0; i < 1500; i++) {
    if (done()) return true;
    relax();
  }
  const auto until = std::chrono::steady_clock::now() + patience;
  while (!done()) {
    if (std::chrono::steady_clock::now() > until) return false;
    std::this_thread::yield();
  }
  return true;
}

constexpr std::chrono::microseconds kAwake{150};  // between two steps of a busy engine lies less

template <class F>
void await(F done) {
  while (!await(done, std::chrono::seconds(1))) {
  }
}

}  // namespace

void Shares::finish(int mine, int n) {
  if (mine) done_.fetch_add(mine, std::memory_order_acq_rel);
  await([&] { return done_.load(std::memory_order_acquire) == n; });
}

Pool::Pool(int threads) : size_(threads) {
  for (int i = 1; i < threads; i++) threads_.emplace_back([this, i] { serve(i); });
}

Pool::~Pool() {
  stop_ = true;
  generation_.fetch_add(1);
  generation_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Pool::run(const std::function<void(int)>& work) {
  work_ = &work;
  if (size_ > 1) {
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  }
  work(0);
  barrier();
}

void Pool::serve(int thread) {
  uint32_t seen = 0;
  for (;;) {
    if (!await([&] { return generation_.load(std::memory_order_acquire) != seen; }, kAwake))
      generation_.wait(seen, std::memory_order_acquire);
    if (generation_.load(std::memory_order_acquire) == seen) continue;
    seen++;
    if (stop_) return;
    (*work_)(thread);
    barrier();
  }
}

void Pool::barrier() {
  if (size_ == 1) return;
  const uint32_t phase = phase_.load(std::memory_order_relaxed);
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.store(phase + 1, std::memory_order_release);
    return;
  }
  await([&] { return phase_.load(std::memory_order_acquire) != phase; });
}

}  // namespace pagemill
