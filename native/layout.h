// How a packed matrix lies in memory: what packing writes and the kernels read.
//
// A tile is 16 columns, a chunk 256 inputs of a tile: eight groups of 32 (the last chunk of a row may have
// fewer). A tile's chunks follow one another, so a product of one row reads one stream. A chunk is
//
//   codes    of each group, its low plane, then its high plane
//   scales   as Scale says
//   padding  up to a cache line
//
// A plane keeps b of the bits of each code, in b lines of 64 bytes a group. Byte c * 4 + j of a line is of
// column c; step s are the codes of inputs 4 s + j. A line has 8 / b steps, the first in the lowest bits.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pagemill {

constexpr int kTile = 16;        // output columns computed together, one vector of floats
constexpr int kGroup = 32;       // inputs that share a scale, in quantized activations and most weights
constexpr int kChunkGroups = 8;  // groups of a chunk
constexpr int kSpanGroups = 32;  // groups whose products are added up before they join a result
constexpr int kLine = 64;

enum class Kind : int {
  f32,
  f16,
  bf16,  // dense: for each tile, k vectors of 16 elements
  q8,
  q8c,
  q5,
  q5m,
  q4,
  q4m,
  q6k,
  q5k,
  q4k,
  q3k,
  q2k,
  q2,
  v4,
  v4k,
  v3k,
  v4e,
  v4f,
  last = v4f
};

constexpr bool is_quantized(Kind kind) { return kind >= Kind::q8; }

// What follows the codes of a chunk, each for 16 columns: `d` are half precision.
enum class Scale : int {
  half,      // d of each group; then, with minima, the minimum of each group, half precision
  pair,      // d of each two groups
  column,    // the scale of all chunks in single precision, the same in each
  byte,      // d of the chunk, with minima dmin; a signed byte of each group; then of minima: d * byte
  byte16,    // d of the chunk, a signed byte of each half of a group
  nibble16,  // d and dmin of the chunk; for each half of a group a byte, scale in the low and minimum in the
             // high half
  power,     // e of each group: 2^(e - 127)
  float8,    // of each half of a group a float of 4 bits of exponent and 3 of mantissa
};

// A value is (code - zero) or table[code], times the scale, plus the minimum.
struct Layout {
  int low, high;  // bits of a code in its two planes
  int zero;
  bool table;
  Scale scale;
  bool minimum;

  constexpr int group_bytes() const { return kLine * (low + high); }
  // Bytes of the scales of a chunk of `groups` groups.
  constexpr int scale_bytes(int groups) const {
    const int both = minimum ? 2 : 1;
    switch (scale) {
      case Scale::half:
        return groups * 2 * kTile * both;
      case Scale::pair:
        return (groups + 1) / 2 * 2 * kTile;
      case Scale::column:
        return 4 * kTile;
      case Scale::byte:
        return (2 + groups) * kTile * both;
      case Scale::byte16:
        return (2 + 2 * groups) * kTile;
      case Scale::nibble16:
        return (4 + 2 * groups) * kTile;
      case Scale::power:
        return groups * kTile;
      case Scale::float8:
        return groups * 2 * kTile;
    }
    return 0;
  }
  constexpr size_t chunk_bytes(int groups) const {
    return (size_t)(groups * group_bytes() + scale_bytes(groups) + kLine - 1) / kLine * kLine;
  }
  constexpr size_t tile_bytes(int groups) const {
    const int rest = groups % kChunkGroups;
    return groups / kChunkGroups * chunk_bytes(kChunkGroups) + (rest ? chunk_bytes(rest) : 0);
  }
  // Two scales a group, one for each half.
  constexpr bool halves() const {
    return scale == Scale::byte16 || scale == Scale::nibble16 || scale == Scale::float8;
  }
};

constexpr Layout layout_of(Kind kind) {
  switch (kind) {
    case Kind::q8:  // q8 codes are signed, see Kernels::signed_q8
      return {8, 0, 0, false, Scale::half, false};
    case Kind::q8c:
      return {8, 0, 0, false, Scale::column, false};
    case Kind::q5:
      return {4, 1, 16, false, Scale::half, false};
    case Kind::q5m:
      return {4, 1, 0, false, Scale::half, true};
    case Kind::q4:
      return {4, 0, 8, false, Scale::half, false};
    case Kind::q4m:
      return {4, 0, 0, false, Scale::half, true};
    case Kind::q6k:
      return {4, 2, 32, false, Scale::byte16, false};
    case Kind::q5k:
      return {4, 1, 0, false, Scale::byte, true};
    case Kind::q4k:
      return {4, 0, 0, false, Scale::byte, true};
    case Kind::q3k:
      return {2, 1, 4, false, Scale::byte16, false};
    case Kind::q2k:
      return {2, 0, 0, false, Scale::nibble16, true};
    case Kind::q2:
      return {2, 0, 1, false, Scale::pair, false};
    case Kind::v4:
      return {4, 0, 0, true, Scale::half, false};
    case Kind::v4k:
      return {4, 0, 0, true, Scale::byte, false};
    case Kind::v3k:
      return {2, 1, 0, true, Scale::byte16, false};
    case Kind::v4e:
      return {4, 0, 0, true, Scale::power, false};
    case Kind::v4f:
      return {4, 0, 0, true, Scale::float8, false};
    default:  // dense
      return {};
  }
}

}  // namespace pagemill
