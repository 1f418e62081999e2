// The chunks of the context-mixing coder: what lies around an integer says how it is coded. Integers only, so that every
// machine writes the same bytes.
#include "cm.hpp"

#include <algorithm>
#include <cstdlib>

#include "mixer.hpp"

namespace tersenet {

namespace {

constexpr int kTaps = 14, kPlaces = 64;
constexpr int kLargest = 65535;  // magnitudes count as this much at most

// Quarters of an octave.
int quarters(uint64_t value) {
  if (value < 4) return static_cast<int>(value);
  const int top = 63 - __builtin_clzll(value);
  return (top - 1) * 4 + static_cast<int>(value >> (top - 2) & 3);
}

// Towards zero, as integers are divided in C.
int64_t share(int64_t value, int64_t by) { return value / by; }

struct Mean {
  int32_t value = 0;
  uint16_t n = 0;
  int32_t or_else(int32_t other) const { return n ? value : other; }
  void add(int32_t number, int32_t before, int limit, const Tables& t) {
    if (n < limit) ++n;
    value = n == 1 ? (number + before) >> 1 : static_cast<int32_t>(value + (static_cast<int64_t>(number - value) * t.mean[n] >> 16));
  }
};

template <typename Way>
class Chunk {
 public:
  Chunk(const Layout& layout, size_t count, size_t start, Way& way)
      : layout_(layout), count_(count), start_(start), mixer_(layout.most, way), t_(tables()) {
    const size_t columns = std::min(layout.row, count);
    columns_.resize(columns);
    lean_columns_.resize(columns);
    channels_.resize(layout.row / layout.kernel);
    lean_channels_.resize(layout.row / layout.kernel);
  }

  // `values` are read, or written.
  void run(int32_t* values) {
    for (size_t i = 0; i < count_;) {
      const size_t length = std::min(count_ - i, layout_.row - (start_ + i) % layout_.row);
      int dead = 1;
      if (Way::kWrites)
        for (size_t j = i; j < i + length; ++j) dead &= !values[j];
      dead = mixer_.plain(dead_[was_dead_], dead, 60);
      was_dead_ = dead;
      if (dead && !Way::kWrites) std::fill_n(values + i, length, 0);
      if (!dead) line(values, i, length);
      i += length;
    }
  }

 private:
  void line(int32_t* values, size_t begin, size_t length) {
    mean_row_ = seen_ ? static_cast<int32_t>(sum_ * 256 / seen_) : 256;
    lean_row_ = 0;
    in_kernel_ = lean_kernel_ = 0;
    for (size_t i = begin; i < begin + length; ++i) {
      look(values, i, i - begin);
      const int32_t value = coded(values[i]);
      values[i] = value;
      learn(value, i - begin);
    }
  }

