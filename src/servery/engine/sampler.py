"""From logits to tokens: one vectorised pass over the rows of a step.

The order, that of vLLM and Hugging Face: logit_bias, repetition penalty, frequency and presence penalties; a greedy
row now takes its first largest logit. Other rows: temperature, then
  top_k  keep the k largest logits and all that equal the k-th;
  top_p  of what is left, keep the fewest most likely tokens whose mass reaches top_p (at least one; among equal
         logits the lowest ids);
  min_p  drop tokens less likely than min_p times the most likely;
and the inverse of the cumulative distribution at `uniforms(seed, position)`.

Probabilities are integers: floor(2^b * p / p_max). Their sums are exact in any order, so that a row's token does not
depend on the batch, the device's reduction order or the number of threads; tokens less likely than 2^-b times the
best (b is 44 for up to 262,144 tokens, 10^-13) are never drawn.

Log probabilities are those of the model, before any parameter.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from servery.engine.penalties import TokenHistory, add_bias, penalise
from servery.engine.randomness import uniforms
from servery.engine.request import SamplingParams, TokenLogprobs

_SHORTLIST = 256  # how many of the largest logits are sorted before top_p resorts to sorting all
_LOGPROB_ROWS = 64  # rows of log-probabilities held at a time, so that a long prompt does not double its logits
_COLDEST = 1e-30  # lower temperatures would underflow in float32; differences of logits are far larger


class SamplingRow(NamedTuple):
    """What decides the token at `position`: parameters, randomness and, for penalties, the tokens before it.

    `tokens` is prompt plus output, `prompt_len` of them prompt. `history`, when the caller keeps one per sequence,
    saves counting them anew at every step.
    """

    params: SamplingParams
    seed: int
    position: int
    prompt_len: int
    tokens: Sequence[int]
    history: TokenHistory | None = None


class Sampled(NamedTuple):
    """One row's token. When `error` is set the row's logits were unusable and `token_id` is -1."""

    token_id: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None


def sample(logits: Tensor, rows: Sequence[SamplingRow]) -> list[Sampled]:
    """Choose one token for each row of `logits` [R, V] (left unchanged); R must equal len(rows)."""
    logits = logits.float()
    adjusted = _adjust(logits, rows)
    peaks, best = adjusted.max(dim=-1)
    peak, token_ids = peaks.tolist(), best.tolist()
    random = [i for i, row in enumerate(rows) if not row.params.is_greedy and math.isfinite(peak[i])]
    if random:
        index = torch.tensor(random, device=logits.device)
        chosen = _draw(adjusted[index], peaks[index], [rows[i] for i in random])
        for i, token_id in zip(random, chosen, strict=True):
            token_ids[i] = token_id
    logprobs = _sampled_logprobs(logits, rows, token_ids)
    return [
        Sampled(token_ids[i], logprobs[i]) if math.isfinite(peak[i]) else Sampled(-1, error=_unusable(row, peak[i]))
        for i, row in enumerate(rows)
    ]


def warped_probs(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """The distribution [R, V] that `sample` draws from, after all parameters; one-hot for greedy rows.

    A row with unusable logits is NaN.
    """
    adjusted = _adjust(logits.float(), rows)
    peaks, best = adjusted.max(dim=-1)
    probs = torch.zeros_like(adjusted).scatter_(1, best[:, None], 1.0)
    random = [i for i, row in enumerate(rows) if not row.params.is_greedy]
    is_usable = torch.isfinite(peaks)
    if random:
        index = torch.tensor(random, device=logits.device)
        safe = torch.where(is_usable[index, None], adjusted[index], 0.0)
        weights = _weights(safe, safe.amax(dim=-1), [rows[i] for i in random])
        probs[index] = (weights.double() / weights.sum(dim=-1, keepdim=True)).float()
    return torch.where(is_usable[:, None], probs, math.nan)


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


def _unusable(row: SamplingRow, peak: float) -> str:
    return (
        f"The model's logits at position {row.position} are not finite (their maximum is {peak}), so no token can be "
        "chosen; the checkpoint is damaged, or dtype float32 is needed."
    )


def _adjust(logits: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Bias and penalties; `logits` itself when nobody has any."""
    biased = [(i, row.params.logit_bias) for i, row in enumerate(rows) if row.params.logit_bias]
    penalised = [(i, row.params, _history(row)) for i, row in enumerate(rows) if row.params.has_penalties]
    if not biased and not penalised:
        return logits
    adjusted = logits.clone(memory_format=torch.contiguous_format)
    if biased:
        add_bias(adjusted, biased)
    if penalised:
        penalise(adjusted, penalised)
    return adjusted


def _history(row: SamplingRow) -> TokenHistory:
    history = row.history or TokenHistory(row.params, row.prompt_len)
    history.catch_up(row.tokens)
    return history


