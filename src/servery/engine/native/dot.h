// The products that a panel is made of, in the best instructions that this file is compiled for.
#pragma once
#include "vector.h"

namespace {

// Sums of 4 neighbours each: sum + w[4i..4i+3] . x[4i..4i+3], exact.
// VNNI takes one operand without a sign: int8 inputs are then held with 128 added, which costs 128 times the sum of
// the weights, known when they are packed.
#if defined(__AVX512VNNI__)
constexpr int X_OFFSET = 128;
inline vi dot_signed(vi sum, vi w, vi x) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w); }
inline vi dot_unsigned(vi sum, vi w, vi x) { return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w, (__m512i)x); }
#elif defined(__AVX2__)
constexpr int X_OFFSET = 0;
// Sums of pairs fit 16 bits: |w| <= 128, |x| <= 127.
inline vi dot_unsigned(vi sum, vi w, vi x) {
  __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)x);
  return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
inline vi dot_signed(vi sum, vi w, vi x) {
  return dot_unsigned(sum, (vi)_mm256_abs_epi8((__m256i)w), (vi)_mm256_sign_epi8((__m256i)x, (__m256i)w));
}
#else
constexpr int X_OFFSET = 0;
inline vi byte_of(vi words, int at) { return (vi)((vu)words << (24 - 8 * at)) >> 24; }
inline vi dot_signed(vi sum, vi w, vi x) {
  for (int at = 0; at < 4; at++) sum += byte_of(w, at) * byte_of(x, at);
  return sum;
}
inline vi dot_unsigned(vi sum, vi w, vi x) { return dot_signed(sum, w, x); }  // w is at most 15
#endif

// Sums of 2 neighbours of bfloat16 each, added up in float32.
#if defined(__AVX512BF16__)
constexpr bool HAS_BF16_DOT = true;
inline vf dot_bf16(vf sum, vi w, vi x) { return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)x); }
#else
constexpr bool HAS_BF16_DOT = false;
inline vf dot_bf16(vf sum, vi w, vi x) {
  sum += as_float((vu)w << 16) * as_float((vu)x << 16);
  return sum + as_float((vu)w & 0xffff0000u) * as_float((vu)x & 0xffff0000u);
}
#endif

}  // namespace
