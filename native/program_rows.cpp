// Instructions that work row by row.
#include <algorithm>

#include "program.h"

namespace pagemill {

void Program::run_rows(const Phase& phase, Shares& shares) {
  const int count = rows(instructions_[phase.first].out.buffer);
  shares.each(count, std::max(1, count / (pool_->size() * 4)), [&](int from, int to) {
    for (int row = from; row < to; row++)
      for (int n = phase.first; n < phase.last; n++) one_row(instructions_[n], row);
  });
}

void Program::one_row(const Instruction& i, int row) {
  const auto heads = [&](auto work) {
    for (int h = 0; h < i.heads; h++) work(at(i.a, row) + h * i.width, at(i.out, row) + h * i.width);
  };
  const float* vector = i.vector ? i.vector->values.data() : nullptr;
  const float* shift = i.shift ? i.shift->values.data() : nullptr;
  switch (i.op) {
    case Op::embed: {
      const int32_t* ids = i.ids == Ids::tokens      ? step_.token_ids
                           : i.ids == Ids::positions ? step_.positions
                                                     : step_.token_types;
      return kernels_.embed_row(i.matrix->segments()[0].weight, ids[row], at(i.out, row));
    }
    case Op::rms_norm:
      for (int h = 0; h < i.heads; h++)
        kernels_.rms_norm(at(i.a, row) + h * i.width, vector + h * i.from_stride,
                          at(i.out, row) + h * i.width, i.width, i.number);
      return;
    case Op::layer_norm:
      return heads(
          [&](auto* x, auto* out) { kernels_.layer_norm(x, vector, shift, out, i.width, i.number); });
    case Op::normalize:
      return heads([&](auto* x, auto* out) { kernels_.normalize(x, out, i.width); });
    case Op::bias:
      return heads([&](auto* x, auto* out) { kernels_.add(x, vector, out, i.width); });
    case Op::curve:
      return kernels_.curve(i.curve, at(i.a, row), at(i.out, row), i.width);
    case Op::gate:
      return kernels_.gate(i.curve, at(i.a, row), at(i.b, row), at(i.out, row), i.width);
    case Op::sigmoid_mul:
      return kernels_.sigmoid_mul(at(i.a, row), at(i.b, row), i.one_gate, at(i.out, row), i.width);
    case Op::scale:
      return kernels_.scale(at(i.a, row), i.number, at(i.out, row), i.width);
    case Op::softcap:
      return kernels_.softcap(at(i.a, row), i.number, at(i.out, row), i.width);
    case Op::add:
      return kernels_.add(at(i.a, row), at(i.b, row), at(i.out, row), i.width);
    case Op::copy:
      for (int h = 0; h < i.heads; h++)
        std::copy_n(at(i.a, row) + h * i.from_stride, i.width, at(i.out, row) + h * i.to_stride);
      return;
    case Op::rope: {
      const size_t angle = (size_t)step_.positions[row] * i.rope->half;
      for (int h = 0; h < i.heads; h++)
        kernels_.rope(at(i.a, row) + h * i.from_stride, &i.rope->cos[angle], &i.rope->sin[angle],
                      i.rope->half);
      return;
    }
    case Op::quantize:
      return kernels_.quantize(at(i.a, row), 0, i.width, activation(i.a.buffer), row);
    case Op::store_kv: {
      const KvLayer layer = i.kv->layer(i.layer);
      for (int h = 0; h < layer.kv_heads; h++) {
        kernels_.store_key(layer, step_.slots[row], h, at(i.a, row) + h * layer.dim, 0, layer.dim);
        kernels_.store_value(layer, step_.slots[row], h, at(i.b, row) + h * layer.dim, layer.dim);
      }
      return;
    }
    case Op::store_latent: {
      const KvLayer layer = i.kv->layer(i.layer);
      kernels_.store_key(layer, step_.slots[row], 0, at(i.a, row), 0, i.width);
      kernels_.store_key(layer, step_.slots[row], 0, at(i.b, row), i.width, layer.dim - i.width);
      return kernels_.store_value(layer, step_.slots[row], 0, at(i.a, row), i.width);
    }
    case Op::quantize_heads: {  // all rows of the first head, then of the second
      const Activation q = activation(i.b.buffer);
      for (int h = 0; h < i.heads; h++)
        kernels_.quantize(at(i.a, row) + (size_t)h * i.width, 0, i.width, q, h * rows(i.a.buffer) + row);
      return;
    }
    case Op::route:
      return route_row(i, row);
    case Op::spread:
      return spread_row(i, row);
    case Op::combine:
      return combine_row(i, row);
    case Op::gather:
      std::copy_n(at(i.a, step_.out_rows[row]), i.width, at(i.out, row));
      return;
    case Op::pool:
      return pool_row(i, row);
    default:
      return;
  }
}

// Row `row` of the result comes from the sequence that the out_row of this number ends.
void Program::pool_row(const Instruction& i, int row) {
  const int last = step_.out_rows[row];
  const int* starts = step_.row_starts;
  const int first = *(std::upper_bound(starts, starts + step_.rows, last) - 1);
  float* out = at(i.out, row);
  std::copy_n(at(i.a, i.pooling == Pooling::last ? last : first), i.width, out);
  if (i.pooling != Pooling::mean) return;
  for (int token = first + 1; token <= last; token++) kernels_.add(out, at(i.a, token), out, i.width);
  kernels_.scale(out, 1.0f / (float)(last - first + 1), out, i.width);
}

}  // namespace pagemill
