// Which kernels this machine can run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace pagemill {

std::vector<std::string> available_kernels();  // best first

// By name, or "auto" for the best. Throws std::invalid_argument with the choices.
const Kernels& select_kernels(const std::string& name);

}  // namespace pagemill
