// What context mixing is made of: tables, the binary arithmetic coder, and the mixer. The definition is
// src/tersenet/codec/mixing.py; see docs/format.md.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace tersenet {

constexpr int kContexts = 9, kInputs = 12, kLevels = 64;
constexpr int kSizes[kContexts] = {1, 64, 48 * 48, 343, 64, 243, 41 * 24, 31 * 10, 1024};
constexpr int kHeaviest = (1 << 19) - 1;  // weights are in 1/65536

struct Slot {
  uint16_t p = 32768, n = 0;  // probability of a 1 in 1/65536, and how often it was updated
  void update(int bit, int rate, int limit) {
    p = static_cast<uint16_t>(p + (((bit ? 65535 : 0) - p) * rate >> 16));
    if (n < limit) ++n;
  }
};

// Logarithms of odds are to base 2, in 1/256.
struct Tables {
  uint16_t squash[8192];
  int16_t stretch[4096];
  int32_t rate[256], trust[256], slow[256], mean[256];
  int32_t learn[512];

  Tables() {
    constexpr uint64_t kOne = 1ull << 30;
    constexpr uint64_t kRoots[8] = {1518500250, 1276901417, 1170923762, 1121280436, 1097253708, 1085434106, 1079572136, 1076653033};
    for (int y = 0; y <= 4096; ++y) {  // 2^(y / 256), from the roots 2^(1/2), 2^(1/4) ...
      uint64_t power = kOne;
      for (int i = 0; i < 8; ++i)
        if (y >> (7 - i) & 1) power = (power * kRoots[i] + kOne / 2) >> 30;
      power <<= y >> 8;
      const auto p = static_cast<int>(std::min<uint64_t>(65535, ((power << 16) + (power + kOne) / 2) / (power + kOne)));
      if (y < 4096) squash[4096 + y] = static_cast<uint16_t>(p);
      squash[4096 - y] = static_cast<uint16_t>(65536 - p);
    }
    for (int i = 0, x = -4096; i < 4096; ++i) {
      while (squash[x + 4096] < 16 * i + 8) ++x;
      stretch[i] = static_cast<int16_t>(x);
    }
    for (int n = 0; n < 256; ++n) {
      rate[n] = 131072 / (2 * n + 3);
      trust[n] = 512 * n / (2 * n + 3);
      slow[n] = 65536 / (n + 20);
      mean[n] = 65536 / (n + 1);
    }
    for (int n = 0; n < 512; ++n) learn[n] = 6 + 200 / (n + 8);
  }
};

inline const Tables& tables() {
  static const Tables made;
  return made;
}

class Encoding {
 public:
  static constexpr bool kWrites = true;
  int code(int p, int bit) {
    const uint32_t middle = split(p);
    (bit ? high_ : low_) = bit ? middle : middle + 1;
    for (; !((low_ ^ high_) >> 24); low_ <<= 8, high_ = high_ << 8 | 255) out_.push_back(static_cast<uint8_t>(high_ >> 24));
    return bit;
  }
  std::vector<uint8_t> finish() {
    const auto [last, bytes] = tail(low_, high_);
    for (int i = 0; i < bytes; ++i) out_.push_back(static_cast<uint8_t>(last >> (24 - 8 * i)));
    return std::move(out_);
  }
  // The fewest bytes (zeros follow) of a number between the two.
  static std::pair<uint32_t, int> tail(uint32_t low, uint32_t high) {
    for (int bytes = 0; bytes < 4; ++bytes) {
      const uint64_t unit = 1ull << (32 - 8 * bytes), number = (low + unit - 1) / unit * unit;
      if (number <= high) return {static_cast<uint32_t>(number), bytes};
    }
    return {low, 4};
  }

 protected:
  uint32_t split(int p) const {
    const uint32_t range = high_ - low_, share = static_cast<uint32_t>(p);
    return low_ + (range >> 16) * share + ((range & 0xffff) * share >> 16);
  }
  uint32_t low_ = 0, high_ = 0xffffffff;
  std::vector<uint8_t> out_;
};

class Decoding : Encoding {
 public:
  static constexpr bool kWrites = false;
  Decoding(const uint8_t* data, size_t size) : data_(data), size_(size) {
    for (int i = 0; i < 4; ++i) number_ = number_ << 8 | next();
  }
  int code(int p, int) {
    const uint32_t middle = split(p);
    const int bit = number_ <= middle;
    (bit ? high_ : low_) = bit ? middle : middle + 1;
    for (; !((low_ ^ high_) >> 24); low_ <<= 8, high_ = high_ << 8 | 255) number_ = number_ << 8 | next();
    return bit;
  }
  void finish() const {
    const auto [last, bytes] = tail(low_, high_);
    if (at_ - 4 + static_cast<size_t>(bytes) != size_ || number_ != last)
      throw std::invalid_argument("a chunk does not end where its integers do");
  }

