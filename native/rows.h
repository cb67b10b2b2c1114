// Work on single rows: quantization, norms, activations, rotary positions, sums of exponentials.
#pragma once

#include "kernels.h"

namespace pagemill {
namespace {

inline F32 load_first(const float* p, int n) {
  if (n >= 16) return load(p);
  float some[16] = {};
  for (int i = 0; i < n; i++) some[i] = p[i];
  return load(some);
}

inline void store_first(float* p, F32 a, int n) {
  if (n >= 16) return store(p, a);
  float all[16];
  store(all, a);
  for (int i = 0; i < n; i++) p[i] = all[i];
}

// e^x to about 2 ulp; zero below -87.3 (and for -infinity), finite above.
inline F32 exp(F32 x) {
  const F32 lowest = splat(-87.3f);
  const F32 inside = min(max(x, lowest), splat(88.3f));
  const F32 n = round(mul(inside, splat(1.44269504f)));
  const F32 r = fma(n, splat(2.12194440e-4f), fma(n, splat(-0.693359375f), inside));
  F32 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = add(fma(p, mul(r, r), r), splat(1.0f));
  return keep_if_at_least(x, lowest, mul(p, power_of_two(n)));
}

void quantize(const float* x, int first_group, int k, const Activation& a, int row) {
  for (int g = first_group; g * kGroup < k; g++) {
    const int left = k - g * kGroup;
    const float* at = x + g * kGroup;
    F32 low = load_first(at, left), high = left > 16 ? load_first(at + 16, left - 16) : zero();
    for (int plane = 0; plane < a.planes; plane++) {
      const float top = largest(max(abs(low), abs(high)));
      const F32 inverse = splat(top > 0 ? 127.0f / top : 0.0f), scale = splat(top / 127.0f);
      const F32 low_q = round(mul(low, inverse)), high_q = round(mul(high, inverse));
      const size_t i = ((size_t)row * a.planes + plane) * a.groups + g;
      const int32_t sum = store_int8(a.q + i * kGroup, low_q, high_q);
      a.scale[i] = top / 127.0f;
      a.scaled_sum[i] = a.scale[i] * (float)sum;
      a.neg_sum[i] = -sum;
      low = sub(low, mul(low_q, scale));
      high = sub(high, mul(high_q, scale));
    }
  }
}

void rms_norm(const float* x, const float* weight, float* out, int n, float eps) {
  F32 even = zero(), odd = zero();
  for (int i = 0; i < n; i += 32) {
    const F32 a = load_first(x + i, n - i);
    even = fma(a, a, even);
    if (n - i > 16) {
      const F32 b = load_first(x + i + 16, n - i - 16);
      odd = fma(b, b, odd);
    }
  }
  const F32 factor = splat(1.0f / __builtin_sqrtf(sum(add(even, odd)) / (float)n + eps));
  for (int i = 0; i < n; i += 16)
    store_first(out + i, mul(mul(load_first(x + i, n - i), factor), load_first(weight + i, n - i)), n - i);
}

void add_rows(const float* a, const float* b, float* out, int n) {
  for (int i = 0; i < n; i += 16)
    store_first(out + i, add(load_first(a + i, n - i), load_first(b + i, n - i)), n - i);
}

void silu_mul(const float* gate, const float* up, float* out, int n) {
  const F32 one = splat(1.0f);
  for (int i = 0; i < n; i += 16) {
    const F32 g = load_first(gate + i, n - i);
    const F32 silu = div(g, add(one, exp(sub(zero(), g))));
    store_first(out + i, mul(silu, load_first(up + i, n - i)), n - i);
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
