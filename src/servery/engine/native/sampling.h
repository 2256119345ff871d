// From a row of logits to its token, as sampler.py says: the same order, the same integers, the same random numbers.
#pragma once
#include <math.h>
#include <stdlib.h>

#include "kernels.h"
#include "vector.h"

namespace {

constexpr int64_t BLOCK = 64;                  // tokens summarised by one number where a whole vocabulary races
constexpr int64_t MOST_RACERS = BLOCK * BLOCK;  // of more tokens, blocks race first
constexpr int BUCKETS = 256;                   // of logits by their distance from the largest
constexpr float BUCKETS_PER_NEPER = 8;
constexpr float FEW = 1.0f / (1 << 14);        // tokens less likely than this are looked at only where they matter
constexpr float FEW_NEPERS = 9.7f;             // -ln FEW
constexpr float NEPERS = 40.0f;                // so much less likely than the first a token has no weight
constexpr double NEARLY = 1.0 - 1e-9;          // more than what rounding can take from a quotient
constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15u;

#if defined(__AVX512F__)
inline bool any(vi mask) { return _mm512_movepi32_mask((__m512i)mask) != 0; }
#elif defined(__AVX2__)
inline bool any(vi mask) { return _mm256_movemask_epi8((__m256i)mask) != 0; }
#else
inline bool any(vi mask) {
  int32_t found = 0;
  for (int i = 0; i < W; i++) found |= mask[i];
  return found != 0;
}
#endif

// Tokens first + lane for the lanes below `some` that `mask` has, to `ids`, which has room for all; returns how many.
#if defined(__AVX512F__)
inline int64_t put_ids(vi mask, int64_t first, int64_t some, int32_t *ids) {
  const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  __mmask16 chosen = _mm512_movepi32_mask((__m512i)mask) & (__mmask16)((1u << some) - 1);
  __m512i all = _mm512_add_epi32(lanes, _mm512_set1_epi32((int32_t)first));
  _mm512_storeu_si512(ids, _mm512_maskz_compress_epi32(chosen, all));
  return __builtin_popcount(chosen);
}
#else
inline int64_t put_ids(vi mask, int64_t first, int64_t some, int32_t *ids) {
  int64_t count = 0;
  for (int64_t j = 0; j < some; j++) {
    ids[count] = (int32_t)(first + j);
    count -= mask[j];
  }
  return count;
}
#endif

struct Entry {
  float logit;
  int32_t id;
};

// The room of a slot.
struct Desk {
  float *row;      // logits, where they differ from the model's
  float *weights;  // of all tokens
  int32_t *ids;    // of those that are left
  float *left;     // their weights
  Entry *heap;     // also for what else takes no more