 private:
  uint32_t next() { return at_ < size_ ? data_[at_++] : (++at_, 0); }
  const uint8_t* data_;
  size_t size_, at_ = 0;
  uint32_t number_ = 0;
};

inline int clip(int64_t value, int low, int high) { return static_cast<int>(std::min<int64_t>(high, std::max<int64_t>(low, value))); }

// What decisions are predicted from: slots of every context, weights of two mixers, and a last correction.
template <typename Way>
class Mixer {
 public:
  Mixer(int most, Way& way) : nodes_(std::max(2, most + 1 + 7 * (most - 1))), way_(way), t_(tables()) {
    for (int i = 0; i < kContexts; ++i) slots_[i].resize(static_cast<size_t>(kSizes[i]) * nodes_);
    for (int set = 0; set < 2; ++set) {
      const size_t rows = static_cast<size_t>(nodes_) * (set ? kLevels : 1);
      used_[set].resize(rows);
      weights_[set].resize(rows * kInputs);
      for (size_t i = 0; i < weights_[set].size(); ++i) weights_[set][i] = i % kInputs < kContexts ? 7000 : 0;
    }
    corrected_.resize(static_cast<size_t>(nodes_) * 41 * 33);
    for (size_t i = 0; i < corrected_.size(); ++i)
      corrected_[i].p = t_.squash[4096 + (static_cast<int>(i % 33) - 16) * 128];
  }

  void set(const int* contexts, int level, int lean) {
    for (int i = 0; i < kContexts; ++i) here_[i] = slots_[i].data() + static_cast<size_t>(contexts[i]) * nodes_;
    level_ = level;
    lean_ = lean;
  }

  int code(int node, int bit) {
    const Tables& t = t_;
    int32_t x[kInputs] = {};  // those of the contexts, a constant, and zeros
    Slot* slots[kContexts];
    for (int i = 0; i < kContexts; ++i) {
      const Slot slot = *(slots[i] = here_[i] + node);
      x[i] = t.stretch[slot.p >> 4] * t.trust[slot.n] >> 8;
    }
    x[kContexts] = 256;
    int32_t* weights[2];
    uint16_t* used[2];
    int mixed[2];
    for (int set = 0; set < 2; ++set) {
      const size_t row = set ? static_cast<size_t>(node) * kLevels + level_ : node;
      weights[set] = weights_[set].data() + row * kInputs;
      used[set] = &used_[set][row];
      int32_t sum = 0;
      for (int i = 0; i < kInputs; ++i) sum += (weights[set][i] >> 4) * x[i];
      mixed[set] = std::min(4095, std::max(-4096, sum >> 12));
    }
    const int both = (mixed[0] + mixed[1]) >> 1, place = clip(both + 2048, 0, 4095), inside = place & 127;
    Slot* step = &corrected_[(static_cast<size_t>(node) * 41 + lean_) * 33 + (place >> 7)];
    const int second = (step[0].p * (128 - inside) + step[1].p * inside) >> 7;
    bit = way_.code(clip((3 * t_.squash[both + 4096] + second) >> 2, 2, 65534), bit);
    for (Slot* slot : slots) slot->update(bit, t.rate[slot->n], 250);
    Slot& nearest = step[inside >= 64];
    nearest.update(bit, t_.slow[nearest.n], 200);
    for (int set = 0; set < 2; ++set) {
      const int32_t error = ((bit << 16) - t.squash[mixed[set] + 4096]) * t.learn[*used[set]] >> 6;
      if (*used[set] < 511) ++*used[set];
      for (int i = 0; i < kInputs; ++i)
        weights[set][i] = std::min(kHeaviest, std::max(-kHeaviest, weights[set][i] + ((x[i] * error + (1 << 11)) >> 12)));
    }
    return bit;
  }

  // A decision that one slot alone predicts.
  int plain(Slot& slot, int bit, int limit) {
    bit = way_.code(clip(slot.p, 32, 65504), bit);
    slot.update(bit, t_.rate[slot.n], limit);
    return bit;
  }

 private:
  int nodes_, level_ = 0, lean_ = 0;
  Way& way_;
  const Tables& t_;
  std::vector<Slot> slots_[kContexts], corrected_;
  Slot* here_[kContexts] = {};
  std::vector<int32_t> weights_[2];
  std::vector<uint16_t> used_[2];
};

}  // namespace tersenet
