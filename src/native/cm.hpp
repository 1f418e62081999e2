// The context-mixing coder. The definition is src/tersenet/codec/mixing.py; see docs/format.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace tersenet {

// How integers lie: rows of `row` integers, in them kernels of `kernel` taps, in lines of `line`; each magnitude has at
// most `most` bits.
struct Layout {
  size_t row, kernel, line;
  int most;
};
constexpr size_t kLongestRow = 1u << 20;

// A chunk whose first integer is number `start` of all.
std::vector<uint8_t> mix_encode(const int32_t* values, size_t count, size_t start, const Layout& layout);
// Throws std::invalid_argument unless an encoder wrote the bytes.
void mix_decode(const uint8_t* data, size_t size, size_t count, size_t start, const Layout& layout, int32_t* values);

}  // namespace tersenet
