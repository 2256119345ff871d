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

#include <type_traits>

#include "dot.h"
#include "kernels.h"

namespace {

constexpr int64_t BLOCK_ROWS = 240;           // rows whose sums are kept while a panel is in the cache
constexpr int64_t BLOCK_BYTES = 256 << 10;    // of a panel that is read again for each tile of rows
constexpr int64_t HALF_BLOCK_BYTES = 32 << 10;  // the same where the rows are one tile, whose halves take turns
constexpr int PREFETCH_BYTES = 2048;          // ahead of what is read: hides the latency of main memory
constexpr int LINES = PW * 4 / 64;            // lines of the cache that a step reads
// Where a block is read more than once, what comes after it is asked for in two of the times: main memory is read while
// all of them compute, not while one of them waits.
constexpr int SHARED_LINES = (LINES + 1) / 2;
constexpr int MOST_TALL_ROWS = 2 * MAX_ROWS;  // of a tile of half a panel
// Up to so many columns whole numbers of a group are exact in float32: 127 * 255 * 512 < 2^24.
constexpr int64_t EXACT_COLUMNS = 512;

// Asks for the next P lines of what will be read: to the nearest cache what is read but once.
template <int P>
inline const char *ask(const char *ahead) {
#pragma GCC unroll 4
  for (int p = 0; p < P; p++) __builtin_prefetch(ahead + p * 64, 0, P == LINES ? 3 : 2);
  return ahead + P * 64;
}

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

// `steps` steps for R rows and N vectors of a panel, added to their sums in [R][PW], which begin at 0 if `is_first`; P lines
// of `ahead` a step.
template <class Kind, int R, int N, int P>
void tile(const char *w, const char *x, int64_t x_stride, int64_t steps, const char *ahead, float *sums, bool is_first) {
  typedef typename Kind::Sum Sum;
  Sum sum[R][N] = {};
  if (!is_first)
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < N; v++) sum[r][v] = load<Sum>(sums + r * PW + v * W);
  for (int64_t i = 0; i < steps; i++, w += Kind::PANEL_BYTES, x += Kind::X_BYTES) {
    ahead = ask<P>(ahead);
#pragma GCC unroll 12
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
      for (int v = 0; v < N; v++) sum[r][v] = Kind::step(sum[r][v], w + v * W * 4, x + r * x_stride);
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < N; v++) store(sums + r * PW + v * W, sum[r][v]);
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

// Where the rows of a tile are, in groups: codes, and for each group their sum and scale, `groups` apart.
struct GroupRows {
  const char *codes;
  int64_t stride;
  const int32_t *sums;
  const float *scales;
  int64_t groups;
};

// What a group's codes are less than: zero points, in groups of up to EXACT_COLUMNS or longer ones, or minima.
enum GroupOffsets { SHORT_ZEROS, LONG_ZEROS, MINIMA };

// What the whole number `sum` is worth, and `total`, that of the inputs' codes.
template <GroupOffsets Offsets>
inline vf worth(vi sum, vf scale, vi zero, vf minimum, int32_t total) {
  if (Offsets == MINIMA) return to_float(sum) * scale - minimum * fill((float)total);
  // The same number either way; the first takes fewer instructions.
  if (Offsets == SHORT_ZEROS) return (to_float(sum) - to_float(zero) * fill((float)total)) * scale;
  return to_float(sum - zero * fill(total)) * scale;
}

// One group of columns for R rows and N vectors from `vector` on: whole-number sums, then their scales; adds to the float
// sums in [R][PW].
template <int R, int N, int P, GroupOffsets Offsets>
const char *group_tile(const NativeLinear &linear, const char *w, int vector, GroupRows x, const char *ahead, float *sums) {
  vi sum[R][N] = {};
  const char *words = w + vector * W * 4;
  for (int64_t i = 0; i < linear.group / 8; i++, words += PW * 4, x.codes += 8) {
    ahead = ask<P>(ahead);
    // Half the nibbles for all rows, then the others: so all that is read more than once stays in registers.
#pragma GCC unroll 2
    for (int high = 0; high < 2; high++) {
      vi codes[N];
#pragma GCC unroll 8
      for (int v = 0; v < N; v++) codes[v] = (vi)(load<vu>(words + v * W * 4) >> (4 * high)) & 0x0f0f0f0f;
#pragma GCC unroll 12
      for (int r = 0; r < R; r++) {
        vi inputs = fill(load<int32_t>(x.codes + r * x.stride + 4 * high));
#pragma GCC unroll 8
        for (int v = 0; v < N; v++) sum[r][v] = dot_unsigned(sum[r][v], codes[v], inputs);
      }
    }
  }
  const char *scales = w + linear.group / 8 * PW * 4, *offsets = scales + PW * (linear.wide_scales ? 4 : 2);
  vf scale[N], minimum[N];
  vi zero[N];
#pragma GCC unroll 8
  for (int v = 0; v < N; v++) {
    int64_t at = (vector + v) * W;
    scale[v] = linear.wide_scales ? load<vf>(scales + at * 4) : from_bf16(load<vh>(scales + at * 2));
    minimum[v] = Offsets == MINIMA ? load<vf>(offsets + at * 4) : vf{};
    zero[v] = Offsets == MINIMA ? vi{} : widen(load<vub>(offsets + at));
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int v = 0; v < N; v++) {
      vf value = worth<Offsets>(sum[r][v], scale[v], zero[v], minimum[v], x.sums[r * x.groups]);
      float *to = sums + r * PW + (vector + v) * W;
      store(to, load<vf>(to) + value * fill(x.scales[r * x.groups]));
    }
  return ahead;
}

template <int R, int N, int P, GroupOffsets Offsets>
void group_tiles(const NativeLinear &linear, const char *w, int vector, const StagedRows &x, int64_t row,
                 int64_t first_group, int64_t groups, const char *ahead, float *sums) {
  int64_t size = group_bytes(linear), all = linear.k / linear.group, scale_lines = size / 64 - linear.group / 8 * LINES;
  for (int64_t g = first_group; g < first_group + groups; g++, w += size) {
    int64_t at = row * all + g;
    GroupRows rows = {x.data + row * x.stride + g * linear.group, x.stride, x.sums + at, x.scales + at, all};
    ahead = group_tile<R, N, P, Offsets>(linear, w, vector, rows, ahead, sums);
    for (int64_t line = 0; line < scale_lines; line += LINES) ahead = ask<P>(ahead);
  }
}

// R rows from `row` on against N vectors of part of a panel: units [first, first + units) of steps or groups.
template <int R, int N, int P>
void any_tile(const NativeLinear &linear, const char *w, int vector, const StagedRows &x, int64_t row, int64_t first,
              int64_t units, const char *ahead, float *sums) {
  const char *from = x.data + row * x.stride, *part = w + vector * W * 4;
  float *to = sums + vector * W;
  bool is_first = first == 0;
  if (linear.kind == KIND_F32) return tile<F32, R, N, P>(part, from + first * 4, x.stride, units, ahead, to, is_first);
  if (linear.kind == KIND_I8) return tile<I8, R, N, P>(part, from + first * 4, x.stride, units, ahead, to, is_first);
  if (linear.kind == KIND_I4 && linear.has_minima)
    return group_tiles<R, N, P, MINIMA>(linear, w, vector, x, row, first, units, ahead, sums);
  if (linear.kind == KIND_I4 && linear.group > EXACT_COLUMNS)
    return group_tiles<R, N, P, LONG_ZEROS>(linear, w, vector, x, row, first, units, ahead, sums);
  if (linear.kind == KIND_I4)
    return group_tiles<R, N, P, SHORT_ZEROS>(linear, w, vector, x, row, first, units, ahead, sums);
  if (x.type == TYPE_BF16) return tile<Bf16, R, N, P>(part, from + first * 4, x.stride, units, ahead, to, is_first);
  tile<Bf16Wide, R, N, P>(part, from + first * 8, x.stride, units, ahead, to, is_first);
}

// Calls `some` with the constant that `value` is, of at least Value up to Most.
template <int Value, int Most, class Some>
inline void with_constant(int64_t value, const Some &some) {
  if (value == Value) return some(std::integral_constant<int, Value>());
  if constexpr (Value < Most) with_constant<Value + 1, Most>(value, some);
}

// Rows that one tile holds, the weights passing by once.
void single_tile(const NativeLinear &linear, const char *w, const StagedRows &x, int64_t row, int64_t count,
                 int64_t units, float *sums) {
  with_constant<1, MAX_ROWS>(count, [&](auto rows) {
    any_tile<decltype(rows)::value, NV, LINES>(linear, w, 0, x, row, 0, units, w + PREFETCH_BYTES, sums);
  });
}

// Rows that one tile holds of half a panel.
void tall_tile(const NativeLinear &linear, const char *w, const StagedRows &x, int64_t row, int64_t count,
               int64_t first, int64_t units, int64_t bytes, float *sums) {
  for (int half = 0; half < 2; half++)
    with_constant<MAX_ROWS + 1, MOST_TALL_ROWS>(count, [&](auto rows) {
      const char *ahead = w + bytes + half * (bytes / 2);
      any_tile<decltype(rows)::value, NV / 2, SHARED_LINES>(linear, w, half * NV / 2, x, row, first, units, ahead, sums);
    });
}

// Rows in tiles of nearly the same size.
void many_tiles(const NativeLinear &linear, const char *w, const StagedRows &x, int64_t row, int64_t count,
                int64_t first, int64_t units, int64_t bytes, float *sums) {
  int64_t tiles = (count + MAX_ROWS - 1) / MAX_ROWS;
  for (int64_t t = 0; t < tiles; t++) {
    int64_t from = count * t / tiles, to = count * (t + 1) / tiles;
    with_constant<1, MAX_ROWS>(to - from, [&](auto rows) {
      const char *ahead = w + bytes + (t & 1) * (bytes / 2);
      any_tile<decltype(rows)::value, NV, SHARED_LINES>(linear, w, 0, x, row + from, first, units, ahead,
                                                        sums + from * PW);
    });
  }
}

// The sums [rows][PW] of a panel for rows [begin, end).
void panel_sums(const NativeLinear &linear, const char *panel, const StagedRows &x, int64_t begin, int64_t end,
                float *sums) {
  int64_t unit_bytes = linear.kind == KIND_I4 ? group_bytes(linear) : PW * 4;
  int64_t units = linear.kind == KIND_I4 ? linear.k / linear.group
                                         : round_up(linear.k, k_step(linear.kind)) / k_step(linear.kind);
  int64_t rows = end - begin;
  if (linear.kind == KIND_I4) memset(sums, 0, (size_t)(rows * PW) * 4);
  if (rows <= MAX_ROWS) return single_tile(linear, panel, x, begin, rows, units, sums);
  bool is_tall = rows <= MOST_TALL_ROWS;
  int64_t block = larger((is_tall ? HALF_BLOCK_BYTES : BLOCK_BYTES) / unit_bytes, 1);
  for (int64_t first = 0; first < units; first += block) {
    int64_t count = least(block, units - first);
    (is_tall ? tall_tile : many_tiles)(linear, panel + first * unit_bytes, x, begin, rows, first, count,
                                       count * unit_bytes, sums);
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
