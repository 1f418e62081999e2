#include "kernels.hpp"

#include <cmath>

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

bool round_with_feedback(const float* weight, size_t rows, size_t columns, float scale, size_t kernel, float decay,
                         const float* alpha, const float* beta, int32_t* codes) {
  bool all = true;
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
        in_kernel[r] = (in_kernel[r] + error) * decay;
        in_row[r] += error;
        const bool fits = std::fabs(code) < 2147483648.0f;  // neither does NaN
        codes[at] = fits ? static_cast<int32_t>(code) : 0;
        all &= fits;
      }
    }
  }
  return all;
}

std::vector<uint8_t> pack(const uint32_t* values, size_t count, int width) {
  std::vector<uint8_t> out(packed_size(count, width));
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
