// Choosing a variant, and each call of the interface as jobs of the pool.
#include "interface.h"

#include <string.h>

#include <new>
#include <string>

#include "context.h"

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
  x.type = context->kernels->staged_type(linear, call->input_type);
  x.stride = context->kernels->staged_stride(linear, x.type);
  int64_t groups = linear.kind == KIND_I4 ? linear.k / linear.group : 1;
  int64_t data = call->rows * x.stride, of_groups = call->rows * groups * 4;
  if (!context->x.reserve(data + 2 * of_groups)) return false;
  x.data = context->x.data;
  x.sums = (int32_t *)(context->x.data + data);
  x.scales = (float *)(context->x.data + data + of_groups);
  return true;
}

}  // namespace

int32_t run_linear(NativeContext *context, LinearCall call) {
  if (!reserve_rows(context, &call)) return NATIVE_NO_MEMORY;
  int64_t row_grain = SHARED_NUMBERS / call.linear->k + 1;
  context->pool.run(call.rows, row_grain,
                    [&](int64_t begin, int64_t end) { context->kernels->stage_rows(call, begin, end); });
  int64_t panel_grain = SHARED_WORK / (call.rows * call.linear->k * context->kernels->panel_width) + 1;
  context->pool.run(panels(context, call.linear->n), panel_grain,
                    [&](int64_t begin, int64_t end) { context->kernels->linear_panels(call, begin, end); });
  return NATIVE_OK;
}

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
  return run_linear(context, {linear, rows, x->type, *x, *y, *residual, {}, {}});
}

int32_t servery_unpack_rows(NativeContext *context, const NativeLinear *linear, int64_t count, const int64_t *ids,
                            const NativeRows *y) {
  if (linear->kind != KIND_F32 && linear->kind != KIND_BF16) return NATIVE_BAD_SHAPE;
  for (int64_t i = 0; i < count; i++)
    if (ids[i] < 0 || ids[i] >= linear->n) return NATIVE_BAD_SHAPE;
  UnpackCall call = {linear, ids, *y};
  context->pool.run(count, SHARED_NUMBERS / linear->k + 1,
                    [&](int64_t begin, int64_t end) { context->kernels->unpack_rows(call, begin, end); });
  return NATIVE_OK;
}

int32_t servery_attention(NativeContext *context, const NativeAttention *attention, int64_t count,
                          const NativeExtent *extents, const NativeRows *query, const NativeRows *out) {
  return run_attention(context, *attention, count, extents, *query, *out, false);
}
}
