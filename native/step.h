// The arrays of one step, and the check that no kernel will index outside of anything with them.
#pragma once

#include <cstdint>

namespace pagemill {

// See Step in ops/interface.py.
struct StepView {
  int tokens = 0, rows = 0, sampled = 0, page_size = 0, pages_per_row = 0;
  const int32_t *token_ids = nullptr, *positions = nullptr, *slots = nullptr, *row_starts = nullptr,
                *kv_lens = nullptr, *page_table = nullptr, *out_rows = nullptr,
                *token_types = nullptr,      // may be null
                    *state_slots = nullptr;  // likewise
};

// What a program indexes with a step: each index of a kind must be less than its number.
struct Limits {
  int64_t token_ids = INT32_MAX, positions = INT32_MAX, token_types = INT32_MAX, slots = INT32_MAX;
  bool types = false;  // the program reads token_types
  bool paged = false;  // the program attends over pages
  int64_t state_slots = INT32_MAX;
  bool states = false;  // the program keeps recurrent states
};

// Throws std::invalid_argument that says what is wrong. Costs O(tokens + pages).
void check_step(const StepView& step, const Limits& limits);

}  // namespace pagemill
