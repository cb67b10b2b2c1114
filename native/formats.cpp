#include "formats.h"

#include <cstring>
#include <iterator>
#include <stdexcept>

#include "grids.h"
#include "half.h"

namespace pagemill {
namespace {

inline uint16_t word(const uint8_t* at) { return (uint16_t)(at[0] | at[1] << 8); }

// Halves of `count` bytes: the low ones are elements, the high ones those `count` later.
inline void read_nibbles(const uint8_t* from, int count, uint8_t* codes) {
  constexpr uint64_t kLow = 0x0f0f0f0f0f0f0f0f;
  for (int i = 0; i < count; i += 8) {  // by words: most of a start's packing is this
    uint64_t bytes;
    memcpy(&bytes, from + i, 8);
    const uint64_t low = bytes & kLow, high = bytes >> 4 & kLow;
    memcpy(codes + i, &low, 8);
    memcpy(codes + count + i, &high, 8);
  }
}

// Fields of two bits of 32 bytes: the lowest ones are 32 elements, the next the next 32, and so on.
inline void read_pairs(const uint8_t* from, uint8_t* codes) {
  for (int f = 0; f < 4; f++)
    for (int i = 0; i < 32; i++) codes[f * 32 + i] = from[i] >> 2 * f & 3;
}

void read_q8_0(const uint8_t* block, ColumnChunk& to, int at) {
  to.scale[at / kGroup] = word(block);
  memcpy(to.codes + at, block + 2, kGroup);
}

void read_q4_0(const uint8_t* block, ColumnChunk& to, int at) {
  to.scale[at / kGroup] = word(block);
  read_nibbles(block + 2, 16, to.codes + at);
}

void read_q4_1(const uint8_t* block, ColumnChunk& to, int at) {
  to.minimum[at / kGroup] = word(block + 2);
  to.scale[at / kGroup] = word(block);
  read_nibbles(block + 4, 16, to.codes + at);
}

// The fifth bits of 32 elements, one after the other.
inline void read_fifth_bits(const uint8_t* from, uint8_t* codes) {
  for (int i = 0; i < 32; i++) codes[i] |= (from[i / 8] >> i % 8 & 1) << 4;
}

void read_q5_0(const uint8_t* block, ColumnChunk& to, int at) {
  to.scale[at / kGroup] = word(block);
  read_nibbles(block + 6, 16, to.codes + at);
  read_fifth_bits(block + 2, to.codes + at);
}

void read_q5_1(const uint8_t* block, ColumnChunk& to, int at) {
  to.scale[at / kGroup] = word(block);
  to.minimum[at / kGroup] = word(block + 2);
  read_nibbles(block + 8, 16, to.codes + at);
  read_fifth_bits(block + 4, to.codes + at);
}

// d, dmin, and eight scales and minima of six bits in twelve bytes.
void read_six_bit_scales(const uint8_t* block, ColumnChunk& to) {
  to.scale[0] = word(block);
  to.minimum[0] = word(block + 2);
  const uint8_t *scales = block + 4, *minima = block + 8, *rest = block + 12;
  for (int j = 0; j < 4; j++) {
    to.sub_scale[j] = scales[j] & 63;
    to.sub_minimum[j] = minima[j] & 63;
    to.sub_scale[4 + j] = (uint8_t)((rest[j] & 15) | scales[j] >> 6 << 4);
    to.sub_minimum[4 + j] = (uint8_t)(rest[j] >> 4 | minima[j] >> 6 << 4);
  }
}

void read_q4_k(const uint8_t* block, ColumnChunk& to, int) {
  read_six_bit_scales(block, to);
  for (int i = 0; i < 4; i++) read_nibbles(block + 16 + 32 * i, 32, to.codes + 64 * i);
}

void read_q5_k(const uint8_t* block, ColumnChunk& to, int) {
  read_six_bit_scales(block, to);
  for (int i = 0; i < 4; i++) read_nibbles(block + 48 + 32 * i, 32, to.codes + 64 * i);
  for (int g = 0; g < 8; g++)
    for (int i = 0; i < 32; i++) to.codes[g * 32 + i] |= (block[16 + i] >> g & 1) << 4;
}

void read_q6_k(const uint8_t* block, ColumnChunk& to, int) {
  for (int i = 0; i < 2; i++) {
    uint8_t upper[128];
    read_nibbles(block + 64 * i, 64, to.codes + 128 * i);
    read_pairs(block + 128 + 32 * i, upper);
    for (int j = 0; j < 128; j++) to.codes[128 * i + j] |= upper[j] << 4;
  }
  memcpy(to.sub_scale, block + 192, 16);
  to.scale[0] = word(block + 208);
}

void read_q3_k(const uint8_t* block, ColumnChunk& to, int) {
  for (int i = 0; i < 2; i++) read_pairs(block + 32 + 32 * i, to.codes + 128 * i);
  for (int i = 0; i < 256; i++) to.codes[i] |= (block[i % 32] >> i / 32 & 1) << 2;
  for (int i = 0; i < 16; i++) {
    const int low = i < 8 ? block[96 + i] & 15 : block[88 + i] >> 4;
    to.sub_scale[i] = (uint8_t)((low | (block[104 + i % 4] >> i / 4 * 2 & 3) << 4) - 32);
  }
  to.scale[0] = word(block + 108);
}

void read_q2_k(const uint8_t* block, ColumnChunk& to, int) {
  for (int i = 0; i < 16; i++) to.sub_scale[i] = block[i] & 15, to.sub_minimum[i] = block[i] >> 4;
  for (int i = 0; i < 2; i++) read_pairs(block + 16 + 32 * i, to.codes + 128 * i);
  to.scale[0] = word(block + 80);
  to.minimum[0] = word(block + 82);
}

// Sixteen values; their formats' factors are in the table of formats below.
constexpr int8_t kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t kFloat4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};  // doubled
// The table of NF4 times 112.03, rounded: of all factors the one that leaves the least error.
constexpr int8_t kNormal[16] = {-112, -78, -59, -44, -32, -21, -10, 0, 9, 18, 28, 38, 49, 63, 81, 112};
// The table of FP4 times 120: exact but for its least value, 1/192.
constexpr int8_t kSmallFloat[16] = {0, 1, 80, 120, 40, 60, 20, 30, 0, -1, -80, -120, -40, -60, -20, -30};
// Levels of grids with their signs, see read_point; those of IQ1 times eight, see read_shifted_point.
constexpr int8_t kThreeLevels[16] = {-43, -25, -8, 8, 25, 43};
constexpr int8_t kEightLevels[16] = {-62, -52, -44, -36, -28, -20, -12, -4, 4, 12, 20, 28, 36, 44, 52, 62};
constexpr int8_t kOddLevels[16] = {-15, -13, -11, -9, -7, -5, -3, -1, 1, 3, 5, 7, 9, 11, 13, 15};
constexpr int8_t kShifted[16] = {-9, -7, -1, 1, 7, 9};

void read_iq4_nl(const uint8_t* block, ColumnChunk& to, int at) {
  to.scale[at / kGroup] = word(block);
  read_nibbles(block + 2, 16, to.codes + at);
}

void read_iq4_xs(const uint8_t* block, ColumnChunk& to, int) {
  to.scale[0] = word(block);
  for (int g = 0; g < 8; g++) {
    const int low = block[4 + g / 2] >> g % 2 * 4 & 15, high = word(block + 2) >> 2 * g & 3;
    to.sub_scale[g] = (uint8_t)((low | high << 4) - 32);
    read_nibbles(block + 8 + 16 * g, 16, to.codes + 32 * g);
  }
}

// Scale::power is twice the scale that files mean with the same byte. What is lost are 2^-128 and 2^-127.
void read_mxfp4(const uint8_t* block, ColumnChunk& to, int at) {
  to.sub_scale[at / kGroup] = (uint8_t)(block[0] ? block[0] - 1 : 0);
  read_nibbles(block + 1, 16, to.codes + at);
}

void read_nvfp4(const uint8_t* block, ColumnChunk& to, int at) {
  for (int i = 0; i < 4; i++) {
    to.sub_scale[at / 16 + i] = block[i] == 127 ? 0 : block[i] & 127;
    read_nibbles(block + 4 + 8 * i, 8, to.codes + at + 16 * i);
  }
}

void read_table(const uint8_t* block, ColumnChunk& to, int at) {
  float scale;
  memcpy(&scale, block, 4);
  to.scale[at / kGroup] = float_to_half(scale);
  read_nibbles(block + 4, 16, to.codes + at);
}

void read_tq2_0(const uint8_t* block, ColumnChunk& to, int) {
  for (int i = 0; i < 2; i++) read_pairs(block + 32 * i, to.codes + 128 * i);
  for (int i = 0; i < 4; i++) to.scale[i] = word(block + 64);
}

// Base-three digits of bytes that are fractions of 256: all first digits, then all second ones, and so on.
inline uint8_t* read_digits(const uint8_t* from, int count, int digits, uint8_t* codes) {
  for (int digit = 0, power = 1; digit < digits; digit++, power *= 3)
    for (int i = 0; i < count; i++) *codes++ = (uint8_t)((uint8_t)(from[i] * power) * 3 >> 8);
  return codes;
}

void read_tq1_0(const uint8_t* block, ColumnChunk& to, int) {
  uint8_t* codes = read_digits(block, 32, 5, to.codes);
  codes = read_digits(block + 32, 16, 5, codes);
  read_digits(block + 48, 4, 4, codes);
  for (int i = 0; i < 4; i++) to.scale[i] = word(block + 52);
}

void read_q2_0(const uint8_t* block, ColumnChunk& to, int at) {
  to.scale[at / 64] = word(block);
  for (int i = 0; i < 64; i++) to.codes[at + i] = block[2 + i / 4] >> i % 4 * 2 & 3;
}

void read_q1_0(const uint8_t* block, ColumnChunk& to, int at) {
  for (int i = 0; i < 2; i++) to.scale[at / 64 + i] = word(block);
  for (int i = 0; i < 128; i++) to.codes[at + i] = (uint8_t)((block[2 + i / 8] >> i % 8 & 1) * 2);
}

// A point's elements as numbers of a table that has the negative levels before the others; bits of `signs`
// say which elements are negative.
inline void read_point(const Grid& grid, int number, int signs, uint8_t* codes) {
  const uint8_t* point = grid.point(number);
  for (int i = 0; i < grid.coordinates; i++)
    codes[i] = (uint8_t)(signs >> i & 1 ? grid.levels - 1 - point[i] : grid.levels + point[i]);
}

// Seven signs and the eighth, which makes their number even.
inline int even_signs(int seven) {
  int odd = seven ^ seven >> 4;
  odd ^= odd >> 2;
  return seven | ((odd ^ odd >> 1) & 1) << 7;
}

// Scales d * (2 s + 1), times the factor of the format.
inline uint8_t odd_scale(int s) { return (uint8_t)(2 * s + 1); }

// Four runs of eight elements whose signs, and the group's scale, are in four bytes.
inline uint8_t read_signs(const uint8_t* from, uint8_t* signs) {
  const uint32_t all = word(from) | (uint32_t)word(from + 2) << 16;
  for (int i = 0; i < 4; i++) signs[i] = (uint8_t)even_signs(all >> 7 * i & 127);
  return odd_scale(all >> 28);
}

void read_iq3_xxs(const uint8_t* block, ColumnChunk& to, int) {
  to.scale[0] = word(block);
  for (int g = 0; g < 8; g++) {
    uint8_t signs[4];
    to.sub_scale[g] = read_signs(block + 66 + 4 * g, signs);
    for (int i = 0; i < 8; i++)
      read_point(grid_iq3_xxs(), block[2 + 8 * g + i], signs[i / 2] >> i % 2 * 4, to.codes + 32 * g + 4 * i);
  }
}

void read_iq3_s(const uint8_t* block, ColumnChunk& to, int) {
  to.scale[0] = word(block);
  for (int g = 0; g < 8; g++) {
    to.sub_scale[g] = odd_scale(block[106 + g / 2] >> g % 2 * 4 & 15);
    for (int i = 0; i < 8; i++) {
      const int number = block[2 + 8 * g + i] | (block[66 + g] >> i & 1) << 8;
      const int signs = block[74 + 4 * g + i / 2] >> i % 2 * 4;
      read_point(grid_iq3_s(), number, signs, to.codes + 32 * g + 4 * i);
    }
  }
}

void read_iq2_xxs(const uint8_t* block, ColumnChunk& to, int) {
  to.scale[0] = word(block);
  for (int g = 0; g < 8; g++) {
    const uint8_t* of = block + 2 + 8 * g;
    uint8_t signs[4];
    to.sub_scale[2 * g] = to.sub_scale[2 * g + 1] = read_signs(of + 4, signs);
    for (int i = 0; i < 4; i++) read_point(grid_iq2_xxs(), of[i], signs[i], to.codes + 32 * g + 8 * i);
  }
}

void read_iq2_xs(const uint8_t* block, ColumnChunk& to, int) {
  to.scale[0] = word(block);
  for (int i = 0; i < 16; i++) to.sub_scale[i] = odd_scale(block[66 + i / 2] >> i % 2 * 4 & 15);
  for (int i = 0; i < 32; i++) {
    const int both = word(block + 2 + 2 * i);
    read_point(grid_iq2_xs(), both & 511, even_signs(both >> 9), to.codes + 8 * i);
  }
}

void read_iq2_s(const uint8_t* block, ColumnChunk& to, int) {
  to.scale[0] = word(block);
  for (int i = 0; i < 16; i++) to.sub_scale[i] = odd_scale(block[74 + i / 2] >> i % 2 * 4 & 15);
  for (int i = 0; i < 32; i++) {
    const int number = block[2 + i] | (block[66 + i / 4] >> i % 4 * 2 & 3) << 8;
    read_point(grid_iq2_s(), number, block[34 + i], to.codes + 8 * i);
  }
}

// A point's elements, less an eighth where `down`, else an eighth more.
inline void read_shifted_point(int number, bool down, uint8_t* codes) {
  const uint8_t* point = grid_iq1_s().point(number);
  for (int i = 0; i < 8; i++) codes[i] = (uint8_t)(2 * point[i] + !down);
}

void read_iq1_s(const uint8_t* block, ColumnChunk& to, int) {
  to.scale[0] = word(block);
  for (int g = 0; g < 8; g++) {
    const int of = word(block + 34 + 2 * g);
    to.sub_scale[2 * g] = to.sub_scale[2 * g + 1] = odd_scale(of >> 12 & 7);
    for (int i = 0; i < 4; i++)
      read_shifted_point(block[2 + 4 * g + i] | (of >> 3 * i & 7) << 8, of >> 15, to.codes + 32 * g + 8 * i);
  }
}

void read_iq1_m(const uint8_t* block, ColumnChunk& to, int) {
  to.scale[0] = 0;
  for (int i = 0; i < 4; i++) {
    const int of = word(block + 48 + 2 * i);
    to.scale[0] |= (uint16_t)(of >> 12 << 4 * i);
    for (int j = 0; j < 4; j++) to.sub_scale[4 * i + j] = odd_scale(of >> 3 * j & 7);
  }
  for (int i = 0; i < 32; i++) {
    const int more = block[32 + i / 2] >> i % 2 * 4;
    read_shifted_point(block[i] | (more & 7) << 8, more & 8, to.codes + 8 * i);
  }
}

constexpr Format dense(const char* name, Kind kind, int bytes) {
  return {name, kind, 1, bytes, nullptr, nullptr, 1};
}

constexpr Format kFormats[] = {
    dense("F32", Kind::f32, 4),
    dense("F16", Kind::f16, 2),
    dense("BF16", Kind::bf16, 2),
    {"Q8_0", Kind::q8, 32, 34, read_q8_0, nullptr, 1},
    {"Q5_1", Kind::q5m, 32, 24, read_q5_1, nullptr, 1},
    {"Q5_0", Kind::q5, 32, 22, read_q5_0, nullptr, 1},
    {"Q4_1", Kind::q4m, 32, 20, read_q4_1, nullptr, 1},
    {"Q4_0", Kind::q4, 32, 18, read_q4_0, nullptr, 1},
    {"Q6_K", Kind::q6k, 256, 210, read_q6_k, nullptr, 1},
    {"Q5_K", Kind::q5k, 256, 176, read_q5_k, nullptr, 1},
    {"Q4_K", Kind::q4k, 256, 144, read_q4_k, nullptr, 1},
    {"Q3_K", Kind::q3k, 256, 110, read_q3_k, nullptr, 1},
    {"Q2_K", Kind::q2k, 256, 84, read_q2_k, nullptr, 1},
    {"IQ4_NL", Kind::v4, 32, 18, read_iq4_nl, kNonLinear, 1},
    {"IQ4_XS", Kind::v4k, 256, 136, read_iq4_xs, kNonLinear, 1},
    {"IQ3_S", Kind::v4k, 256, 110, read_iq3_s, kOddLevels, 1},
    {"IQ3_XXS", Kind::v4k, 256, 98, read_iq3_xxs, kEightLevels, 0.25f},
    {"IQ2_S", Kind::v3k, 256, 82, read_iq2_s, kThreeLevels, 0.125f},
    {"IQ2_XS", Kind::v3k, 256, 74, read_iq2_xs, kThreeLevels, 0.125f},
    {"IQ2_XXS", Kind::v3k, 256, 66, read_iq2_xxs, kThreeLevels, 0.125f},
    {"IQ1_M", Kind::v3k, 256, 56, read_iq1_m, kShifted, 0.125f},
    {"IQ1_S", Kind::v3k, 256, 50, read_iq1_s, kShifted, 0.125f},
    {"MXFP4", Kind::v4e, 32, 17, read_mxfp4, kFloat4, 1},
    {"NVFP4", Kind::v4f, 64, 36, read_nvfp4, kFloat4, 128},
    {"NF4", Kind::v4, 32, 20, read_table, kNormal, 0.00892616f},
    {"FP4", Kind::v4, 32, 20, read_table, kSmallFloat, 1 / 120.0f},
    {"TQ2_0", Kind::q2, 256, 66, read_tq2_0, nullptr, 1},
    {"TQ1_0", Kind::q2, 256, 54, read_tq1_0, nullptr, 1},
    {"Q2_0", Kind::q2, 64, 18, read_q2_0, nullptr, 1},
    {"Q1_0", Kind::q2, 128, 18, read_q1_0, nullptr, 1},
};

// The names of kinds, in their order.
constexpr const char* kKindNames[] = {"f32", "f16", "bf16", "q8",  "q8c", "q5", "q5m", "q4",  "q4m", "q6k",
                                      "q5k", "q4k", "q3k",  "q2k", "q2",  "v4", "v4k", "v3k", "v4e", "v4f"};
static_assert(std::size(kKindNames) == (size_t)Kind::last + 1);

int inputs_of_scale(const Layout& layout) {
  if (layout.scale == Scale::column) return 0;
  if (layout.scale == Scale::pair) return 2 * kGroup;
  return layout.halves() ? kGroup / 2 : kGroup;
}

}  // namespace

const Format& find_format(const std::string& name) {
  for (const Format& format : kFormats)
    if (name == format.name) return format;
  throw std::invalid_argument("no kernel for weight format " + name);
}

std::vector<std::string> matrix_formats() {
  std::vector<std::string> names;
  for (const Format& format : kFormats) names.push_back(format.name);
  return names;
}

std::vector<Keeping> matrix_kinds() {
  std::vector<Keeping> all;
  for (const Format& format : kFormats) {
    const char* kind = kKindNames[(int)format.kind];
    const Layout layout = layout_of(format.kind);
    if (is_quantized(format.kind))
      all.emplace_back(format.name, kind, layout.low + layout.high, layout.table, inputs_of_scale(layout));
    else
      all.emplace_back(format.name, kind, 8 * format.bytes, false, 1);
  }
  return all;
}

}  // namespace pagemill
