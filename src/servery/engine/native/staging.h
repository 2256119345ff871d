// Inputs of a linear layer as its kernel reads them: aligned, padded to whole steps with zeros, rounded where need be.
#pragma once
#include <math.h>

#include "dot.h"
#include "kernels.h"
#include "rows.h"

namespace {

// What a row of x becomes, and how many bytes it takes, a multiple of 64.
inline int32_t staged_type(const NativeLinear &linear, int32_t x_type) {
  if (linear.kind == KIND_I8 || linear.kind == KIND_I4) return TYPE_I8;
  return linear.kind == KIND_BF16 && x_type == TYPE_BF16 && HAS_BF16_DOT ? TYPE_BF16 : TYPE_F32;
}

inline int64_t staged_stride(const NativeLinear &linear, int32_t type) {
  int64_t size = type == TYPE_F32 ? 4 : type == TYPE_BF16 ? 2 : 1;
  // A stride that is no multiple of a page, so that the rows of a tile do not compete for the same lines of the cache.
  return round_up(linear.k * size + 8, 64) + 64;
}

inline vi rounded(vf value) {
  // To nearest, ties to even; exact for what rounds to +-127.
  return __builtin_convertvector((value + fill(12582912.0f)) - fill(12582912.0f), vi);
}

// Codes of `count` numbers, from -127 to 127 with X_OFFSET added if `is_offset`, and their sum; returns the scale:
// the largest magnitude / 127.
inline float round_codes(const void *x, int32_t type, int64_t from, int64_t count, bool is_offset, char *codes,
                         int32_t *sum) {
  int64_t whole = count / W * W;
  vf largest = {};
  for (int64_t i = 0; i < whole; i += W) largest = max(abs(load_as_float(x, type, from + i)), largest);
  float top = max_lanes(largest);
  for (int64_t i = whole; i < count; i++) {
    float magnitude = fabsf(one_as_float(x, type, from + i));
    top = magnitude > top ? magnitude : top;
  }
  float scale = top / 127.0f;
  scale = scale > 1.17549435e-38f ? scale : 1.17549435e-38f;
  int offset = is_offset ? X_OFFSET : 0;
  vi sums = {};
  for (int64_t i = 0; i < whole; i += W) {
    vi code = rounded(load_as_float(x, type, from + i) / fill(scale));
    sums += code;
    store(codes + i, narrow(code + offset));
  }
  int32_t total = 0;
  for (int lane = 0; lane < W; lane++) total += sums[lane];
  for (int64_t i = whole; i < count; i++) {
    int32_t code = (int32_t)rintf(one_as_float(x, type, from + i) / scale);
    total += code;
    codes[i] = (char)(code + offset);
  }
  *sum = total;
  return scale;
}

// A row with a number that is not finite: all its outputs shall say so.
inline bool is_finite_row(const void *x, int32_t type, int64_t from, int64_t count) {
  vf zero = {};
  int64_t i = 0;
  for (; i + W <= count; i += W) zero += load_as_float(x, type, from + i) * fill(0.0f);
  float total = sum_lanes(zero);
  for (; i < count; i++) total += one_as_float(x, type, from + i) * 0.0f;
  return total == 0.0f;
}

inline void stage_codes(const LinearCall &call, int64_t row, char *to) {
  const NativeLinear &linear = *call.linear;
  const NativeRows &x = call.from;
  int64_t groups = linear.kind == KIND_I4 ? linear.k / linear.group : 1, size = linear.k / groups;
  bool is_finite = is_finite_row(x.data, x.type, row * x.stride, linear.k);
  for (int64_t g = 0; g < groups; g++) {
    int64_t at = row * groups + g;
    if (is_finite) {
      call.x.scales[at] = round_codes(x.data, x.type, row * x.stride + g * size, size, linear.kind == KIND_I8,
                                      to + g * size, call.x.sums + at);
    } else {
      memset(to + g * size, 0, (size_t)size);
      call.x.scales[at] = NAN;
      call.x.sums[at] = 0;
    }
  }
}

inline void stage_values(const LinearCall &call, int64_t row, char *to) {
  const NativeRows &x = call.from;
  int64_t k = call.linear->k, from = row * x.stride, i = 0;
  if (x.type == call.x.type) {
    int64_t size = x.type == TYPE_F32 ? 4 : 2;
    memcpy(to, (const char *)x.data + from * size, (size_t)(k * size));
    return;
  }
  for (; i + W <= k; i += W) store_as(to, call.x.type, i, load_as_float(x.data, x.type, from + i));
  for (; i < k; i++) store_one_as(to, call.x.type, i, one_as_float(x.data, x.type, from + i));
}

void stage_rows(const LinearCall &call, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    char *to = (char *)call.x.data + row * call.x.stride;
    if (call.maker.making != MADE_ALREADY) make_row(call, row);
    if (call.x.type == TYPE_I8) stage_codes(call, row, to);
    else stage_values(call, row, to);
    int64_t size = call.linear->k * (call.x.type == TYPE_F32 ? 4 : call.x.type == TYPE_BF16 ? 2 : 1);
    memset(to + size, 0, (size_t)(call.x.stride - size));
  }
}

}  // namespace
