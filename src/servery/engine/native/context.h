// A variant of the kernels, threads, and memory that calls use one after the other.
#pragma once
#include <stdlib.h>

#include <vector>

#include "kernels.h"
#include "pool.h"

// Memory that grows and is used again.
struct Scratch {
  char *data = nullptr;
  int64_t size = 0;

  // What was in it is lost; false without memory.
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

struct NativeContext {
  NativeContext(const Kernels *k, int threads, const int *cpus) : kernels(k), pool(threads, cpus) {}
  const Kernels *kernels;
  Pool pool;
  Scratch x, states, activations, choosing;
  std::vector<AttentionItem> items;
  std::vector<AttentionJoin> joins;
};

// Work below which a second thread costs more than it computes, in multiplications.
constexpr int64_t SHARED_WORK = 1 << 15;
// The same in numbers that are normed, rotated, gated or rounded, each of which takes more than a multiplication.
constexpr int64_t SHARED_NUMBERS = 1 << 12;

// A linear layer of a call whose rows to come from, and go to, are set; returns a `NativeStatus`.
int32_t run_linear(NativeContext *context, LinearCall call);
// As `servery_attention`. The plan of the call before is used again if `is_planned`.
int32_t run_attention(NativeContext *context, const NativeAttention &attention, int64_t count,
                      const NativeExtent *extents, const NativeRows &query, const NativeRows &out, bool is_planned);
