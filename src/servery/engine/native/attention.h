// Causal attention over the paged cache: newest tokens, drafts and pieces of prompts alike.
//
// A query row (one token, one head) looks at positions in chunks of CHUNK, counted from position 0, and there at TILE
// positions at a time; each chunk leaves the row's state (largest score, sum of weights, weighted values), and states
// are joined in order (online softmax, arXiv 1805.02867; parts as in arXiv 2205.14135). Where a chunk ends depends on
// nothing but the position, so a row's result does not depend on how a step is cut, who shares it, or on threads.
// All key heads of a slot are read together, since they lie together, and the query heads of each.
#pragma once
#include <math.h>

#include "dot.h"
#include "kernels.h"

namespace {

constexpr int TILE = 16;
constexpr float NEVER = -INFINITY;
constexpr int TILE_ROWS = W == 16 ? 4 : 2;  // query rows for which a key is read once

inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

template <int Type>
constexpr int item_bytes() {
  return Type == TYPE_F32 ? 4 : Type == TYPE_BF16 ? 2 : 1;
}

template <int Type>
inline vf load_cached(const char *at, int64_t d) {
  if (Type == TYPE_F32) return load<vf>(at + d * 4);
  if (Type == TYPE_BF16) return from_bf16(load<vh>(at + d * 2));
  return from_i8(load<vb>(at + d));
}

// The slots of the positions [from, to) of a tile that begins at `begin`, in order of position.
struct Tile {
  int64_t begin, from, to;
  int64_t slots[TILE];
};

inline void find_slots(const NativeExtent &extent, int64_t block_size, Tile *tile) {
  int64_t block = tile->from / block_size, offset = tile->from % block_size;
  for (int64_t p = tile->from; p < tile->to; p++) {
    tile->slots[p - tile->begin] = extent.blocks[block] * block_size + offset;
    if (++offset == block_size) block++, offset = 0;
  }
}

// Ask for the keys and values of positions that come next.
template <int Type>
inline void prefetch_tile(const NativeCache &cache, const Tile &tile) {
  int64_t bytes = 2 * cache.kv_heads * cache.head_dim * item_bytes<Type>();
  for (int64_t p = tile.from; p < tile.to; p++) {
    const char *at = (const char *)cache.data + tile.slots[p - tile.begin] * bytes;
    for (int64_t line = 0; line < bytes; line += 64) __builtin_prefetch(at + line, 0, 2);
  }
}

// The product of a key with R queries; of each, neighbouring vectors are added up apart, then together.
template <int Type, int R>
inline void dots(const float *const *queries, const char *key, int64_t size, float *products) {
  vf even[R] = {}, odd[R] = {};
  int64_t d = 0;
  for (; d + 2 * W <= size; d += 2 * W) {
    vf first = load_cached<Type>(key, d), second = load_cached<Type>(key, d + W);
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      even[r] += load<vf>(queries[r] + d) * first;
      odd[r] += load<vf>(queries[r] + d + W) * second;
    }
  }
  for (; d < size; d += W)
    for (int r = 0; r < R; r++) even[r] += load<vf>(queries[r] + d) * load_cached<Type>(key, d);
  for (int r = 0; r < R; r++) products[r * TILE] = sum_lanes(even[r] + odd[r]);
}

// c tanh(x / c), tanh(x) = 1 - 2 / (e^2x + 1), which beyond 40 is 1 in float32.
inline vf capped(vf score, float cap) {
  vf x = max(min(score / fill(cap), fill(40.0f)), fill(-40.0f));
  return (fill(1.0f) - fill(2.0f) / (exponential(x + x) + fill(1.0f))) * fill(cap);
}

