// Small kernels on integers and floats; their references are in src/tersenet/codec and src/tersenet/network.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace tersenet {

// out = the digits of every symbol, `group` (2 or 3) of them in base `size`, the highest first; `count` digits in all.
inline void expand(const uint8_t* symbols, size_t count, int group, int size, uint8_t* out) {
  uint8_t digits[32][3];
  for (int s = 0; s < 32; ++s)
    for (int g = group - 1, rest = s; g >= 0; --g, rest /= size) digits[s][g] = static_cast<uint8_t>(rest % size);
  size_t i = 0;
  for (; i + group <= count; i += group)
    for (int g = 0; g < group; ++g) out[i + g] = digits[symbols[i / group]][g];
  for (size_t tail = i / group, g = 0; i < count; ++i, ++g) out[i] = digits[symbols[tail]][g];
}

// The grid of a run of codes: value = (((low + place) << split | raw) - zero) * scale + offset, every operation rounded.
// Integers wrap at 32 bits, as those of torch and numpy do.
struct Line {
  int32_t low;
  int split;
  int32_t zero;
  float scale;
  const float* offset;  // or null
};
void to_fp32(const uint8_t* places, const uint32_t* raw, size_t count, const Line& line, float* out, bool plain);

// values[i] *= factors[(start + i) / each % columns]
void times_columns(float* values, size_t start, size_t count, const float* factors, size_t columns, size_t each, bool plain);

// Eight-state trellis (docs/design/0003): class of a state is its lowest bit, parity of k moves it.
constexpr uint8_t kNext[8][2] = {{0, 1}, {3, 2}, {5, 4}, {6, 7}, {1, 0}, {2, 3}, {4, 5}, {7, 6}};

// |k| is below 2^30.
inline int32_t trellis_code(int32_t k, bool odd, bool plain) {
  if (!odd) return 2 * k;
  return plain ? 2 * k - 1 : 2 * k - (k > 0) + (k < 0);
}

// Indices and states of a path; false if the codes are none.
bool trellis_indices(const int32_t* codes, size_t count, bool plain, int32_t* indices, uint8_t* states);

// Rounds every row from left to right: code = rint((w + alpha[j] * A + beta[j] * S) / scale), A and S the sums of the errors
// so far in the kernel, an error `decay` times as much with every column, and in the row. `rows` x `columns`, kernels of
// `kernel` columns; false if a code is not below 2^31.
bool round_with_feedback(const float* weight, size_t rows, size_t columns, float scale, size_t kernel, float decay,
                         const float* alpha, const float* beta, int32_t* codes);

// A categorical distribution over codes, in units of the step: t = step / sigma, the ends of nested ranges from the inmost
// on, and the mask of what each adds to the one before.
constexpr int kMostRings = 16;
struct Rings {
  float step, t;
  std::vector<float> masks;
  std::vector<int32_t> ends;
};
const char* wrong(const Rings& rings);  // what is wrong with them, or null
// out = step * mode of every value.
void round_to_mode(const float* values, size_t count, const Rings& rings, float* out, bool plain);
// `out` is the gradient of the values (`straight`: `grads` inside the range, 0 outside), the sums are those of `grads * code`, of the gradient by log t,
// of `out * value / step`, and of the gradient by every mask.
struct ModeSums {
  double by_code, by_log_t, by_u_times_u, by_masks[kMostRings];
};
ModeSums mode_gradient(const float* values, const float* grads, size_t count, const Rings& rings, bool straight, float* out,
                       bool plain);

// Fixed-width fields, least significant bit first: bytes of `count` fields of `width` bits.
inline size_t packed_size(size_t count, int width) {
  size_t bits;
  if (__builtin_mul_overflow(count, static_cast<size_t>(width), &bits)) throw std::invalid_argument("too many fields");
  return bits / 8 + (bits % 8 != 0);
}
std::vector<uint8_t> pack(const uint32_t* values, size_t count, int width);
void unpack(const uint8_t* data, size_t count, int width, uint32_t* values);

}  // namespace tersenet
