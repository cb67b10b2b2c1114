// Where the chunks of a sequence lie in a cache, and which of them are asked for ahead of their use.
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

// Where a thread goes on: the first chunks are asked for while values are added up.
struct Soon {
  const char* data;
  Chunks chunk;
  int first, count;
  const char* of(int i) const { return i < count ? data + chunk(first + i) : nullptr; }
};

}  // namespace
}  // namespace pagemill
