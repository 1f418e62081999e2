// Codes to fp32. Compiled with -ffp-contract=off: subtraction, product and sum are rounded one by one on every path.
#include "kernels.hpp"

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

#if defined(__x86_64__)
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

}  // namespace tersenet