  Desk(char *room, int64_t size) {
    size = round_up(size, 64);
    row = (float *)room, weights = row + size, left = weights + size;
    ids = (int32_t *)(left + size), heap = (Entry *)(ids + size);
  }
};

// What a row draws from: `count` tokens, `ids` null for all, with weights of which `first` has the largest.
struct Field {
  const int32_t *ids;
  float *weights;
  int64_t count, first;
};

// ---- random numbers: randomness.py

inline uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

inline uint64_t state_of(uint64_t seed, int64_t position) {
  return mix(mix(seed + GOLDEN) + GOLDEN * ((uint64_t)position + 1));
}

inline double uniform(uint64_t state, uint64_t draw) {
  return (double)(int64_t)(mix(state + GOLDEN * (draw + 1)) >> 11) * 0x1p-53;
}

struct Winner {
  double key;
  int64_t at, id;
};

template <class Weight>
inline void run_one(Winner *best, double chance, Weight weight, int64_t at, int64_t id) {
  double key = (double)weight / (0x1p-60 - log1p(-chance));
  if (key > best->key || (key == best->key && id < best->id)) *best = {key, at, id};
}

// The place of the largest weight / e, e of the exponential distribution. As e is no smaller than the uniform number
// that it is made from, hardly any logarithm has to be known.
template <class Weight>
inline int64_t race(uint64_t state, const Weight *weights, const int32_t *ids, int64_t count, int64_t first,
                    bool of_blocks) {
  constexpr int LANES = 8;
  Winner best = {-1.0, 0, 0};
  auto id_of = [&](int64_t at) { return ids ? (int64_t)ids[at] : at; };
  auto draw_of = [&](int64_t at) { return 2 * (uint64_t)id_of(at) + of_blocks; };
  run_one(&best, uniform(state, draw_of(first)), weights[first], first, id_of(first));
  for (int64_t at = 0; at < count; at += LANES) {
    double chances[LANES];
    int64_t some = least(LANES, count - at);
    if (some == LANES && ids)
      for (int j = 0; j < LANES; j++) chances[j] = uniform(state, 2 * (uint64_t)ids[at + j] + of_blocks);
    else if (some == LANES)
      for (int j = 0; j < LANES; j++) chances[j] = uniform(state, 2 * (uint64_t)(at + j) + of_blocks);
    else
      for (int64_t j = 0; j < some; j++) chances[j] = uniform(state, draw_of(at + j));
    double bound = best.key * NEARLY;
    int is_open = 0;
    if (some == LANES)
      for (int j = 0; j < LANES; j++) is_open |= (double)weights[at + j] >= bound * chances[j];
    if (some == LANES && !is_open) continue;
    for (int64_t j = 0; j < some; j++)
      if (weights[at + j] > 0 && (double)weights[at + j] >= bound * chances[j])
        run_one(&best, chances[j], weights[at + j], at + j, id_of(at + j));
  }
  return best.at;
}

// ---- logits

struct Peak {
  float value;  // not a number if any logit is none
  int64_t id;
};

inline Peak peak_of(const float *row, int64_t size) {
  vf best = fill(-INFINITY);
  vi is_nan = {};
  int64_t i = 0;
  for (; i + W <= size; i += W) {
    vf each = load<vf>(row + i);
    best = max(each, best);
    is_nan |= each != each;
  }
  float value = max_lanes(best);
  bool is_broken = any(is_nan);
  for (; i < size; i++) {
    is_broken |= row[i] != row[i];
    value = row[i] > value ? row[i] : value;
  }
  if (is_broken) return {NAN, 0};
  int64_t id = 0;
  while (id + W <= size && !any(load<vf>(row + id) == fill(value))) id += W;
  while (row[id] != value) id++;
  return {value, id};
}

inline bool changes(const NativeChoice &choice) {
  return choice.biased_count || choice.seen_count || choice.allowed_count || choice.barred_count || choice.mask;
}

inline void penalise(const NativeChoice &choice, float *row) {
  for (int64_t i = 0; i < choice.seen_count; i++) {
    float *logit = row + choice.seen[i], count = choice.counts[i];
    float lowered_by = choice.frequency * count + (count > 0 ? choice.presence : 0.0f);
    *logit = (*logit > 0 ? *logit / choice.repetition : *logit * choice.repetition) - lowered_by;
  }
}

inline void keep_only(const NativeChoice &choice, int64_t size, float *row, float *spare) {
  memcpy(spare, row, (size_t)size * 4);
  for (int64_t i = 0; i < size; i++) row[i] = -INFINITY;
  for (int64_t i = 0; i < choice.allowed_count; i++) row[choice.allowed[i]] = spare[choice.allowed[i]];
}

inline void apply_mask(const uint32_t *mask, int64_t size, float *row) {
  for (int64_t begin = 0; begin < size; begin += 32) {
    uint32_t bits = mask[begin / 32];
    if (bits == 0xffffffffu) continue;
    for (int64_t i = begin; i < least(begin + 32, size); i++)
      if (!(bits >> (i - begin) & 1)) row[i] = -INFINITY;
  }
}

inline const float *adjusted(const NativeChoice &choice, const float *given, int64_t size, const Desk &desk) {
  if (!changes(choice)) return given;
  memcpy(desk.row, given, (size_t)size * 4);
  for (int64_t i = 0; i < choice.biased_count; i++) desk.row[choice.biased[i]] += choice.biases[i];
  penalise(choice, desk.row);
  if (choice.allowed_count) keep_only(choice, size, desk.row, desk.weights);
  for (int64_t i = 0; i < choice.barred_count; i++) desk.row[choice.barred[i]] = -INFINITY;
  if (choice.mask) apply_mask(choice.mask, size, desk.row);
  return desk.row;
}

// ---- weights

// The weight 2^b of the most likely token: sums of weights stay below 2^53.
inline float unit_of(int64_t size) {
  int bits = 0;
  while (size >> bits) bits++;
  return ldexpf(1.0f, 53 - bits);
}

// floor(unit e^((logit - peak) / temperature)): whole numbers.
inline vf weights_of(vf logits, float peak, float temperature, float unit) {
  vf weight = exponential((logits - fill(peak)) / fill(temperature)) * fill(unit);
  vi has_fraction = weight < fill(8388608.0f);
  vf floored = to_float(__builtin_convertvector(select(has_fraction, weight, fill(0.0f)), vi));
  return select(has_fraction, floored, weight);
}

// The weights of all tokens.
inline void weigh(const float *row, int64_t size, float peak, float temperature, float *weights) {
  float unit = unit_of(size);
  vf none = fill(peak - NEPERS * temperature);
  for (int64_t i = 0; i < size; i += W) {
    vf logits = load_some(row + i, size - i);
    bool is_some = any(logits >= none);
    store_some(weights + i, size - i, is_some ? weights_of(logits, peak, temperature, unit) : vf{});
  }
}

// Sums of whole numbers below 2^53 are exact, in any order.
inline double sum_of(const float *weights, int64_t count) {
  constexpr int LANES = 16;
  double lanes[LANES] = {}, sum = 0;
  int64_t i = 0;
  for (; i + LANES <= count; i += LANES)
    for (int j = 0; j < LANES; j++) lanes[j] += (double)weights[i + j];
  for (; i < count; i++) sum += (double)weights[i];
  for (int j = 0; j < LANES; j++) sum += lanes[j];
  return sum;
}

inline void drop_unlikely(float *weights, int64_t count, double smallest) {
  for (int64_t i = 0; i < count; i++)
    if ((double)weights[i] < smallest) weights[i] = 0;
}

// ---- top_k and top_p

inline bool is_before(const Entry &a, const Entry &b) { return a.logit > b.logit || (a.logit == b.logit && a.id < b.id); }

inline void sift_down(Entry *heap, int64_t count, int64_t at) {
  Entry moved = heap[at];
  for (;;) {
    int64_t child = 2 * at + 1;
    if (child >= count) break;
    if (child + 1 < count && is_before(heap[child + 1], heap[child])) child++;
    if (!is_before(heap[child], moved)) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moved;
}

inline Entry pop(Entry *heap, int64_t *count) {
  Entry first = heap[0];
  heap[0] = heap[--*count];
  if (*count) sift_down(heap, *count, 0);
  return first;
}

// The tokens that are left of a row, while limits are applied.
struct Shortlist {
  const float *row, *weights;
  int32_t *ids;
  Entry *heap;
  int64_t count;
  float peak, scale;

  int bucket_of(int32_t id) const {
    float distance = (peak - row[id]) * scale;
    return distance < BUCKETS - 1 ? (int)distance : BUCKETS - 1;
  }

  void gather(int64_t size, float smallest) {
    count = 0;
    for (int64_t i = 0; i < size; i += W) {
      vi is_some = load_some(weights + i, size - i) >= fill(smallest);
      if (any(is_some)) count += put_ids(is_some, i, least(W, size - i), ids + count);
    }
  }

  // As `gather`, before weights are known: tokens with logits from `smallest` on, and their weights.
  void gather_largest(int64_t size, float smallest, float temperature, float *to) {
    count = 0;
    for (int64_t i = 0; i < size; i += W) {
      vi is_some = load_some(row + i, size - i) >= fill(smallest);
      if (any(is_some)) count += put_ids(is_some, i, least(W, size - i), ids + count);
    }
    float logits[W], found[W];
    for (int64_t i = 0; i < count; i += W) {
      int64_t some = least(W, count - i);
      for (int64_t j = 0; j < W; j++) logits[j] = j < some ? row[ids[i + j]] : peak;
      store(found, weights_of(load<vf>(logits), peak, temperature, unit_of(size)));
      for (int64_t j = 0; j < some; j++) to[ids[i + j]] = found[j];
    }
  }

  double mass() const {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) sum += (double)weights[ids[i]];
    return sum;
  }

  int64_t heap_of(int bucket) const {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++)
      if (bucket_of(ids[i]) == bucket) heap[found++] = {row[ids[i]], ids[i]};
    for (int64_t at = found / 2 - 1; at >= 0; at--) sift_down(heap, found, at);
    return found;
  }

