// Choosing the next token of each row. ops/reference.py defines what is chosen; this finds it without sorting
// the vocabulary: candidates are the few logits above a bound that cannot cut off a wanted one.
#pragma once

#include <vector>

#include "kernels.h"
#include "threads.h"

namespace pagemill {

// The arrays of SampleRows and of Sampled in ops/interface.py.
struct SampleArrays {
  int rows, vocab, most_top;
  float* logits;
  size_t logits_stride;
  const float *temperature, *top_p, *min_p;
  const int32_t *top_k, *positions, *num_logprobs, *edit_starts, *edit_ids;
  const uint64_t* seeds;
  const float *edit_mul, *edit_add;
  int32_t *ids, *top_ids;  // ids: -1 for a row without any number among its logits
  float *logprobs, *top_logprobs;
};

// Changes the logits of rows with edits.
void sample(const Kernels& kernels, Pool& pool, const SampleArrays& arrays);

// The uniform number in [0, 1) that (seed, position) stands for.
float uniform(uint64_t seed, uint32_t position);

}  // namespace pagemill
