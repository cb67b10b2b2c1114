// The contract between the program executor and the kernels. Every instruction set compiles the same
// kernel sources into one table of functions; the best table this machine can run is chosen at start.
//
// Rule of all kernels: a row's result depends on that row alone, bit for bit, never on how many rows
// share the call or which thread runs it. Sums run in an order fixed by the shape of the weight.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layout.h"

namespace pagemill {

constexpr int kChunk = 16;      // tokens whose keys lie side by side in the cache
constexpr int kSegment = 1024;  // tokens of history reduced before partial results are combined
// Floats from one row's weights of a segment to the next row's: at a power of two the same place of all rows
// would be in the same few lines of a cache.
constexpr int kWeights = kSegment + kLine / 4;
constexpr int kTaskRows = 24;  // query rows that attend together at most

// A matrix of n outputs and k inputs, repacked into tiles; see layout.h. Padding is zero.
struct PackedWeight {
  Kind kind;
  int n, k;
  int tiles, groups;  // ceil(n / 16), ceil(k / 32)
  size_t tile_bytes;
  uint8_t* data;
  float factor;       // of kinds with a table: multiplies all scales
  uint8_t table[16];  // its values, as q8 tiles hold theirs
};

// A group of 32 of a quantized row, where x is about scale * q. Offsets undo that of unsigned codes, exactly.
struct ActivationGroup {
  int8_t q[kGroup];
  float scale;
  float sum;             // scale * sum(q): the share of a weight's minimum
  int32_t offset;        // -128 * sum(q)
  int32_t first_offset;  // the same of the first 16
};

constexpr int kPlaneBits = 8;  // a unit of the first plane is so many bits more than one of the second

// Rows quantized to int8 in groups of 32. With two planes, the second holds what the first left over, and x
// is about the sum of both: as good as 16 bits, for twice the integer products.
struct Activation {
  ActivationGroup* of;  // (rows, planes, groups)
  int groups, planes;
};

// What keys and values are kept as.
enum class CacheKind : int { f16, f32, q8 };

constexpr int kKeyGroup = kGroup;  // elements of a q8 key that share a scale: a row meets them in groups
constexpr int kValueGroup = 128;   // and of a value

constexpr int padded(int dim) { return (dim + 15) / 16 * 16; }
constexpr int num_groups(int n, int size) { return (n + size - 1) / size; }

// Bytes of the q8 keys or values of 16 tokens, whole cache lines: codes, then scales in half precision.
constexpr size_t q8_bytes(int dim, int group) {
  return ((size_t)kChunk * (padded(dim) + 2 * num_groups(dim, group)) + kLine - 1) / kLine * kLine;
}

// Bytes of a chunk: the keys and values of 16 tokens and one key/value head. As floats: keys transposed
// (padded_dim, 16), then values (16, padded_dim). As q8, or pairs of fp16: see cache_q8.h, cache_pairs.h.
constexpr size_t chunk_bytes(CacheKind kind, int dim) {
  if (kind != CacheKind::q8) return (size_t)2 * kChunk * padded(dim) * (kind == CacheKind::f16 ? 2 : 4);
  return q8_bytes(dim, kKeyGroup) + q8_bytes(dim, kValueGroup);
}

// One layer's keys and values. A cache holds the chunks of 16 tokens side by side, of all layers and heads,
// so the next tokens' `data` lies `heads_apart` chunks further on.
struct KvLayer {
  void* data;
  CacheKind kind;
  int kv_heads, dim, padded_dim;
  size_t chunk_bytes;
  int heads_apart;
};

// What networks apply to single numbers; see Activation in ops/interface.py. clamped_silu only as a gate.
enum class Curve : int { silu, gelu, gelu_tanh, relu, tanh, sigmoid, clamped_silu };

// Query tokens of one sequence, each with the query heads that share one kv head.
struct Queries {
  const float* q;  // first token, first head of the group; heads lie layer.dim apart
  float* out;      // likewise; heads lie value_dim apart
  int count;
  int first_position;  // of the first token
  int length;          // tokens of the history
  const int32_t* pages;
};

// Attention of one sequence's queries, or of several whose histories begin with the same chunks.
struct AttentionTask {
  const Queries* queries;
  int sequences;
  int shared;                   // chunks that all histories begin with; the first query of each sees them
  int group;                    // query heads; of all queries together there are at most kTaskRows
  size_t q_stride, out_stride;  // between tokens
  int behind, ahead;            // the token at p sees p - behind .. p + ahead of them
  int chunks_per_page;
  int kv_head;
  int value_dim;  // elements of a value that are wanted, from its beginning
  float scale, softcap;
  const float* sinks = nullptr;  // of the group's heads, or null
  float* scratch;                // scratch_size(rows of all queries, padded_dim) floats
  // Chunks that the thread will need next, none where next_chunks is 0: it only asks for their memory. If
  // `asked`, it has so asked for those of this task.
  const int32_t* next_pages = nullptr;
  int next_first = 0, next_chunks = 0, next_kv_head = 0;
  bool asked = false;
};

// A convolution along `count` tokens of one sequence, each channel alone.
struct ConvTask {
  const float* x;  // first token
  size_t x_stride;
  float* out;
  size_t out_stride;
  int count, channels, taps;
  const float* weight;  // (taps, channels)
  const float* bias;    // or null
  const float* before;  // (taps - 1, channels) inputs before the first token, or null for zeros
  float* after;         // likewise, after the last; may be `before`
};

// One head of the recurrence of Mamba-2 along `count` tokens of one sequence; see mamba2 in ops/interface.py.
struct ScanTask {
  const float* x;  // `dim` elements a token
  size_t x_stride;
  const float* dt;  // one a token
  size_t dt_stride;
  const float* b;  // `state` elements a token
  size_t b_stride;
  const float* c;
  size_t c_stride;
  float* out;
  size_t out_stride;
  int count, dim, state;
  float a, d;
  const float* before;  // (state, dim), or null for zeros
  float* after;         // may be `before`
};

// How one row is sampled; see ops/interface.py, SampleRows, and ops/reference.py for the definition.
struct SampleKnobs {
  float temperature, top_p, min_p;
  int top_k;
  uint64_t seed;
  int32_t position;
};

struct Kernels {
  const char* name;
  bool signed_q8;  // q8 tiles hold int8, else uint8 with an offset of 128

