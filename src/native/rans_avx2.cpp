// AVX2: the same tables, looked up by permutes of 8 entries and blends.
#if defined(__x86_64__)
#include <immintrin.h>

#include <array>

#include "rans.hpp"

namespace tersenet {
namespace {

// For each of 256 masks: the byte shuffle that hands the next 16-bit words to the lanes whose bit is set.
const auto kExpand = [] {
  std::array<std::array<uint8_t, 16>, 256> shuffles{};
  for (int mask = 0; mask < 256; ++mask)
    for (int lane = 0, word = 0; lane < 8; ++lane) {
      const bool set = mask >> lane & 1;
      shuffles[mask][2 * lane] = set ? static_cast<uint8_t>(2 * word) : 0x80;
      shuffles[mask][2 * lane + 1] = set ? static_cast<uint8_t>(2 * word + 1) : 0x80;
      word += set;
    }
  return shuffles;
}();

template <bool kWide>
__attribute__((target("avx2"), always_inline)) inline __m256i look_up(const __m256i* parts, __m256i bucket) {
  const __m256 bit3 = _mm256_castsi256_ps(_mm256_slli_epi32(bucket, 28));
  const auto half = [&](int i) __attribute__((target("avx2"))) {
    return _mm256_blendv_ps(_mm256_castsi256_ps(_mm256_permutevar8x32_epi32(parts[i], bucket)),
                            _mm256_castsi256_ps(_mm256_permutevar8x32_epi32(parts[i + 1], bucket)), bit3);
  };
  if constexpr (!kWide) return _mm256_castps_si256(half(0));
  const __m256 bit4 = _mm256_castsi256_ps(_mm256_slli_epi32(bucket, 27));
  return _mm256_castps_si256(_mm256_blendv_ps(half(0), half(2), bit4));
}

template <int kVectors, bool kWide>
__attribute__((target("avx2,popcnt"))) size_t rounds(const Table& table, uint32_t* state, const uint16_t*& at,
                                                     const uint16_t* end, uint8_t* out, size_t count) {
  __m256i divider[4], own[4], other[4];
  for (int i = 0; i < 4; ++i) {
    divider[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table.divider) + i);
    own[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table.own) + i);
    other[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(table.other) + i);
  }
  const __m256i slots = _mm256_set1_epi32(0xfff), places = _mm256_set1_epi32(kWide ? 127 : 255);
  const __m256i freqs = _mm256_set1_epi32(0x1fff), zero = _mm256_setzero_si256();
  const __m256i bytes = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12, -1, -1, -1,
                                         -1, -1, -1, -1, -1, -1, -1, -1, -1);
  __m256i x[kVectors];
  for (int v = 0; v < kVectors; ++v) x[v] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(state) + v);
  size_t done = 0;
  while (done + 8 * kVectors <= count && end - at >= 8 * kVectors) {
    for (int v = 0; v < kVectors; ++v) {
      const __m256i slot = _mm256_and_si256(x[v], slots);
      const __m256i bucket = _mm256_srli_epi32(slot, kWide ? 7 : 8);
      const __m256i inside = _mm256_and_si256(slot, places);
      const __m256i below = _mm256_cmpgt_epi32(look_up<kWide>(divider, bucket), inside);
      const __m256i e = _mm256_blendv_epi8(look_up<kWide>(other, bucket), look_up<kWide>(own, bucket), below);
      const __m256i rank = _mm256_and_si256(_mm256_add_epi32(_mm256_srli_epi32(e, 13), inside), slots);
      x[v] = _mm256_add_epi32(_mm256_mullo_epi32(_mm256_and_si256(e, freqs), _mm256_srli_epi32(x[v], 12)), rank);
      const __m256i symbols = _mm256_shuffle_epi8(_mm256_srli_epi32(e, 25), bytes);
      const uint64_t eight = static_cast<uint32_t>(_mm256_extract_epi32(symbols, 0)) |
                             static_cast<uint64_t>(static_cast<uint32_t>(_mm256_extract_epi32(symbols, 4))) << 32;
      __builtin_memcpy(out + done + 8 * v, &eight, 8);
      const __m256i short_of = _mm256_cmpeq_epi32(_mm256_srli_epi32(x[v], 16), zero);
      const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(short_of));
      const __m128i next = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at)),
                                            _mm_loadu_si128(reinterpret_cast<const __m128i*>(kExpand[mask].data())));
      const __m256i filled = _mm256_or_si256(_mm256_slli_epi32(x[v], 16), _mm256_cvtepu16_epi32(next));
      x[v] = _mm256_blendv_epi8(x[v], filled, short_of);
      at += _mm_popcnt_u32(static_cast<unsigned>(mask));
    }
    done += 8 * kVectors;
  }
  for (int v = 0; v < kVectors; ++v) _mm256_storeu_si256(reinterpret_cast<__m256i*>(state) + v, x[v]);
  return done;
}

}  // namespace

size_t rounds_avx2(const Table& table, int states, uint32_t* state, const uint16_t*& at, const uint16_t* end, uint8_t* out,
                   size_t count) {
  if (states == 64)
    return table.buckets == 32 ? rounds<8, true>(table, state, at, end, out, count)
                               : rounds<8, false>(table, state, at, end, out, count);
  return table.buckets == 32 ? rounds<2, true>(table, state, at, end, out, count)
                             : rounds<2, false>(table, state, at, end, out, count);
}

}  // namespace tersenet
#endif  // __x86_64__
