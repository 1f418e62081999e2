// AVX-512 (VBMI2): the whole decode table lives in registers, one permute per look-up, no gather.
#if defined(__x86_64__)
#include <immintrin.h>

#include "rans.hpp"

namespace tersenet {
namespace {

template <int kVectors, bool kWide>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt"))) size_t rounds(const Table& table, uint32_t* state,
                                                                                    const uint16_t*& at, const uint16_t* end,
                                                                                    uint8_t* out, size_t count) {
  const __m512i divider = _mm512_loadu_si512(table.divider), divider2 = _mm512_loadu_si512(table.divider + 16);
  const __m512i own = _mm512_loadu_si512(table.own), own2 = _mm512_loadu_si512(table.own + 16);
  const __m512i other = _mm512_loadu_si512(table.other), other2 = _mm512_loadu_si512(table.other + 16);
  const __m512i slots = _mm512_set1_epi32(0xfff), places = _mm512_set1_epi32(kWide ? 127 : 255);
  const __m512i low = _mm512_set1_epi32(kLow), freqs = _mm512_set1_epi32(0x1fff);
  __m512i x[kVectors];
  for (int v = 0; v < kVectors; ++v) x[v] = _mm512_loadu_si512(state + 16 * v);
  size_t done = 0;
  while (done + 16 * kVectors <= count && end - at >= 16 * kVectors) {
    for (int v = 0; v < kVectors; ++v) {
      const __m512i slot = _mm512_and_si512(x[v], slots);
      const __m512i bucket = _mm512_srli_epi32(slot, kWide ? 7 : 8);
      const __m512i inside = _mm512_and_si512(slot, places);
      __m512i d, a, b;
      if constexpr (kWide) {
        d = _mm512_permutex2var_epi32(divider, bucket, divider2);
        a = _mm512_permutex2var_epi32(own, bucket, own2);
        b = _mm512_permutex2var_epi32(other, bucket, other2);
      } else {
        d = _mm512_permutexvar_epi32(bucket, divider);
        a = _mm512_permutexvar_epi32(bucket, own);
        b = _mm512_permutexvar_epi32(bucket, other);
      }
      const __m512i e = _mm512_mask_blend_epi32(_mm512_cmplt_epu32_mask(inside, d), b, a);
      const __m512i rank = _mm512_and_si512(_mm512_add_epi32(_mm512_srli_epi32(e, 13), inside), slots);
      x[v] = _mm512_add_epi32(_mm512_mullo_epi32(_mm512_and_si512(e, freqs), _mm512_srli_epi32(x[v], 12)), rank);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + done + 16 * v), _mm512_cvtepi32_epi8(_mm512_srli_epi32(e, 25)));
      const __mmask16 short_of = _mm512_cmplt_epu32_mask(x[v], low);
      const __m256i next = _mm256_maskz_expand_epi16(short_of, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
      x[v] = _mm512_mask_or_epi32(x[v], short_of, _mm512_slli_epi32(x[v], 16), _mm512_cvtepu16_epi32(next));
      at += _mm_popcnt_u32(short_of);
    }
    done += 16 * kVectors;
  }
  for (int v = 0; v < kVectors; ++v) _mm512_storeu_si512(state + 16 * v, x[v]);
  return done;
}

}  // namespace

size_t rounds_avx512(const Table& table, int states, uint32_t* state, const uint16_t*& at, const uint16_t* end, uint8_t* out,
                     size_t count) {
  if (states == 64)
    return table.buckets == 32 ? rounds<4, true>(table, state, at, end, out, count)
                               : rounds<4, false>(table, state, at, end, out, count);
  return table.buckets == 32 ? rounds<1, true>(table, state, at, end, out, count)
                             : rounds<1, false>(table, state, at, end, out, count);
}

}  // namespace tersenet
#endif  // __x86_64__