def _draw(logits: Tensor, peaks: Tensor, rows: Sequence[SamplingRow]) -> list[int]:
    """Sample each row of `logits` [S, V], which may be overwritten."""
    cumulative = _weights(logits, peaks, rows).cumsum(dim=-1)
    total = cumulative[:, -1]
    u = torch.from_numpy(uniforms([row.seed for row in rows], [row.position for row in rows]))
    # The first token whose cumulative weight exceeds a number in [0, total): its own weight is never 0.
    target = (u.to(logits.device) * total).long().minimum(total - 1)
    chosen: list[int] = torch.searchsorted(cumulative, target[:, None], right=True)[:, 0].tolist()
    return chosen


def _weights(logits: Tensor, peaks: Tensor, rows: Sequence[SamplingRow]) -> Tensor:
    """Integer probabilities [S, V], 0 where a token is cut; overwrites `logits`. `peaks` [S] are finite maxima."""
    temperature = _column([max(row.params.temperature, _COLDEST) for row in rows], logits)
    _keep_top_k(logits, [row.params.top_k for row in rows])
    _keep_top_p(logits, peaks[:, None], temperature, [row.params.top_p for row in rows])
    weights = _integer_weights(logits, peaks[:, None], temperature, logits.shape[1])
    if any(row.params.min_p > 0 for row in rows):
        floor = _column([row.params.min_p for row in rows], logits).double() * weights.amax(dim=-1, keepdim=True)
        weights.masked_fill_(weights < floor, 0)
    return weights


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]


def _integer_weights(logits: Tensor, peaks: Tensor, temperature: Tensor, vocab_size: int) -> Tensor:
    """floor(2^b * exp((logit - peak) / temperature)), with b such that `vocab_size` of them cannot overflow int64."""
    scale = 2.0 ** min(44, 62 - vocab_size.bit_length())
    return ((logits - peaks) / temperature).exp_().mul_(scale).long()


def _keep_top_k(logits: Tensor, top_k: Sequence[int]) -> None:
    """Set to -inf, in place, what is smaller than the row's k-th largest; 0 and k >= V keep all."""
    limited = [i for i, k in enumerate(top_k) if 0 < k < logits.shape[1]]
    if not limited:
        return
    index = torch.tensor(limited, device=logits.device)
    ks = torch.tensor([top_k[i] for i in limited], device=logits.device)
    part = logits[index]
    smallest = part.topk(int(ks.max())).values.gather(1, ks[:, None] - 1)
    logits[index] = part.masked_fill_(part < smallest, -math.inf)


def _keep_top_p(logits: Tensor, peaks: Tensor, temperature: Tensor, top_p: Sequence[float]) -> None:
    """Set to -inf, in place, what is outside the row's nucleus; 1 keeps all.

    Sorts a shortlist first, and all V only for the rows whose nucleus it does not contain.
    """
    rows = [i for i, p in enumerate(top_p) if p < 1.0]
    size = _SHORTLIST
    while rows:
        index = torch.tensor(rows, device=logits.device)
        part = logits[index]
        shape = (peaks[index], temperature[index], logits.shape[1])
        mass = torch.tensor([top_p[i] for i in rows], dtype=torch.float64, device=logits.device)
        mass = mass * _integer_weights(part, *shape).sum(dim=-1)
        largest = part.topk(min(size, logits.shape[1])).values
        weights = _integer_weights(largest, *shape)
        kept = (weights.cumsum(dim=-1) - weights < mass[:, None]).sum(dim=-1)
        is_inside = kept < largest.shape[1] if largest.shape[1] < logits.shape[1] else torch.ones_like(kept).bool()
        logits[index] = torch.where(is_inside[:, None], _cut(part, largest, kept), part)
        rows = [i for i, inside in zip(rows, is_inside.tolist(), strict=True) if not inside]
        size = logits.shape[1]


def _cut(logits: Tensor, largest: Tensor, kept: Tensor) -> Tensor:
    """Keep exactly `kept` [P] of the largest values of `logits` [P, V]; of equal ones the lowest ids.

    `largest` [P, M] holds the largest values, descending, M >= kept.
    """
    smallest = largest.gather(1, kept[:, None] - 1)
    equal = logits == smallest
    quota = kept - (largest > smallest).sum(dim=-1)
    dropped = logits < smallest
    if bool((equal.sum(dim=-1) > quota).any()):
        dropped |= equal & (equal.cumsum(dim=-1) > quota[:, None])
    return logits.masked_fill(dropped, -math.inf)


def _sampled_logprobs(
    logits: Tensor, rows: Sequence[SamplingRow], token_ids: Sequence[int]
) -> list[TokenLogprobs | None]:
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
