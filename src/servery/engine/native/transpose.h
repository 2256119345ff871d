// Squares of W x W words, mirrored: the keys of a tile, of which scores want one dimension at a time.
#pragma once
#include "vector.h"

namespace {

#if defined(__AVX512F__)
// Neighbours at distance S change what they have of each other: W log2 W steps in all.
template <int S>
inline void exchange(vi *rows) {
  alignas(64) static constexpr auto picks = [] {
    struct {
      int32_t low[W], high[W];
    } made = {};
    for (int j = 0; j < W; j++) {
      made.low[j] = j & S ? W + j - S : j;
      made.high[j] = j & S ? W + j : j + S;
    }
    return made;
  }();
  __m512i low = _mm512_load_si512(picks.low), high = _mm512_load_si512(picks.high);
#pragma GCC unroll 16
  for (int i = 0; i < W; i++) {
    if (i & S) continue;
    __m512i a = (__m512i)rows[i], b = (__m512i)rows[i + S];
    rows[i] = (vi)_mm512_permutex2var_epi32(a, low, b);
    rows[i + S] = (vi)_mm512_permutex2var_epi32(a, high, b);
  }
}

inline void transpose(vi *rows) { exchange<1>(rows), exchange<2>(rows), exchange<4>(rows), exchange<8>(rows); }
#elif defined(__AVX2__)
inline void transpose(vi *rows) {
  __m256i pairs[W], quads[W];
  for (int i = 0; i < W; i += 2) {
    pairs[i] = _mm256_unpacklo_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
    pairs[i + 1] = _mm256_unpackhi_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
  }
  for (int i = 0; i < W; i += 4)
    for (int half = 0; half < 2; half++) {
      quads[i + 2 * half] = _mm256_unpacklo_epi64(pairs[i + half], pairs[i + half + 2]);
      quads[i + 2 * half + 1] = _mm256_unpackhi_epi64(pairs[i + half], pairs[i + half + 2]);
    }
  for (int i = 0; i < 4; i++) {
    rows[i] = (vi)_mm256_permute2x128_si256(quads[i], quads[i + 4], 0x20);
    rows[i + 4] = (vi)_mm256_permute2x128_si256(quads[i], quads[i + 4], 0x31);
  }
}
#else
inline void transpose(vi *rows) {
  int32_t words[W][W];
  memcpy(words, rows, sizeof words);
  for (int i = 0; i < W; i++)
    for (int j = 0; j < W; j++) rows[i][j] = words[j][i];
}
#endif

}  // namespace
