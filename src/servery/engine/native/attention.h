// Causal attention over the paged cache: newest tokens, drafts and pieces of prompts alike.
//
// A query row (one token, one head) looks at positions in chunks of CHUNK, counted from position 0; each chunk leaves
// the row's state (largest score, sum of weights, weighted values), and states are joined in order (online softmax,
// arXiv 1805.02867; parts as in arXiv 2205.14135). Where a chunk ends depends on nothing but the position, so a row's
// result does not depend on how a step is cut, who shares it, or on threads.
//
// The keys of a chunk are mirrored, TILE at a time, so that a score needs no sum across lanes; values are read as they
// lie. While one chunk is computed, the next one, of whichever sequence, is on its way from memory.
#pragma once
#include <math.h>

#include "chunk.h"
#include "dot.h"
#include "transpose.h"

namespace {

constexpr int CHAINS = W == 16 ? 4 : 2;  // sums of a score that are added up side by side, then together
constexpr float NEVER = -INFINITY;
constexpr int TILE_ROWS = W == 16 ? 4 : 2;  // query rows for which a key or value is read once

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

// Words of 4 bytes as 1, 2 or 4 dimensions each, to mirrored[dimension][TILE].
template <int Type>
inline void store_dimensions(vi words, float *mirrored) {
  if (Type == TYPE_F32) store(mirrored, words);
  if (Type == TYPE_BF16) store(mirrored, (vi)((vu)words << 16)), store(mirrored + TILE, words & (vi)fill((int32_t)0xffff0000));
  if (Type == TYPE_I8)
    for (int byte = 0; byte < 4; byte++)
      store(mirrored + byte * TILE, to_float((vi)((vu)words << (24 - 8 * byte)) >> 24));
}

// The keys of places [first, first + TILE), [dimension][TILE]; what nobody sees is anything.
template <int Type>
void mirror_keys(const Head &head, int64_t first, int64_t size, Ahead *ahead, float *mirrored) {
  constexpr int PER_WORD = 4 / item_bytes<Type>();
  int64_t count = size / PER_WORD;
  for (int64_t group = 0; group < TILE; group += W) {
    const char *const *rows = head.chunk->rows + first + group;
    int64_t at = 0;
    for (; at + W <= count; at += W) {
      ahead->ask();
      vi words[W];
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) words[i] = load<vi>(rows[i] + head.key + at * 4);
      transpose(words);
#pragma GCC unroll 16
      for (int i = 0; i < W; i++) store_dimensions<Type>(words[i], mirrored + (at + i) * PER_WORD * TILE + group);
    }
    if (at == count) continue;
    vi words[W];
    for (int i = 0; i < W; i++) words[i] = (vi)load_some((const float *)(rows[i] + head.key) + at, count - at);
    transpose(words);
    for (int i = 0; at + i < count; i++)
      store_dimensions<Type>(words[i], mirrored + (at + i) * PER_WORD * TILE + group);
  }
}

// The products of R queries with the keys of a tile, to scores [R][CHUNK].
template <int R>
inline void score_rows(const float *const *queries, const float *mirrored, int64_t size, float *const *scores) {
  for (int v = 0; v < TILE; v += W) {
    vf sums[R][CHAINS] = {};
    for (int64_t d = 0; d < size; d += CHAINS)
#pragma GCC unroll 4
      for (int c = 0; c < CHAINS; c++) {
        vf keys = load<vf>(mirrored + (d + c) * TILE + v);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) sums[r][c] += fill(queries[r][d + c]) * keys;
      }
#pragma GCC unroll 4
    for (int r = 0; r < R; r++) {
      vf sum = sums[r][0] + sums[r][1];
      if (CHAINS == 4) sum += sums[r][2] + sums[r][CHAINS - 1];
      store(scores[r] + v, sum);
    }
  }
}

