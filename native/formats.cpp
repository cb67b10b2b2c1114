#include "formats.h"

#include <cstring>
#include <stdexcept>

namespace pagemill {
namespace {

inline uint16_t word(const uint8_t* at) { return (uint16_t)(at[0] | at[1] << 8); }

// Halves of `count` bytes: the low ones are elements, the high ones those `count` later.
inline void read_nibbles(const uint8_t* from, int count, uint8_t* codes) {
  for (int i = 0; i < count; i++) codes[i] = from[i] & 15, codes[count + i] = from[i] >> 4;
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
};

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

}  // namespace pagemill
