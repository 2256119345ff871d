// Vectors of W numbers on whatever this file is compiled for: 16 with AVX-512, 8 with AVX2, else 4.
//
// Everything is in a nameless namespace: a function shared by several variants would be linked once, perhaps with
// instructions that the CPU at hand lacks.
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int W = 16;
constexpr int MAX_ROWS = 6;  // of 32 registers 24 hold sums
#elif defined(__AVX2__)
constexpr int W = 8;
constexpr int MAX_ROWS = 3;  // of 16 registers 12 hold sums
#elif defined(__aarch64__)
constexpr int W = 4;
constexpr int MAX_ROWS = 6;
#else
constexpr int W = 4;
constexpr int MAX_ROWS = 3;
#endif
constexpr int NV = 4;        // vectors across a panel
constexpr int PW = NV * W;   // columns of a panel

typedef float vf __attribute__((vector_size(W * 4)));
typedef int32_t vi __attribute__((vector_size(W * 4)));
typedef uint32_t vu __attribute__((vector_size(W * 4)));
typedef uint16_t vh __attribute__((vector_size(W * 2)));
typedef int8_t vb __attribute__((vector_size(W)));
typedef uint8_t vub __attribute__((vector_size(W)));

template <class V>
inline V load(const void *from) {
  V value;
  memcpy(&value, from, sizeof value);
  return value;
}

template <class V>
inline void store(void *to, V value) {
  memcpy(to, &value, sizeof value);
}

inline vf fill(float value) { return value - vf{}; }
inline vi fill(int32_t value) { return value - vi{}; }

inline vf as_float(vu bits) { return (vf)bits; }
inline vf to_float(vi value) { return __builtin_convertvector(value, vf); }
// Compilers make one instruction of a conversion to a wider type only when told to.
#if defined(__AVX512F__)
inline vu widen(vh values) { return (vu)_mm512_cvtepu16_epi32((__m256i)values); }
inline vi widen(vb values) { return (vi)_mm512_cvtepi8_epi32((__m128i)values); }
inline vi widen(vub values) { return (vi)_mm512_cvtepu8_epi32((__m128i)values); }
inline vh narrow(vu values) { return (vh)_mm512_cvtepi32_epi16((__m512i)values); }
inline vb narrow(vi values) { return (vb)_mm512_cvtepi32_epi8((__m512i)values); }
#else
inline vu widen(vh values) { return __builtin_convertvector(values, vu); }
inline vi widen(vb values) { return __builtin_convertvector(values, vi); }
inline vi widen(vub values) { return __builtin_convertvector(values, vi); }
inline vh narrow(vu values) { return __builtin_convertvector(values, vh); }
inline vb narrow(vi values) { return __builtin_convertvector(values, vb); }
#endif

inline vf from_bf16(vh bits) { return as_float(widen(bits) << 16); }
inline vf from_i8(vb codes) { return to_float(widen(codes)); }

// Round to nearest, ties to even; what is not a number stays so.
inline vh to_bf16(vf value) {
  vu bits = (vu)value;
  vu rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  vu quiet = (bits >> 16) | 0x40u;
  vu is_nan = (vu)(value != value);
  return narrow((rounded & ~is_nan) | (quiet & is_nan));
}

inline vf select(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }
inline vf max(vf a, vf b) { return select(a > b, a, b); }
inline vf min(vf a, vf b) { return select(a < b, a, b); }
inline vf abs(vf a) { return as_float((vu)a & 0x7fffffffu); }

inline float sum_lanes(vf value) {
#if defined(__AVX512F__)
  return _mm512_reduce_add_ps((__m512)value);
#endif
  // Halves are added to halves: the order is that of a tree, whatever the width.
  float lanes[W];
  store(lanes, value);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
  return lanes[0];
}

inline float max_lanes(vf value) {
#if defined(__AVX512F__)
  return _mm512_reduce_max_ps((__m512)value);
#endif
  float lanes[W];
  store(lanes, value);
  float best = lanes[0];
  for (int i = 1; i < W; i++) best = lanes[i] > best ? lanes[i] : best;
  return best;
}

// e^x to within 2 ulp for x <= 88; 0 below -87, where e^x is no normal number. Cody-Waite reduction and the polynomial
// of degree 5 of the Cephes library (expf).
inline vf exponential(vf x) {
  vi is_tiny = x < fill(-87.0f);
  x = select(is_tiny, fill(0.0f), x);
  vf turns = (x * fill(1.44269504f) + fill(12582912.0f)) - fill(12582912.0f);
  vf r = x - turns * fill(0.693359375f);
  r = r - turns * fill(-2.12194440e-4f);
  vf p = fill(1.9875691500e-4f);
  p = p * r + fill(1.3981999507e-3f);
  p = p * r + fill(8.3334519073e-3f);
  p = p * r + fill(4.1665795894e-2f);
  p = p * r + fill(1.6666665459e-1f);
  p = p * r + fill(5.0000001201e-1f);
  p = p * r * r + r + fill(1.0f);
  vi power = (__builtin_convertvector(turns, vi) + 127) << 23;
  return select(is_tiny, fill(0.0f), p * (vf)power);
}

inline void prefetch(const void *from) { __builtin_prefetch(from, 0, 3); }

inline float bf16_to_float(uint16_t bits) {
  uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, 4);
  return value;
}

inline uint16_t float_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, 4);
  if (value != value) return (uint16_t)((bits >> 16) | 0x40);
  return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline vf load_as_float(const void *row, int32_t type, int64_t at) {
  return type == 1 ? from_bf16(load<vh>((const uint16_t *)row + at)) : load<vf>((const float *)row + at);
}

inline float one_as_float(const void *row, int32_t type, int64_t at) {
  if (type == 1) return bf16_to_float(load<uint16_t>((const uint16_t *)row + at));
  return load<float>((const float *)row + at);
}

inline void store_as(void *row, int32_t type, int64_t at, vf value) {
  if (type == 1) store((uint16_t *)row + at, to_bf16(value));
  else store((float *)row + at, value);
}

// Up to W numbers: what is beyond `count` is 0, and is not written.
inline vf load_some(const float *from, int64_t count) {
  if (count >= W) return load<vf>(from);
  vf value = {};
  memcpy(&value, from, (size_t)count * 4);
  return value;
}

inline void store_some(float *to, int64_t count, vf value) {
  if (count >= W) store(to, value);
  else memcpy(to, &value, (size_t)count * 4);
}

inline vf load_some_as_float(const void *row, int32_t type, int64_t at, int64_t count) {
  if (count >= W) return load_as_float(row, type, at);
  if (type != 1) return load_some((const float *)row + at, count);
  vh bits = {};
  memcpy(&bits, (const uint16_t *)row + at, (size_t)count * 2);
  return from_bf16(bits);
}

inline void store_some_as(void *row, int32_t type, int64_t at, int64_t count, vf value) {
  if (count >= W) return store_as(row, type, at, value);
  if (type != 1) return store_some((float *)row + at, count, value);
  vh bits = to_bf16(value);
  memcpy((uint16_t *)row + at, &bits, (size_t)count * 2);
}

inline void store_one_as(void *row, int32_t type, int64_t at, float value) {
  if (type == 1) store((uint16_t *)row + at, float_to_bf16(value));
  else store((float *)row + at, value);
}

inline int64_t round_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace
