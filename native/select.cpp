#include "select.h"

#include <stdexcept>

#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace pagemill {
namespace {

std::vector<const Kernels*> runnable() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vnni")) {
    if (__builtin_cpu_supports("avx512bf16")) found.push_back(kernels_avx512_bf16());
    found.push_back(kernels_avx512());
  }
  if (avx2) found.push_back(kernels_avx2());
#elif defined(__aarch64__) && defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) found.push_back(kernels_neon());
#elif defined(__aarch64__) && defined(__APPLE__)
  found.push_back(kernels_neon());  // every Apple silicon has the dot product
#endif
  found.push_back(kernels_portable());
  return found;
}

}  // namespace

std::vector<std::string> available_kernels() {
  std::vector<std::string> names;
  for (const Kernels* kernels : runnable()) names.push_back(kernels->name);
  return names;
}

const Kernels& select_kernels(const std::string& name) {
  std::string choices = "auto";
  for (const Kernels* kernels : runnable()) {
    if (name == "auto" || name == kernels->name) return *kernels;
    choices += std::string(", ") + kernels->name;
  }
  throw std::invalid_argument("no instruction set " + name + " on this machine; choices: " + choices);
}

}  // namespace pagemill
