// The gradient of the mode of a categorical distribution over levels; its reference and its formulas are in
// src/tersenet/methods/cpq/categorical.py. Lanes are independent and sums are kept per lane, in vectors that every compiler and machine has.
#include <cmath>
#include <cstring>

#include "kernels.hpp"

namespace tersenet {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kFlush = 128;  // blocks of lanes between two additions to the sums in double
constexpr float kFar = 30.0f;   // in units of sigma: further outside all gradients are 0
constexpr float kMagic = 12582912.0f;  // x + kMagic - kMagic is x rounded to even, for |x| below 2^22
using Lanes = float __attribute__((vector_size(4 * kLanes)));
using Bits = int32_t __attribute__((vector_size(4 * kLanes)));

__attribute__((always_inline)) inline Lanes clamped(Lanes x, float low, float high) {
  x = x < low ? Lanes{} + low : x;
  return x > high ? Lanes{} + high : x;
}

// e^x with an error of some 1e-7, for x up to 88; next to 0 far below.
__attribute__((always_inline)) inline Lanes exponential(Lanes x) {
  x = clamped(x, -87.0f, 88.0f);
  const Lanes shifted = x * 1.44269504f + kMagic, n = shifted - kMagic;
  const Lanes r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Lanes p = 1.9875691500e-4f * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return p * (Lanes)((((Bits)shifted) - 0x4B400000 + 127) << 23);
}

struct Constants {
  float step, t, low, high, near_low, near_high, top, bottom, edge, ratio, constant;
};

struct Sums {
  Lanes by_code, by_log_t, by_u_times_u;
};

__attribute__((always_inline)) inline void block(const float* values, const float* grads, const Constants& c, float* out,
                                                 Sums& sums) {
  Lanes u, g;
  std::memcpy(&u, values, sizeof u);
  std::memcpy(&g, grads, sizeof g);
  u = u / c.step;
  const Lanes k = (clamped(u, c.low, c.high) + kMagic) - kMagic;
  u = clamped(u, c.near_low, c.near_high);
  const Lanes d = (k - u) * c.t, over = (u - c.top) * c.t, under = (c.bottom - u) * c.t;
  const Lanes e = exponential(d), above = 1.0f + exponential(over), below = 1.0f + exponential(under);
  const Lanes sa = e / (e + c.edge), sb = 1.0f / (1.0f + c.edge * e), s_top = 1.0f / above, s_bottom = 1.0f / below;
  const Lanes h = g * k * (sa * sb * c.ratio) * (above * below);
  const Lanes by_u = h * c.t * ((sa - sb) - (s_top - s_bottom));
  const float half = 0.5f * c.t;
  const Lanes slope = (d + half) * (1.0f - sa) - (d - half) * (1.0f - sb) + over * (1.0f - s_top) +
                      under * (1.0f - s_bottom) + c.constant;
  std::memcpy(out, &by_u, sizeof by_u);
  sums.by_code += g * k;
  sums.by_log_t += h * slope;
  sums.by_u_times_u += by_u * u;
}

__attribute__((always_inline)) inline ModeSums all(const float* values, const float* grads, size_t count, const Constants& c,
                                                   float* out) {
  ModeSums total{};
  Sums sums{};
  const auto flush = [&] {
    for (size_t i = 0; i < kLanes; ++i) {
      total.by_code += sums.by_code[i];
      total.by_log_t += sums.by_log_t[i];
      total.by_u_times_u += sums.by_u_times_u[i];
    }
    sums = Sums{};
  };
  size_t at = 0;
  for (size_t blocks = 0; at + kLanes <= count; at += kLanes) {
    block(values + at, grads + at, c, out + at, sums);
    if (++blocks % kFlush == 0) flush();
  }
  if (at < count) {
    float rest[3][kLanes] = {};
    std::memcpy(rest[0], values + at, (count - at) * sizeof(float));
    std::memcpy(rest[1], grads + at, (count - at) * sizeof(float));
    block(rest[0], rest[1], c, rest[2], sums);
    std::memcpy(out + at, rest[2], (count - at) * sizeof(float));
  }
  flush();
  return total;
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) ModeSums all_avx2(const float* values, const float* grads, size_t count, const Constants& c,
                                                  float* out) {
  return all(values, grads, count, c, out);
}
#endif

}  // namespace

ModeSums mode_gradient(const float* values, const float* grads, size_t count, float step, float t, int low, int high,
                       float* out, bool plain) {
  const double wide = t, levels = high - low + 1.0;
  const Constants c{step,
                    t,
                    static_cast<float>(low),
                    static_cast<float>(high),
                    static_cast<float>(low) - kFar / t,
                    static_cast<float>(high) + kFar / t,
                    static_cast<float>(high) + 0.5f,
                    static_cast<float>(low) - 0.5f,
                    static_cast<float>(std::exp(-wide / 2)),
                    static_cast<float>(std::expm1(-wide) / std::expm1(-levels * wide)),
                    static_cast<float>(wide / std::expm1(wide) - levels * wide / std::expm1(levels * wide))};
#if defined(__x86_64__)
  if (!plain) return all_avx2(values, grads, count, c, out);
#endif
  (void)plain;
  return all(values, grads, count, c, out);
}

}  // namespace tersenet
