"""What requests say about particular tokens, applied to logits in one pass: bias, penalties, and who may be chosen."""

import triton
import triton.language as tl


@triton.jit(do_not_specialize_on_alignment=["slots", "tokens"])
def count_tokens(counts, seen, slots, tokens, slot_stride, word_stride):
    """Count each row's newest token [rows] as generated; -1 is none. One program for each row."""
    row = tl.program_id(0)
    slot, token = tl.load(slots + row).to(tl.int64), tl.load(tokens + row)
    if token < 0:
        return
    at = counts + slot * slot_stride + token
    tl.store(at, tl.load(at) + 1)
    word = seen + slot * word_stride + token // 32
    tl.store(word, tl.load(word) | (1 << (token % 32)).to(tl.int32))


@triton.jit(do_not_specialize_on_alignment=["slots"])
def adjust(
    out,
    logits,
    slots,
    biases,
    counts,
    seen,
    repetition,
    frequency,
    presence,
    allowed,
    stride,
    slot_stride,
    word_stride,
    V: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_BIASES: tl.constexpr,
    HAS_PENALTIES: tl.constexpr,
    HAS_MASKS: tl.constexpr,
):
    """Logits [rows, V] as requests want them, in the order of `sampler`; the grid is (rows, parts of V).

    The row of each is `slots` [rows] of biases float32 and counts int32 [slots, V], seen int32 [slots, V / 32] (a bit
    for each token of prompt or output), and of repetition, frequency and presence float32 [slots]; `allowed` int32
    [slots, V / 32] has a bit for each token that may be chosen.
    """
    row, token = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    slot, is_token = tl.load(slots + row).to(tl.int64), token < V
    x = tl.load(logits + row * stride + token, mask=is_token, other=0.0)
    if HAS_BIASES:
        x += tl.load(biases + slot * slot_stride + token, mask=is_token, other=0.0)
    if HAS_PENALTIES:
        factor = tl.load(repetition + slot)
        words = tl.load(seen + slot * word_stride + token // 32, mask=is_token, other=0)
        count = tl.load(counts + slot * slot_stride + token, mask=is_token, other=0).to(tl.float32)
        repeated = tl.where(x > 0, tl.div_rn(x, factor), x * factor)
        x = tl.where(((words >> (token % 32)) & 1) != 0, repeated, x)
        x -= tl.load(frequency + slot) * count + tl.where(count > 0, tl.load(presence + slot), 0.0)
    if HAS_MASKS:
        words = tl.load(allowed + slot * word_stride + token // 32, mask=is_token, other=0)
        x = tl.where(((words >> (token % 32)) & 1) != 0, x, float("-inf"))
    tl.store(out + row * V + token, x, mask=is_token)
