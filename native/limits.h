// How fast this machine is at most, with the kernels of one instruction set on the threads of a pool.
#pragma once

#include <cstddef>

#include "kernels.h"
#include "threads.h"

namespace pagemill {

struct Peaks {  // a second, all threads together
  double read_bytes, int8_ops, fp32_ops;
  double bf16_ops;  // 0 where no kernel multiplies bf16
};

// Reads `bytes` for the first figure: more than the caches hold, or they are what is measured.
Peaks measure_peaks(const Kernels& kernels, Pool& pool, size_t bytes);

}  // namespace pagemill
