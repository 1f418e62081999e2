// The mode of a categorical distribution over levels, and its gradient; the reference and the formulas are in
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
constexpr int kMostRanges = kMostRings + 1;
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
  float step, t, near_low, near_high, edge, cosh_half, own;
  int count;
  bool straight;
  struct {
    float low, high, mask, part, probability, inverse, both, constant;
  } ranges[kMostRanges];  // from the inmost on
};

struct Sums {
  Lanes by_code, by_log_t, by_u_times_u, by_masks[kMostRanges];
};

__attribute__((always_inline)) inline Lanes loaded(const float* from) {
  Lanes x;
  std::memcpy(&x, from, sizeof x);
  return x;
}

__attribute__((always_inline)) inline Lanes nearest(Lanes u, float low, float high) {
  return (clamped(u, low, high) + kMagic) - kMagic;
}

// The code with the largest M pi of the nearest codes of all rings, and its mask. pi falls as 1 / (cosh(t d) + cosh(t / 2)).
template <bool kOne>
__attribute__((always_inline)) inline Lanes mode(Lanes u, const Constants& c, Lanes& mask) {
  Lanes best = nearest(u, c.ranges[0].low, c.ranges[0].high);
  mask = Lanes{} + c.ranges[0].mask;
  for (int r = 1; r < (kOne ? 1 : c.count); ++r) {
    const Lanes other = nearest(u, c.ranges[r].low, c.ranges[r].high);
    Lanes far = (best - u) * c.t, near = (other - u) * c.t;
    far = far < 0.0f ? -far : far;
    near = near < 0.0f ? -near : near;
    const Lanes e_far = exponential(-far), e_near = exponential(-near);
    const Lanes left = c.ranges[r].mask * (e_far * (c.cosh_half + 0.5f * e_far) + 0.5f) * exponential(clamped(far - near, 0, 60));
    const Bits better = (left > mask * (e_near * (c.cosh_half + 0.5f * e_near) + 0.5f)) & (other != best);
    best = better ? other : best;
    mask = better ? Lanes{} + c.ranges[r].mask : mask;
  }
  return best;
}

template <bool kOne>
__attribute__((always_inline)) inline void rounded_block(const float* values, const Constants& c, float* out) {
  Lanes mask;
  const Lanes result = mode<kOne>(loaded(values) / c.step, c, mask) * c.step;
  std::memcpy(out, &result, sizeof result);
}

template <bool kOne>
__attribute__((always_inline)) inline void gradient_block(const float* values, const float* grads, const Constants& c,
                                                          float* out, Sums& sums) {
  const Lanes g = loaded(grads);
  Lanes u = loaded(values) / c.step, mask;
  const Lanes k = mode<kOne>(u, c, mask);
  const Bits inside_range = (u >= c.ranges[c.count - 1].low) & (u <= c.ranges[c.count - 1].high);
  u = clamped(u, c.near_low, c.near_high);
  const Lanes d = (k - u) * c.t, e = exponential(d);
  const Lanes both = 1.0f / ((e + c.edge) * (1.0f + c.edge * e));
  const Lanes sa = e * (1.0f + c.edge * e) * both, sb = (e + c.edge) * both;
  Lanes total{}, total_u{}, total_t{}, one{}, inside[kOne ? 1 : kMostRanges];
  for (int r = 0; r < (kOne ? 1 : c.count); ++r) {
    const auto& range = c.ranges[r];
    const Lanes over = (u - (range.high + 0.5f)) * c.t, under = ((range.low - 0.5f) - u) * c.t;
    // e^over e^under is the same for every u: one exponential of the two, the larger, and a division
    const Bits up = over > under;
    const Lanes larger = exponential(up ? over : under), smaller = range.both / larger;
    const Lanes above = 1.0f + (up ? larger : smaller), below = 1.0f + (up ? smaller : larger);
    const Lanes product = 1.0f / (above * below), s_top = below * product, s_bottom = above * product;
    const Lanes by_log_t = range.constant - over * (1.0f - s_top) - under * (1.0f - s_bottom);
    if (kOne) {  // a single share is all there is
      one = above * below * range.inverse;
      total_u = s_top - s_bottom;
      total_t = by_log_t;
      continue;
    }
    inside[r] = product * range.probability;
    const Lanes share = inside[r] * range.part;
    total += share;
    total_u += share * (s_top - s_bottom);
    total_t += share * by_log_t;
  }
  if (!kOne) {
    one = 1.0f / total;
    total_u *= one;
    total_t *= one;
  }
  const Lanes h = g * k * (e * both * c.own) * mask * one, by_u = h * c.t * ((sa - sb) - total_u);
  const float half = 0.5f * c.t;
  const Lanes own_t = (d + half) * (1.0f - sa) - (d - half) * (1.0f - sb) + c.ranges[c.count].constant;
  const Lanes passed = c.straight ? (inside_range ? g : Lanes{}) : by_u;
  std::memcpy(out, &passed, sizeof passed);
  sums.by_code += g * k;
  sums.by_log_t += h * (own_t - total_t);
  sums.by_u_times_u += by_u * u;
  if (kOne) return;
  for (int r = 0; r < c.count; ++r) {
    const auto& range = c.ranges[r];
    const Lanes ring = r ? inside[r] - inside[r - 1] : inside[r];
    Bits there = (k >= range.low) & (k <= range.high);
    if (r) there &= (k < c.ranges[r - 1].low) | (k > c.ranges[r - 1].high);
    const Lanes own = there ? h / range.mask : Lanes{};
    sums.by_masks[r] += own - h * ring * one;
  }
}

