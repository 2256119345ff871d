// The attention of a step as items of work that threads share.
#include "context.h"

namespace {

constexpr int64_t ITEM_ROWS = 256;   // query rows of an attention item: their states stay in the cache
constexpr int64_t ITEM_TOKENS = 16;
constexpr int64_t ITEMS_PER_THREAD = 4;

bool is_sound(const NativeContext *context, const NativeAttention &attention) {
  const NativeCache &cache = attention.cache;
  return cache.head_dim > 0 && cache.head_dim % context->kernels->vector_width == 0 && cache.kv_heads > 0 &&
         attention.heads % cache.kv_heads == 0 && cache.block_size > 0;
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
  int64_t size = attention.cache.head_dim, row_room = size * 3 + 2 * STATE_HEADER + CHUNK, room = 0;
  context->items.clear(), context->joins.clear();
  for (int64_t e = 0; e < count; e++)
    for (int64_t token = 0; token < extents[e].tokens; token += step) {
      int64_t left = extents[e].tokens - token, tokens = left < step ? left : step;
      int64_t begin = chunks_begin(attention, extents[e], token), end = chunks_end(extents[e], token, tokens);
      if (!is_whole) context->joins.push_back({(int64_t)context->items.size(), end - begin});
      for (int64_t chunk = begin; chunk < end; chunk += is_whole ? end - begin : 1) {
        context->items.push_back({e, token, tokens, chunk, is_whole ? end : chunk + 1, room, is_whole});
        room += tokens * attention.heads * row_room + TILE * size;
      }
    }
  return room;
}

}  // namespace

int32_t run_attention(NativeContext *context, const NativeAttention &attention, int64_t count,
                      const NativeExtent *extents, const NativeRows &query, const NativeRows &out, bool is_planned) {
  if (!is_sound(context, attention)) return NATIVE_BAD_SHAPE;
  if (!is_planned && !context->states.reserve(plan_items(context, attention, count, extents) * 4))
    return NATIVE_NO_MEMORY;
  int64_t item_count = (int64_t)context->items.size();
  AttentionCall call = {&attention, extents, query, out, context->items.data(), item_count, context->joins.data(),
                        (float *)context->states.data};
  context->pool.run(item_count, 1,
                    [&](int64_t begin, int64_t end) { context->kernels->attend_items(call, begin, end); });
  context->pool.run((int64_t)context->joins.size(), 1,
                    [&](int64_t begin, int64_t end) { context->kernels->join_states(call, begin, end); });
  return NATIVE_OK;
}
