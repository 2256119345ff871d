// Linear layers over packed panels.
//
// A panel holds the weights of PW neighbouring outputs, in the order in which they are read: one stream of memory, one
// broadcast input per step, no sum across lanes. Rows are computed MAX_ROWS at a time with all sums in registers.
// The sum of an output runs over k from first to last whatever the number of rows is and whoever computes it, so a
// row's result depends on nothing but the row.
//
// Panels, [] from outermost to innermost, columns past n and k zero:
//   f32   [k][PW]           bf16  [k/2][PW][2]           int8  [k/4][PW][4], then float scales, int sums, int zeros [PW]
//   int4  [groups]{ [group/8][PW] words, then scales, zeros or minima [PW] }; nibble 2j, j < 4, of a word is column j
//         of the eight, nibble 2j + 1 column 4 + j.
#pragma once
#include <math.h>

#include "dot.h"
#include "kernels.h"

namespace {

constexpr int64_t BLOCK_ROWS = 240;           // rows whose sums are kept while a panel is in the cache
constexpr int64_t BLOCK_BYTES = 256 << 10;    // of a panel that is read again for each group of rows
constexpr int PREFETCH_BYTES = 2048;          // ahead of what is read: hides the latency of main memory

// What differs between kinds: how much a step takes of the panel and of an input row, and what it does with them.
struct F32 {
  typedef vf Sum;
  static constexpr int K = 1, PANEL_BYTES = PW * 4, X_BYTES = 4;
  static inline vf step(vf sum, const char *w, const char *x) { return sum + load<vf>(w) * fill(load<float>(x)); }
};

struct Bf16 {
  typedef vf Sum;
  static constexpr int K = 2, PANEL_BYTES = PW * 4, X_BYTES = 4;
  static inline vf step(vf sum, const char *w, const char *x) {
    return dot_bf16(sum, load<vi>(w), fill(load<int32_t>(x)));
  }
};

// bfloat16 weights and float32 inputs.
struct Bf16Wide {
  typedef vf Sum;
  static constexpr int K = 2, PANEL_BYTES = PW * 4, X_BYTES = 8;
  static inline vf step(vf sum, const char *w, const char *x) {
    vu pair = load<vu>(w);
    sum += as_float(pair << 16) * fill(load<float>(x));
    return sum + as_float(pair & 0xffff0000u) * fill(load<float>(x + 4));
  }
};

struct I8 {
  typedef vi Sum;
  static constexpr int K = 4, PANEL_BYTES = PW * 4, X_BYTES = 4;
  static inline vi step(vi sum, const char *w, const char *x) {
    return dot_signed(sum, load<vi>(w), fill(load<int32_t>(x)));
  }
};

// `steps` steps for R rows, added to their sums [R][PW], which begin at 0 if `is_first`.
template <class Kind, int R>
void tile(const char *w, const char *x, int64_t x_stride, int64_t steps, void *sums, bool is_first) {
  typedef typename Kind::Sum Sum;
  Sum sum[R][NV] = {};
  if (!is_first) memcpy(sum, sums, sizeof sum);
  for (int64_t i = 0; i < steps; i++, w += Kind::PANEL_BYTES, x += Kind::X_BYTES) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++) prefetch(w + PREFETCH_BYTES + v * W * 4);
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < NV; v++) sum[r][v] = Kind::step(sum[r][v], w + v * W * 4, x + r * x_stride);
  }
  memcpy(sums, sum, sizeof sum);
}

// Bytes of a group of KIND_I4 in a panel.
inline int64_t group_bytes(const NativeLinear &linear) {
  return linear.group / 8 * PW * 4 + PW * (linear.wide_scales ? 4 : 2) + PW * (linear.has_minima ? 4 : 1);
}

inline int64_t k_step(int32_t kind) { return kind == KIND_F32 ? 1 : kind == KIND_BF16 ? 2 : 4; }

inline int64_t panel_bytes(const NativeLinear &linear) {
  if (linear.kind == KIND_I4) return linear.k / linear.group * group_bytes(linear);
  int64_t step = k_step(linear.kind);
  return round_up(linear.k, step) / step * PW * 4 + (linear.kind == KIND_I8 ? PW * 12 : 0);
}

