// Recurrent states: what sequences keep from one step to the next beside keys and values, in slots of `size`
// floats for each layer. A slot that nobody has written takes no memory yet.
#pragma once

#include <cstdint>
#include <stdexcept>

#include "memory.h"

namespace pagemill {

class States {
 public:
  States(int layers, int slots, int64_t size) : layers_(layers), slots_(slots), size_(size) {
    if (layers < 0 || slots < 0 || size < 0) throw std::invalid_argument("states of negative size");
    memory_ = Block((size_t)layers * slots * stride() * sizeof(float));
  }
  States(const States&) = delete;

  float* at(int layer, int slot) const {
    return memory_.as<float>() + ((size_t)layer * slots_ + slot) * stride();
  }
  int layers() const { return layers_; }
  int slots() const { return slots_; }
  int64_t size() const { return size_; }
  size_t bytes() const { return memory_.size(); }

 private:
  size_t stride() const { return ((size_t)size_ + 15) / 16 * 16; }  // slots begin with a cache line

  int layers_, slots_;
  int64_t size_;
  Block memory_;
};

}  // namespace pagemill