  void keep_to(const Entry &last) {
    int64_t kept = 0;
    for (int64_t i = 0; i < count; i++)
      if (!is_before(last, {row[ids[i]], ids[i]})) ids[kept++] = ids[i];
    count = kept;
  }

  // The `wanted` largest, and all that equal the last of them.
  void keep_largest(int64_t wanted) {
    if (count <= wanted) return;
    int64_t in_bucket[BUCKETS] = {}, before = 0;
    for (int64_t i = 0; i < count; i++) in_bucket[bucket_of(ids[i])]++;
    int bucket = 0;
    while (before + in_bucket[bucket] < wanted) before += in_bucket[bucket++];
    int64_t in_heap = heap_of(bucket);
    Entry last = {};
    while (before < wanted) last = pop(heap, &in_heap), before++;
    keep_to({last.logit, INT32_MAX});
  }

  // The fewest of the most likely whose mass reaches `wanted`, at least one.
  void keep_mass(double wanted) {
    double in_bucket[BUCKETS] = {}, before = 0;
    for (int64_t i = 0; i < count; i++) in_bucket[bucket_of(ids[i])] += (double)weights[ids[i]];
    int bucket = 0;
    while (bucket < BUCKETS - 1 && before + in_bucket[bucket] < wanted) before += in_bucket[bucket++];
    int64_t in_heap = heap_of(bucket);
    Entry last = {};
    while (in_heap && before < wanted) {
      last = pop(heap, &in_heap);
      before += (double)weights[last.id];
    }
    keep_to(last);
  }
};