// c tanh(x / c), tanh(x) = 1 - 2 / (e^2x + 1), which beyond 40 is 1 in float32.
inline vf capped(vf score, float cap) {
  vf x = max(fill(-40.0f), min(fill(40.0f), score / fill(cap)));
  return (fill(1.0f) - fill(2.0f) / (exponential(x + x) + fill(1.0f))) * fill(cap);
}

// A query row, multiplied by the scale of scores, its scores and state, and the places that it sees of a chunk.
struct Row {
  const float *query;
  float *scores, *state;
  int64_t from, to;
};

inline vi lanes() {
  vi numbers = {};
  for (int i = 0; i < W; i++) numbers[i] = i;
  return numbers;
}

// The weights of a chunk in place of its scores; largest score and sum of weights to the row's state.
inline void weigh(const Row &row, float soft_cap, const float *key_scales, const float *value_scales) {
  vf top = fill(NEVER), sum = {};
  for (int i = 0; i < CHUNK; i += W) {
    vi place = lanes() + i;
    vf score = load<vf>(row.scores + i);
    if (key_scales) score *= load<vf>(key_scales + i);
    if (soft_cap > 0.0f) score = capped(score, soft_cap);
    score = select((place >= (int32_t)row.from) & (place < (int32_t)row.to), score, fill(NEVER));
    store(row.scores + i, score);
    top = max(score, top);
  }
  float largest = max_lanes(top);
  for (int i = 0; i < CHUNK; i += W) {
    vf weight = exponential(load<vf>(row.scores + i) - fill(largest));
    sum += weight;
    store(row.scores + i, value_scales ? weight * load<vf>(value_scales + i) : weight);
  }
  row.state[0] = largest;
  row.state[1] = sum_lanes(sum);
}

// The sum of weight * value over places [from, to), for R rows and N vectors from dimension d on.
template <int Type, int R, int N>
inline void sum_block(const Head &head, int64_t from, int64_t to, int64_t d, const Row *rows) {
  vf sums[R][N] = {};
  for (int64_t i = from; i < to; i++) {
    const char *values = head.chunk->rows[i] + head.value;
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) {
      vf value = load_cached<Type>(values, d + j * W);
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) sums[r][j] += fill(rows[r].scores[i]) * value;
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; r++)
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) store(rows[r].state + STATE_HEADER + d + j * W, sums[r][j]);
}

template <int Type, int R>
void sum_values(const Head &head, int64_t size, const Row *rows) {
  constexpr int N = R == 1 ? 8 : 4;  // sums that stay in registers
  int64_t from = CHUNK, to = 0, d = 0;
  for (int r = 0; r < R; r++) from = least(from, rows[r].from), to = larger(to, rows[r].to);
  for (; d + N * W <= size; d += N * W) sum_block<Type, R, N>(head, from, to, d, rows);
  for (; d < size; d += W) sum_block<Type, R, 1>(head, from, to, d, rows);
}

template <int R>
void score_tile(const Row *rows, const float *mirrored, int64_t first, int64_t size) {
  const float *queries[R];
  float *scores[R];
  for (int r = 0; r < R; r++) queries[r] = rows[r].query, scores[r] = rows[r].scores + first;
  score_rows<R>(queries, mirrored, size, scores);
}

template <int N>
struct Count {
  static constexpr int value = N;
};

// Calls `some(count, first)` for rows [0, count) in as large parts as kernels take.
template <class Some>
inline void in_parts(int64_t count, const Some &some) {
  int64_t at = 0;
  for (; at + TILE_ROWS <= count; at += TILE_ROWS) some(Count<TILE_ROWS>(), at);
  if (TILE_ROWS == 4 && (count - at) & 2) some(Count<2>(), at), at += 2;
  if (at < count) some(Count<1>(), at);
}

// An item's memory, by query rows: queries, states of a chunk, states joined, scores; and a tile of keys.
struct Room {
  float *queries, *states, *joined, *scores, *mirrored;
};

