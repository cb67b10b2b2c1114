// Operations that go along a sequence and keep a state: short convolutions and the recurrence of Mamba-2.
//
// Tokens share a pass over the state, in registers, but each is added up as it would be alone, so that
// results do not depend on how a sequence is cut into steps.
#pragma once

#include "functions.h"

namespace pagemill {
namespace {

constexpr int kScanTokens = 4;    // that share a pass
constexpr int kScanFactors = 64;  // tokens whose factors are worked out ahead

// The input of a convolution `back` tokens before token t; of those before the first, the state has them.
inline const float* conv_input(const ConvTask& task, int t, int back) {
  const int at = t - back;
  if (at >= 0) return task.x + at * task.x_stride;
  return task.before ? task.before + (size_t)(at + task.taps - 1) * task.channels : nullptr;
}

void short_conv(const ConvTask& task, int first, int last) {
  const int kept = task.taps - 1;
  for (int t = 0; t < task.count; t++)
    for (int c = first; c < last; c += 16) {
      const int n = last - c;
      F32 y = task.bias ? load_first(task.bias + c, n) : zero();
      for (int tap = 0; tap < task.taps; tap++) {
        const float* x = conv_input(task, t, kept - tap);
        if (x) y = fma(load_first(x + c, n), load_first(task.weight + (size_t)tap * task.channels + c, n), y);
      }
      store_first(task.out + t * task.out_stride + c, y, n);
    }
  for (int i = 0; i < kept; i++)  // in order: what is read lies behind what is written
    for (int c = first; c < last; c += 16) {
      const float* x = conv_input(task, task.count, kept - i);
      store_first(task.after + (size_t)i * task.channels + c, x ? load_first(x + c, last - c) : zero(),
                  last - c);
    }
}

// log(1 + e^x)
inline float softplus(float x) { return x > 20 ? x : __builtin_log1pf(exp_one(x)); }

// `kTokens` tokens from `token` on, of elements p .. p + 16 of the head; n of these are there.
template <int kTokens>
inline void scan_block(const ScanTask& task, const float* delta, const float* decay, int token, int p,
                       int n) {
  F32 x[kTokens], input[kTokens], keep[kTokens], y[kTokens];
  const float *b = task.b + token * task.b_stride, *c = task.c + token * task.c_stride;
  for (int t = 0; t < kTokens; t++) {
    x[t] = load_first(task.x + (token + t) * task.x_stride + p, n);
    input[t] = mul(splat(delta[t]), x[t]), keep[t] = splat(decay[t]), y[t] = zero();
  }
  float* s = task.after + p;
  for (int i = 0; i < task.state; i++, s += task.dim) {
    F32 value = load_first(s, n);
    for (int t = 0; t < kTokens; t++) {
      value = fma(input[t], splat(b[t * task.b_stride + i]), mul(keep[t], value));
      y[t] = fma(value, splat(c[t * task.c_stride + i]), y[t]);
    }
    store_first(s, value, n);
  }
  for (int t = 0; t < kTokens; t++)
    store_first(task.out + (token + t) * task.out_stride + p, fma(splat(task.d), x[t], y[t]), n);
}

void scan(const ScanTask& task) {
  const size_t size = (size_t)task.state * task.dim;
  if (!task.before)
    for (size_t i = 0; i < size; i++) task.after[i] = 0;
  else if (task.before != task.after)
    for (size_t i = 0; i < size; i++) task.after[i] = task.before[i];
  for (int first = 0; first < task.count; first += kScanFactors) {
    const int count = task.count - first < kScanFactors ? task.count - first : kScanFactors;
    float delta[kScanFactors], decay[kScanFactors];
    for (int t = 0; t < count; t++) {
      delta[t] = softplus(task.dt[(first + t) * task.dt_stride]);
      decay[t] = exp_one(delta[t] * task.a);
    }
    for (int p = 0; p < task.dim; p += 16) {
      int t = 0;
      for (; t + kScanTokens <= count; t += kScanTokens)
        scan_block<kScanTokens>(task, delta + t, decay + t, first + t, p, task.dim - p);
      for (; t < count; t++) scan_block<1>(task, delta + t, decay + t, first + t, p, task.dim - p);
    }
  }
}

}  // namespace
}  // namespace pagemill
