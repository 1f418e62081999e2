// Codes to fp32. Compiled with -ffp-contract=off: subtraction, product and sum are rounded one by one on every path.
#include "kernels.hpp"

#include <algorithm>

namespace tersenet {
namespace {

__attribute__((always_inline)) inline void convert(const uint8_t* places, const uint32_t* raw, size_t count, const Line& line,
                                                   float* out) {
  const float scale = line.scale;
  const uint32_t low = static_cast<uint32_t>(line.low), zero = static_cast<uint32_t>(line.zero), shift = low - zero;
  if (raw) {
    for (size_t i = 0; i < count; ++i)
      out[i] = static_cast<float>(static_cast<int32_t>(((places[i] + low) << line.split | raw[i]) - zero)) * scale;
  } else {
    for (size_t i = 0; i < count; ++i) out[i] = static_cast<float>(static_cast<int32_t>(places[i] + shift)) * scale;
  }
  if (line.offset)
    for (size_t i = 0; i < count; ++i) out[i] += *line.offset;
}

__attribute__((always_inline)) inline void multiply(float* values, size_t start, size_t count, const float* factors, size_t columns,
                                                    size_t each) {
  for (size_t i = 0; i < count;) {
    const size_t column = (start + i) / each % columns, inside = (start + i) % each;
    const size_t length = std::min(count - i, each == 1 ? columns - column : each - inside);
    if (each == 1)
      for (size_t k = 0; k < length; ++k) values[i + k] *= factors[column + k];
    else
      for (size_t k = 0; k < length; ++k) values[i + k] *= factors[column];
    i += length;
  }
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) void multiply_avx2(float* values, size_t start, size_t count, const float* factors, size_t columns,
                                                   size_t each) {
  multiply(values, start, count, factors, columns, each);
}
__attribute__((target("avx2"))) void convert_avx2(const uint8_t* places, const uint32_t* raw, size_t count, const Line& line,
                                                  float* out) {
  convert(places, raw, count, line, out);
}
#endif

}  // namespace

void to_fp32(const uint8_t* places, const uint32_t* raw, size_t count, const Line& line, float* out, bool plain) {
#if defined(__x86_64__)
  if (!plain) return convert_avx2(places, raw, count, line, out);
#endif
  (void)plain;
  convert(places, raw, count, line, out);
}

void times_columns(float* values, size_t start, size_t count, const float* factors, size_t columns, size_t each, bool plain) {
#if defined(__x86_64__)
  if (!plain) return multiply_avx2(values, start, count, factors, columns, each);
#endif
  (void)plain;
  multiply(values, start, count, factors, columns, each);
}

}  // namespace tersenet
