// Reading packed chunks: codes into vectors of bytes, scales into vectors of floats.
#pragma once

#include "kernels.h"
#include "unroll.h"

namespace pagemill {
namespace {

// A tile's chunk of `groups` groups. Codes come out as they are packed, those of a table as its values.
template <Kind kKind>
struct Chunk {
  static constexpr Layout kLayout = layout_of(kKind);
  static constexpr int kHalves = kLayout.halves() ? 2 : 1;

  Chunk(const PackedWeight& w, const uint8_t* data, int groups)
      : codes(data), scales(data + groups * kLayout.group_bytes()), groups(groups), factor(splat(w.factor)) {
    if constexpr (kLayout.scale == Scale::column)
      d = load((const float*)scales);
    else if constexpr (kLayout.scale != Scale::half && kLayout.scale != Scale::pair &&
                       kLayout.scale != Scale::power && kLayout.scale != Scale::float8)
      d = scaled(load_half((const uint16_t*)scales));
    if constexpr (kLayout.minimum && kLayout.scale != Scale::half)
      dmin = load_half((const uint16_t*)scales + kTile);
    if constexpr (kLayout.table) table = load_table(w.table);
  }

  // Codes of a step of a group, see layout.h; of a table, its values.
  template <int kStep>
  PAGEMILL_INLINE Bytes step(int group) const {
    const uint8_t* at = codes + group * kLayout.group_bytes();
    Bytes code = plane<kLayout.low, kStep, 0>(at);
    if constexpr (kLayout.high > 0)
      code = merge(code, plane<kLayout.high, kStep, kLayout.low>(at + kLayout.low * kLine));
    return kLayout.table ? look_up(table, code) : code;
  }

  // Asks for what lies `ahead` bytes behind a group's share of the chunk, scales and all; if kFar, only into
  // the second-level cache.
  template <bool kFar>
  PAGEMILL_INLINE void fetch(int group, size_t ahead) const {
    constexpr int kShare = (int)kLayout.chunk_bytes(kChunkGroups) / kChunkGroups;
    for (int i = 0; i < kShare; i += kLine) {
      const uint8_t* line = codes + ahead + group * kShare + i;
      if constexpr (kFar)
        prefetch_far(line);
      else
        prefetch(line);
    }
  }

  // The scale of a group's half, or of all of it where halves share one.
  PAGEMILL_INLINE F32 scale(int group, int half) const {
    constexpr int kBoth = kLayout.minimum ? 2 : 1;
    if constexpr (kLayout.scale == Scale::half)
      return scaled(load_half((const uint16_t*)scales + group * kTile));
    else if constexpr (kLayout.scale == Scale::pair)
      return scaled(load_half((const uint16_t*)scales + group / 2 * kTile));
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
  // The bits of a step in a plane, moved to bit kTo.
  template <int kBits, int kStep, int kTo>
  static PAGEMILL_INLINE Bytes plane(const uint8_t* at) {
    constexpr int kFields = 8 / kBits;
    const Bytes line = load_bytes(at + kStep / kFields * kLine);
    if constexpr (kBits == 8) return line;
    return field<kStep % kFields * kBits, kBits, kTo>(line);
  }
};

constexpr bool is_small(const Layout& layout) { return layout.low < 8 && !layout.table; }

// Scales a group has; none where a column's are all the same.
constexpr int num_scales(const Layout& layout) {
  return layout.scale == Scale::column ? 0 : layout.halves() ? 2 : 1;
}

// Some groups of a tile with a byte for every code, in the form of q8 tiles (or as they are packed, where
// kKeepsSmall and codes are small), and floats for every scale.
template <int kGroups>
struct Expanded {
  alignas(64) uint8_t codes[kGroups][8 * kLine];
  alignas(64) float scale[kGroups][2][kTile];    // of each half, or one; of the column, if that is all
  alignas(64) float minimum[kGroups][2][kTile];  // of the group; and see Chunk::first_minimum
};

// Expands a chunk while it is read, into groups `at` and on.
template <Kind kKind, int kGroups>
struct Expanding {
  static constexpr Layout kLayout = layout_of(kKind);

  template <int kStep>
  PAGEMILL_INLINE Bytes step(int group) const {
    Bytes code = chunk.template step<kStep>(group);
    if constexpr (is_small(kLayout) && !kKeepsSmall)
      code = add_to_bytes(code, (kSignedQ8 ? 0 : 128) - kLayout.zero);
    store_bytes(to->codes[at + group] + kStep * kLine, code);
    return code;
  }

  PAGEMILL_INLINE F32 scale(int group, int half) const {
    const F32 scale = chunk.scale(group, half);
    store(to->scale[at + group][half], scale);
    return scale;
  }
  PAGEMILL_INLINE F32 minimum(int group) const {
    const F32 minimum = chunk.minimum(group);
    store(to->minimum[at + group][0], minimum);
    return minimum;
  }
  PAGEMILL_INLINE F32 first_minimum(int group) const {
    const F32 minimum = chunk.first_minimum(group);
    store(to->minimum[at + group][1], minimum);
    return minimum;
  }
  template <bool kFar>
  PAGEMILL_INLINE void fetch(int group, size_t ahead) const {
    chunk.template fetch<kFar>(group, ahead);
  }

  Chunk<kKind> chunk;
  Expanded<kGroups>* to;
  int at;
};

// Calls f(Index<kind>) for a quantized kind.
template <class F>
inline void with_kind(Kind kind, F f) {
  unroll<(int)Kind::q8, (int)Kind::last + 1>([&](auto k) PAGEMILL_INLINE {
    if ((int)kind == k.value) f(k);
  });
}

}  // namespace
}  // namespace pagemill
