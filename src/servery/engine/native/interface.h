// The C interface of the native kernels: pointers, strides (in elements) and sizes, no types of any framework.
//
// One thread at a time may use a context. Nothing is copied but what a function says it packs: the caller keeps what
// pointers name alive. Functions that can be given what they cannot take return 0 for done, else a `NativeStatus`.
#pragma once
#include <stdint.h>

#pragma GCC visibility push(default)
extern "C" {

enum NativeStatus { NATIVE_OK = 0, NATIVE_NO_MEMORY = 1, NATIVE_BAD_SHAPE = 2 };

enum NativeType { TYPE_F32 = 0, TYPE_BF16 = 1, TYPE_I8 = 2 };

// How the weight [n, k] of a linear layer is held.
enum NativeKind {
  KIND_F32 = 0,   // y = x w
  KIND_BF16 = 1,  // the same; products and sums are float32
  KIND_I8 = 2,    // x rounded to 8 bits by row; y = (codes of x . (codes of w - zero)) scale of w, scale of x
  KIND_I4 = 3,    // x rounded to 8 bits by row and group; w = (code - zero) scale, or code scale - minimum
};

// Panels: the columns of x w^T that one pass computes, their weights interleaved in the order in which they are read.
struct NativeLinear {
  int32_t kind;
  int32_t wide_scales;  // KIND_I4: scales are held as float32, else as bfloat16
  int32_t has_minima;   // KIND_I4: float32 minima in place of zero points of 8 bits
  int32_t reserved;
  int64_t n, k;
  int64_t group;        // KIND_I4: columns that share a scale, a multiple of 8
  void *panels;         // servery_packed_bytes() of memory, of any alignment
  const float *bias;    // [n] or null
};

// Rows of numbers: row r begins at data + r * stride elements.
struct NativeRows {
  void *data;
  int32_t type;
  int32_t reserved;
  int64_t stride;
};

// A layer of the KV cache: [slots][2][kv_heads][head_dim], keys at 0; of int8 codes the scales [slots][2][kv_heads] too.
struct NativeCache {
  const void *data;
  const uint16_t *scales;  // bfloat16
  int32_t type;
  int32_t reserved;
  int64_t kv_heads, head_dim, block_size;
};

// Rows [query_start, query_start + tokens) of a step are positions [start, start + tokens) of a sequence in `blocks`.
struct NativeExtent {
  const int64_t *blocks;
  int64_t query_start, tokens, start;
};

struct NativeAttention {
  NativeCache cache;
  int64_t heads;
  int64_t window;      // positions that a token sees, itself included; 0: all
  float scale;
  float soft_cap;      // 0: none
  const float *sinks;  // [heads] or null
};

struct NativeContext;

// A digest of the sources that this library was built from.
const char *servery_digest(void);
// Names of the variants that this CPU can run, best first, with a comma between them.
const char *servery_variants(void);
// A pool of `threads` threads, the calling one included; `cpus` [threads] or null says where each of the others runs.
NativeContext *servery_open(const char *variant, int32_t threads, const int32_t *cpus);
void servery_close(NativeContext *context);
// Ask for huge pages; where there are none nothing happens.
void servery_advise_huge(void *data, int64_t size);

int64_t servery_packed_bytes(const NativeContext *context, const NativeLinear *linear);
// Dense weights of type f32 or bf16 into panels of KIND_F32 or KIND_BF16.
int32_t servery_pack_dense(NativeContext *context, const NativeLinear *linear, NativeRows weight);
// int8 codes [n, k] with scales [n], zero points [n] or null.
int32_t servery_pack_i8(NativeContext *context, const NativeLinear *linear, NativeRows codes, const float *scales,
                        const int32_t *zeros);
// Codes of 4 bits [n, k / 2 bytes], column 2j in the low half of byte j, with scales [n, k / group], and zero points
// or minima of that shape.
int32_t servery_pack_i4(NativeContext *context, const NativeLinear *linear, NativeRows codes, const float *scales,
                        const uint8_t *zeros, const float *minima);
// y = x w^T + bias + residual, each row by itself; `residual.data` may be null or that of y.
int32_t servery_linear(NativeContext *context, const NativeLinear *linear, int64_t rows, const NativeRows *x,
                       const NativeRows *y, const NativeRows *residual);
// Rows `ids` of a dense weight, from its panels.
int32_t servery_unpack_rows(NativeContext *context, const NativeLinear *linear, int64_t count, const int64_t *ids,
                            const NativeRows *y);
// Causal attention of `query` [tokens, heads * head_dim] over a cache that holds the step's own keys and values.
int32_t servery_attention(NativeContext *context, const NativeAttention *attention, int64_t count,
                          const NativeExtent *extents, const NativeRows *query, const NativeRows *out);
}
#pragma GCC visibility pop