// The weights of a tile in place of its scores; returns what the row's values so far are to be multiplied by.
inline float weigh(float *scores, float *state) {
  vf top = load<vf>(scores);
  for (int i = W; i < TILE; i += W) top = max(load<vf>(scores + i), top);
  float before = state[0], found = max_lanes(top);
  found = found > before ? found : before;
  vf sum = {};
  for (int i = 0; i < TILE; i += W) {
    vf weight = exponential(load<vf>(scores + i) - fill(found));
    store(scores + i, weight);
    sum += weight;
  }
  float shrink = exponential(fill(before - found))[0];
  state[0] = found;
  state[1] = state[1] * shrink + sum_lanes(sum);
  return shrink;
}

// values = values * shrink + sum of weight * value over positions [from, to) of the tile, for R rows and N vectors.
template <int Type, int R, int N>
inline void add_block(const char *const *at, const float *weights, int64_t from, int64_t to, const float *shrink,
                      int64_t d, float *const *values) {
  vf sums[R][N];
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) sums[r][j] = load<vf>(values[r] + d + j * W) * fill(shrink[r]);
  for (int64_t i = from; i < to; i++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) {
      vf value = load_cached<Type>(at[i], d + j * W);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sums[r][j] += fill(weights[r * TILE + i]) * value;
    }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) store(values[r] + d + j * W, sums[r][j]);
}

template <int Type, int R>
inline void add_values(const char *const *at, const float *weights, int64_t from, int64_t to, const float *shrink,
                       int64_t size, float *const *values) {
  constexpr int N = R == 1 ? 8 : 4;  // sums that stay in registers
  int64_t d = 0;
  for (; d + N * W <= size; d += N * W) add_block<Type, R, N>(at, weights, from, to, shrink, d, values);
  for (; d < size; d += W) add_block<Type, R, 1>(at, weights, from, to, shrink, d, values);
}

// Where the keys and values of one head lie, and their scales.
struct Head {
  const char *keys[TILE], *values[TILE];
  float key_scales[TILE], value_scales[TILE];
};

template <int Type>
inline void find_head(const NativeCache &cache, const Tile &tile, int64_t kv_head, Head *head) {
  for (int64_t i = tile.from - tile.begin; i < tile.to - tile.begin; i++) {
    int64_t key = tile.slots[i] * 2 * cache.kv_heads + kv_head, value = key + cache.kv_heads;
    head->keys[i] = (const char *)cache.data + key * cache.head_dim * item_bytes<Type>();
    head->values[i] = (const char *)cache.data + value * cache.head_dim * item_bytes<Type>();
    head->key_scales[i] = Type == TYPE_I8 ? bf16_to_float(cache.scales[key]) : 1.0f;
    head->value_scales[i] = Type == TYPE_I8 ? bf16_to_float(cache.scales[value]) : 1.0f;
  }
}

// A query row, multiplied by the scale of scores, its state, and the positions that it sees of a tile, from its begin.
struct Row {
  const float *query;
  float *state;
  int64_t from, to;
};

// R rows over a tile. What a row does not see has no weight: it is of the row's own sequence, and written.
template <int Type, int R>
inline void attend_rows(const NativeAttention &attention, const Head &head, const Row *rows) {
  alignas(64) float scores[R][TILE];
  const float *queries[R];
  float *values[R], shrink[R];
  int64_t from = TILE, to = 0, size = attention.cache.head_dim;
  for (int r = 0; r < R; r++) {
    queries[r] = rows[r].query, values[r] = rows[r].state + STATE_HEADER;
    from = least(from, rows[r].from), to = larger(to, rows[r].to);
  }
  for (int64_t i = from; i < to; i++) dots<Type, R>(queries, head.keys[i], size, &scores[0][i]);
  for (int r = 0; r < R; r++) {
    for (int i = 0; i < TILE; i++)
      scores[r][i] = i < rows[r].from || i >= rows[r].to ? NEVER : scores[r][i] * head.key_scales[i];
    if (attention.soft_cap > 0.0f)
      for (int i = 0; i < TILE; i += W) {
        vf score = load<vf>(scores[r] + i);
        store(scores[r] + i, select(score == fill(NEVER), score, capped(score, attention.soft_cap)));
      }
    shrink[r] = weigh(scores[r], rows[r].state);
    if (Type == TYPE_I8)
      for (int64_t i = from; i < to; i++) scores[r][i] *= head.value_scales[i];
  }
  add_values<Type, R>(head.values, scores[0], from, to, shrink, size, values);
}

