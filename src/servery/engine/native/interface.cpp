// Choosing a variant, and each call of the interface as jobs of the pool.
#include "interface.h"

#include <stdlib.h>
#include <string.h>

#include <new>
#include <string>

#include "kernels.h"
#include "pool.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

#ifndef SERVERY_DIGEST
#define SERVERY_DIGEST ""
#endif

namespace {

struct Variant {
  const Kernels *kernels;
  bool runs_here;
};

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
bool has_avx512bf16() { return has_avx512() && __builtin_cpu_supports("avx512bf16"); }
#endif

std::vector<const Kernels *> variants() {
  std::vector<const Kernels *> found;
#if defined(__x86_64__)
  if (has_avx512bf16()) found.push_back(avx512bf16_kernels());
  if (has_avx512()) found.push_back(avx512_kernels());
  if (has_avx2()) found.push_back(avx2_kernels());
#endif
  found.push_back(portable_kernels());
  return found;
}

// Memory that grows and is used again.
struct Scratch {
  char *data = nullptr;
  int64_t size = 0;

  bool reserve(int64_t wanted) {
    if (wanted <= size) return true;
    free(data);
    size = 0;
    data = (char *)aligned_alloc(64, (size_t)((wanted + 63) / 64 * 64));
    if (data) size = wanted;
    return data != nullptr;
  }
  ~Scratch() { free(data); }
};

}  // namespace

struct NativeContext {
  NativeContext(const Kernels *k, int threads, const int *cpus) : kernels(k), pool(threads, cpus) {}
  const Kernels *kernels;
  Pool pool;
  Scratch x, states;
  std::vector<AttentionItem> items;
  std::vector<AttentionJoin> joins;
};

namespace {

// Work below which a second thread costs more than it computes, in multiplications.
constexpr int64_t SHARED_WORK = 1 << 15;

int64_t panels(const NativeContext *context, int64_t n) {
  return (n + context->kernels->panel_width - 1) / context->kernels->panel_width;
}

bool is_sound(const NativeLinear *linear) {
  if (linear->n < 1 || linear->k < 1) return false;
  // Sums of products of codes fit 32 bits.
  if (linear->kind == KIND_I8) return linear->k <= 32768;
  if (linear->kind == KIND_I4) return linear->group >= 8 && linear->group % 8 == 0 && linear->k % linear->group == 0;
  return linear->kind == KIND_F32 || linear->kind == KIND_BF16;
}

int32_t pack(NativeContext *context, const PackCall &call) {
  if (!is_sound(call.linear)) return NATIVE_BAD_SHAPE;
  context->pool.run(panels(context, call.linear->n), 1,
                    [&](int64_t begin, int64_t end) { context->kernels->pack_panels(call, begin, end); });
  return NATIVE_OK;
}

// Room for the rows as the kernel reads them; false without memory.
bool reserve_rows(NativeContext *context, LinearCall *call) {
  const NativeLinear &linear = *call->linear;
  StagedRows &x = call->x;
  x.type = context->kernels->staged_type(linear, call->from.type);
  x.stride = context->kernels->staged_stride(linear, x.type);
  int64_t groups = linear.kind == KIND_I4 ? linear.k / linear.group : 1;
  int64_t data = call->rows * x.stride, of_groups = call->rows * groups * 4;
  if (!context->x.reserve(data + 2 * of_groups)) return false;
  x.data = context->x.data;
  x.sums = (int32_t *)(context->x.data + data);
  x.scales = (float *)(context->x.data + data + of_groups);
  return true;
}

constexpr int64_t ITEM_ROWS = 256;   // query rows of an attention item: their states stay in the cache
constexpr int64_t ITEM_TOKENS = 16;
constexpr int64_t ITEMS_PER_THREAD = 4;

bool is_sound(const NativeContext *context, const NativeAttention *attention) {
  const NativeCache &cache = attention->cache;
  return cache.head_dim > 0 && cache.head_dim % context->kernels->vector_width == 0 && cache.kv_heads > 0 &&
         attention->heads % cache.kv_heads == 0 && cache.block_size > 0;
}

int64_t chunks_end(const NativeExtent &extent, int64_t token, int64_t tokens) {
  return (extent.start + token + tokens + CHUNK - 1) / CHUNK;
}

int64_t chunks_begin(const NativeAttention &attention, const NativeExtent &extent, int64_t token) {
  int64_t first = attention.window > 0 ? extent.start + token - attention.window + 1 : 0;
  return first > 0 ? first / CHUNK : 0;
}

// A step's work as items, whole ones if there are enough of them for all threads; returns the room that they need.
int64_t plan_items(NativeContext *context, const NativeAttention &attention, int64_t count,
                   const NativeExtent *extents) {
  int64_t most = ITEM_ROWS / attention.heads, step = most < 1 ? 1 : most > ITEM_TOKENS ? ITEM_TOKENS : most, blocks = 0;
  for (int64_t e = 0; e < count; e++) blocks += (extents[e].tokens + step - 1) / step;
  bool is_whole = context->pool.threads() == 1 || blocks >= context->pool.threads() * ITEMS_PER_THREAD;
  int64_t row_room = attention.cache.head_dim * 3 + 2 * STATE_HEADER, room = 0;
  context->items.clear(), context->joins.clear();
  for (int64_t e = 0; e < count; e++)
    for (int64_t token = 0; token < extents[e].tokens; token += step) {
      int64_t left = extents[e].tokens - token, tokens = left < step ? left : step;
      int64_t begin = chunks_begin(attention, extents[e], token), end = chunks_end(extents[e], token, tokens);
      if (!is_whole) context->joins.push_back({(int64_t)context->items.size(), end - begin});
      for (int64_t chunk = begin; chunk < end; chunk += is_whole ? end - begin : 1) {
        context->items.push_back({e, token, tokens, chunk, is_whole ? end : chunk + 1, room, is_whole});
        room += tokens * attention.heads * row_room;
      }
    }
  return room;
}

}  // namespace

