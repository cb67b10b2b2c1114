#include "weights.h"

#include <cstring>
#include <stdexcept>

#include "half.h"

namespace pagemill {
namespace {

struct Format {
  const char* name;
  Kind kind;
  int block, bytes;  // elements and bytes of a block of the file
};

constexpr Format kFormats[] = {
    {"F32", Kind::f32, 1, 4},   {"F16", Kind::f16, 1, 2},   {"BF16", Kind::bf16, 1, 2},
    {"Q8_0", Kind::q8, 32, 34}, {"Q4_0", Kind::q4, 32, 18}, {"Q4_1", Kind::q4m, 32, 20},
};

const Format& find_format(const std::string& name) {
  for (const Format& format : kFormats)
    if (name == format.name) return format;
  throw std::invalid_argument("no kernel for weight format " + name);
}

constexpr size_t data_bytes(Kind kind) { return kind == Kind::q8 ? 512 : 256; }
constexpr size_t num_scales(Kind kind) { return kind == Kind::q4m ? 2 * kTile : kTile; }

// One block of 32 weights of the file into column `c` of a packed group.
void pack_block(Kind kind, bool signed_q8, const uint8_t* block, uint8_t* data, uint16_t* scales, int c) {
  memcpy(&scales[c], block, 2);
  if (kind == Kind::q8) {
    for (int i = 0; i < kGroup; i++)
      data[i / 4 * 64 + c * 4 + i % 4] = (uint8_t)(block[2 + i] + (signed_q8 ? 0 : 128));
    return;
  }
  const uint8_t* nibbles = block + 2;
  if (kind == Kind::q4m) {
    memcpy(&scales[kTile + c], block + 2, 2);
    nibbles += 2;
  }
  // The file keeps input i in the low and input i + 16 in the high nibble of byte i, and so do we.
  for (int s = 0; s < 4; s++) memcpy(data + s * 64 + c * 4, nibbles + s * 4, 4);
}

void pack_quantized_tile(const PackedWeight& w, bool signed_q8, const std::vector<const uint8_t*>& rows,
                         int tile, size_t block_bytes) {
  const size_t blocks = (size_t)w.k / kGroup;
  for (int c = 0; c < kTile; c++) {
    if (tile * kTile + c >= w.n) break;
    const uint8_t* row = rows[tile * kTile + c];
    for (size_t g = 0; g < blocks; g++) {
      const size_t at = (size_t)tile * w.groups + g;
      pack_block(w.kind, signed_q8, row + g * block_bytes, w.data + at * data_bytes(w.kind),
                 w.scales + at * num_scales(w.kind), c);
    }
  }
}

template <class T>
void pack_dense_tile(const PackedWeight& w, const std::vector<const uint8_t*>& rows, int tile) {
  T* data = (T*)w.data + (size_t)tile * w.k * kTile;
  for (int c = 0; c < kTile && tile * kTile + c < w.n; c++)
    for (int k = 0; k < w.k; k++)
      memcpy(&data[(size_t)k * kTile + c], rows[tile * kTile + c] + k * sizeof(T), sizeof(T));
}

Matrix::Segment pack(const Kernels& kernels, Pool& pool, const Format& format,
                     const std::vector<const uint8_t*>& rows, int k) {
  PackedWeight w{
      format.kind, (int)rows.size(), k, ((int)rows.size() + kTile - 1) / kTile, (k + kGroup - 1) / kGroup,
      nullptr,     nullptr};
  const bool quantized = is_quantized(format.kind);
  const size_t groups = (size_t)w.tiles * w.groups;
  const size_t data = quantized ? groups * data_bytes(w.kind) : (size_t)w.tiles * kTile * k * format.bytes;
  const size_t scales = quantized ? groups * num_scales(w.kind) * 2 : 0;
  Matrix::Segment segment{w, 0, Block(data + scales + 4096)};  // a page more: kernels prefetch past the end
  segment.weight.data = segment.memory.as<uint8_t>();
  segment.weight.scales = segment.memory.as<uint16_t>(data);
  Shares shares;
  pool.run([&](int) {
    shares.each(w.tiles, 4, [&](int from, int to) {
      for (int tile = from; tile < to; tile++) {
        if (quantized)
          pack_quantized_tile(segment.weight, kernels.signed_q8, rows, tile, format.bytes);
        else if (format.bytes == 4)
          pack_dense_tile<uint32_t>(segment.weight, rows, tile);
        else
          pack_dense_tile<uint16_t>(segment.weight, rows, tile);
      }
    });
  });
  return segment;
}

}  // namespace

Matrix::Matrix(const Kernels& kernels, Pool& pool, const std::vector<Part>& parts, int k) : k_(k) {
  for (size_t i = 0; i < parts.size();) {
    const Format& format = find_format(parts[i].format);
    if (k % format.block)
      throw std::invalid_argument("a row of " + std::to_string(k) + " is not whole blocks of " + format.name);
    if (is_quantized(format.kind) != is_quantized(find_format(parts[0].format).kind))
      throw std::invalid_argument("a fused matrix mixes quantized and dense formats");
    const size_t row_bytes = (size_t)k / format.block * format.bytes;
    std::vector<const uint8_t*> rows;
    const int first_row = n_;
    for (; i < parts.size() && parts[i].format == format.name; i++)  // neighbours of one format share tiles
      for (int r = 0; r < parts[i].rows; r++, n_++) rows.push_back(parts[i].data + r * row_bytes);
    segments_.push_back(pack(kernels, pool, format, rows, k));
    segments_.back().first_row = first_row;
  }
}

size_t Matrix::bytes() const {
  size_t total = 0;
  for (const auto& segment : segments_) total += segment.memory.size();
  return total;
}

std::vector<std::string> matrix_formats() {
  std::vector<std::string> names;
  for (const Format& format : kFormats) names.push_back(format.name);
  return names;
}

}  // namespace pagemill