inline Room room_of(const AttentionCall &call, const AttentionItem &item) {
  int64_t size = call.attention->cache.head_dim, rows = item.tokens * call.attention->heads;
  float *queries = call.states + item.state, *states = queries + rows * size;
  float *joined = states + rows * (size + STATE_HEADER), *scores = joined + rows * (size + STATE_HEADER);
  return {queries, states, joined, scores, scores + rows * CHUNK};
}

// Rows of one key head over a chunk.
template <int Type>
void attend_rows(const NativeAttention &attention, int64_t kv_head, const Head &head, const Row *rows, int64_t count,
                 Ahead *ahead, float *mirrored) {
  int64_t size = attention.cache.head_dim;
  alignas(64) float key_scales[CHUNK], value_scales[CHUNK];
  bool is_scaled = Type == TYPE_I8;
  if (is_scaled) {
    find_scales(attention.cache, *head.chunk, kv_head, key_scales);
    find_scales(attention.cache, *head.chunk, attention.cache.kv_heads + kv_head, value_scales);
  }
  for (int64_t first = head.chunk->from / TILE * TILE; first < head.chunk->to; first += TILE) {
    mirror_keys<Type>(head, first, size, ahead, mirrored);
    in_parts(count, [&](auto part, int64_t at) { score_tile<decltype(part)::value>(rows + at, mirrored, first, size); });
  }
  for (int64_t r = 0; r < count; r++)
    weigh(rows[r], attention.soft_cap, is_scaled ? key_scales : nullptr, is_scaled ? value_scales : nullptr);
  in_parts(count, [&](auto part, int64_t at) { sum_values<Type, decltype(part)::value>(head, size, rows + at); });
}

inline int64_t first_seen(const NativeAttention &attention, int64_t position) {
  return attention.window > 0 ? larger(0, position - attention.window + 1) : 0;
}

constexpr int64_t MOST_ROWS = 128;  // of a key head, whose scores and sums are computed together

// The states of an item's rows of one key head after a chunk that begins at position `begin`.
template <int Type>
void attend_head(const AttentionCall &call, const AttentionItem &item, int64_t begin, int64_t kv_head, const Head &head,
                 Ahead *ahead, const Room &room) {
  const NativeAttention &attention = *call.attention;
  int64_t size = attention.cache.head_dim, group = attention.heads / attention.cache.kv_heads, count = 0;
  int64_t position = call.extents[item.extent].start + item.token;
  Row rows[MOST_ROWS];
  for (int64_t t = 0; t < item.tokens; t++) {
    int64_t from = larger(begin, first_seen(attention, position + t)) - begin;
    int64_t to = least(begin + CHUNK, position + t + 1) - begin;
    for (int64_t row = t * attention.heads + kv_head * group, end = row + group; row < end; row++) {
      float *state = room.states + row * (size + STATE_HEADER);
      state[0] = NEVER;
      if (from < to) rows[count++] = {room.queries + row * size, room.scores + row * CHUNK, state, from, to};
      if (count < MOST_ROWS) continue;
      attend_rows<Type>(attention, kv_head, head, rows, count, ahead, room.mirrored);
      count = 0;
    }
  }
  if (count) attend_rows<Type>(attention, kv_head, head, rows, count, ahead, room.mirrored);
}

// Chunk `number` of an item's sequence, as much of it as the item's tokens see.
template <int Type>
Chunk chunk_of(const AttentionCall &call, const AttentionItem &item, int64_t number) {
  const NativeExtent &extent = call.extents[item.extent];
  int64_t begin = number * CHUNK, position = extent.start + item.token;
  int64_t from = larger(begin, first_seen(*call.attention, position)), to = least(begin + CHUNK, position + item.tokens);
  return chunk_at(call.attention->cache, extent, begin, from, to, item_bytes<Type>());
}

