// Instructions that multiply with matrices.
#include <algorithm>

#include "program.h"

namespace pagemill {

// Tiles from .. to of a product with its bias, for all rows.
void Program::product(const Instruction& i, int from, int to, View out) {
  const int count = rows(out.buffer);
  const size_t stride = buffers_[out.buffer].stride;
  int before = 0;
  for (const auto& segment : i.matrix->segments()) {
    const PackedWeight& w = segment.weight;
    const int first = std::max(from - before, 0), last = std::min(to - before, w.tiles);
    before += w.tiles;
    if (first >= last) continue;
    float* y = at(out, 0) + segment.first_row;
    if (is_quantized(w.kind))
      kernels_.linear_quantized(w, activation(i.a.buffer), count, first, last, y, stride);
    else
      kernels_.linear_dense(w, at(i.a, 0), buffers_[i.a.buffer].stride, count, first, last, y, stride);
    if (!i.shift) continue;
    const int column = first * kTile, width = std::min(last * kTile, w.n) - column;
    const float* bias = i.shift->values.data() + segment.first_row + column;
    for (int row = 0; row < count; row++) {
      float* at = y + row * stride + column;
      kernels_.add(at, bias, at, width);
    }
  }
}

void Program::run_linear(const Instruction& i, Shares& shares) {
  if (!rows(i.out.buffer)) return;
  int tiles = 0;
  for (const auto& segment : i.matrix->segments()) tiles += segment.weight.tiles;
  const int share = std::clamp(tiles / (pool_->size() * 6) / 2 * 2, 2, 64);
  shares.each(tiles, share, [&](int from, int to) { product(i, from, to, i.out); });
}

// How many groups of 32 columns a share has whose results go through more hands: few enough to stay in the
// core's own cache. `held` floats are kept of each column and row.
static int share_in_cache(int groups, int threads, int rows, int held) {
  const int in_cache = (512 << 10) / (rows * kGroup * held * (int)sizeof(float));
  return std::max(1, std::min(groups / (threads * 6), in_cache));
}

void Program::run_linear_curve(const Instruction& i, Shares& shares) {
  const int count = rows(i.out.buffer), groups = (i.width + kGroup - 1) / kGroup;
  if (!count) return;
  const int tiles = i.matrix->segments()[0].weight.tiles;
  shares.each(groups, share_in_cache(groups, pool_->size(), count, 1), [&](int from, int to) {
    product(i, from * 2, std::min(to * 2, tiles), i.out);
    const int column = from * kGroup, end = std::min(to * kGroup, i.width);
    for (int row = 0; row < count; row++) {
      float* y = at(i.out, row);
      kernels_.curve(i.curve, y + column, y + column, end - column);
      if (i.quantized) kernels_.quantize(y, from, end, activation(i.out.buffer), row);
    }
  });
}

void Program::run_linear_gate(const Instruction& i, Shares& shares) {
  const int count = rows(i.out.buffer), groups = i.width / kGroup, tiles = i.width / kTile;
  if (!count) return;
  shares.each(groups, share_in_cache(groups, pool_->size(), count, 3), [&](int from, int to) {
    product(i, from * 2, to * 2, i.b);
    product(i, tiles + from * 2, tiles + to * 2, i.b);
    const int column = from * kGroup, end = to * kGroup;
    for (int row = 0; row < count; row++) {
      const float* gate = at(i.b, row);
      kernels_.gate(i.curve, gate + column, gate + i.width + column, at(i.out, row) + column, end - column);
      if (i.quantized) kernels_.quantize(at(i.out, row), from, end, activation(i.out.buffer), row);
    }
  });
}

}  // namespace pagemill