inline int64_t first_seen(const NativeAttention &attention, int64_t position) {
  return attention.window > 0 ? larger(0, position - attention.window + 1) : 0;
}

// All rows of an item over a tile. `queries` [tokens][heads][head_dim], `states` [tokens][heads][STATE_HEADER + head_dim].
template <int Type>
void attend_tile(const NativeAttention &attention, const Tile &tile, int64_t position, int64_t tokens,
                 const float *queries, float *states) {
  const NativeCache &cache = attention.cache;
  int64_t size = cache.head_dim, group = attention.heads / cache.kv_heads;
  for (int64_t h = 0; h < cache.kv_heads; h++) {
    Head head;
    find_head<Type>(cache, tile, h, &head);
    int count = 0;
    Row rows[TILE_ROWS];
    for (int64_t t = 0; t < tokens; t++) {
      int64_t from = larger(tile.from, first_seen(attention, position + t)) - tile.begin;
      int64_t to = least(tile.to, position + t + 1) - tile.begin;
      for (int64_t row = t * attention.heads + h * group, end = row + group; from < to && row < end; row++) {
        rows[count++] = {queries + row * size, states + row * (size + STATE_HEADER), from, to};
        if (count == TILE_ROWS) {
          attend_rows<Type, TILE_ROWS>(attention, head, rows);
          count = 0;
        }
      }
    }
    if (TILE_ROWS == 4 && count & 2) attend_rows<Type, 2>(attention, head, rows);
    if (count & 1) attend_rows<Type, 1>(attention, head, rows + (count & 2));
  }
}

inline void clear_states(int64_t rows, int64_t size, float *states) {
  for (int64_t r = 0; r < rows; r++, states += size + STATE_HEADER) {
    memset(states, 0, (size_t)(size + STATE_HEADER) * 4);
    states[0] = NEVER;
  }
}

inline Tile tile_at(const NativeAttention &attention, const NativeExtent &extent, int64_t begin, int64_t from,
                    int64_t to) {
  Tile tile = {begin, larger(begin, from), least(begin + TILE, to), {}};
  find_slots(extent, attention.cache.block_size, &tile);
  return tile;
}

// The states of an item's rows after one chunk.
template <int Type>
void attend_chunk(const AttentionCall &call, const AttentionItem &item, int64_t chunk, const float *queries,
                  float *states) {
  const NativeAttention &attention = *call.attention;
  const NativeExtent &extent = call.extents[item.extent];
  int64_t position = extent.start + item.token;
  int64_t from = larger(chunk * CHUNK, first_seen(attention, position));
  int64_t to = least(chunk * CHUNK + CHUNK, position + item.tokens);
  clear_states(item.tokens * attention.heads, attention.cache.head_dim, states);
  int64_t begin = from / TILE * TILE;
  if (from >= to) return;
  Tile tile = tile_at(attention, extent, begin, from, to);
  for (; begin < to; begin += TILE) {
    Tile next = tile;
    if (begin + TILE < to) {
      next = tile_at(attention, extent, begin + TILE, from, to);
      prefetch_tile<Type>(attention.cache, next);
    }
    attend_tile<Type>(attention, tile, position, item.tokens, queries, states);
    tile = next;
  }
}

// Joins a state to the state of all chunks before it.
inline void join_state(const float *state, int64_t size, float *joined) {
  if (state[0] == NEVER) return;
  float top = joined[0] > state[0] ? joined[0] : state[0];
  float before = joined[0] == NEVER ? 0.0f : exponential(fill(joined[0] - top))[0];
  float now = exponential(fill(state[0] - top))[0];
  joined[0] = top;
  joined[1] = joined[1] * before + state[1] * now;
  for (int64_t d = STATE_HEADER; d < size + STATE_HEADER; d += W)
    store(joined + d, load<vf>(joined + d) * fill(before) + load<vf>(state + d) * fill(now));
}

