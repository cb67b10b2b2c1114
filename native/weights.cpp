#include "weights.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "formats.h"

namespace pagemill {
namespace {

// Fields of bytes, four at once: four codes of a column lie side by side, in files and in tiles.
inline uint32_t four(const uint8_t* at) {
  uint32_t x;
  memcpy(&x, at, 4);
  return x;
}

// Puts kBits bits of a group's codes, from bit `from` on, into their plane.
template <int kBits>
void put_plane(const uint8_t* codes, int from, uint8_t* to) {
  constexpr uint32_t kMask = 0x01010101u * ((1 << kBits) - 1);
  constexpr int kFields = 8 / kBits;
  for (int line = 0; line < kBits; line++) {
    uint32_t all = 0;
    for (int f = 0; f < kFields; f++)
      all |= (four(codes + 4 * (line * kFields + f)) >> from & kMask) << kBits * f;
    memcpy(to + line * kLine, &all, 4);
  }
}

void put_plane(int bits, const uint8_t* codes, int from, uint8_t* to) {
  if (bits == 4) return put_plane<4>(codes, from, to);
  if (bits == 2) return put_plane<2>(codes, from, to);
  put_plane<1>(codes, from, to);
}

// Puts a chunk of `groups` groups into its place in column `c`.
void put_column(const Layout& layout, bool signed_q8, const ColumnChunk& from, int groups, int c,
                uint8_t* chunk) {
  for (int g = 0; g < groups; g++) {
    uint8_t* at = chunk + g * layout.group_bytes() + c * 4;
    const uint8_t* codes = from.codes + g * kGroup;
    if (layout.low == 8) {
      for (int s = 0; s < 8; s++) {
        const uint32_t x = four(codes + 4 * s) ^ (signed_q8 ? 0 : 0x80808080u);
        memcpy(at + s * kLine, &x, 4);
      }
      continue;
    }
    put_plane(layout.low, codes, 0, at);
    if (layout.high) put_plane(layout.high, codes, layout.low, at + layout.low * kLine);
  }
  uint8_t* at = chunk + groups * layout.group_bytes();
  const auto put_half = [&](int line, uint16_t value) { memcpy(at + line * 2 * kTile + c * 2, &value, 2); };
  const auto put_bytes = [&](int first, const uint8_t* values, int count) {
    for (int i = 0; i < count; i++) at[(first + i) * kTile + c] = values[i];
  };
  switch (layout.scale) {
    case Scale::half:
      for (int g = 0; g < groups; g++) {
        put_half(g, from.scale[g]);
        if (layout.minimum) put_half(groups + g, from.minimum[g]);
      }
      return;
    case Scale::pair:
      for (int i = 0; i < (groups + 1) / 2; i++) put_half(i, from.scale[i]);
      return;
    case Scale::column:
      memcpy(at + c * 4, &from.column_scale, 4);
      return;
    case Scale::byte:
      put_half(0, from.scale[0]);
      if (!layout.minimum) return put_bytes(2, from.sub_scale, groups);
      put_half(1, from.minimum[0] ^ 0x8000);
      put_bytes(4, from.sub_scale, groups);
      return put_bytes(4 + groups, from.sub_minimum, groups);
    case Scale::byte16:
      put_half(0, from.scale[0]);
      return put_bytes(2, from.sub_scale, 2 * groups);
    case Scale::nibble16:
      put_half(0, from.scale[0]);
      put_half(1, from.minimum[0] ^ 0x8000);
      for (int i = 0; i < 2 * groups; i++)
        at[(4 + i) * kTile + c] = (uint8_t)(from.sub_scale[i] | from.sub_minimum[i] << 4);
      return;
    case Scale::power:
      return put_bytes(0, from.sub_scale, groups);
    case Scale::float8:
      return put_bytes(0, from.sub_scale, 2 * groups);
  }
}

// Chunk by chunk, whose lines the columns share.
void pack_quantized_tile(const PackedWeight& w, bool signed_q8, const Format& format,
                         const std::vector<const uint8_t*>& rows, int tile) {
  const Layout layout = layout_of(w.kind);
  const int columns = std::min(kTile, w.n - tile * kTile),
            chunk_blocks = kChunkGroups * kGroup / format.block;
  uint8_t* chunk = w.data + tile * w.tile_bytes;
  for (int first = 0; first < w.groups; first += kChunkGroups) {
    const int groups = std::min(w.groups - first, kChunkGroups);
    const size_t before = (size_t)first / kChunkGroups * chunk_blocks * format.bytes;
    for (int c = 0; c < columns; c++) {
      const uint8_t* block = rows[tile * kTile + c] + before;
      ColumnChunk column;
      for (int at = 0; at < groups * kGroup; at += format.block, block += format.bytes)
        format.read(block, column, at);
      put_column(layout, signed_q8, column, groups, c, chunk);
    }
    chunk += layout.chunk_bytes(groups);
  }
}

template <class T>
void pack_dense_tile(const PackedWeight& w, const std::vector<const uint8_t*>& rows, int tile) {
  T* data = (T*)w.data + (size_t)tile * w.k * kTile;
  for (int c = 0; c < kTile && tile * kTile + c < w.n; c++)
    for (int k = 0; k < w.k; k++)
      memcpy(&data[(size_t)k * kTile + c], rows[tile * kTile + c] + k * sizeof(T), sizeof(T));
}

PackedWeight shape(const Format& format, int n, int k) {
  PackedWeight w{format.kind,   n, k, (n + kTile - 1) / kTile, (k + kGroup - 1) / kGroup, 0, nullptr,
                 format.factor, {}};
  w.tile_bytes = is_quantized(format.kind) ? layout_of(format.kind).tile_bytes(w.groups)
                                           : (size_t)kTile * k * format.bytes;
  return w;
}

size_t memory_of(const PackedWeight& w) {
  return w.tiles * w.tile_bytes + 4096;  // a page more: kernels fetch past the end
}

Matrix::Segment pack(const Kernels& kernels, Pool& pool, Slabs& slabs, const Format& format,
                     const std::vector<const uint8_t*>& rows, int k) {
  PackedWeight w = shape(format, (int)rows.size(), k);
  if (format.values)
    for (int i = 0; i < 16; i++) w.table[i] = (uint8_t)(format.values[i] + (kernels.signed_q8 ? 0 : 128));
  Matrix::Segment segment{w, 0, slabs.take(memory_of(w))};
  segment.weight.data = segment.memory.data;
  Shares shares;
  pool.run([&](int) {
    shares.each(w.tiles, 4, [&](int from, int to) {
      for (int tile = from; tile < to; tile++) {
        if (is_quantized(format.kind))
          pack_quantized_tile(segment.weight, kernels.signed_q8, format, rows, tile);
        else if (format.bytes == 4)
          pack_dense_tile<uint32_t>(segment.weight, rows, tile);
        else
          pack_dense_tile<uint16_t>(segment.weight, rows, tile);
      }
    });
  });
  return segment;
}

void check_row(const Format& format, int k) {
  if (k % format.block)
    throw std::invalid_argument("a row of " + std::to_string(k) + " is not whole blocks of " + format.name);
}

}  // namespace

Matrix::Matrix(const Kernels& kernels, Pool& pool, Slabs& slabs, const std::vector<Part>& parts, int k)
    : k_(k) {
  for (size_t i = 0; i < parts.size();) {
    const Format& format = find_format(parts[i].format);
    check_row(format, k);
    const size_t row_bytes = (size_t)k / format.block * format.bytes;
    std::vector<const uint8_t*> rows;
    const int first_row = n_;
    for (; i < parts.size() && parts[i].format == format.name; i++)  // neighbours of one format share tiles
      for (int r = 0; r < parts[i].rows; r++, n_++) rows.push_back(parts[i].data + r * row_bytes);
    segments_.push_back(pack(kernels, pool, slabs, format, rows, k));
    segments_.back().first_row = first_row;
  }
}

size_t Matrix::bytes() const {
  size_t total = 0;
  for (const auto& segment : segments_) total += segment.memory.size;
  return total;
}

bool Matrix::quantized() const {
  return std::any_of(segments_.begin(), segments_.end(),
                     [](const Segment& segment) { return is_quantized(segment.weight.kind); });
}

bool Matrix::dense() const {
  return !std::all_of(segments_.begin(), segments_.end(),
                      [](const Segment& segment) { return is_quantized(segment.weight.kind); });
}

size_t packed_bytes(const std::string& name, int n, int k) {
  const Format& format = find_format(name);
  check_row(format, k);
  return memory_of(shape(format, n, k));
}

}  // namespace pagemill
