// Reading packed chunks: codes into vectors of bytes, scales into vectors of floats.
#pragma once

#include "kernels.h"

#define PAGEMILL_INLINE __attribute__((always_inline))

namespace pagemill {
namespace {

template <int kValue>
struct Index {
  static constexpr int value = kValue;
};

// Calls f(Index<kFrom>), ..., f(Index<kTo - 1>).
template <int kFrom, int kTo, class F>
PAGEMILL_INLINE inline void unroll(F&& f) {
  if constexpr (kFrom < kTo) {
    f(Index<kFrom>());
    unroll<kFrom + 1, kTo>(f);
  }
}

// A tile's chunk of `groups` groups. Codes come out as they are packed, those of a table as its values.
template <Kind kKind>
struct Chunk {
  static constexpr Layout kLayout = layout_of(kKind);
  static constexpr int kHalves = kLayout.halves() ? 2 : 1;

  Chunk(const PackedWeight& w, const uint8_t* data, int groups)
      : codes(data), scales(data + groups * kLayout.group_bytes()), groups(groups), factor(splat(w.factor)) {
    if constexpr (kLayout.scale == Scale::column)
      d = load((const float*)scales);
    else if constexpr (kLayout.scale != Scale::half && kLayout.scale != Scale::power &&
                       kLayout.scale != Scale::float8)
      d = scaled(load_half((const uint16_t*)scales));
    if constexpr (kLayout.minimum && kLayout.scale != Scale::half)
      dmin = load_half((const uint16_t*)scales + kTile);
    if constexpr (kLayout.table) table = load_table(w.table);
  }

  // Calls f(Index<step>, codes) for the eight steps of a group.
  template <class F>
  PAGEMILL_INLINE void each_step(int group, F f) const {
    // A group's share of the chunk that lies ahead, scales and all.
    constexpr int kLines = (int)kLayout.chunk_bytes(kChunkGroups) / kLine;
    const uint8_t* ahead = codes + kAhead + group * kLines / kChunkGroups * kLine;
    for (int i = 0; i < (kLines + kChunkGroups - 1) / kChunkGroups; i++) prefetch(ahead + i * kLine);
    const uint8_t* at = codes + group * kLayout.group_bytes();
    const uint8_t* high = at + kLine * kLayout.low;
    if constexpr (kLayout.low == 8) {
      unroll<0, 8>([&](auto s) PAGEMILL_INLINE { f(s, line(at, s.value)); });
      return;
    }
    Bytes upper[2];
    for (int i = 0; i < kLayout.high; i++) upper[i] = line(high, i);
    const auto step = [&](auto s, Bytes code) PAGEMILL_INLINE {
      constexpr int kStep = decltype(s)::value, kAt = kLayout.low;
      if constexpr (kLayout.high == 1) code = merge(code, field<kStep, 1, kAt>(upper[0]));
      if constexpr (kLayout.high == 2) code = merge(code, field<kStep % 4 * 2, 2, kAt>(upper[kStep / 4]));
      if constexpr (kLayout.table) code = look_up(table, code);
      f(s, code);
    };
    unroll<0, kLayout.low>([&](auto l) PAGEMILL_INLINE {
      constexpr int kAt = decltype(l)::value;
      const Bytes both = line(at, kAt);
      if constexpr (kLayout.low == 4) {
        step(Index<kAt>(), field<0, 4, 0>(both));
        step(Index<kAt + 4>(), field<4, 4, 0>(both));
      } else {
        unroll<0, 4>([&](auto f4) PAGEMILL_INLINE {
          constexpr int kField = decltype(f4)::value;
          step(Index<kAt * 4 + kField>(), field<2 * kField, 2, 0>(both));
        });
      }
    });
  }

  // The scale of a group's half, or of all of it where halves share one.
  PAGEMILL_INLINE F32 scale(int group, int half) const {
    constexpr int kBoth = kLayout.minimum ? 2 : 1;
    if constexpr (kLayout.scale == Scale::half)
      return scaled(load_half((const uint16_t*)scales + group * kTile));
    else if constexpr (kLayout.scale == Scale::byte)
      return mul(d, load_int8(scales + (2 * kBoth + group) * kTile));
    else if constexpr (kLayout.scale == Scale::byte16)
      return mul(d, load_int8(scales + (2 + 2 * group + half) * kTile));
    else if constexpr (kLayout.scale == Scale::nibble16)
      return mul(d, load_field<0, 4>(scales + (4 + 2 * group + half) * kTile));
    else if constexpr (kLayout.scale == Scale::power)
      return scaled(load_power(scales + group * kTile));
    else if constexpr (kLayout.scale == Scale::float8)
      return scaled(load_float8(scales + (2 * group + half) * kTile));
    else
      return d;
  }

