// Interleaved rANS: tables and the resumable decoder. The definition is src/tersenet/codec/rans.py; see docs/format.md.
#pragma once
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <vector>

namespace tersenet {

constexpr uint32_t kTotal = 4096, kLow = 1u << 16;
constexpr int kMaxSymbols = 32, kMaxStates = 64;

enum class Isa { scalar, avx2, avx512 };

// Frequencies of up to 32 symbols (sum 4096), with their alias buckets and slot maps.
struct Table {
  explicit Table(const std::vector<uint32_t>& frequencies);

  int buckets, shift;  // bucket of a slot: slot >> shift
  uint32_t freq[kMaxSymbols] = {};
  uint32_t divider[kMaxSymbols] = {};
  uint32_t own[kMaxSymbols] = {};    // freq | rank bias << 13 | symbol << 25 below the divider
  uint32_t other[kMaxSymbols] = {};  // the same from the divider on; rank = (bias + place in bucket) mod 4096
  uint32_t slot[kTotal];             // freq | rank << 13 | symbol << 25 (a frequency of 4096 fits 13 bits)
  uint16_t place[kTotal];            // slot of (symbol, rank), at first[symbol] + rank
  uint32_t first[kMaxSymbols + 1] = {};
};

// Number of interleaved states for `count` symbols.
inline int states_for(size_t count) {
  return count < 1u << 14 ? 1 : count < 1u << 16 ? 2 : count < 1u << 18 ? 16 : 64;
}

std::vector<uint8_t> encode(const uint8_t* symbols, size_t count, const std::vector<Table>& tables, const uint8_t* which);

// Decodes a chunk piece by piece. Throws std::invalid_argument when the bytes cannot hold the symbols.
class Decoder {
 public:
  Decoder(const uint8_t* data, size_t size, size_t count, const Table& table, Isa isa);
  void decode(uint8_t* out, size_t count);  // the next `count` symbols; a multiple of 64 except for the last piece
  void finish() const;                      // throws unless everything was consumed and all states are back at 2^16

  // One symbol with a table of its own, for trellis paths.
  uint8_t step(const Table& table) {
    uint32_t& x = state_[lane_];
    const uint32_t entry = table.slot[x & (kTotal - 1)];
    x = (entry & 0x1fff) * (x >> 12) + (entry >> 13 & 0xfff);
    if (x < kLow) {
      if (at_ == end_) throw std::invalid_argument("a chunk ends before its symbols do");
      x = x << 16 | *at_++;
    }
    lane_ = lane_ + 1 == states_ ? 0 : lane_ + 1;
    return static_cast<uint8_t>(entry >> 25);
  }

 private:
  const Table& table_;
  Isa isa_;
  int states_, lane_ = 0;
  uint32_t state_[kMaxStates] = {};
  std::vector<uint16_t> words_;
  const uint16_t *at_, *end_;
};

// Vector loops: decode whole rounds of `states` (16 or 64) symbols while enough words are left; return the symbols decoded.
size_t rounds_avx512(const Table& table, int states, uint32_t* state, const uint16_t*& at, const uint16_t* end, uint8_t* out,
                     size_t count);
size_t rounds_avx2(const Table& table, int states, uint32_t* state, const uint16_t*& at, const uint16_t* end, uint8_t* out,
                   size_t count);

}  // namespace tersenet