inline Field limited(const NativeChoice &choice, const float *row, int64_t size, const Peak &peak, const Desk &desk) {
  float temperature = choice.temperature;
  Shortlist list = {row, desk.weights, desk.ids, desk.heap, 0, peak.value, BUCKETS_PER_NEPER / temperature};
  bool has_k = choice.top_k > 0 && choice.top_k < size;
  if (has_k) list.gather_largest(size, peak.value - FEW_NEPERS * temperature, temperature, desk.weights);
  if (!has_k || list.count < choice.top_k) {
    weigh(row, size, peak.value, temperature, desk.weights);
    list.gather(size, has_k ? 1.0f : unit_of(size) * FEW);
  }
  double mass = has_k ? 0 : sum_of(desk.weights, size);
  if (has_k) {
    list.keep_largest(choice.top_k);
    mass = list.mass();
  } else if (list.mass() < choice.top_p * mass) {
    list.gather(size, 1.0f);
  }
  if (choice.top_p < 1) list.keep_mass(choice.top_p * mass);
  int64_t first = 0;
  for (int64_t i = 0; i < list.count; i++) {
    desk.left[i] = desk.weights[list.ids[i]];
    if (list.ids[i] == peak.id) first = i;
  }
  return {list.ids, desk.left, list.count, first};
}

// ---- a row

inline int64_t race_of_blocks(uint64_t state, const Field &field, double *sums) {
  int64_t blocks = round_up(field.count, BLOCK) / BLOCK, first = 0;
  for (int64_t b = 0; b < blocks; b++) {
    sums[b] = sum_of(field.weights + b * BLOCK, least(BLOCK, field.count - b * BLOCK));
    if (sums[b] > sums[first]) first = b;
  }
  int64_t begin = race(state, sums, nullptr, blocks, first, true) * BLOCK;
  int32_t ids[BLOCK];
  int64_t count = least(BLOCK, field.count - begin), best = 0;
  for (int64_t i = 0; i < count; i++) {
    ids[i] = (int32_t)(begin + i);
    if (field.weights[begin + i] > field.weights[begin + best]) best = i;
  }
  return begin + race(state, field.weights + begin, ids, count, best, false);
}

inline int64_t drawn(const NativeChoice &choice, const Field &field, const Desk &desk) {
  uint64_t state = state_of(choice.seed, choice.position);
  if (!field.ids && field.count > MOST_RACERS) return race_of_blocks(state, field, (double *)desk.heap);
  int64_t at = race(state, field.weights, field.ids, field.count, field.first, false);
  return field.ids ? field.ids[at] : at;
}