  // The minimum of a group, of the second half where halves have their own.
  PAGEMILL_INLINE F32 minimum(int group) const {
    if constexpr (kLayout.scale == Scale::half)
      return load_half((const uint16_t*)scales + (groups + group) * kTile);
    else if constexpr (kLayout.scale == Scale::byte)
      return mul(dmin, load_int8(scales + (4 + groups + group) * kTile));
    else
      return mul(dmin, load_field<4, 4>(scales + (5 + 2 * group) * kTile));
  }

  // By how much the minimum of the first half is larger.
  PAGEMILL_INLINE F32 first_minimum(int group) const {
    const uint8_t* at = scales + (4 + 2 * group) * kTile;
    return mul(dmin, sub(load_field<4, 4>(at), load_field<4, 4>(at + kTile)));
  }

  const uint8_t *codes, *scales;
  int groups;
  F32 factor, d, dmin;  // d is a whole chunk's scale where groups have none
  Bytes table;

 private:
  PAGEMILL_INLINE F32 scaled(F32 scale) const { return kLayout.table ? mul(scale, factor) : scale; }
  static PAGEMILL_INLINE Bytes line(const uint8_t* at, int i) { return load_bytes(at + i * kLine); }
};

// A tile's chunk with a byte for every code, in the form of q8 tiles (or as they are packed, where
// kKeepsSmall and codes are small), and floats for every scale.
struct Expanded {
  alignas(64) uint8_t codes[kChunkGroups][8 * kLine];
  alignas(64) float scale[kChunkGroups][2][kTile];    // of each half, or one
  alignas(64) float minimum[kChunkGroups][2][kTile];  // of the group; and see Chunk::first_minimum
  alignas(64) float whole[kTile];                     // the chunk's scale, where groups have none
};

template <Kind kKind>
void expand(const PackedWeight& w, const uint8_t* data, int groups, Expanded& to) {
  constexpr Layout kLayout = layout_of(kKind);
  constexpr bool kSmall = kLayout.low < 8 && !kLayout.table;
  const Chunk<kKind> chunk(w, data, groups);
  for (int g = 0; g < groups; g++) {
    uint8_t* at = to.codes[g];
    chunk.each_step(g, [&](auto s, Bytes codes) PAGEMILL_INLINE {
      if constexpr (kSmall && !kKeepsSmall) codes = add_to_bytes(codes, (kSignedQ8 ? 0 : 128) - kLayout.zero);
      store_bytes(at + s.value * kLine, codes);
    });
    if constexpr (!kLayout.whole_chunks())
      for (int half = 0; half < chunk.kHalves; half++) store(to.scale[g][half], chunk.scale(g, half));
    if constexpr (kLayout.minimum) {
      store(to.minimum[g][0], chunk.minimum(g));
      if constexpr (kLayout.halves()) store(to.minimum[g][1], chunk.first_minimum(g));
    }
  }
  if constexpr (kLayout.whole_chunks()) store(to.whole, chunk.d);
}

using Expand = void (*)(const PackedWeight&, const uint8_t*, int, Expanded&);

// One row of the matrix as floats, out of its tile.
inline void expand_row(const PackedWeight& w, Expand expand, int row, float* out) {
  const Layout layout = layout_of(w.kind);
  const bool small = kKeepsSmall && layout.low < 8 && !layout.table;
  const int zero = small ? layout.zero : kSignedQ8 ? 0 : 128, column = row % kTile;
  const uint8_t* at = w.data + row / kTile * w.tile_bytes;
  Expanded chunk;
  for (int first = 0; first < w.groups; first += kChunkGroups) {
    const int groups = w.groups - first < kChunkGroups ? w.groups - first : kChunkGroups;
    expand(w, at, groups, chunk);
    at += layout.chunk_bytes(groups);
    for (int i = 0; i < groups * kGroup; i++) {
      const int g = i / kGroup, in = i % kGroup, half = in / (kGroup / 2);
      const uint8_t code = chunk.codes[g][in / 4 * kLine + column * 4 + in % 4];
      const float scale =
          layout.whole_chunks() ? chunk.whole[column] : chunk.scale[g][layout.halves() ? half : 0][column];
      float value = scale * (float)((small || !kSignedQ8 ? code : (int8_t)code) - zero);
      if (layout.minimum) value += chunk.minimum[g][0][column];
      if (layout.minimum && layout.halves() && !half) value += chunk.minimum[g][1][column];
      out[first * kGroup + i] = value;
    }
  }
}

}  // namespace
}  // namespace pagemill
