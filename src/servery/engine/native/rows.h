// What stands between the linear layers, row by row: norms, gates, embeddings. Rows of the residual stream are float32.
#pragma once
#include <math.h>

#include "kernels.h"
#include "pack.h"

namespace {

inline float *float_row(const NativeRows &rows, int64_t row) { return (float *)rows.data + row * rows.stride; }

inline float sum_of_squares(const float *x, int64_t size) {
  vf sum = {};
  for (int64_t i = 0; i < size; i += W) {
    vf value = load_some(x + i, size - i);
    sum += value * value;
  }
  return sum_lanes(sum);
}

inline void scale_row(const float *x, const float *weight, float factor, int64_t size, float *y) {
  for (int64_t i = 0; i < size; i += W) {
    vf value = load_some(x + i, size - i) * fill(factor);
    store_some(y + i, size - i, weight ? value * load_some(weight + i, size - i) : value);
  }
}

// arXiv 1910.07467, with the weight multiplied by sqrt(size) and eps by size.
inline void rms_row(const float *x, const float *weight, float constant, int64_t size, float *y) {
  scale_row(x, weight, 1.0f / sqrtf(sum_of_squares(x, size) + constant), size, y);
}

// arXiv 1607.06450.
inline void centered_row(const float *x, const float *weight, float constant, int64_t size, float *y) {
  vf sum = {};
  for (int64_t i = 0; i < size; i += W) sum += load_some(x + i, size - i);
  float mean = sum_lanes(sum) / (float)size;
  for (int64_t i = 0; i < size; i += W) store_some(y + i, size - i, load_some(x + i, size - i) - fill(mean));
  scale_row(y, weight, 1.0f / sqrtf(sum_of_squares(y, size) / (float)size + constant), size, y);
}

// `y` may be `x`.
inline void norm_row(const NativeNorm &norm, const float *x, int64_t size, float *y) {
  if (norm.kind == NORM_RMS) rms_row(x, norm.weight, norm.constant, size, y);
  else if (norm.kind == NORM_CENTERED) centered_row(x, norm.weight, norm.constant, size, y);
  else scale_row(x, nullptr, norm.constant, size, y);
}

// 1 / (1 + e^-x); below -87 where e^-x has no float32 it is that of -87, which is nearly the smallest there is.
inline vf sigmoid(vf x) {
  x = select(x < fill(-87.0f), fill(-87.0f), x);
  return fill(1.0f) / (fill(1.0f) + exponential(fill(0.0f) - x));
}

// x sigmoid(x), or x (1 + tanh(z)) / 2 with z = sqrt(2 / pi) (x + 0.044715 x^3), which is x sigmoid(2 z).
inline vf activated(vf x, int32_t activation) {
  if (activation == ACTIVATION_SILU) return x * sigmoid(x);
  return x * sigmoid(x * (fill(1.5957691216f) + fill(0.0713548163f) * x * x));
}

inline void gate_row(float *gates, int64_t size, int32_t activation) {
  for (int64_t i = 0; i < size; i += W) {
    vf gate = load_some(gates + i, size - i), factor = load_some(gates + size + i, size - i);
    store_some(gates + i, size - i, activated(gate, activation) * factor);
  }
}

inline void make_row(const LinearCall &call, int64_t row) {
  float *to = float_row(call.from, row);
  if (call.maker.making == MADE_BY_GATE) gate_row(to, call.linear->k, call.maker.activation);
  else norm_row(*call.maker.norm, float_row(call.maker.of, row), call.linear->k, to);
}

void norm_rows(const NormCall &call, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; row++) {
    float *x = float_row(call.x, row);
    norm_row(*call.norm, x, call.size, x);
    for (int64_t i = 0; i < call.size; i += W) {
      int64_t at = row * call.y.stride + i, left = call.size - i;
      vf value = load_some(x + i, left);
      if (call.adds) value += load_some_as_float(call.y.data, call.y.type, at, left);
      store_some_as(call.y.data, call.y.type, at, left, value);
    }
  }
}

void embed_rows(const EmbedCall &call, int64_t begin, int64_t end) {
  const NativeModel &model = *call.model;
  const NativeRows &rows = call.step->given.data ? call.step->given : model.embedding_rows;
  if (model.embedding) unpack_rows({model.embedding, call.step->ids, call.y}, begin, end);
  for (int64_t row = begin; row < end; row++) {
    float *to = float_row(call.y, row);
    int64_t from = (call.step->given.data ? row : call.step->ids[row]) * rows.stride;
    for (int64_t i = 0; i < model.hidden_size; i += W) {
      int64_t left = model.hidden_size - i;
      vf value = model.embedding ? load_some(to + i, left) : load_some_as_float(rows.data, rows.type, from + i, left);
      store_some(to + i, left, value * fill(model.embedding_scale));
    }
  }
}

}  // namespace
