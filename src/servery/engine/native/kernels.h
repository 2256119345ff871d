// What a variant of the kernels gives: functions that one thread runs on a part of a call's work.
#pragma once
#include "interface.h"

// Rows of x as a kernel reads them. For codes there are the sum and the scale of each row (KIND_I4: of each group).
struct StagedRows {
  const char *data;
  int64_t stride;  // bytes
  int32_t type;
  int32_t *sums;
  float *scales;
};

struct LinearCall {
  const NativeLinear *linear;
  int64_t rows;
  NativeRows from, y, residual;
  StagedRows x;
};

struct PackCall {
  const NativeLinear *linear;
  NativeRows weight;
  const float *scales;
  const int32_t *int_zeros;
  const uint8_t *zeros;
  const float *minima;
};

struct UnpackCall {
  const NativeLinear *linear;
  const int64_t *ids;
  NativeRows y;
};

// Tokens [token, token + tokens) of an extent over chunks [first_chunk, last_chunk) of its positions. A whole item has all
// chunks, joins them and writes the result; of others the chunks' states are joined later.
struct AttentionItem {
  int64_t extent, token, tokens;
  int64_t first_chunk, last_chunk;
  int64_t state;  // where its room in `AttentionCall::states` begins
  bool is_whole;
};

// Items [first, first + count), of one chunk each, whose states belong to the same rows.
struct AttentionJoin {
  int64_t first, count;
};

struct AttentionCall {
  const NativeAttention *attention;
  const NativeExtent *extents;
  NativeRows query, out;
  const AttentionItem *items;
  const AttentionJoin *joins;
  float *states;
};

constexpr int64_t CHUNK = 64;         // positions whose states are joined with those of others
constexpr int64_t STATE_HEADER = 16;  // floats before the values of a row's state: largest score, sum of weights

struct Kernels {
  const char *name;
  int64_t panel_width;
  int64_t (*panels_bytes)(const NativeLinear &);
  int32_t (*staged_type)(const NativeLinear &, int32_t x_type);
  int64_t (*staged_stride)(const NativeLinear &, int32_t type);
  void (*stage_rows)(const LinearCall &, int64_t begin, int64_t end);      // rows
  void (*linear_panels)(const LinearCall &, int64_t begin, int64_t end);   // panels
  void (*pack_panels)(const PackCall &, int64_t begin, int64_t end);       // panels
  void (*unpack_rows)(const UnpackCall &, int64_t begin, int64_t end);     // rows
  int64_t vector_width;
  void (*attend_items)(const AttentionCall &, int64_t begin, int64_t end);  // items
  void (*join_states)(const AttentionCall &, int64_t begin, int64_t end);   // joins
};

// Null where this library was built without that variant.
const Kernels *portable_kernels();
const Kernels *avx2_kernels();
const Kernels *avx512_kernels();
const Kernels *avx512bf16_kernels();
