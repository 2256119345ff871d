"""From logits to tokens: one vectorised pass over the rows of a step.

The order, that of vLLM and Hugging Face: logit_bias, repetition penalty, frequency and presence penalties, then only
the tokens that the request or a constraint allows; a greedy row now takes its first largest logit. Other rows: temperature, then
  top_k  keep the k largest logits and all that equal the k-th;
  top_p  of what is left, keep the fewest most likely tokens whose mass reaches top_p (at least one; among equal
         logits the lowest ids);
  min_p  drop tokens less likely than min_p times the most likely;
and an exponential race: the token with the largest p_i / e_i wins, where e_i is a number of the exponential
distribution that depends on (seed, position, token) alone. That draws from p exactly (Efraimidis, Spirakis: "Weighted
random sampling with a reservoir", 2006).

A row's token must not depend on who shares its batch, although a matrix product of another shape rounds differently
(about 10^-6 of a logit in float32). In a race such a change matters only if the two first tokens are that close; in
the usual inversion of the cumulative distribution it moves the borders of all tokens, and with them now and then the
token. Probabilities are kept as integers, floor(2^b * p / p_max), with b such that all sums stay below 2^53 and are
exact in floating point, in any order. Tokens less likely than 2^-b of the best are never drawn (b is 35 for a
vocabulary of 152,000 tokens, 42 for 1,500: less than 10^-10).

Log probabilities are those of the model, before any parameter.
"""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from servery.engine.penalties import TokenHistory, add_bias, penalise
from servery.engine.randomness import exponentials
from servery.engine.request import SamplingParams, TokenLogprobs
from servery.engine.structure.mask import Mask, bar, forbid, keep_only

_SHORTLIST = 64  # how many of the largest logits are looked at first for top_k and top_p; grows by the factor below
_GROWTH = 8
_BLOCK = 64  # tokens summarised by one number where a whole vocabulary would take long to walk
_LOGPROB_ROWS = 64  # rows of log-probabilities held at a time, so that a long prompt does not double its logits
_COLDEST = 1e-30  # lower temperatures would underflow in float32; differences of logits are far larger


class SamplingRow(NamedTuple):
    """What decides the token at `position`: parameters, randomness and, for penalties, the tokens before it.

    `tokens` is prompt plus output, `prompt_len` of them prompt; only penalties look at them. `history`, when the caller
    keeps one per sequence, saves counting them anew at every step. `allowed` are the tokens that a constraint
    leaves; None is all. `barred` are those that would end the completion too early.
    """

    params: SamplingParams
    seed: int
    position: int
    prompt_len: int
    tokens: Sequence[int]
    history: TokenHistory | None = None
    allowed: Mask | None = None
    barred: Collection[int] = ()


