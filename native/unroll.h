// Loops whose counts are known when compiling, and which must leave no trace of being loops: what they go
// over are registers.
#pragma once

#include <utility>

#define PAGEMILL_INLINE __attribute__((always_inline))

// For i from 0 to n - 1, n being 16 at most. Cheaper to compile than unroll, by far: use it where i need not
// be a constant of templates.
#define EACH(i, n) _Pragma("GCC unroll 16") for (int i = 0; i < (n); i++)

namespace pagemill {
namespace {

template <int kValue>
struct Index {
  static constexpr int value = kValue;
};

template <int kFrom, int... kOffsets, class F>
PAGEMILL_INLINE inline void unroll(std::integer_sequence<int, kOffsets...>, F&& f) {
  (f(Index<kFrom + kOffsets>()), ...);
}

// Calls f(Index<kFrom>), ..., f(Index<kTo - 1>).
template <int kFrom, int kTo, class F>
PAGEMILL_INLINE inline void unroll(F&& f) {
  unroll<kFrom>(std::make_integer_sequence<int, kTo - kFrom>(), f);
}

}  // namespace
}  // namespace pagemill
