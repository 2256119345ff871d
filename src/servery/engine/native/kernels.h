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

enum RowMaking { MADE_ALREADY = 0, MADE_BY_NORM = 1, MADE_BY_GATE = 2 };

// How the float32 rows that a linear is given are made, each just before it is staged: as a norm of the rows `of`, or
// from rows of gates and then as many factors, in the place of the gates.
struct RowMaker {
  int32_t making;
  int32_t activation;
  const NativeNorm *norm;
  NativeRows of;
};

struct LinearCall {
  const NativeLinear *linear;
  int64_t rows;
  int32_t input_type;  // what inputs are rounded to before they are multiplied, float32 or bfloat16
  NativeRows from, y, residual;
  RowMaker maker;
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
  int64_t item_count;
  const AttentionJoin *joins;
  float *states;
};

struct EmbedCall {
  const NativeModel *model;
  const NativeStep *step;
  NativeRows y;
};

// y = norm(x), or y + norm(x); x float32 is spoilt.
struct NormCall {
  const NativeNorm *norm;
  int64_t size;
  NativeRows x, y;
  bool adds;
};

// Queries, keys and values of a step's tokens, side by side in float32 rows: norms, rotation, and into the cache.
struct HeadsCall {
  const NativeLayer *layer;
  const NativeStep *step;
  NativeRows qkv;
};

// Rows slot, slot + slots and so on are those that may use the room of a slot: `SAMPLE_ROOM` bytes for each token.
struct SampleCall {
  NativeRows logits;
  int64_t rows, vocab_size;
  const NativeChoice *choices;
  NativeChosen *chosen;
  char *room;
  int64_t room_bytes, slots;
};

constexpr int64_t SAMPLE_ROOM = 24;

constexpr int64_t CHUNK = 64;         // positions whose states are joined with those of others
constexpr int64_t TILE = 16;          // positions whose keys are mirrored at a time
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
  void (*embed_rows)(const EmbedCall &, int64_t begin, int64_t end);       // rows
  void (*norm_rows)(const NormCall &, int64_t begin, int64_t end);         // rows
  void (*place_heads)(const HeadsCall &, int64_t begin, int64_t end);      // rows
  void (*sample_rows)(const SampleCall &, int64_t begin, int64_t end);     // slots
  int64_t vector_width;
  void (*attend_items)(const AttentionCall &, int64_t begin, int64_t end);  // items
  void (*join_states)(const AttentionCall &, int64_t begin, int64_t end);   // joins
};

// Null where this library was built without that variant.
const Kernels *portable_kernels();
const Kernels *avx2_kernels();
const Kernels *avx512_kernels();
const Kernels *avx512bf16_kernels();
