// Functions of every lane: exponentials, and the activations of networks.
#pragma once

#include "kernels.h"
#include "unroll.h"

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
  return keep_if_at_least(x, lowest, times_power_of_two(p, n));
}

// 2^x to about 2 ulp, x in [-126, 126].
inline F32 exp2(F32 x) {
  const F32 n = round(x), r = sub(x, n);
  F32 p = splat(0.00132647273f);
  p = fma(p, r, splat(0.00967151299f));
  p = fma(p, r, splat(0.0555073358f));
  p = fma(p, r, splat(0.240222424f));
  p = fma(p, r, splat(0.693147004f));
  p = fma(p, r, splat(1.0f));
  return times_power_of_two(p, n);
}

// 2^x for x <= 0; zero below -126 (and for -infinity).
inline F32 exp2_negative(F32 x) {
  const F32 lowest = splat(-126.0f);
  return keep_if_at_least(x, lowest, exp2(max(x, lowest)));
}

inline float exp_one(float x) {
  float lanes[16];
  store(lanes, exp(splat(x)));
  return lanes[0];
}

// x / (1 + e^-by): x times the sigmoid of `by`.
inline F32 times_sigmoid(F32 x, F32 by) {
  const F32 most = splat(126.0f), least = splat(-126.0f);
  return div(x, add(splat(1.0f), exp2(max(least, min(most, mul(by, splat(-1.44269504f)))))));
}

// In what follows the second operand of min and max is the one whose NaN is handed on.

// A polynomial below 0.625 (relative error 2e-7), 1 - 2 / (e^2|x| + 1) above.
inline F32 tanh(F32 x) {
  const F32 limit = splat(0.625f), size = abs(x), one = splat(1.0f);
  const F32 in = max(sub(zero(), limit), min(limit, x)), z = mul(in, in);
  F32 p = splat(-5.70498872745e-3f);
  p = fma(p, z, splat(2.06390887954e-2f));
  p = fma(p, z, splat(-5.37397155531e-2f));
  p = fma(p, z, splat(1.33314422036e-1f));
  p = fma(p, z, splat(-3.33332819422e-1f));
  const F32 small = fma(mul(p, z), in, in);
  const F32 far = sub(one, div(splat(2.0f), add(exp(add(size, size)), one)));
  const F32 signed_far = sub(keep_if_at_least(x, zero(), add(far, far)), far);
  return add(small, keep_if_at_least(size, limit, sub(signed_far, small)));
}

// x (1 + erf(x / sqrt 2)) / 2, from the complement of erf that Abramowitz and Stegun give as 7.1.26: a
// polynomial in t times e^-z^2, with an error of 1.5e-7.
inline F32 gelu(F32 x) {
  const F32 size = abs(x), z = mul(size, splat(0.70710678f)), one = splat(1.0f);
  const F32 t = div(one, fma(z, splat(0.3275911f), one));
  F32 p = splat(1.061405429f);
  p = fma(p, t, splat(-1.453152027f));
  p = fma(p, t, splat(1.421413741f));
  p = fma(p, t, splat(-0.284496736f));
  p = fma(p, t, splat(0.254829592f));
  const F32 complement = mul(mul(p, t), exp(sub(zero(), mul(z, z))));
  return sub(max(zero(), x), mul(mul(size, splat(0.5f)), complement));
}

// x (1 + tanh(u)) / 2 is x sigmoid(2 u), with u = sqrt(2 / pi) (x + 0.044715 x^3).
inline F32 gelu_tanh(F32 x) {
  const F32 cubic = fma(mul(mul(x, x), splat(0.044715f)), x, x);
  return times_sigmoid(x, mul(cubic, splat(2 * 0.79788456f)));
}

template <Curve kCurve>
inline F32 curve_of(F32 x) {
  switch (kCurve) {
    case Curve::silu:
      return times_sigmoid(x, x);
    case Curve::gelu:
      return gelu(x);
    case Curve::gelu_tanh:
      return gelu_tanh(x);
    case Curve::relu:
      return max(zero(), x);
    case Curve::tanh:
      return tanh(x);
    default:
      return times_sigmoid(splat(1.0f), x);
  }
}

template <Curve kCurve>
inline F32 gated(F32 gate, F32 up) {
  if constexpr (kCurve == Curve::clamped_silu) {
    const F32 limit = splat(7.0f), low = splat(-7.0f);
    gate = min(limit, gate), up = max(low, min(limit, up));
    return mul(times_sigmoid(gate, mul(gate, splat(1.702f))), add(up, splat(1.0f)));
  }
  return mul(curve_of<kCurve>(gate), up);
}

// Calls work(a curve as a type) for the curve that `kind` says.
template <Curve kCurve>
struct Constant {
  static constexpr Curve value = kCurve;
};
template <class F>
inline void with_curve(Curve kind, F work) {
  switch (kind) {
    case Curve::silu:
      return work(Constant<Curve::silu>());
    case Curve::gelu:
      return work(Constant<Curve::gelu>());
    case Curve::gelu_tanh:
      return work(Constant<Curve::gelu_tanh>());
    case Curve::relu:
      return work(Constant<Curve::relu>());
    case Curve::tanh:
      return work(Constant<Curve::tanh>());
    case Curve::sigmoid:
      return work(Constant<Curve::sigmoid>());
    case Curve::clamped_silu:
      return work(Constant<Curve::clamped_silu>());
  }
}

}  // namespace
}  // namespace pagemill
