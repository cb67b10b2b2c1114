// Where the chunks of a sequence lie in a cache.
#pragma once

#include "kernels.h"

namespace pagemill {
namespace {

struct Chunks {  // finds the chunk that holds tokens 16 i .. 16 i + 15 of a sequence
  const int32_t* pages;
  int per_page;
  size_t head, heads, size;  // size: bytes of one head's keys and values in a chunk
  size_t operator()(int i) const {
    // Most pages are one chunk; a division here is felt.
    const size_t chunk =
        per_page == 1 ? (size_t)pages[i] : (size_t)pages[i / per_page] * per_page + i % per_page;
    return (chunk * heads + head) * size;
  }
};

// Tokens of a sequence whose chunks are read one after another; the last chunk may hold others behind them.
struct Run {
  const char* data;
  Chunks chunk;
  int first, tokens;  // the first chunk
  int size() const { return (tokens + kChunk - 1) / kChunk; }
  const char* operator[](int i) const { return data + chunk(first + i); }
};

// Memory that will be needed soon. Chunks are scattered over the cache, where the hardware cannot guess the
// next one: while a thread scores or weighs a chunk, it asks for the next `halves` of a chunk of these runs.
// It asks into the second level: the first cannot wait for so many lines at once.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const Run& run, const Run& then, int first, int halves)
      : run_(run), then_(then), at_(2 * first), halves_(halves) {}

  int halves() const { return halves_; }
  // Where what is to be asked for now begins; null when all has been.
  const char* next() {
    const int chunk = at_ / 2, later = chunk - run_.size();
    const size_t offset = at_ % 2 ? run_.chunk.size / 2 / kLine * kLine : 0;
    at_ += halves_;
    if (later < 0) return run_[chunk] + offset;
    return later < then_.size() ? then_[later] + offset : nullptr;
  }

 private:
  Run run_{}, then_{};
  int at_ = 0, halves_ = 0;
};

}  // namespace
}  // namespace pagemill
