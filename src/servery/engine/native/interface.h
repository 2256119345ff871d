// The C interface of the native kernels: pointers, strides (in elements) and sizes, no types of any framework.
//
// One thread at a time may use a context. Nothing is copied but what a function says it packs: the caller keeps what
// pointers name alive. Functions that can be given what they cannot take return 0 for done, else a `NativeStatus`.
#pragma once
#include <stdint.h>

#pragma GCC visibility push(default)
extern "C" {

enum NativeStatus { NATIVE_OK = 0, NATIVE_NO_MEMORY = 1, NATIVE_BAD_SHAPE = 2, NATIVE_INTERRUPTED = 3 };

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
  void *data;
  uint16_t *scales;  // bfloat16
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

enum NativeNormKind {
  NORM_NONE = 0,
  NORM_RMS = 1,       // x / sqrt(sum of x^2 + constant) weight
  NORM_CENTERED = 2,  // with d = x - mean: d / sqrt(mean of d^2 + constant) weight
  NORM_SCALE = 3,     // x constant
};

struct NativeNorm {
  const float *weight;
  float constant;
  int32_t kind;
};

// NORM_RMS of each query and key head or, if it is wide, of all query heads together and of all key heads together;
// before they rotate or, if it is late, after that.
struct NativeHeadNorm {
  const float *weight;  // [heads + kv_heads, head_dim], null: none
  float query_constant, key_constant;
  int32_t is_wide, is_late;
};

enum NativeActivation { ACTIVATION_SILU = 0, ACTIVATION_GELU_TANH = 1 };

// A layer: attention, then an MLP of down(activation(gate) up), each of which is added to the residual stream.
// What `..._post` says happens to either before that.
struct NativeLayer {
  NativeNorm attention_norm, attention_post, mlp_norm, mlp_post;
  const NativeLinear *qkv, *output, *gate_up, *down;
  NativeHeadNorm head_norm;
  NativeAttention attention;
  int64_t angles;  // which table of `NativeStep::angles`
};

struct NativeModel {
  int64_t layers;
  const NativeLayer *layer;
  int64_t hidden_size;
  int32_t is_parallel;  // the MLP is given what attention is given
  int32_t activation;
  const NativeLinear *embedding;  // dense panels, null: `embedding_rows`
  NativeRows embedding_rows;      // data null: `NativeStep::given`
  int64_t vocab_size;             // rows of the embedding
  float embedding_scale;
  int32_t type;  // of the inputs of linears: float32 is rounded to it
  NativeNorm norm;  // of what the last layer gives
};

enum NativePart { PART_LINEARS = 0, PART_ATTENTION = 1, PART_REST = 2, PARTS = 3 };

// One step: `tokens` rows, whose keys and values go to `slots`.
struct NativeStep {
  int64_t tokens;
  const int64_t *ids, *positions, *slots;  // [tokens]
  int64_t extents;
  const NativeExtent *extent;
  const NativeRows *angles;  // tables with a row of cosines [head_dim], then sines, for each position
  NativeRows given;          // what the first layer is given [tokens, hidden_size], where `ids` do not say it
  NativeRows out;            // [tokens, hidden_size]
  double *seconds;           // [PARTS], where the time went is added; null: nobody asks
  const int64_t *rings;      // the step is left as soon as this is not `heard`; null: nobody interrupts it
  int64_t heard;
};

enum { NATIVE_MOST_TOPS = 20 };

// What decides the token of a row of logits, and what is asked about it. Pointers may be null where their count is 0.
struct NativeChoice {
  double top_p, min_p;
  uint64_t seed;
  int64_t position;
  int64_t top_k;                          // 0: no limit
  const int64_t *seen;                    // [seen_count] different tokens before this one
  const float *counts;                    // [seen_count] how often each was generated
  const int64_t *biased;                  // [biased_count] different tokens
  const float *biases;                    // [biased_count] what is added to their logits
  const int64_t *allowed, *barred;        // [..._count] tokens; if any is allowed, no others are
  const uint32_t *mask;                   // a bit for each token, lowest first, 1: allowed; null: all are
  float *probs;                           // [vocab_size] what is drawn from; null: nobody asks
  int64_t seen_count, biased_count, allowed_count, barred_count;
  float temperature;                      // 0: the largest logit is taken
  float repetition, frequency, presence;  // penalties of `seen`
  int32_t logprobs;                       // how many of the most likely tokens are told; -1: none, and not the chosen
  int32_t reserved;
};

// `peak` is the largest logit after all changes; if it is not finite, nothing else means anything.
struct NativeChosen {
  int64_t token_id;
  float peak;
  float logprob;
  int64_t tops;
  int64_t top_ids[NATIVE_MOST_TOPS];  // most likely first, of equal ones the lowest ids
  float top_logprobs[NATIVE_MOST_TOPS];
};

struct NativeContext;

// A digest of the sources that this library was built from.
const char *servery_digest(void);
// Names of the variants that this CPU can run, best first, with a comma between them.
const char *servery_variants(void);
// A pool of `threads` threads, the calling one included; of `cpus` [threads] each of the others gets one, null: any.
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
// A token for each of `rows` rows of float32 logits.
int32_t servery_sample(NativeContext *context, int64_t rows, const NativeRows *logits, int64_t vocab_size,
                       const NativeChoice *choices, NativeChosen *chosen);
// All layers of a step, from ids to normed hidden states.
int32_t servery_step(NativeContext *context, const NativeModel *model, const NativeStep *step);
}
#pragma GCC visibility pop