  // Contexts of integer i, the `done`-th that is coded of its row.
  void look(const int32_t* values, size_t i, size_t done) {
    const size_t row = layout_.row, kernel = layout_.kernel, line = layout_.line, at = (start_ + i) % row;
    const bool flat = kernel == 1;
    column_ = i % row;
    channel_ = at / kernel;
    tap_ = at % kernel;
    if (!tap_) in_kernel_ = lean_kernel_ = 0;
    const int k = place_ = static_cast<int>(std::min<size_t>(tap_, kPlaces - 1));
    const auto back = [&](size_t by, bool there) { return there && by <= i ? values[i - by] : 0; };
    const int32_t left = back(1, at >= 1), left2 = back(2, at >= 2), above = back(row, true), above2 = back(2 * row, true);
    const int32_t up = flat ? back(3, at >= 3) : back(line, tap_ >= line);
    const int32_t near = flat ? back(row + 1, at >= 1) : back(kernel, channel_ >= 1);
    const int32_t far = flat ? back(row - 1, row > 1 && at + 1 < row) : back(2 * kernel, channel_ >= 2);
    column_mean_ = columns_[column_].or_else(mean_row_);
    channel_mean_ = flat ? column_mean_ : channels_[channel_].or_else(mean_row_);
    const int32_t kernel_mean = tap_ ? static_cast<int32_t>((in_kernel_ << 8) / static_cast<int64_t>(tap_)) : mean_row_;
    const int32_t place_mean = places_[k].or_else(mean_row_);
    const uint64_t whole = std::max<uint64_t>(1, seen_ ? sum_ * 256 / seen_ : 256);
    const auto size = [](int32_t v) { return static_cast<uint64_t>(std::min<int64_t>(std::abs(static_cast<int64_t>(v)), kLargest)); };
    const uint64_t around = (3 * size(left) + 2 * size(left2) + 2 * size(above) + size(above2) + 2 * size(near) + size(far) + size(up)) * 256 / 12;
    uint64_t expected = static_cast<uint64_t>(mean_row_) * static_cast<uint64_t>(channel_mean_) / whole;
    if (!flat) expected = std::min<uint64_t>(expected, 1 << 26) * static_cast<uint64_t>(place_mean) / whole;
    expected = std::min<uint64_t>(expected, 1 << 26);
    const auto lean = [](int32_t v) { return clip(v, -127, 127) * 64; };
    const int32_t taps[kTaps] = {
        lean(flat || tap_ >= 1 ? left : 0),
        lean(flat || tap_ >= 2 ? left2 : 0),
        lean(flat ? left : up),
        lean(line > 1 ? back(line - 1, tap_ >= line) : 0),
        lean(line > 1 ? back(line + 1, tap_ > line) : 0),
        lean(flat ? left2 : back(2 * line, tap_ >= 2 * line)),
        lean(flat ? left : near),
        lean(flat ? left2 : far),
        lean(above),
        lean(above2),
        lean_columns_[column_],
        flat ? lean(up) : lean_channels_[channel_],
        lean_row_,
        tap_ ? static_cast<int32_t>(share(lean_kernel_ * 64, static_cast<int64_t>(tap_))) : lean_places_[k],
    };
    int64_t sum = 0;
    power_ = 0;
    for (int j = 0; j < kTaps; ++j) {
      taps_[j] = taps[j];
      sum += static_cast<int64_t>(filter_[k][j]) * taps[j];
      power_ += static_cast<int64_t>(taps[j]) * taps[j];
    }
    predicted_ = clip(sum >> 16, -(1 << 20), 1 << 20);
    const auto third = [](int32_t v) { return v < 0 ? 0 : v ? 2 : 1; };
    const auto seventh = [](int32_t v) { return clip(v, -3, 3) + 3; };
    const int expected_level = clip(quarters((expected + around) / 2 >> 3), 0, kLevels - 1);
    const int relative = clip(share(static_cast<int64_t>(predicted_) * 16, static_cast<int64_t>(std::max<uint64_t>(64, (whole >> 2) + 16))), -20, 20) + 20;
    const int absolute = clip(share(predicted_ + (predicted_ < 0 ? -8 : 8), 16), -15, 15) + 15;
    const int contexts[kContexts] = {
        0,
        clip(quarters(expected >> 3), 0, 63),
        clip(quarters(static_cast<uint64_t>(mean_row_) >> 3), 0, 47) * 48 + clip(quarters(static_cast<uint64_t>(column_mean_) >> 3), 0, 47),
        seventh(left) * 49 + seventh(left2) * 7 + seventh(up),
        clip(quarters(static_cast<uint64_t>(channel_mean_) >> 3), 0, 63),
        (((third(left) * 3 + third(up)) * 3 + third(above)) * 3 + third(near)) * 3 + third(left2),
        relative * 24 + clip(expected_level / 2, 0, 23),
        absolute * 10 + std::min(k, 9),
        flat ? clip(quarters(around >> 3), 0, 63) : std::min(k, 31) * 32 + clip(quarters(static_cast<uint64_t>(kernel_mean) >> 3) / 2, 0, 31),
    };
    mixer_.set(contexts, expected_level, relative);
    done_ = done;
  }

