// A step's tokens from its logits: rows are shared out among threads, each of which has room of its own.
#include "context.h"

int32_t servery_sample(NativeContext *context, int64_t rows, const NativeRows *logits, int64_t vocab_size,
                       const NativeChoice *choices, NativeChosen *chosen) {
  if (logits->type != TYPE_F32 || vocab_size < 1 || vocab_size > INT32_MAX) return NATIVE_BAD_SHAPE;
  int64_t slots = rows < context->pool.threads() ? rows : context->pool.threads();
  if (rows * vocab_size < SHARED_WORK) slots = 1;
  int64_t room_bytes = (vocab_size + 63) / 64 * 64 * SAMPLE_ROOM;
  if (!context->choosing.reserve(slots * room_bytes)) return NATIVE_NO_MEMORY;
  SampleCall call = {*logits, rows, vocab_size, choices, chosen, context->choosing.data, room_bytes, slots};
  context->pool.run(slots, 1, [&](int64_t begin, int64_t end) { context->kernels->sample_rows(call, begin, end); });
  return NATIVE_OK;
}
