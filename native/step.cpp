#include "step.h"

#include <stdexcept>
#include <string>

#include "kernels.h"

namespace pagemill {
namespace {

void check(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

void check_range(const int32_t* values, int count, int64_t limit, const char* what) {
  for (int i = 0; i < count; i++)
    if (values[i] < 0 || values[i] >= limit)
      throw std::invalid_argument(std::string(what) + ": " + std::to_string(values[i]) + " of " +
                                  std::to_string(limit));
}

void check_pages(const StepView& s, int row, int64_t num_pages) {
  const int begin = s.row_starts[row], end = s.row_starts[row + 1], length = s.kv_lens[row];
  check(length >= end - begin, "a row brings more tokens than its history has");
  check(s.positions[end - 1] == length - 1 && s.positions[begin] == length - (end - begin),
        "positions do not end a row's history");
  const int needed = (length + s.page_size - 1) / s.page_size;
  check(needed <= s.pages_per_row, "a row's pages do not hold its history");
  check_range(s.page_table + (size_t)row * s.pages_per_row, needed, num_pages, "a page is outside the cache");
}

}  // namespace

void check_step(const StepView& s, const Limits& limits) {
  check_range(s.token_ids, s.tokens, limits.token_ids, "a token id is outside the vocabulary");
  check_range(s.positions, s.tokens, limits.positions, "a position is outside the table of positions");
  check(s.token_types || !limits.types, "the model needs token_types");
  if (s.token_types)
    check_range(s.token_types, s.tokens, limits.token_types, "a token type is outside its table");
  check(s.state_slots || !limits.states, "the model needs state_slots");
  for (int i = 0; limits.states && i < 2 * s.rows; i++)
    check(s.state_slots[i] >= -(i % 2 == 0) && s.state_slots[i] < limits.state_slots,
          "a state slot is outside the states");
  check_range(s.slots, s.tokens, limits.slots, "a slot is outside the cache");
  check_range(s.out_rows, s.sampled, s.tokens, "an out_row is not a token of the step");
  check(s.page_size > 0 && s.page_size % kChunk == 0, "page_size is not a multiple of 16");
  check(s.row_starts[0] == 0 && s.row_starts[s.rows] == s.tokens, "row_starts does not cover the tokens");
  for (int row = 0; row < s.rows; row++) {
    check(s.row_starts[row] < s.row_starts[row + 1], "a row has no tokens");
    if (limits.paged) check_pages(s, row, limits.slots / s.page_size);
  }
}

}  // namespace pagemill