class Sampled(NamedTuple):
    """One row's token. When `error` is set the row's logits were unusable and `token_id` is -1."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None


def sample(logits: Tensor, rows: Sequence[SamplingRow]) -> list[Sampled]:
    """Choose one token for each row of `logits` [R, V] (left unchanged); R must equal len(rows)."""
    logits = logits.float()
    sampled = draw(logits, rows)
    logprobs = sampled_logprobs(logits, rows, [max(row.token_id, 0) for row in sampled])
    return [
        row if row.error is not None else Sampled(row.token_id, row_logprobs)
        for row, row_logprobs in zip(sampled, logprobs, strict=True)
    ]


def largest(logits: Tensor) -> list[int] | None:
    """The first largest of each row of `logits` [R, V]; None if a row has no finite one."""
    values = logits.numpy() if logits.device.type == "cpu" else logits.cpu().numpy()
    token_ids = values.argmax(axis=-1)
    return token_ids.tolist() if np.isfinite(values[np.arange(len(values)), token_ids]).all() else None


def draw(logits: Tensor, rows: Sequence[SamplingRow]) -> list[Sampled]:
    """As `sample`, without log probabilities; `logits` are float32."""
    adjusted = _adjust(logits, rows)
    best = _argmax(adjusted)
    peaks = adjusted.gather(1, best[:, None])
    token_ids, peak = best.tolist(), peaks[:, 0].tolist()
    random = [i for i, row in enumerate(rows) if not row.params.is_greedy and math.isfinite(peak[i])]
    for warped in _warp(adjusted, peaks, rows, random):
        drawing = [rows[i] for i in warped.rows]
        for i, token_id in zip(warped.rows, race(warped.weights, drawing, warped.ids, logits.shape[1]), strict=True):
            token_ids[i] = token_id
    return [
        Sampled(token_ids[i]) if math.isfinite(peak[i]) else Sampled(-1, error=unusable(row, peak[i]))
        for i, row in enumerate(rows)
    ]


def warped_probs(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """The distribution [R, V] that `sample` draws from, after all parameters; one-hot for greedy rows.

    A row with unusable logits is NaN.
    """
    adjusted = _adjust(logits.float(), rows)
    best = _argmax(adjusted)[:, None]
    peaks = adjusted.gather(1, best)
    is_usable = torch.isfinite(peaks)
    probs = torch.zeros_like(adjusted).scatter_(1, best, 1.0)
    usable = is_usable[:, 0].tolist()
    random = [i for i, row in enumerate(rows) if not row.params.is_greedy and usable[i]]
    for warped in _warp(adjusted, peaks, rows, random):
        shares = (warped.weights / warped.weights.sum(dim=-1, keepdim=True, dtype=torch.float64)).float()
        at = _index(warped.rows, logits)
        probs[at] = shares if warped.ids is None else torch.zeros_like(probs[at]).scatter_(1, warped.ids, shares)
    return torch.where(is_usable, probs, math.nan)


def token_logprobs(logits: Tensor, token_ids: Sequence[int], top: int | Sequence[int]) -> list[TokenLogprobs]:
    """The log-probability of each row's token, and of the `top` most likely (of equal ones the lowest ids).

    `logits` [R, V]; `top` may differ by row.
    """
    tops = [top] * len(token_ids) if isinstance(top, int) else list(top)
    result: list[TokenLogprobs] = []
    for start in range(0, len(token_ids), _LOGPROB_ROWS):
        part = slice(start, start + _LOGPROB_ROWS)
        result += _logprobs_of(logits[part].float().log_softmax(dim=-1), token_ids[part], tops[part])
    return result


def unusable(row: SamplingRow, peak: float) -> str:
    """Why no token can be chosen from a row whose largest logit is `peak`."""
    return (
        f"The model's logits at position {row.position} are not finite (their maximum is {peak}), so no token can be "
        "chosen; the checkpoint is damaged, or dtype float32 is needed."
    )


def _adjust(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Bias, penalties and constraints; `logits` itself when nobody has any."""
    biased = [(i, row.params.logit_bias) for i, row in enumerate(rows) if row.params.logit_bias]
    penalised = [(i, row.params, _history(row)) for i, row in enumerate(rows) if row.params.has_penalties]
    masked = [(i, row.allowed) for i, row in enumerate(rows) if row.allowed is not None]
    barred = [(i, row.barred) for i, row in enumerate(rows) if row.barred]
    chosen = [(i, row.params.allowed_token_ids) for i, row in enumerate(rows) if row.params.allowed_token_ids]
    if not (biased or penalised or masked or barred or chosen):
        return logits
    adjusted = logits.clone(memory_format=torch.contiguous_format)
    if biased:
        add_bias(adjusted, biased)
    if penalised:
        penalise(adjusted, penalised)
    if chosen:
        keep_only(adjusted, chosen)
    if barred:
        bar(adjusted, barred)
    if masked:
        forbid(adjusted, masked)
    return adjusted


def _history(row: SamplingRow) -> TokenHistory:
    history = row.history or TokenHistory(row.params, row.prompt_len)
    history.catch_up(row.tokens)
    return history


class _Warped(NamedTuple):
    """Distributions of some rows of the step: integer weights [S, M] of the tokens `ids` [S, M] (None: all V)."""

    rows: list[int]
    weights: Tensor
    ids: Tensor | None


def _warp(logits: Tensor, peaks: Tensor, rows: Sequence[SamplingRow], wanted: list[int]) -> Iterator[_Warped]:
    """The distributions of the rows `wanted`, grouped so that nobody pays for another's parameters.

    Rows with top_k or top_p need only their largest logits in order, so a shortlist is sorted; it grows for the rows
    that it does not decide. `peaks` [R, 1] are the rows' maxima.
    """
    vocab_size = logits.shape[1]
    limited = [i for i in wanted if rows[i].params.top_p < 1 or 0 < rows[i].params.top_k < vocab_size]
    open_rows = sorted({*wanted} - {*limited})
    if open_rows:
        params = [rows[i].params for i in open_rows]
        weights = _weights(_take(logits, open_rows), _take(peaks, open_rows), params, vocab_size)
        yield _Warped(open_rows, _without_unlikely(weights, params), None)
    size = _SHORTLIST
    while limited:
        params = [rows[i].params for i in limited]
        part = _take(logits, limited), _take(peaks, limited)
        is_decided, weights, ids = _shortlist(*part, params, min(size, vocab_size))
        decided = [j for j, done in enumerate(is_decided.tolist()) if done]
        if decided:
            chosen = _without_unlikely(_take(weights, decided), [params[i] for i in decided])
            yield _Warped([limited[i] for i in decided], chosen, _take(ids, decided))
        limited = [limited[i] for i in range(len(limited)) if i not in set(decided)]
        size *= _GROWTH


