// Work on single rows: quantization, norms, elementwise operations, rotary positions, sums of exponentials.
#pragma once

#include "functions.h"

namespace pagemill {
namespace {

void quantize(const float* x, int first_group, int k, const Activation& a, int row) {
  const F32 most = splat(127), least = splat(-127);
  for (int g = first_group; g * kGroup < k; g++) {
    const int left = k - g * kGroup;
    const float* at = x + g * kGroup;
    F32 low = load_first(at, left), high = left > 16 ? load_first(at + 16, left - 16) : zero();
    const float top = largest(max(abs(low), abs(high)));
    float inverse = top > 0 ? 127.0f / top : 0.0f, scale = top / 127.0f;
    for (int plane = 0; plane < a.planes; plane++) {
      const F32 low_q = max(min(round(mul(low, splat(inverse))), most), least);
      const F32 high_q = max(min(round(mul(high, splat(inverse))), most), least);
      ActivationGroup& to = a.of[((size_t)row * a.planes + plane) * a.groups + g];
      int32_t first;
      const int32_t all = store_int8(to.q, low_q, high_q, first);
      to.scale = scale, to.sum = scale * (float)all;
      to.offset = -128 * all, to.first_offset = -128 * first;
      low = sub(low, mul(low_q, splat(scale)));
      high = sub(high, mul(high_q, splat(scale)));
      inverse *= 1 << kPlaneBits, scale /= 1 << kPlaneBits;
    }
  }
}

// The sum of f(lanes of x) over a row; lanes past its end are zero before f and must be after.
template <class F>
inline float sum_of(const float* x, int n, F f) {
  F32 even = zero(), odd = zero();
  for (int i = 0; i < n; i += 32) {
    even = f(load_first(x + i, n - i), n - i, even);
    if (n - i > 16) odd = f(load_first(x + i + 16, n - i - 16), n - i - 16, odd);
  }
  return sum(add(even, odd));
}

inline float sum_of_squares(const float* x, int n) {
  return sum_of(x, n, [](F32 a, int, F32 total) { return fma(a, a, total); });
}

void rms_norm(const float* x, const float* weight, float* out, int n, float eps) {
  const F32 factor = splat(1.0f / __builtin_sqrtf(sum_of_squares(x, n) / (float)n + eps));
  for (int i = 0; i < n; i += 16)
    store_first(out + i, mul(mul(load_first(x + i, n - i), factor), load_first(weight + i, n - i)), n - i);
}

// `shift` may be null.
void layer_norm(const float* x, const float* weight, const float* shift, float* out, int n, float eps) {
  const F32 mean = splat(sum_of(x, n, [](F32 a, int, F32 total) { return add(a, total); }) / (float)n);
  const float squares = sum_of(x, n, [=](F32 a, int left, F32 total) {
    F32 centred = sub(a, mean);
    if (left < 16) centred = first_lanes(centred, zero(), left);
    return fma(centred, centred, total);
  });
  const F32 factor = splat(1.0f / __builtin_sqrtf(squares / (float)n + eps));
  for (int i = 0; i < n; i += 16) {
    F32 y = mul(mul(sub(load_first(x + i, n - i), mean), factor), load_first(weight + i, n - i));
    if (shift) y = add(y, load_first(shift + i, n - i));
    store_first(out + i, y, n - i);
  }
}

// To length one; zeros stay zeros.
void normalize(const float* x, float* out, int n) {
  const float squares = sum_of_squares(x, n);
  const F32 length = splat(squares > 0 ? __builtin_sqrtf(squares) : 1.0f);
  for (int i = 0; i < n; i += 16) store_first(out + i, div(load_first(x + i, n - i), length), n - i);
}

void add_rows(const float* a, const float* b, float* out, int n) {
  for (int i = 0; i < n; i += 16)
    store_first(out + i, add(load_first(a + i, n - i), load_first(b + i, n - i)), n - i);
}

void scale_row(const float* x, float factor, float* out, int n) {
  for (int i = 0; i < n; i += 16) store_first(out + i, mul(load_first(x + i, n - i), splat(factor)), n - i);
}

// out += factor * x
void add_scaled(const float* x, float factor, float* out, int n) {
  for (int i = 0; i < n; i += 16)
    store_first(out + i, fma(load_first(x + i, n - i), splat(factor), load_first(out + i, n - i)), n - i);
}

void softcap(const float* x, float cap, float* out, int n) {
  const F32 limit = splat(cap);
  for (int i = 0; i < n; i += 16)
    store_first(out + i, mul(limit, tanh(div(load_first(x + i, n - i), limit))), n - i);
}

void curve(Curve kind, const float* x, float* out, int n) {
  with_curve(kind, [=](auto which) {
    for (int i = 0; i < n; i += 16)
      store_first(out + i, curve_of<decltype(which)::value>(load_first(x + i, n - i)), n - i);
  });
}

void gate(Curve kind, const float* gate, const float* up, float* out, int n) {
  with_curve(kind, [=](auto which) {
    for (int i = 0; i < n; i += 16) {
      const F32 y = gated<decltype(which)::value>(load_first(gate + i, n - i), load_first(up + i, n - i));
      store_first(out + i, y, n - i);
    }
  });
}

// x times the sigmoid of one gate for all, or of each one's own.
void sigmoid_mul(const float* x, const float* gates, bool one, float* out, int n) {
  const F32 first = splat(gates[0]);
  for (int i = 0; i < n; i += 16) {
    const F32 by = one ? first : load_first(gates + i, n - i);
    store_first(out + i, mul(load_first(x + i, n - i), times_sigmoid(splat(1.0f), by)), n - i);
  }
}

void rope(float* x, const float* cos, const float* sin, int half) {
  for (int i = 0; i < half; i += 16) {
    const int n = half - i;
    const F32 a = load_first(x + i, n), b = load_first(x + half + i, n);
    const F32 c = load_first(cos + i, n), s = load_first(sin + i, n);
    store_first(x + i, sub(mul(a, c), mul(b, s)), n);
    store_first(x + half + i, add(mul(b, c), mul(a, s)), n);
  }
}

// NaN is skipped: a row without any number gives -infinity.
float max_value(const float* x, int n) {
  const F32 lowest = splat(-__builtin_inff());
  F32 top = lowest;
  int i = 0;
  for (; i + 16 <= n; i += 16) top = max(load(x + i), top);
  if (i < n) top = max(first_lanes(load_first(x + i, n - i), lowest, n - i), top);
  return largest(top);
}

double exp_sum(const float* x, int n, float top, float factor, float* out) {
  const F32 shift = splat(top), scale = splat(factor);
  double total = 0;
  for (int block = 0; block < n; block += 1024) {  // in blocks: fp32 within, fp64 across
    F32 part = zero();
    for (int i = block; i < n && i < block + 1024; i += 16) {
      const F32 e =
          first_lanes(exp(mul(sub(load_first(x + i, n - i), shift), scale)), zero(), n - i < 16 ? n - i : 16);
      if (out) store_first(out + i, e, n - i);
      part = add(part, e);
    }
    total += (double)sum(part);
  }
  return total;
}

}  // namespace
}  // namespace pagemill