// What is joined to: nothing, or a sink, which has a score and no value (arXiv 2508.10925, section 2.2).
inline void begin_joined(const NativeAttention &attention, int64_t rows, float *joined) {
  clear_states(rows, attention.cache.head_dim, joined);
  if (!attention.sinks) return;
  for (int64_t r = 0; r < rows; r++) {
    float *state = joined + r * (attention.cache.head_dim + STATE_HEADER);
    state[0] = attention.sinks[r % attention.heads];
    state[1] = 1.0f;
  }
}

inline void write_rows(const AttentionCall &call, const AttentionItem &item, const float *joined) {
  int64_t size = call.attention->cache.head_dim, heads = call.attention->heads;
  int64_t first = call.extents[item.extent].query_start + item.token;
  for (int64_t r = 0; r < item.tokens * heads; r++, joined += size + STATE_HEADER) {
    int64_t to = (first + r / heads) * call.out.stride + r % heads * size;
    for (int64_t d = 0; d < size; d += W)
      store_as(call.out.data, call.out.type, to + d, load<vf>(joined + STATE_HEADER + d) / fill(joined[1]));
  }
}

inline void read_queries(const AttentionCall &call, const AttentionItem &item, float *queries) {
  int64_t width = call.attention->heads * call.attention->cache.head_dim;
  int64_t first = call.extents[item.extent].query_start + item.token;
  for (int64_t t = 0; t < item.tokens; t++)
    for (int64_t d = 0; d < width; d += W)
      store(queries + t * width + d, load_as_float(call.query.data, call.query.type, (first + t) * call.query.stride + d) *
                                         fill(call.attention->scale));
}

// An item's room: queries [rows][head_dim], then states of a chunk and, of a whole item, those joined.
template <int Type>
void attend_item(const AttentionCall &call, const AttentionItem &item) {
  int64_t size = call.attention->cache.head_dim, rows = item.tokens * call.attention->heads;
  float *queries = call.states + item.state, *states = queries + rows * size;
  read_queries(call, item, queries);
  if (!item.is_whole) return attend_chunk<Type>(call, item, item.first_chunk, queries, states);
  float *joined = states + rows * (size + STATE_HEADER);
  begin_joined(*call.attention, rows, joined);
  for (int64_t chunk = item.first_chunk; chunk < item.last_chunk; chunk++) {
    attend_chunk<Type>(call, item, chunk, queries, states);
    for (int64_t r = 0; r < rows; r++)
      join_state(states + r * (size + STATE_HEADER), size, joined + r * (size + STATE_HEADER));
  }
  write_rows(call, item, joined);
}

void attend_items(const AttentionCall &call, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; i++) {
    int32_t type = call.attention->cache.type;
    if (type == TYPE_F32) attend_item<TYPE_F32>(call, call.items[i]);
    else if (type == TYPE_BF16) attend_item<TYPE_BF16>(call, call.items[i]);
    else attend_item<TYPE_I8>(call, call.items[i]);
  }
}

// The states of items of one chunk each, joined in the room of the first of them.
void join_states(const AttentionCall &call, int64_t begin, int64_t end) {
  int64_t size = call.attention->cache.head_dim;
  for (int64_t j = begin; j < end; j++) {
    const AttentionItem *items = call.items + call.joins[j].first;
    int64_t rows = items[0].tokens * call.attention->heads;
    float *joined = call.states + items[0].state + rows * (2 * size + STATE_HEADER);
    begin_joined(*call.attention, rows, joined);
    for (int64_t i = 0; i < call.joins[j].count; i++) {
      const float *states = call.states + items[i].state + rows * size;
      for (int64_t r = 0; r < rows; r++)
        join_state(states + r * (size + STATE_HEADER), size, joined + r * (size + STATE_HEADER));
    }
    write_rows(call, items[0], joined);
  }
}

}  // namespace
