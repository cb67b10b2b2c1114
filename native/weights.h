// Matrices repacked for the kernels, once, when they are loaded.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "threads.h"

namespace pagemill {

// One part of a fused matrix as it lies in the file: whole rows of one format.
struct Part {
  std::string format;
  const uint8_t* data;
  int rows;
};

// A matrix of n outputs, in segments of one kind each, stacked along the outputs.
class Matrix {
 public:
  Matrix(const Kernels& kernels, Pool& pool, Slabs& slabs, const std::vector<Part>& parts, int k);
  Matrix(const Matrix&) = delete;

  struct Segment {
    PackedWeight weight;
    int first_row;
    Slabs::Piece memory;
  };
  const std::vector<Segment>& segments() const { return segments_; }
  int n() const { return n_; }
  int k() const { return k_; }
  size_t bytes() const;
  bool quantized() const;  // in any of its segments, as also
  bool dense() const;

 private:
  std::vector<Segment> segments_;
  int n_ = 0, k_;
};

// Bytes of memory that n rows of k elements take once they are packed.
size_t packed_bytes(const std::string& format, int n, int k);

}  // namespace pagemill
