// The formats of files that matrices are packed from, and what a block of each says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <vector>

#include "kernels.h"

namespace pagemill {

// A column's share of a chunk, as a file tells it; see Layout for what becomes of it.
struct ColumnChunk {
  uint8_t codes[kChunkGroups * kGroup];  // of 8 bits: signed
  uint16_t scale[kChunkGroups];          // half precision: of each group, or pair; or the first, of the chunk
  uint16_t minimum[kChunkGroups];        // the same of minima; dmin counts positive
  float column_scale;                    // of Scale::column
  uint8_t sub_scale[2 * kChunkGroups];   // of each group, or of each half
  uint8_t sub_minimum[2 * kChunkGroups];
};

struct Format {
  const char* name;
  Kind kind;
  int block, bytes;  // elements and bytes of a block of the file
  // Reads a block, whose elements are `at` and on in the chunk. Null for dense formats.
  void (*read)(const uint8_t* block, ColumnChunk& to, int at);
  const int8_t* values;  // of kinds with a table: what its codes mean,
  float factor;          // times this
};

// The format called `name`; invalid_argument when there is none.
const Format& find_format(const std::string& name);
std::vector<std::string> matrix_formats();

// A format, and how a matrix of it is kept: the kind's name, bits of a code, whether codes are looked up in a
// table, inputs that share a scale (0: a whole column).
using Keeping = std::tuple<std::string, std::string, int, bool, int>;
std::vector<Keeping> matrix_kinds();

}  // namespace pagemill