inline void tell_probs(const Field &field, int64_t size, float *probs) {
  double sum = sum_of(field.weights, field.count);
  if (field.ids) memset(probs, 0, (size_t)size * 4);
  for (int64_t i = 0; i < field.count; i++)
    probs[field.ids ? field.ids[i] : i] = (float)((double)field.weights[i] / sum);
}

inline void tell_one_prob(int64_t size, int64_t id, float *probs) {
  memset(probs, 0, (size_t)size * 4);
  probs[id] = 1;
}

inline int64_t choose(const NativeChoice &choice, const float *row, int64_t size, const Peak &peak, const Desk &desk) {
  if (choice.temperature == 0) {
    if (choice.probs) tell_one_prob(size, peak.id, choice.probs);
    return peak.id;
  }
  Field field = {nullptr, desk.weights, size, peak.id};
  if (choice.top_p < 1 || (choice.top_k > 0 && choice.top_k < size)) field = limited(choice, row, size, peak, desk);
  else weigh(row, size, peak.value, choice.temperature, desk.weights);
  if (choice.min_p > 0) drop_unlikely(field.weights, field.count, choice.min_p * (double)unit_of(size));
  if (choice.probs) tell_probs(field, size, choice.probs);
  return drawn(choice, field, desk);
}

// Log probabilities of the model, before any parameter.
inline void tell_logprobs(const NativeChoice &choice, const float *row, int64_t size, NativeChosen *chosen) {
  float peak = peak_of(row, size).value;
  double sum = 0;
  int64_t tops = 0, wanted = least(choice.logprobs, NATIVE_MOST_TOPS);
  for (int64_t i = 0; i < size; i += W) {
    int64_t some = least(W, size - i);
    vf x = load_some(row + i, some), share = exponential(x - fill(peak));
    if (some < W)
      for (int64_t j = some; j < W; j++) share[j] = 0;
    sum += (double)sum_lanes(share);
    if (!wanted || (tops == wanted && !any(x > fill(chosen->top_logprobs[wanted - 1])))) continue;
    for (int64_t j = i; j < i + some; j++) {
      if (!(row[j] > (tops == wanted ? chosen->top_logprobs[wanted - 1] : -INFINITY))) continue;
      int64_t at = tops < wanted ? tops++ : wanted - 1;
      for (; at > 0 && row[j] > chosen->top_logprobs[at - 1]; at--) {
        chosen->top_logprobs[at] = chosen->top_logprobs[at - 1];
        chosen->top_ids[at] = chosen->top_ids[at - 1];
      }
      chosen->top_logprobs[at] = row[j], chosen->top_ids[at] = j;
    }
  }
  double norm = (double)peak + log(sum);
  for (int64_t at = 0; at < tops; at++) chosen->top_logprobs[at] = (float)((double)chosen->top_logprobs[at] - norm);
  chosen->logprob = (float)((double)row[chosen->token_id] - norm);
  chosen->tops = tops;
}

inline void sample_row(const SampleCall &call, int64_t at, const Desk &desk) {
  const float *given = (const float *)call.logits.data + at * call.logits.stride;
  const NativeChoice &choice = call.choices[at];
  NativeChosen *chosen = call.chosen + at;
  const float *row = adjusted(choice, given, call.vocab_size, desk);
  Peak peak = peak_of(row, call.vocab_size);
  chosen->peak = peak.value;
  if (!(fabsf(peak.value) < INFINITY)) {
    chosen->token_id = -1;
    for (int64_t i = 0; choice.probs && i < call.vocab_size; i++) choice.probs[i] = NAN;
    return;
  }
  chosen->token_id = choose(choice, row, call.vocab_size, peak, desk);
  if (choice.logprobs >= 0) tell_logprobs(choice, given, call.vocab_size, chosen);
}

void sample_rows(const SampleCall &call, int64_t begin, int64_t end) {
  for (int64_t slot = begin; slot < end; slot++) {
    Desk desk(call.room + slot * call.room_bytes, call.vocab_size);
    for (int64_t at = slot; at < call.rows; at += call.slots) sample_row(call, at, desk);
  }
}

}  // namespace
