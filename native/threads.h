// A pool of threads that run one function together, and loops inside it that they share.
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

 private:
  void serve(int thread);
  void barrier();  // waits until all threads are here

  const int size_;
  const std::function<void(int)>* work_ = nullptr;
  alignas(64) std::atomic<uint32_t> generation_{0};
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::thread> threads_;
};

// Hands out items 0 .. n in shares. Returns on each thread when all items are done, whoever did them: a
// thread that comes late, because something else had its core, finds nothing to do, and nobody waited.
// One a parallel loop, reset before the loop is entered again.
class Shares {
 public:
  explicit Shares(int threads = 1) : parts_(threads) {}

  template <class F>
  void each(int n, int share, F work) {  // work(from, to)
    int mine = 0;
    for (int from; (from = next_.fetch_add(share, std::memory_order_relaxed)) < n;) {
      const int to = from + share < n ? from + share : n;
      work(from, to);
      mine += to - from;
    }
    finish(mine, n);
  }

  // Each thread begins with a part of its own, in which it finds in its cache what the share before asked
  // for, and helps the others after that.
  template <class F>
  void each_apart(int n, int share, int thread, F work) {  // work(from, to)
    const int threads = (int)parts_.size(), shares = (n + share - 1) / share;
    int mine = 0;
    for (int i = 0; i < threads; i++) {
      const int part = (thread + i) % threads, end = shares * (part + 1) / threads;
      const int begin = shares * part / threads;
      for (int at; (at = begin + parts_[part].next.fetch_add(1, std::memory_order_relaxed)) < end;) {
        const int from = at * share, to = from + share < n ? from + share : n;
        work(from, to);
        mine += to - from;
      }
    }
    finish(mine, n);
  }

  // One by one, and each thread knows what comes next.
  template <class F>
  void each_ahead(int n, F work) {  // work(item, the next one or -1)
    int mine = 0;
    for (int item = next_.fetch_add(1, std::memory_order_relaxed); item < n; mine++) {
      const int after = next_.fetch_add(1, std::memory_order_relaxed);
      work(item, after < n ? after : -1);
      item = after;
    }
    finish(mine, n);
  }

  void reset() {
    next_.store(0, std::memory_order_relaxed);
    for (auto& part : parts_) part.next.store(0, std::memory_order_relaxed);
    done_.store(0, std::memory_order_relaxed);
  }

 private:
  struct Part {
    alignas(64) std::atomic<int> next{0};
  };

  void finish(int mine, int n);

  std::vector<Part> parts_;
  alignas(64) std::atomic<int> next_{0};
  alignas(64) std::atomic<int> done_{0};
};

}  // namespace pagemill