  // Zero or not, sign, number of bits in unary, then the bits after the first: three in the mixer, others alone.
  int32_t coded(int32_t value) {
    if (!mixer_.code(0, value != 0)) return 0;
    const int negative = mixer_.code(1, value < 0);
    const uint32_t size = static_cast<uint32_t>(std::abs(static_cast<int64_t>(value)));
    int bits = 1;
    while (bits < layout_.most && mixer_.code(1 + bits, Way::kWrites && size >> bits)) ++bits;
    uint32_t found = 1;
    for (int depth = 0; depth < bits - 1; ++depth) {
      const int shift = bits - 2 - depth, bit = static_cast<int>(size >> shift & 1);
      const int node = layout_.most + 1 + 7 * (bits - 2);
      found = found << 1 | static_cast<uint32_t>(depth < 3 ? mixer_.code(node + static_cast<int>(found) - 1, bit) : mixer_.plain(low_bits_[bits][shift], bit, 250));
    }
    return negative ? -static_cast<int32_t>(found) : static_cast<int32_t>(found);
  }

  void learn(int32_t value, size_t done) {
    const auto size = static_cast<int32_t>(std::min<int64_t>(std::abs(static_cast<int64_t>(value)), kLargest));
    const int32_t scaled = size << 8, lean = clip(value, -127, 127) * 64;
    const int64_t wanted = static_cast<int64_t>(lean - predicted_) * 16000 * 256;
    power_mean_[place_] += (power_ - power_mean_[place_]) >> 4;
    const int64_t gain = share(wanted, power_mean_[place_] + 32 * 64 * 64 + power_);
    for (int j = 0; j < kTaps; ++j) filter_[place_][j] = clip(filter_[place_][j] + (gain * taps_[j] >> 8), -(1 << 20), 1 << 20);
    const auto towards = [&](int32_t& mean, int n) { mean = static_cast<int32_t>(mean + (static_cast<int64_t>(lean - mean) * t_.mean[n] >> 16)); };
    towards(lean_columns_[column_], columns_[column_].n + 1);
    towards(lean_channels_[channel_], 15);
    towards(lean_row_, static_cast<int>(std::min<size_t>(done, 60)) + 3);
    towards(lean_places_[place_], 63);
    lean_kernel_ += clip(value, -127, 127);
    columns_[column_].add(scaled, column_mean_, 24, t_);
    if (layout_.kernel > 1) channels_[channel_].add(scaled, channel_mean_, 200, t_);
    places_[place_].add(scaled, scaled, 254, t_);
    mean_row_ = static_cast<int32_t>(mean_row_ + (static_cast<int64_t>(scaled - mean_row_) * t_.mean[std::min<size_t>(done + 4, 249)] >> 16));
    in_kernel_ += size;
    sum_ += static_cast<uint64_t>(size);
    if (++seen_ == 1 << 16) sum_ >>= 1, seen_ >>= 1;
  }

  const Layout layout_;
  const size_t count_, start_;
  Mixer<Way> mixer_;
  const Tables& t_;
  Slot dead_[2], low_bits_[32][32];
  int was_dead_ = 0, place_ = 0;
  size_t column_ = 0, channel_ = 0, tap_ = 0, done_ = 0;
  uint64_t sum_ = 0, seen_ = 0;
  int64_t in_kernel_ = 0, lean_kernel_ = 0, power_ = 0;
  int32_t mean_row_ = 256, lean_row_ = 0, column_mean_ = 0, channel_mean_ = 0, predicted_ = 0;
  std::vector<Mean> columns_, channels_;
  std::vector<int32_t> lean_columns_, lean_channels_;
  Mean places_[kPlaces];
  int32_t lean_places_[kPlaces] = {}, filter_[kPlaces][kTaps] = {}, taps_[kTaps] = {};
  int64_t power_mean_[kPlaces] = {};
};

}  // namespace

std::vector<uint8_t> mix_encode(const int32_t* values, size_t count, size_t start, const Layout& layout) {
  Encoding way;
  std::vector<int32_t> own(values, values + count);
  Chunk<Encoding>(layout, count, start, way).run(own.data());
  return way.finish();
}

void mix_decode(const uint8_t* data, size_t size, size_t count, size_t start, const Layout& layout, int32_t* values) {
  Decoding way(data, size);
  Chunk<Decoding>(layout, count, start, way).run(values);
  way.finish();
}

}  // namespace tersenet