// One group of columns for R rows: whole-number sums, then their scales; adds to the float sums [R][PW].
// `x` are the rows' codes of the group, `x_sums` and `x_scales` the sum of these and their scale, `x_groups` apart.
template <int R>
void group_tile(const NativeLinear &linear, const char *w, const char *x, int64_t x_stride, const int32_t *x_sums,
                const float *x_scales, int64_t x_groups, float *sums) {
  vi sum[R][NV] = {};
  for (int64_t i = 0; i < linear.group / 8; i++, w += PW * 4, x += 8) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; v++) {
      prefetch(w + PREFETCH_BYTES + v * W * 4);
      vi words = load<vi>(w + v * W * 4);
      vi low = words & 0x0f0f0f0f, high = (vi)((vu)words >> 4) & 0x0f0f0f0f;
#pragma GCC unroll 8
      for (int r = 0; r < R; r++) {
        sum[r][v] = dot_unsigned(sum[r][v], low, fill(load<int32_t>(x + r * x_stride)));
        sum[r][v] = dot_unsigned(sum[r][v], high, fill(load<int32_t>(x + r * x_stride + 4)));
      }
    }
  }
  const char *scales = w, *offsets = w + PW * (linear.wide_scales ? 4 : 2);
#pragma GCC unroll 8
  for (int v = 0; v < NV; v++) {
    vf scale = linear.wide_scales ? load<vf>(scales + v * W * 4) : from_bf16(load<vh>(scales + v * W * 2));
    vi zero = {};
    vf minimum = {};
    if (linear.has_minima) minimum = load<vf>(offsets + v * W * 4);
    else zero = widen(load<vub>(offsets + v * W));
#pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
      vf exact = to_float(sum[r][v] - zero * fill(x_sums[r * x_groups]));
      vf value = exact * scale - minimum * fill((float)x_sums[r * x_groups]);
      float *at = sums + r * PW + v * W;
      store(at, load<vf>(at) + value * fill(x_scales[r * x_groups]));
    }
  }
}

template <int R>
void group_tiles(const NativeLinear &linear, const char *w, const StagedRows &x, int64_t row, int64_t first_group,
                 int64_t groups, float *sums) {
  int64_t size = group_bytes(linear), all = linear.k / linear.group;
  for (int64_t g = first_group; g < first_group + groups; g++, w += size)
    group_tile<R>(linear, w, x.data + row * x.stride + g * linear.group, x.stride, x.sums + row * all + g,
                  x.scales + row * all + g, all, sums);
}

// R rows from `row` on against part of a panel: units [first, first + units) of steps or groups.
template <int R>
void any_tile(const NativeLinear &linear, const char *w, const StagedRows &x, int64_t row, int64_t first,
              int64_t units, float *sums) {
  const char *from = x.data + row * x.stride;
  bool is_first = first == 0;
  if (linear.kind == KIND_I4) group_tiles<R>(linear, w, x, row, first, units, sums);
  else if (linear.kind == KIND_F32) tile<F32, R>(w, from + first * 4, x.stride, units, sums, is_first);
  else if (linear.kind == KIND_I8) tile<I8, R>(w, from + first * 4, x.stride, units, sums, is_first);
  else if (x.type == TYPE_BF16) tile<Bf16, R>(w, from + first * 4, x.stride, units, sums, is_first);
  else tile<Bf16Wide, R>(w, from + first * 8, x.stride, units, sums, is_first);
}

void tile_of(int64_t r, const NativeLinear &linear, const char *w, const StagedRows &x, int64_t row, int64_t first,
             int64_t units, float *sums) {
  switch (r) {
    case 1: return any_tile<1>(linear, w, x, row, first, units, sums);
    case 2: return any_tile<2>(linear, w, x, row, first, units, sums);
    case 3: return any_tile<3>(linear, w, x, row, first, units, sums);
#if defined(__AVX512F__) || defined(__aarch64__)
    case 4: return any_tile<4>(linear, w, x, row, first, units, sums);
    case 5: return any_tile<5>(linear, w, x, row, first, units, sums);
    case 6: return any_tile<6>(linear, w, x, row, first, units, sums);
#endif
  }
}