  // Quantizes columns first_group * 32 .. k of one row; x points to column 0.
  void (*quantize)(const float* x, int first_group, int k, const Activation& a, int row);
  void (*linear_quantized)(const PackedWeight& w, const Activation& a, int rows, int tile_from, int tile_to,
                           float* y, size_t y_stride);
  void (*linear_dense)(const PackedWeight& w, const float* x, size_t x_stride, int rows, int tile_from,
                       int tile_to, float* y, size_t y_stride);
  void (*embed_row)(const PackedWeight& w, int row, float* out);
  void (*rms_norm)(const float* x, const float* weight, float* out, int n, float eps);
  void (*layer_norm)(const float* x, const float* weight, const float* shift, float* out, int n, float eps);
  void (*normalize)(const float* x, float* out, int n);
  void (*add)(const float* a, const float* b, float* out, int n);
  void (*add_scaled)(const float* x, float factor, float* out, int n);
  void (*scale)(const float* x, float factor, float* out, int n);
  void (*softcap)(const float* x, float cap, float* out, int n);
  void (*curve)(Curve kind, const float* x, float* out, int n);
  void (*gate)(Curve kind, const float* gate, const float* up, float* out, int n);  // curve(gate) * up
  void (*sigmoid_mul)(const float* x, const float* gates, bool one, float* out, int n);
  void (*rope)(float* x, const float* cos, const float* sin, int half);
  // `n` elements from `first` on of a slot's key; the first `n` of its value.
  void (*store_key)(const KvLayer& layer, int64_t slot, int head, const float* key, int first, int n);
  void (*store_value)(const KvLayer& layer, int64_t slot, int head, const float* value, int n);
  void (*attend)(const KvLayer& layer, const AttentionTask& task);
  float (*max_value)(const float* x, int n);
  // Writes exp((x - top) * factor) to out (may be null) and returns their sum, in fixed order.
  double (*exp_sum)(const float* x, int n, float top, float factor, float* out);
  void (*short_conv)(const ConvTask& task, int first, int last);  // of these channels
  void (*scan)(const ScanTask& task);

  // For measuring the machine, see spin.h; `spun` is how many vectors a round computes.
  int32_t (*spin_int8)(const uint8_t* operands, int64_t rounds);
  int32_t (*spin_fp32)(const float* operands, int64_t rounds);
  int32_t (*spin_bf16)(const uint8_t* operands, int64_t rounds);  // null where attention has fp32 for fp16
  int32_t (*read_through)(const uint8_t* p, size_t bytes);
  int spun;
};

// What a task needs: of each row a query, two vectors of sums, a segment's weights and their int8 with the
// sums of those; beside them the scales of a segment's values.
constexpr int scratch_size(int rows, int padded_dim) {
  return rows * (kWeights + (kSegment + kLine) / 2 + 3 * padded_dim + 2 * kValueGroup + 64) + kSegment + 64;
}

const Kernels* kernels_portable();
const Kernels* kernels_avx2();  // null where not compiled in
const Kernels* kernels_avx512();
const Kernels* kernels_avx512_bf16();
const Kernels* kernels_neon();

}  // namespace pagemill
