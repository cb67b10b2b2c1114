// Instructions that multiply with matrices.
#include <algorithm>

#include "program.h"

namespace pagemill {

int num_tiles(const Matrix& matrix) {
  int tiles = 0;
  for (const auto& segment : matrix.segments()) tiles += segment.weight.tiles;
  return tiles;
}

// Tiles from .. to of a product, for all its rows.
void Program::product(const Product& p, int from, int to) const {
  int before = 0;
  for (const auto& segment : p.matrix->segments()) {
    const PackedWeight& w = segment.weight;
    const int first = std::max(from - before, 0), last = std::min(to - before, w.tiles);
    before += w.tiles;
    if (first >= last) continue;
    float* y = p.y + segment.first_row;
    if (is_quantized(w.kind))
      kernels_.linear_quantized(w, p.q, p.rows, first, last, y, p.y_stride);
    else
      kernels_.linear_dense(w, p.x, p.x_stride, p.rows, first, last, y, p.y_stride);
    if (!p.bias) continue;
    const int column = first * kTile, width = std::min(last * kTile, w.n) - column;
    const float* bias = p.bias->values.data() + segment.first_row + column;
    for (int row = 0; row < p.rows; row++) {
      float* at = y + row * p.y_stride + column;
      kernels_.add(at, bias, at, width);
    }
  }
}

Program::Product Program::product_of(const Instruction& i, View out) const {
  return {i.matrix.get(),   i.shift.get(),
          rows(out.buffer), activation(i.a.buffer),
          at(i.a, 0),       (size_t)buffers_[i.a.buffer].stride,
          at(out, 0),       (size_t)buffers_[out.buffer].stride};
}

void Program::run_linear(const Instruction& i, Shares& shares, int thread) {
  if (!rows(i.out.buffer)) return;
  const int tiles = num_tiles(*i.matrix);
  const int share = std::clamp(tiles / (pool_->size() * 6) / 2 * 2, 2, 64);
  const Product p = product_of(i, i.out);
  shares.each_apart(tiles, share, thread, [&](int from, int to) { product(p, from, to); });
}

// How many groups of 32 columns a share has whose results go through more hands: few enough to stay in the
// core's own cache. `held` floats are kept of each column and row.
static int share_in_cache(int groups, int threads, int rows, int held) {
  const int in_cache = (512 << 10) / (rows * kGroup * held * (int)sizeof(float));
  return std::max(1, std::min(groups / (threads * 6), in_cache));
}

void Program::run_linear_curve(const Instruction& i, Shares& shares, int thread) {
  const int count = rows(i.out.buffer), groups = (i.width + kGroup - 1) / kGroup;
  if (!count) return;
  const Product p = product_of(i, i.out);
  const int tiles = i.matrix->segments()[0].weight.tiles;
  shares.each_apart(groups, share_in_cache(groups, pool_->size(), count, 1), thread, [&](int from, int to) {
    product(p, from * 2, std::min(to * 2, tiles));
    const int column = from * kGroup, end = std::min(to * kGroup, i.width);
    for (int row = 0; row < count; row++) {
      float* y = at(i.out, row);
      kernels_.curve(i.curve, y + column, y + column, end - column);
      if (i.quantized) kernels_.quantize(y, from, end, activation(i.out.buffer), row);
    }
  });
}

// Groups from .. to of both halves of a product, and their gates: p.rows rows, from `first_row` on.
void Program::gate_columns(const Instruction& i, const Product& p, int first_row, int from, int to) {
  const int tiles = i.width / kTile, column = from * kGroup, end = to * kGroup;
  product(p, from * 2, to * 2);
  product(p, tiles + from * 2, tiles + to * 2);
  for (int row = first_row; row < first_row + p.rows; row++) {
    const float* gate = at(i.b, row);
    kernels_.gate(i.curve, gate + column, gate + i.width + column, at(i.out, row) + column, end - column);
    if (i.quantized) kernels_.quantize(at(i.out, row), from, end, activation(i.out.buffer), row);
  }
}

void Program::run_linear_gate(const Instruction& i, Shares& shares, int thread) {
  const int count = rows(i.out.buffer), groups = i.width / kGroup;
  if (!count) return;
  const Product p = product_of(i, i.b);
  shares.each_apart(groups, share_in_cache(groups, pool_->size(), count, 3), thread,
                    [&](int from, int to) { gate_columns(i, p, 0, from, to); });
}

void Program::run_linear_heads(const Instruction& i, Shares& shares, int thread) {
  const int count = rows(i.out.buffer), k = i.matrix->k();
  if (!count) return;
  Product p = product_of(i, i.out);
  const auto head_of = [&](int head) {
    if (i.b.buffer >= 0) p.q = activation(i.b.buffer, head * count);
    p.x = at(i.a, 0) + (size_t)head * k;
  };
  if (i.width % kTile == 0) {
    const int tiles = i.width / kTile;
    shares.each(i.heads * tiles, std::max(1, i.heads * tiles / (pool_->size() * 6)), [&](int from, int to) {
      for (int next; from < to; from = next) {
        next = std::min(to, (from / tiles + 1) * tiles);
        head_of(from / tiles);
        product(p, from, next);
      }
    });
    return;
  }
  // Heads share tiles: a row at a time, of which the head's columns are kept.
  p.y = scratch_.as<float>() + scratch_stride_ * thread, p.rows = 1;
  shares.each(i.heads, 1, [&](int head, int) {
    const int first = head * i.width, last = first + i.width;
    for (int row = 0; row < count; row++) {
      head_of(head);
      if (i.b.buffer >= 0) p.q = activation(i.b.buffer, head * count + row);
      p.x += (size_t)row * p.x_stride;
      product(p, first / kTile, (last + kTile - 1) / kTile);
      std::copy_n(p.y + first, i.width, at(i.out, row) + first);
    }
  });
}

}  // namespace pagemill
