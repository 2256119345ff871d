// A chunk of a sequence's positions: where its keys and values lie in the paged cache.
#pragma once
#include "kernels.h"
#include "vector.h"

namespace {

// The places [from, to) of a chunk that somebody sees, their slots, and where these lie; `rows` of others are one of these.
struct Chunk {
  int64_t from, to;
  int64_t slots[CHUNK];
  const char *rows[CHUNK];
};

inline Chunk chunk_at(const NativeCache &cache, const NativeExtent &extent, int64_t begin, int64_t from, int64_t to,
                      int64_t item_size) {
  Chunk chunk;
  chunk.from = from - begin, chunk.to = to - begin;
  int64_t block = from / cache.block_size, offset = from % cache.block_size;
  for (int64_t i = chunk.from; i < chunk.to; i++) {
    chunk.slots[i] = extent.blocks[block] * cache.block_size + offset;
    chunk.rows[i] = (const char *)cache.data + chunk.slots[i] * 2 * cache.kv_heads * cache.head_dim * item_size;
    if (++offset == cache.block_size) block++, offset = 0;
  }
  for (int64_t i = 0; i < CHUNK; i++)
    if (i < chunk.from || i >= chunk.to) chunk.rows[i] = chunk.rows[chunk.from];
  return chunk;
}

// Keys and values of one head in a chunk: so many bytes into each slot.
struct Head {
  const Chunk *chunk;
  int64_t key, value;
};

// Scales of one head's keys, or values, by place; 0 for places that nobody sees.
inline void find_scales(const NativeCache &cache, const Chunk &chunk, int64_t head, float *scales) {
  for (int64_t i = 0; i < CHUNK; i++)
    scales[i] = i >= chunk.from && i < chunk.to ? bf16_to_float(cache.scales[chunk.slots[i] * 2 * cache.kv_heads + head])
                                                : 0.0f;
}

// Asks for the rows of the chunk that comes next, in the order in which they lie, a few lines at a time.
class Ahead {
 public:
  // `times`: how often it is asked, at least. Null: there is none.
  Ahead(const Chunk *chunk, int64_t row_bytes, int64_t times)
      : chunk_(chunk), row_bytes_(row_bytes), place_(chunk ? chunk->from : 0) {
    lines_ = chunk ? ((chunk->to - chunk->from) * row_bytes / 64 + times - 1) / times : 0;
  }

  void ask() {
    for (int64_t line = 0; line < lines_ && place_ < chunk_->to; line++) {
      __builtin_prefetch(chunk_->rows[place_] + at_, 0, 2);
      at_ += 64;
      if (at_ >= row_bytes_) place_++, at_ = 0;
    }
  }

 private:
  const Chunk *chunk_;
  int64_t row_bytes_, place_, lines_, at_ = 0;
};

}  // namespace