template <bool kOne>
__attribute__((always_inline)) inline void all_rounded(const float* values, size_t count, const Constants& c, float* out) {
  size_t at = 0;
  for (; at + kLanes <= count; at += kLanes) rounded_block<kOne>(values + at, c, out + at);
  if (at == count) return;
  float rest[2][kLanes] = {};
  std::memcpy(rest[0], values + at, (count - at) * sizeof(float));
  rounded_block<kOne>(rest[0], c, rest[1]);
  std::memcpy(out + at, rest[1], (count - at) * sizeof(float));
}

template <bool kOne>
__attribute__((always_inline)) inline ModeSums all_gradients(const float* values, const float* grads, size_t count,
                                                             const Constants& c, float* out) {
  ModeSums total{};
  Sums sums{};
  const auto flush = [&] {
    for (size_t i = 0; i < kLanes; ++i) {
      total.by_code += sums.by_code[i];
      total.by_log_t += sums.by_log_t[i];
      total.by_u_times_u += sums.by_u_times_u[i];
      for (int r = 0; r < c.count; ++r) total.by_masks[r] += sums.by_masks[r][i];
    }
    sums = Sums{};
  };
  size_t at = 0;
  for (size_t blocks = 0; at + kLanes <= count; at += kLanes) {
    gradient_block<kOne>(values + at, grads + at, c, out + at, sums);
    if (++blocks % kFlush == 0) flush();
  }
  if (at < count) {
    float rest[3][kLanes] = {};
    std::memcpy(rest[0], values + at, (count - at) * sizeof(float));
    std::memcpy(rest[1], grads + at, (count - at) * sizeof(float));
    gradient_block<kOne>(rest[0], rest[1], c, rest[2], sums);
    std::memcpy(out + at, rest[2], (count - at) * sizeof(float));
  }
  flush();
  return total;
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) void all_rounded_avx2(const float* values, size_t count, const Constants& c, float* out) {
  c.count == 1 ? all_rounded<true>(values, count, c, out) : all_rounded<false>(values, count, c, out);
}
__attribute__((target("avx2,fma"))) ModeSums all_gradients_avx2(const float* values, const float* grads, size_t count,
                                                            const Constants& c, float* out) {
  return c.count == 1 ? all_gradients<true>(values, grads, count, c, out) : all_gradients<false>(values, grads, count, c, out);
}
#endif

Constants constants_of(const Rings& rings) {
  const double t = rings.t;
  Constants c{};
  c.step = rings.step;
  c.t = rings.t;
  c.count = static_cast<int>(rings.masks.size());
  c.edge = static_cast<float>(std::exp(-t / 2));
  c.cosh_half = static_cast<float>(std::cosh(t / 2));
  c.own = static_cast<float>(-std::expm1(-t));
  float low = 0, high = 0;
  for (int r = 0; r < c.count; ++r) {
    auto& range = c.ranges[r];
    const double width = (rings.ends[2 * r + 1] - rings.ends[2 * r] + 1.0) * t;
    range.low = static_cast<float>(rings.ends[2 * r]);
    range.high = static_cast<float>(rings.ends[2 * r + 1]);
    range.mask = rings.masks[r];
    range.part = rings.masks[r] - (r + 1 < c.count ? rings.masks[r + 1] : 0.0f);
    range.probability = static_cast<float>(-std::expm1(-width));
    range.inverse = 1.0f / (range.probability * range.part);
    range.both = static_cast<float>(std::exp(-width));
    range.constant = static_cast<float>(width / std::expm1(width));
    if (range.mask > 0) low = range.low, high = range.high;
  }
  c.ranges[c.count].constant = static_cast<float>(t / std::expm1(t));  // of one code
  c.near_low = low - kFar / rings.t;
  c.near_high = high + kFar / rings.t;
  return c;
}

}  // namespace

const char* wrong(const Rings& rings) {
  const auto& [step, t, masks, ends] = rings;
  if (!(std::isfinite(step) && step > 0 && std::isfinite(t) && t > 0)) return "a positive step and temperature are needed";
  if (masks.empty() || masks.size() > kMostRings || ends.size() != 2 * masks.size()) return "one to sixteen ranges are needed";
  for (size_t r = 0; r < masks.size(); ++r) {
    const int32_t low = ends[2 * r], high = ends[2 * r + 1];
    if (low < -65536 || low > 0 || high < 0 || high > 65536) return "a range of codes with 0 in it is needed";
    if (!(masks[r] >= 0 && masks[r] <= (r ? masks[r - 1] : 1)) || !(masks[0] > 0)) return "masks have to fall from at most 1";
    if (r && (low > ends[2 * r - 2] || high < ends[2 * r - 1])) return "ranges have to be nested";
  }
  return nullptr;
}

void round_to_mode(const float* values, size_t count, const Rings& rings, float* out, bool plain) {
  const Constants c = constants_of(rings);
#if defined(__x86_64__)
  if (!plain && __builtin_cpu_supports("fma")) return all_rounded_avx2(values, count, c, out);
#endif
  (void)plain;
  c.count == 1 ? all_rounded<true>(values, count, c, out) : all_rounded<false>(values, count, c, out);
}

ModeSums mode_gradient(const float* values, const float* grads, size_t count, const Rings& rings, bool straight, float* out,
                       bool plain) {
  Constants c = constants_of(rings);
  c.straight = straight;
#if defined(__x86_64__)
  if (!plain && __builtin_cpu_supports("fma")) return all_gradients_avx2(values, grads, count, c, out);
#endif
  (void)plain;
  return c.count == 1 ? all_gradients<true>(values, grads, count, c, out) : all_gradients<false>(values, grads, count, c, out);
}

}  // namespace tersenet
