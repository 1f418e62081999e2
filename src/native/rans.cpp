#include "rans.hpp"

#include <cstring>

namespace tersenet {

Table::Table(const std::vector<uint32_t>& frequencies) {
  if (frequencies.empty() || frequencies.size() > kMaxSymbols) throw std::invalid_argument("a table of 1 to 32 symbols is needed");
  const int n = static_cast<int>(frequencies.size());
  uint64_t total = 0;
  for (uint32_t f : frequencies) total += f;
  if (total != kTotal) throw std::invalid_argument("frequencies do not sum to 4096");
  buckets = n <= 16 ? 16 : 32;
  shift = n <= 16 ? 8 : 7;
  const uint32_t size = kTotal / buckets;
  uint32_t left[kMaxSymbols] = {}, used[kMaxSymbols] = {};
  bool done[kMaxSymbols] = {};
  for (int s = 0; s < n; ++s) left[s] = freq[s] = frequencies[s];
  const auto entry = [&](int symbol, uint32_t bias) {
    return freq[symbol] | (bias & 0xfff) << 13 | static_cast<uint32_t>(symbol) << 25;
  };
  for (;;) {  // the lowest bucket that is not full is filled by the lowest symbol that has more than a bucket left
    int b = 0, donor = 0;
    while (b < buckets && (done[b] || left[b] >= size)) ++b;
    if (b == buckets) break;
    while (done[donor] || left[donor] <= size) ++donor;
    divider[b] = left[b];
    own[b] = entry(b, used[b]);
    other[b] = entry(donor, used[donor] - left[b]);
    used[donor] += size - left[b];
    left[donor] -= size - left[b];
    done[b] = true;
  }
  for (int b = 0; b < buckets; ++b)
    if (!done[b]) {
      divider[b] = size;
      own[b] = other[b] = entry(b, used[b]);
    }
  for (int s = 0; s < n; ++s) first[s + 1] = first[s] + freq[s];
  for (uint32_t at = 0; at < kTotal; ++at) {
    const uint32_t b = at >> shift, inside = at & (size - 1);
    const uint32_t e = inside < divider[b] ? own[b] : other[b];
    const uint32_t rank = ((e >> 13 & 0xfff) + inside) & 0xfff;
    slot[at] = (e & 0x1fff) | rank << 13 | (e >> 25) << 25;
    place[first[e >> 25] + rank] = static_cast<uint16_t>(at);
  }
}

std::vector<uint8_t> encode(const uint8_t* symbols, size_t count, const std::vector<Table>& tables, const uint8_t* which) {
  const int n = states_for(count);
  std::vector<uint64_t> reciprocal(tables.size() * kMaxSymbols);  // ceil(2^64 / f): exact for x < f * 2^20
  for (size_t t = 0; t < tables.size(); ++t)
    for (int s = 0; s < kMaxSymbols; ++s)
      if (const uint32_t f = tables[t].freq[s]; f > 1) reciprocal[t * kMaxSymbols + s] = ~0ull / f + 1;
  uint32_t state[kMaxStates];
  for (int i = 0; i < n; ++i) state[i] = kLow;
  std::vector<uint16_t> words(count);
  uint16_t* at = words.data() + count;
  int lane = static_cast<int>((count - 1) % n);
  for (size_t i = count; i-- > 0;) {
    const size_t t = which ? which[i] : 0;
    const uint32_t s = symbols[i];
    if (t >= tables.size() || s >= kMaxSymbols) throw std::invalid_argument("a symbol outside its table");
    const Table& table = tables[t];
    const uint32_t f = table.freq[s];
    if (!f) throw std::invalid_argument("a symbol of frequency 0");
    uint32_t x = state[lane];
    if (x >> 20 >= f) {
      *--at = static_cast<uint16_t>(x);
      x >>= 16;
    }
    const uint32_t q = f == 1 ? x : static_cast<uint32_t>(static_cast<unsigned __int128>(reciprocal[t * kMaxSymbols + s]) * x >> 64);
    state[lane] = (q << 12) + table.place[table.first[s] + (x - q * f)];
    lane = lane ? lane - 1 : n - 1;
  }
  const size_t bytes = 2 * static_cast<size_t>(words.data() + count - at);
  std::vector<uint8_t> out(4 * n + bytes);
  std::memcpy(out.data(), state, 4 * n);  // little-endian machines only: CMake refuses others
  std::memcpy(out.data() + 4 * n, at, bytes);
  return out;
}

Decoder::Decoder(const uint8_t* data, size_t size, size_t count, const Table& table, Isa isa)
    : table_(table), isa_(isa), states_(count ? states_for(count) : 0) {
  const size_t head = 4 * static_cast<size_t>(states_);
  if (size < head || size % 2) throw std::invalid_argument("a chunk that cannot hold its states and whole words");
  std::memcpy(state_, data, head);
  for (int i = 0; i < states_; ++i)
    if (state_[i] < kLow) throw std::invalid_argument("a state is below 2^16");
  words_.resize((size - head) / 2);
  if (!words_.empty()) std::memcpy(words_.data(), data + head, size - head);
  at_ = words_.data();
  end_ = at_ + words_.size();
}

void Decoder::decode(uint8_t* out, size_t count) {
  size_t done = 0;
#if defined(__x86_64__)
  if (states_ >= 16 && lane_ == 0 && isa_ == Isa::avx512) done = rounds_avx512(table_, states_, state_, at_, end_, out, count);
  if (states_ >= 16 && lane_ == 0 && isa_ == Isa::avx2) done = rounds_avx2(table_, states_, state_, at_, end_, out, count);
#endif
  for (; done < count; ++done) out[done] = step(table_);
}

void Decoder::finish() const {
  bool whole = at_ == end_;
  for (int i = 0; i < states_; ++i) whole &= state_[i] == kLow;
  if (!whole) throw std::invalid_argument("a chunk does not end where its symbols do");
}

}  // namespace tersenet
