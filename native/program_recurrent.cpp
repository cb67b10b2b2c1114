// Instructions that go along each row's sequence and keep a state.
#include <algorithm>
#include <stdexcept>

#include "program.h"

namespace pagemill {

namespace {

constexpr int kConvChannels = 256;  // of a share: inputs of a few tokens stay in the nearest cache

void check(bool holds, const char* what) {
  if (!holds) throw std::invalid_argument(what);
}

int64_t count(const std::shared_ptr<Vector>& vector) { return (int64_t)vector->values.size(); }

}  // namespace

void Program::short_conv(View x, Floats weight, Floats bias, std::shared_ptr<States> states, int layer,
                         View out) {
  const int channels = buffers_[out.buffer].width, taps = (int)(count(weight) / channels);
  check(taps > 0 && count(weight) == (int64_t)taps * channels && (!bias || count(bias) == channels),
        "a convolution's weight or bias does not fit its channels");
  check(states->size() == (int64_t)channels * (taps - 1) && layer >= 0 && layer < states->layers(),
        "a convolution's state is of another size");
  auto& i = append(Op::short_conv, x, out, channels);
  i.vector = std::make_shared<Vector>();  // tap by tap
  for (int tap = 0; tap < taps; tap++)
    for (int c = 0; c < channels; c++) i.vector->values.push_back(weight->values[(size_t)c * taps + tap]);
  i.shift = std::move(bias), i.heads = taps, i.states = std::move(states), i.layer = layer;
}

void Program::mamba2(View x, View dt, View b, View c, int heads, int groups, int dim, Floats a, Floats d,
                     std::shared_ptr<States> states, int layer, View out) {
  check(count(a) == heads && count(d) == heads && groups > 0 && heads % groups == 0,
        "a recurrence does not fit its heads");
  check(states->size() % ((int64_t)heads * dim) == 0 && layer >= 0 && layer < states->layers(),
        "a recurrence's state is of another size");
  auto& i = append(Op::mamba2, x, out, dim, heads);
  i.b = b, i.c = c, i.d = dt, i.vector = std::move(a), i.shift = std::move(d), i.kv_heads = groups;
  i.states = std::move(states), i.layer = layer;
}

// A row's state before this step, or null for zeros, and after it.
std::pair<const float*, float*> Program::states_of(const Instruction& i, int row) const {
  const int32_t* slots = step_.state_slots + 2 * row;
  return {slots[0] < 0 ? nullptr : i.states->at(i.layer, slots[0]), i.states->at(i.layer, slots[1])};
}

void Program::run_short_conv(const Instruction& i, Shares& shares) {
  const int parts = (i.width + kConvChannels - 1) / kConvChannels;
  const size_t x_stride = buffers_[i.a.buffer].stride, out_stride = buffers_[i.out.buffer].stride;
  shares.each(step_.rows * parts, 1, [&](int item, int) {
    const int row = item / parts, first = item % parts * kConvChannels, token = step_.row_starts[row];
    const auto [before, after] = states_of(i, row);
    kernels_.short_conv(
        {at(i.a, token), x_stride, at(i.out, token), out_stride, step_.row_starts[row + 1] - token, i.width,
         i.heads, i.vector->values.data(), i.shift ? i.shift->values.data() : nullptr, before, after},
        first, std::min(i.width, first + kConvChannels));
  });
}

void Program::run_mamba2(const Instruction& i, Shares& shares) {
  const int items = step_.rows * i.heads, state = (int)(i.states->size() / i.heads / i.width);
  shares.each(items, std::max(1, items / (pool_->size() * 16)), [&](int from, int to) {
    for (int item = from; item < to; item++) {
      const int row = item / i.heads, head = item % i.heads, group = head / (i.heads / i.kv_heads);
      const int token = step_.row_starts[row];
      const size_t column = (size_t)head * i.width, numbers = column * state;
      const auto [before, after] = states_of(i, row);
      kernels_.scan({at(i.a, token) + column, (size_t)buffers_[i.a.buffer].stride, at(i.d, token) + head,
                     (size_t)buffers_[i.d.buffer].stride, at(i.b, token) + (size_t)group * state,
                     (size_t)buffers_[i.b.buffer].stride, at(i.c, token) + (size_t)group * state,
                     (size_t)buffers_[i.c.buffer].stride, at(i.out, token) + column,
                     (size_t)buffers_[i.out.buffer].stride, step_.row_starts[row + 1] - token, i.width, state,
                     i.vector->values[head], i.shift->values[head], before ? before + numbers : nullptr,
                     after + numbers});
    }
  });
}

}  // namespace pagemill
