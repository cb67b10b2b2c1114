// A pool of threads that run one function together, with barriers inside it.
//
// Between calls the threads stay awake for a moment, because the next step of a busy engine follows at
// once, then sleep. Work inside a call is handed out in small shares, so a core that something else
// occupies takes fewer of them instead of holding up the others.
#pragma once

#include <atomic>
#include <functional>
#include <thread>
#include <vector>

namespace pagemill {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int size() const { return size_; }

  // Calls work(thread) on every thread, the caller's being 0, and returns when all are done.
  void run(const std::function<void(int)>& work);

  // Waits, inside run, until all threads are here.
  void barrier();

 private:
  void serve(int thread);

  const int size_;
  const std::function<void(int)>* work_ = nullptr;
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

// Hands out items 0 .. n in shares; one counter a parallel loop, reset before the loop is entered again.
struct alignas(64) Shares {
  std::atomic<int> next{0};

  template <class F>
  void each(int n, int share, F work) {  // work(from, to)
    for (;;) {
      const int from = next.fetch_add(share, std::memory_order_relaxed);
      if (from >= n) return;
      work(from, from + share < n ? from + share : n);
    }
  }

  // One by one, and each thread knows what comes next.
  template <class F>
  void each_ahead(int n, F work) {  // work(item, the next one or -1)
    for (int item = next.fetch_add(1, std::memory_order_relaxed); item < n;) {
      const int after = next.fetch_add(1, std::memory_order_relaxed);
      work(item, after < n ? after : -1);
      item = after;
    }
  }
};

}  // namespace pagemill
