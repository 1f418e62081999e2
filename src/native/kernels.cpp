#include "kernels.hpp"

#include <cmath>
#include <limits>

namespace tersenet {

bool trellis_indices(const int32_t* codes, size_t count, bool plain, int32_t* indices, uint8_t* states) {
  int state = 0;
  for (size_t i = 0; i < count; ++i) {
    const int64_t n = codes[i];
    const bool odd = state & 1;
    if (((n & 1) != 0) != odd && !(n == 0 && odd && !plain)) return false;
    const int64_t k = !odd ? n / 2 : plain ? (n + 1) >> 1 : (n + (n > 0) - (n < 0)) / 2;
    indices[i] = static_cast<int32_t>(k);
    states[i] = static_cast<uint8_t>(state);
    state = kNext[state][k & 1];
  }
  return true;
}

int trellis_column(const float* target, const float* weight, size_t rows, float scale, const float* lengths_even,
                   const float* lengths_odd, int32_t low, int32_t size, bool plain, float lambda, int state, int32_t* codes) {
  constexpr float kFar = std::numeric_limits<float>::infinity();
  struct Step {
    int32_t code[8];
    uint8_t from[8];
  };
  std::vector<Step> steps(rows);
  float cost[8];
  for (int s = 0; s < 8; ++s) cost[s] = s == state ? 0.0f : kFar;
  for (size_t i = 0; i < rows; ++i) {
    const float v = target[i] / scale, w = weight[i] * scale * scale;
    // The best index of each class and parity: the two nearest of that kind, and for even k also k = 0.
    float best[2][2];
    int32_t arg[2][2];
    for (int odd = 0; odd < 2; ++odd) {
      const float* lengths = odd ? lengths_odd : lengths_even;
      const float centre = odd ? (plain ? (v + 1) / 2 : (v + (v > 0) - (v < 0)) / 2) : v / 2;
      const auto nearest = static_cast<int32_t>(std::floor(centre));
      for (int parity = 0; parity < 2; ++parity) best[odd][parity] = kFar;
      const auto consider = [&](int32_t k) {
        const int32_t place = k < low ? 0 : k >= low + size ? size - 1 : k - low;
        const int32_t n = trellis_code(k, odd, plain);
        const float off = v - static_cast<float>(n);
        const float c = w * off * off + lambda * lengths[place];
        if (c < best[odd][k & 1]) best[odd][k & 1] = c, arg[odd][k & 1] = n;
      };
      for (int32_t k = nearest - 1; k <= nearest + 2; ++k) consider(k);
      consider(0);
      consider(nearest < 0 ? -1 : 1);
    }
    float next[8];
    for (float& c : next) c = kFar;
    for (int s = 0; s < 8; ++s) {
      if (cost[s] == kFar) continue;
      for (int parity = 0; parity < 2; ++parity) {
        const int to = kNext[s][parity];
        const float c = cost[s] + best[s & 1][parity];
        if (c < next[to]) {
          next[to] = c;
          steps[i].from[to] = static_cast<uint8_t>(s);
          steps[i].code[to] = arg[s & 1][parity];
        }
      }
    }
    for (int s = 0; s < 8; ++s) cost[s] = next[s];
  }
  int last = 0;
  for (int s = 1; s < 8; ++s)
    if (cost[s] < cost[last]) last = s;
  int at = last;
  for (size_t i = rows; i-- > 0;) {
    codes[i] = steps[i].code[at];
    at = steps[i].from[at];
  }
  return last;
}

void round_with_feedback(const float* weight, size_t rows, size_t columns, float scale, size_t kernel, const float* alpha,
                         const float* beta, int32_t* codes) {
  constexpr size_t kLanes = 16;  // rows at a time: the chain of one row is latency, sixteen of them are not
  for (size_t start = 0; start < rows; start += kLanes) {
    const size_t lanes = rows - start < kLanes ? rows - start : kLanes;
    float in_kernel[kLanes] = {}, in_row[kLanes] = {};
    for (size_t j = 0; j < columns; ++j) {
      if (j % kernel == 0)
        for (float& sum : in_kernel) sum = 0;
      for (size_t r = 0; r < lanes; ++r) {
        const size_t at = (start + r) * columns + j;
        const float w = weight[at];
        const float code = std::nearbyintf((w + alpha[j] * in_kernel[r] + beta[j] * in_row[r]) / scale);
        const float error = w - code * scale;
        in_kernel[r] += error;
        in_row[r] += error;
        codes[at] = static_cast<int32_t>(code);
      }
    }
  }
}

std::vector<uint8_t> pack(const uint32_t* values, size_t count, int width) {
  std::vector<uint8_t> out((count * width + 7) / 8);
  uint64_t held = 0;
  int bits = 0;
  size_t at = 0;
  const uint64_t mask = (1ull << width) - 1;
  for (size_t i = 0; i < count; ++i) {
    held |= (values[i] & mask) << bits;
    for (bits += width; bits >= 8; bits -= 8, held >>= 8) out[at++] = static_cast<uint8_t>(held);
  }
  if (bits) out[at] = static_cast<uint8_t>(held);
  return out;
}

void unpack(const uint8_t* data, size_t count, int width, uint32_t* values) {
  uint64_t held = 0;
  int bits = 0;
  const uint64_t mask = (1ull << width) - 1;
  for (size_t i = 0; i < count; ++i) {
    for (; bits < width; bits += 8) held |= static_cast<uint64_t>(*data++) << bits;
    values[i] = static_cast<uint32_t>(held & mask);
    held >>= width;
    bits -= width;
  }
}

}  // namespace tersenet