def _shortlist(
    logits: Tensor, peaks: Tensor, params: Sequence[SamplingParams], size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Apply top_k and top_p to the `size` largest of each row: (is_decided [S], weights [S, size], ids [S, size]).

    A row is decided if every token that may stay, ties included, is in the shortlist. Weights are in order of id.
    """
    vocab_size = logits.shape[1]
    values, ids = _largest(logits, size)
    weights = _weights(values, peaks, params, vocab_size)
    top_k = torch.tensor([min(p.top_k or vocab_size, vocab_size) for p in params], device=logits.device)[:, None]
    has_k = top_k < vocab_size
    kth = values.gather(1, top_k.clamp(max=size) - 1)
    weights.masked_fill_(has_k & (values < kth), 0)
    kept = _nucleus_size(logits, peaks, params, weights, has_k)
    cutoff = values.gather(1, kept - 1)
    is_decided = (values[:, -1:] < torch.where(has_k, kth, cutoff)) & (~has_k | (top_k <= size))
    ids, order = ids.sort(dim=-1)
    values, weights = values.gather(1, order), weights.gather(1, order)
    is_equal = values == cutoff
    quota = kept - (values > cutoff).sum(dim=-1, keepdim=True)
    weights.masked_fill_((values < cutoff) | (is_equal & (is_equal.cumsum(dim=-1) > quota)), 0)
    return is_decided[:, 0] | (size == vocab_size), weights, ids


def _nucleus_size(
    logits: Tensor, peaks: Tensor, params: Sequence[SamplingParams], weights: Tensor, has_k: Tensor
) -> Tensor:
    """How many [S, 1] of the most likely tokens reach top_p of the mass that top_k leaves; at least 1.

    `weights` [S, M], most likely first, are 0 where top_k (used where `has_k` [S, 1]) cut.
    """
    upto = weights.cumsum(dim=-1, dtype=torch.float64)
    mass = upto[:, -1:].clone()
    whole = [i for i, unlimited in enumerate((~has_k[:, 0]).tolist()) if unlimited]
    if whole:  # without top_k the mass is that of all V
        part = _take(logits, whole), _take(peaks, whole)
        everything = _weights(*part, [params[i] for i in whole], logits.shape[1])
        mass[_index(whole, logits)] = everything.sum(dim=-1, keepdim=True, dtype=torch.float64)
    top_p = torch.tensor([p.top_p for p in params], dtype=torch.float64, device=logits.device)[:, None]
    return (upto - weights < top_p * mass).sum(dim=-1, keepdim=True)


def _weights(logits: Tensor, peaks: Tensor, params: Sequence[SamplingParams], vocab_size: int) -> Tensor:
    """floor(2^b * exp((logit - peak) / temperature)) [S, M]: integers in float32, whose sums in float64 are exact."""
    temperature = torch.tensor([max(p.temperature, _COLDEST) for p in params], device=logits.device)[:, None]
    return ((logits - peaks) / temperature).exp_().mul_(_unit(vocab_size)).floor_()


def _unit(vocab_size: int) -> float:
    """The weight 2^b of the most likely token."""
    return 2.0 ** (53 - vocab_size.bit_length())


def _without_unlikely(weights: Tensor, params: Sequence[SamplingParams]) -> Tensor:
    """Apply min_p, in place. The most likely token's weight is the largest of its row."""
    if any(p.min_p > 0 for p in params):
        min_p = torch.tensor([p.min_p for p in params], dtype=torch.float64, device=weights.device)[:, None]
        weights.masked_fill_(weights < min_p * weights.amax(dim=-1, keepdim=True), 0)
    return weights


def race(weights: Tensor, rows: Sequence[SamplingRow], ids: Tensor | None, vocab_size: int) -> list[int]:
    """The winner of each row's race among `weights` [S, M] (at least one above 0) of the tokens `ids` (None: all)."""
    if ids is not None:
        won = ids.gather(1, _race(weights, rows, ids))
    elif vocab_size > _BLOCK**2:
        won = _race_of_blocks(weights, rows)
    else:
        won = _race(weights, rows, torch.arange(vocab_size))
    token_ids: list[int] = won[:, 0].tolist()
    return token_ids


def _race(weights: Tensor, rows: Sequence[SamplingRow], ids: Tensor, *, of_blocks: bool = False) -> Tensor:
    """The index [S, 1] of the largest weight / e of each row of `weights` [S, M]; `ids` [M] or [S, M] are tokens."""
    draws = 2 * ids.cpu().numpy() + of_blocks
    noise = exponentials([row.seed for row in rows], [row.position for row in rows], draws)
    return _argmax(weights.double() / torch.from_numpy(noise).to(weights.device))[:, None]


def _race_of_blocks(weights: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """The winner [S, 1] among `weights` [S, V]: first a race of blocks, each with its sum, then one inside a block.

    The first of several racers is as likely to be of a block as the block's sum says, so that the result is
    distributed as in one race of all, for a fraction of the random numbers.
    """
    padded = torch.nn.functional.pad(weights, (0, -weights.shape[1] % _BLOCK)).view(len(weights), -1, _BLOCK)
    sums = padded.sum(dim=-1, dtype=torch.float64)
    block = _race(sums, rows, torch.arange(sums.shape[1]), of_blocks=True)
    inside = padded.gather(1, block[:, :, None].expand(-1, -1, _BLOCK))[:, 0]
    ids = block * _BLOCK + torch.arange(_BLOCK, device=weights.device)
    return ids.gather(1, _race(inside, rows, ids))


def _argmax(logits: Tensor) -> Tensor:
    """The first largest of each row, NaN counting as largest. On a CPU numpy's is ten times faster than torch's."""
    if logits.device.type == "cpu" and logits.shape[0]:
        return torch.from_numpy(logits.numpy().argmax(axis=-1))
    return logits.argmax(dim=-1)


def _largest(logits: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row, largest first, and their ids; of equal ones any.

    In a large vocabulary they are looked for only in the `count` blocks with the largest maxima: whatever is elsewhere
    is no larger than any of those. That takes a tenth of the time.
    """
    vocab_size = logits.shape[1]
    if vocab_size < 2 * _BLOCK * count:
        values, ids = logits.topk(count)
        return values, ids
    whole = vocab_size // _BLOCK * _BLOCK
    blocks = logits[:, :whole].reshape(len(logits), -1, _BLOCK).amax(dim=-1).topk(count).indices
    candidates = (blocks[:, :, None] * _BLOCK + torch.arange(_BLOCK, device=logits.device)).flatten(1)
    tail = torch.arange(whole, vocab_size, device=logits.device).expand(len(logits), -1)
    candidates = torch.cat([candidates, tail], dim=1)
    values, at = logits.gather(1, candidates).topk(count)
    return values, candidates.gather(1, at)


def _take(values: Tensor, rows: Sequence[int]) -> Tensor:
    """Some rows, in ascending order; not copied if they are all."""
    return values if len(rows) == len(values) else values[_index(rows, values)]


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=like.device)


def sampled_logprobs(
    logits: Tensor, rows: Sequence[SamplingRow], token_ids: Sequence[int]
) -> list[TokenLogprobs | None]:
    """What each row asks to know about its token; None for a row that does not ask."""
    tops = {i: row.params.logprobs for i, row in enumerate(rows) if row.params.logprobs is not None}
    result: list[TokenLogprobs | None] = [None] * len(rows)
    if tops:
        index = torch.tensor(list(tops), device=logits.device)
        wanted = token_logprobs(logits[index], [token_ids[i] for i in tops], list(tops.values()))
        for i, logprobs in zip(tops, wanted, strict=True):
            result[i] = logprobs
    return result


def _logprobs_of(logprobs: Tensor, token_ids: Sequence[int], tops: Sequence[int]) -> list[TokenLogprobs]:
    index = torch.tensor(token_ids, device=logprobs.device)[:, None]
    chosen = logprobs.gather(1, index)[:, 0].tolist()
    best = _most_likely(logprobs, max(tops))
    return [
        TokenLogprobs(token_id, logprob, pairs[:top])
        for token_id, logprob, pairs, top in zip(token_ids, chosen, best, tops, strict=True)
    ]


def _most_likely(logprobs: Tensor, count: int) -> list[list[tuple[int, float]]]:
    """The `count` largest of each row, ordered by (largest, lowest id); impossible tokens (-inf) are left out.

    `topk` may pick any of equal values; a tie at its border is settled here by id.
    """
    count = min(count, logprobs.shape[1])
    if count == 0:
        return [[] for _ in range(logprobs.shape[0])]
    values, ids = logprobs.topk(count)
    is_tied = (logprobs >= values[:, -1:]).sum(dim=-1) > count
    result = []
    for row, tied in enumerate(is_tied.tolist()):
        if tied:
            candidates = (logprobs[row] >= values[row, -1]).nonzero()[:, 0]
            pairs = zip(candidates.tolist(), logprobs[row, candidates].tolist(), strict=True)
        else:
            pairs = zip(ids[row].tolist(), values[row].tolist(), strict=True)
        ordered = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))[:count]
        result.append([pair for pair in ordered if pair[1] > -math.inf])
    return result