// The states of an item's rows after chunk `number`, while what comes `then` is on its way.
template <int Type>
void attend_chunk(const AttentionCall &call, const AttentionItem &item, int64_t number, const Chunk &now,
                  const Chunk *then, const Room &room) {
  const NativeCache &cache = call.attention->cache;
  int64_t size = cache.head_dim * item_bytes<Type>(), tiles = (now.to + TILE - 1) / TILE - now.from / TILE;
  int64_t squares = larger(size / 4 / W, 1) * (TILE / W);
  Ahead ahead(then, 2 * cache.kv_heads * size, cache.kv_heads * tiles * squares);
  for (int64_t h = 0; h < cache.kv_heads; h++)
    attend_head<Type>(call, item, number * CHUNK, h, {&now, h * size, (h + cache.kv_heads) * size}, &ahead, room);
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
  int64_t width = attention.cache.head_dim + STATE_HEADER;
  for (int64_t r = 0; r < rows; r++, joined += width) {
    memset(joined, 0, (size_t)width * 4);
    joined[0] = attention.sinks ? attention.sinks[r % attention.heads] : NEVER;
    joined[1] = attention.sinks ? 1.0f : 0.0f;
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

// The chunks of an item one by one; `now` is the first of them, and becomes that of the `next` item, if there is one.
template <int Type>
void attend_item(const AttentionCall &call, const AttentionItem &item, const AttentionItem *next, Chunk *now) {
  int64_t size = call.attention->cache.head_dim, rows = item.tokens * call.attention->heads;
  Room room = room_of(call, item);
  read_queries(call, item, room.queries);
  if (item.is_whole) begin_joined(*call.attention, rows, room.joined);
  for (int64_t number = item.first_chunk; number < item.last_chunk; number++) {
    bool is_last = number + 1 == item.last_chunk;
    Chunk then;
    if (!is_last) then = chunk_of<Type>(call, item, number + 1);
    else if (next) then = chunk_of<Type>(call, *next, next->first_chunk);
    attend_chunk<Type>(call, item, number, *now, is_last && !next ? nullptr : &then, room);
    for (int64_t r = 0; r < rows && item.is_whole; r++)
      join_state(room.states + r * (size + STATE_HEADER), size, room.joined + r * (size + STATE_HEADER));
    if (!is_last || next) *now = then;
  }
  if (item.is_whole) write_rows(call, item, room.joined);
}

template <int Type>
void attend_all(const AttentionCall &call, const AttentionItem *item, const AttentionItem *end) {
  if (item == end) return;
  Chunk now = chunk_of<Type>(call, *item, item->first_chunk);
  // The next item is this thread's as a rule, if not in this piece of its work then in the next.
  const AttentionItem *last = call.items + call.item_count - 1;
  for (; item < end; item++) attend_item<Type>(call, *item, item < last ? item + 1 : nullptr, &now);
}

void attend_items(const AttentionCall &call, int64_t begin, int64_t end) {
  const AttentionItem *first = call.items + begin, *last = call.items + end;
  int32_t type = call.attention->cache.type;
  if (type == TYPE_F32) attend_all<TYPE_F32>(call, first, last);
  else if (type == TYPE_BF16) attend_all<TYPE_BF16>(call, first, last);
  else attend_all<TYPE_I8>(call, first, last);
}

// The states of items of one chunk each, joined in the room of the first of them.
void join_states(const AttentionCall &call, int64_t begin, int64_t end) {
  int64_t size = call.attention->cache.head_dim;
  for (int64_t j = begin; j < end; j++) {
    const AttentionItem *items = call.items + call.joins[j].first;
    int64_t rows = items[0].tokens * call.attention->heads;
    float *joined = room_of(call, items[0]).joined;
    begin_joined(*call.attention, rows, joined);
    for (int64_t i = 0; i < call.joins[j].count; i++) {
      const float *states = room_of(call, items[i]).states;
      for (int64_t r = 0; r < rows; r++)
        join_state(states + r * (size + STATE_HEADER), size, joined + r * (size + STATE_HEADER));
    }
    write_rows(call, items[0], joined);
  }
}

}  // namespace
