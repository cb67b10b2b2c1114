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

constexpr int kChunksAhead = 6;

// Tokens of a sequence whose chunks are read one after another; the last chunk may hold others behind them.
struct Run {
  const char* data;
  Chunks chunk;
  int first, tokens;  // the first chunk
  int size() const { return (tokens + kChunk - 1) / kChunk; }
  const char* operator[](int i) const { return data + chunk(first + i); }
  // The i-th chunk where there is one: to ask for.
  const char* of(int i) const { return i < size() ? (*this)[i] : nullptr; }
};

}  // namespace
}  // namespace pagemill
