// Queries and keys between projection and attention: norms of heads, rotation, and the way into the KV cache.
#pragma once
#include "rows.h"

namespace {

// Dimension i turns with i + size / 2 (arXiv 2104.09864); the sines of the first half are stored negated.
inline void rotate_head(float *head, int64_t size, const NativeRows &angles, int64_t position) {
  int64_t half = size / 2, cosines = position * angles.stride, sines = cosines + size;
  for (int64_t i = 0; i < half; i += W) {
    int64_t left = half - i;
    auto angle = [&](int64_t at) { return load_some_as_float(angles.data, angles.type, at + i, left); };
    vf first = load_some(head + i, left), second = load_some(head + half + i, left);
    store_some(head + i, left, first * angle(cosines) + second * angle(sines));
    store_some(head + half + i, left, second * angle(cosines + half) + first * angle(sines + half));
  }
}

inline void norm_heads(const NativeLayer &layer, float *heads) {
  const NativeHeadNorm &norm = layer.head_norm;
  int64_t size = layer.attention.cache.head_dim, queries = layer.attention.heads * size;
  int64_t keys = layer.attention.cache.kv_heads * size;
  if (norm.is_wide) {
    rms_row(heads, norm.weight, norm.query_constant, queries, heads);
    rms_row(heads + queries, norm.weight + queries, norm.key_constant, keys, heads + queries);
    return;
  }
  for (int64_t at = 0; at < queries + keys; at += size)
    rms_row(heads + at, norm.weight + at, at < queries ? norm.query_constant : norm.key_constant, size, heads + at);
}

// Codes of a head and their scale: the largest magnitude / 127, rounded to bfloat16 before it divides. What is not
// finite shows in the scale.
inline uint16_t code_head(const float *values, int64_t size, int8_t *codes) {
  vf largest = {}, zero = {};
  for (int64_t i = 0; i < size; i += W) {
    vf value = load<vf>(values + i);
    largest = max(abs(value), largest);
    zero += value * fill(0.0f);
  }
  if (sum_lanes(zero) != 0.0f) {
    memset(codes, 0, (size_t)size);
    return float_to_bf16(NAN);
  }
  float scale = max_lanes(largest) / 127.0f;
  uint16_t bits = float_to_bf16(scale > 1.17549435e-38f ? scale : 1.17549435e-38f);
  vf divisor = fill(bf16_to_float(bits)), shift = fill(12582912.0f);
  // Adding and subtracting 1.5 2^23 rounds to nearest, ties to even.
  for (int64_t i = 0; i < size; i += W)
    store(codes + i, narrow(__builtin_convertvector((load<vf>(values + i) / divisor + shift) - shift, vi)));
  return bits;
}

inline void store_head(const NativeCache &cache, int64_t at, const float *values) {
  int64_t size = cache.head_dim;
  if (cache.type == TYPE_I8) cache.scales[at] = code_head(values, size, (int8_t *)cache.data + at * size);
  else
    for (int64_t i = 0; i < size; i += W) store_as(cache.data, cache.type, at * size + i, load<vf>(values + i));
}

void place_heads(const HeadsCall &call, int64_t begin, int64_t end) {
  const NativeLayer &layer = *call.layer;
  const NativeCache &cache = layer.attention.cache;
  int64_t size = cache.head_dim, rotating = layer.attention.heads + cache.kv_heads;
  for (int64_t token = begin; token < end; token++) {
    float *heads = float_row(call.qkv, token);
    if (layer.head_norm.weight && !layer.head_norm.is_late) norm_heads(layer, heads);
    for (int64_t h = 0; h < rotating; h++)
      rotate_head(heads + h * size, size, call.step->angles[layer.angles], call.step->positions[token]);
    if (layer.head_norm.weight && layer.head_norm.is_late) norm_heads(layer, heads);
    // Keys, then values, lie there as they do in a slot.
    const float *keys = heads + layer.attention.heads * size;
    for (int64_t i = 0; i < 2 * cache.kv_heads; i++)
      store_head(cache, call.step->slots[token] * 2 * cache.kv_heads + i, keys + i * size);
  }
}

}  // namespace
