// Weights into panels and back; see linear.h for the layouts.
#pragma once
#include "linear.h"
#include "transpose.h"

namespace {

constexpr int64_t PACK_K = 64;       // columns that are moved at a time, so that what is read and written stays in the cache
constexpr int64_t PACK_WORDS = 256;  // the same of words that only change their places

inline const char *row_at(const NativeRows &rows, int64_t row, int64_t item_bytes) {
  return (const char *)rows.data + row * rows.stride * item_bytes;
}

// Four bytes of a row, which stand together in a panel, after the other; those of the next row lie beside them.
inline void scatter_words(const char *row, int64_t words, char *to) {
  for (int64_t i = 0; i < words; i++) memcpy(to + i * PW * 4, row + i * 4, 4);
}

// Words [begin, end) of W rows from `rows` on, mirrored in squares, to `to`, where the first word of the first row goes.
inline void move_squares(const char *rows, int64_t row_bytes, int64_t begin, int64_t end, char *to) {
  for (int64_t word = begin; word < end; word += W) {
    vi square[W];
    for (int i = 0; i < W; i++) square[i] = load<vi>(rows + i * row_bytes + word * 4);
    transpose(square);
    for (int i = 0; i < W; i++) store(to + (word + i) * PW * 4, square[i]);
  }
}

// The words of rows that are stored as they are packed change their places.
inline void move_words(const char *rows, int64_t row_bytes, int64_t columns, int64_t words, char *panel) {
  int64_t whole = columns / W * W, square = words / W * W;
  for (int64_t begin = 0; begin < square; begin += PACK_WORDS)
    for (int64_t c = 0; c < whole; c += W)
      move_squares(rows + c * row_bytes, row_bytes, begin, least(begin + PACK_WORDS, square), panel + c * 4);
  for (int64_t c = 0; c < columns; c++) {
    int64_t begin = c < whole ? square : 0;
    scatter_words(rows + c * row_bytes + begin * 4, words - begin, panel + (begin * PW + c) * 4);
  }
}

inline void pack_dense_panel(const PackCall &call, int64_t index, char *panel) {
  const NativeLinear &linear = *call.linear;
  int64_t columns = least(PW, linear.n - index * PW), step = k_step(linear.kind);
  int64_t item = linear.kind == KIND_F32 ? 4 : 2;
  if (call.weight.type == (linear.kind == KIND_F32 ? TYPE_F32 : TYPE_BF16) && linear.k * item % 4 == 0)
    return move_words(row_at(call.weight, index * PW, item), call.weight.stride * item, columns, linear.k * item / 4, panel);
  for (int64_t k0 = 0; k0 < linear.k; k0 += PACK_K)
    for (int64_t c = 0; c < columns; c++)
      for (int64_t k = k0; k < least(k0 + PACK_K, linear.k); k++) {
        const void *row = row_at(call.weight, index * PW + c, call.weight.type == TYPE_F32 ? 4 : 2);
        char *to = panel + (k / step * PW + c) * 4 + k % step * item;
        store_one_as(to, linear.kind == KIND_F32 ? TYPE_F32 : TYPE_BF16, 0, one_as_float(row, call.weight.type, k));
      }
}

inline void pack_i8_panel(const PackCall &call, int64_t index, char *panel) {
  const NativeLinear &linear = *call.linear;
  int64_t columns = least(PW, linear.n - index * PW);
  char *tail = panel + panel_bytes(linear) - PW * 12;
  move_words(row_at(call.weight, index * PW, 1), call.weight.stride, columns, linear.k / 4, panel);
  for (int64_t c = 0; c < columns; c++) {
    const int8_t *row = (const int8_t *)row_at(call.weight, index * PW + c, 1);
    int32_t sum = 0;
    for (int64_t k = 0; k < linear.k; k++) sum += row[k];
    for (int64_t k = linear.k / 4 * 4; k < linear.k; k++) panel[(k / 4 * PW + c) * 4 + k % 4] = (char)row[k];
    int64_t n = index * PW + c;
    store(tail + c * 4, call.scales[n]);
    store(tail + PW * 4 + c * 4, sum);
    store(tail + PW * 8 + c * 4, call.int_zeros ? call.int_zeros[n] : 0);
  }
}

inline void pack_i4_group(const PackCall &call, int64_t n, int64_t g, int64_t c, char *to) {
  const NativeLinear &linear = *call.linear;
  int64_t size = linear.group, at = n * (linear.k / size) + g;
  const uint8_t *row = (const uint8_t *)row_at(call.weight, n, 1) + g * size / 2;
  for (int64_t i = 0; i < size / 8; i++, row += 4) {
    uint8_t word[4];
    for (int j = 0; j < 4; j++) {
      int low = row[j / 2] >> (4 * (j & 1)) & 15, high = row[2 + j / 2] >> (4 * (j & 1)) & 15;
      word[j] = (uint8_t)(low | high << 4);
    }
    memcpy(to + (i * PW + c) * 4, word, 4);
  }
  char *scales = to + size / 8 * PW * 4, *offsets = scales + PW * (linear.wide_scales ? 4 : 2);
  store_one_as(scales, linear.wide_scales ? TYPE_F32 : TYPE_BF16, c, call.scales[at]);
  if (linear.has_minima) store(offsets + c * 4, call.minima[at]);
  else offsets[c] = (char)call.zeros[at];
}

inline void pack_i4_panel(const PackCall &call, int64_t index, char *panel) {
  const NativeLinear &linear = *call.linear;
  int64_t columns = least(PW, linear.n - index * PW), size = group_bytes(linear);
  for (int64_t c = 0; c < columns; c++)
    for (int64_t g = 0; g < linear.k / linear.group; g++)
      pack_i4_group(call, index * PW + c, g, c, panel + g * size);
}

void pack_panels(const PackCall &call, int64_t begin, int64_t end) {
  int64_t size = panel_bytes(*call.linear);
  for (int64_t index = begin; index < end; index++) {
    char *panel = (char *)call.linear->panels + index * size;
    memset(panel, 0, (size_t)size);
    if (call.linear->kind == KIND_I8) pack_i8_panel(call, index, panel);
    else if (call.linear->kind == KIND_I4) pack_i4_panel(call, index, panel);
    else pack_dense_panel(call, index, panel);
  }
}

// Row `call.ids[i]` of a dense weight to row i of y.
void unpack_rows(const UnpackCall &call, int64_t begin, int64_t end) {
  const NativeLinear &linear = *call.linear;
  int64_t step = k_step(linear.kind), size = panel_bytes(linear);
  bool is_f32 = linear.kind == KIND_F32;
  for (int64_t i = begin; i < end; i++) {
    const char *from = (const char *)linear.panels + call.ids[i] / PW * size + call.ids[i] % PW * 4;
    for (int64_t k = 0; k < linear.k; k++) {
      const char *at = from + k / step * PW * 4 + k % step * (is_f32 ? 4 : 2);
      float value = one_as_float(at, is_f32 ? TYPE_F32 : TYPE_BF16, 0);
      store_one_as(call.y.data, call.y.type, i * call.y.stride + k, value);
    }
  }
}

int64_t panels_bytes(const NativeLinear &linear) { return round_up(linear.n, PW) / PW * panel_bytes(linear); }

}  // namespace