extern "C" {

const char *servery_digest(void) { return SERVERY_DIGEST; }

const char *servery_variants(void) {
  static const std::string names = [] {
    std::string joined;
    for (const Kernels *each : variants()) joined += (joined.empty() ? "" : ",") + std::string(each->name);
    return joined;
  }();
  return names.c_str();
}

NativeContext *servery_open(const char *variant, int32_t threads, const int32_t *cpus) {
  for (const Kernels *each : variants())
    if (!strcmp(each->name, variant)) return new (std::nothrow) NativeContext(each, threads, cpus);
  return nullptr;
}

void servery_close(NativeContext *context) { delete context; }

void servery_advise_huge(void *data, int64_t size) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  (void)madvise(data, (size_t)size, MADV_HUGEPAGE);
#else
  (void)data, (void)size;
#endif
}

int64_t servery_packed_bytes(const NativeContext *context, const NativeLinear *linear) {
  return is_sound(linear) ? context->kernels->panels_bytes(*linear) : -1;
}

int32_t servery_pack_dense(NativeContext *context, const NativeLinear *linear, NativeRows weight) {
  return pack(context, {linear, weight, nullptr, nullptr, nullptr, nullptr});
}

int32_t servery_pack_i8(NativeContext *context, const NativeLinear *linear, NativeRows codes, const float *scales,
                        const int32_t *zeros) {
  return pack(context, {linear, codes, scales, zeros, nullptr, nullptr});
}

int32_t servery_pack_i4(NativeContext *context, const NativeLinear *linear, NativeRows codes, const float *scales,
                        const uint8_t *zeros, const float *minima) {
  return pack(context, {linear, codes, scales, nullptr, zeros, minima});
}

int32_t servery_linear(NativeContext *context, const NativeLinear *linear, int64_t rows, const NativeRows *x,
                       const NativeRows *y, const NativeRows *residual) {
  if (rows < 1) return NATIVE_OK;
  LinearCall call = {linear, rows, *x, *y, *residual, {}};
  if (!reserve_rows(context, &call)) return NATIVE_NO_MEMORY;
  int64_t row_grain = SHARED_WORK / linear->k + 1;
  context->pool.run(rows, row_grain,
                    [&](int64_t begin, int64_t end) { context->kernels->stage_rows(call, begin, end); });
  int64_t panel_grain = SHARED_WORK / (rows * linear->k * context->kernels->panel_width) + 1;
  context->pool.run(panels(context, linear->n), panel_grain,
                    [&](int64_t begin, int64_t end) { context->kernels->linear_panels(call, begin, end); });
  return NATIVE_OK;
}

int32_t servery_unpack_rows(NativeContext *context, const NativeLinear *linear, int64_t count, const int64_t *ids,
                            const NativeRows *y) {
  if (linear->kind != KIND_F32 && linear->kind != KIND_BF16) return NATIVE_BAD_SHAPE;
  for (int64_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= linear->n) return NATIVE_BAD_SHAPE;
  UnpackCall call = {linear, ids, *y};
  context->pool.run(count, SHARED_WORK / linear->k + 1,
                    [&](int64_t begin, int64_t end) { context->kernels->unpack_rows(call, begin, end); });
  return NATIVE_OK;
}

int32_t servery_attention(NativeContext *context, const NativeAttention *attention, int64_t count,
                          const NativeExtent *extents, const NativeRows *query, const NativeRows *out) {
  if (!is_sound(context, attention)) return NATIVE_BAD_SHAPE;
  if (!context->states.reserve(plan_items(context, *attention, count, extents) * 4)) return NATIVE_NO_MEMORY;
  AttentionCall call = {attention, extents, *query, *out, context->items.data(), context->joins.data(),
                        (float *)context->states.data};
  context->pool.run((int64_t)context->items.size(), 1,
                    [&](int64_t begin, int64_t end) { context->kernels->attend_items(call, begin, end); });
  context->pool.run((int64_t)context->joins.size(), 1,
                    [&](int64_t begin, int64_t end) { context->kernels->join_states(call, begin, end); });
  return NATIVE_OK;
}
}