// Rows [begin, end) in tiles of nearly the same size.
void panel_sums(const NativeLinear &linear, const char *panel, const StagedRows &x, int64_t begin, int64_t end,
                float *sums) {
  int64_t unit_bytes = linear.kind == KIND_I4 ? group_bytes(linear) : PW * 4;
  int64_t units = linear.kind == KIND_I4 ? linear.k / linear.group
                                         : round_up(linear.k, k_step(linear.kind)) / k_step(linear.kind);
  int64_t rows = end - begin, tiles = (rows + MAX_ROWS - 1) / MAX_ROWS;
  int64_t block = tiles == 1 ? units : (BLOCK_BYTES / unit_bytes > 1 ? BLOCK_BYTES / unit_bytes : 1);
  if (linear.kind == KIND_I4) memset(sums, 0, (size_t)(rows * PW) * 4);
  for (int64_t first = 0; first < units; first += block)
    for (int64_t t = 0; t < tiles; t++) {
      int64_t row = rows * t / tiles, next = rows * (t + 1) / tiles;
      tile_of(next - row, linear, panel + first * unit_bytes, x, begin + row, first, least(block, units - first),
              sums + row * PW);
    }
}

// What the codes' sums of a row mean, in place: y = (dot - zero * sum of x) * scale of w * scale of x.
inline void scale_sums(const NativeLinear &linear, const char *panel, const StagedRows &x, int64_t row, float *sums) {
  const char *tail = panel + panel_bytes(linear) - PW * 12;
  vi x_sum = fill(x.sums[row]);
  vf x_scale = fill(x.scales[row]);
  for (int c = 0; c < PW; c += W) {
    vi exact = load<vi>(sums + c) - load<vi>(tail + PW * 4 + c * 4) * X_OFFSET - load<vi>(tail + PW * 8 + c * 4) * x_sum;
    store(sums + c, to_float(exact) * load<vf>(tail + c * 4) * x_scale);
  }
}

inline void finish_vector(const LinearCall &call, int64_t row, int64_t at, vf value) {
  if (call.linear->bias) value += load<vf>(call.linear->bias + at);
  if (call.residual.data) {
    int64_t from = row * call.residual.stride + at;
    value += load_as_float(call.residual.data, call.residual.type, from);
  }
  store_as(call.y.data, call.y.type, row * call.y.stride + at, value);
}

inline void finish_one(const LinearCall &call, int64_t row, int64_t at, float value) {
  if (call.linear->bias) value += call.linear->bias[at];
  if (call.residual.data)
    value += one_as_float(call.residual.data, call.residual.type, row * call.residual.stride + at);
  store_one_as(call.y.data, call.y.type, row * call.y.stride + at, value);
}

// Sums [rows][PW] of a panel to y, rounded once.
void finish_panel(const LinearCall &call, const char *panel, int64_t index, int64_t begin, int64_t end, float *sums) {
  const NativeLinear &linear = *call.linear;
  int64_t columns = least(PW, linear.n - index * PW), whole = columns / W * W;
  for (int64_t row = begin; row < end; row++, sums += PW) {
    if (linear.kind == KIND_I8) scale_sums(linear, panel, call.x, row, sums);
    for (int64_t c = 0; c < whole; c += W) finish_vector(call, row, index * PW + c, load<vf>(sums + c));
    for (int64_t c = whole; c < columns; c++) finish_one(call, row, index * PW + c, sums[c]);
  }
}

void linear_panels(const LinearCall &call, int64_t begin, int64_t end) {
  alignas(64) static thread_local float sums[BLOCK_ROWS * PW];
  int64_t size = panel_bytes(*call.linear);
  for (int64_t index = begin; index < end; index++) {
    const char *panel = (const char *)call.linear->panels + index * size;
    for (int64_t row = 0; row < call.rows; row += BLOCK_ROWS) {
      int64_t next = least(row + BLOCK_ROWS, call.rows);
      panel_sums(*call.linear, panel, call.x, row, next, sums);
      finish_panel(call, panel, index, row, next, sums);
    }
  }
}

}  // namespace
