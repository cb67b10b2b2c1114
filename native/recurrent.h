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

// `kTokens` tokens from `token` on, `kVectors` times 16 elements of the head from p on, of which n are there.
// With two vectors b and c are spread for both, and neither waits for the other.
template <int kTokens, int kVectors>
inline void scan_block(const ScanTask& task, const float* delta, const float* decay, int token, int p,
                       int n) {
  F32 input[kTokens][kVectors], keep[kTokens], y[kTokens][kVectors];
  const float *b = task.b + token * task.b_stride, *c = task.c + token * task.c_stride;
  const float* x = task.x + token * task.x_stride + p;
  EACH (t, kTokens) {
    keep[t] = splat(decay[t]);
    EACH (v, kVectors) {
      input[t][v] = mul(splat(delta[t]), load_first(x + t * task.x_stride + v * 16, n - v * 16));
      y[t][v] = zero();
    }
  }
  float* s = task.after + p;
  for (int i = 0; i < task.state; i++, s += task.dim) {
    F32 value[kVectors];
    EACH (v, kVectors) value[v] = load_first(s + v * 16, n - v * 16);
    EACH (t, kTokens) {
      const F32 b_i = splat(b[t * task.b_stride + i]), c_i = splat(c[t * task.c_stride + i]);
      EACH (v, kVectors) {
        value[v] = fma(input[t][v], b_i, mul(keep[t], value[v]));
        y[t][v] = fma(value[v], c_i, y[t][v]);
      }
    }
    EACH (v, kVectors) store_first(s + v * 16, value[v], n - v * 16);
  }
  float* out = task.out + token * task.out_stride + p;
  EACH (t, kTokens)
    EACH (v, kVectors)
      store_first(out + t * task.out_stride + v * 16,
                  fma(splat(task.d), load_first(x + t * task.x_stride + v * 16, n - v * 16), y[t][v]),
                  n - v * 16);
}

// Of `count` tokens, what lies from p on.
template <int kVectors>
inline void scan_tokens(const ScanTask& task, const float* delta, const float* decay, int token, int count,
                        int p, int n) {
  int t = 0;
  for (; t + kScanTokens <= count; t += kScanTokens)
    scan_block<kScanTokens, kVectors>(task, delta + t, decay + t, token + t, p, n);
  for (; t < count; t++) scan_block<1, kVectors>(task, delta + t, decay + t, token + t, p, n);
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
    int p = 0;
    for (; p + 32 <= task.dim; p += 32) scan_tokens<2>(task, delta, decay, first, count, p, 32);
    for (; p < task.dim; p += 16) scan_tokens<1>(task, delta, decay, first, count, p, task.dim - p);
  }
}

}  // namespace
}  // namespace pagemill
