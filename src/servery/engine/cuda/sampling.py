"""From logits to tokens on a GPU, without asking the device for anything in between.

As `sampler` does it, by the same random numbers, so that a token depends on its row's logits, seed and position alone.
What differs is that nothing is decided on the host: every row goes the way of rows without limits, in two launches;
where there may be limits, a shortlist is raced too, and for rows that it does not decide, borders are searched for.
"""

from typing import Protocol

import torch
import triton
from torch import Tensor

from servery.engine.cuda.kernels.nucleus import race_nucleus
from servery.engine.cuda.kernels.sampling import finish_race, race_chunk, race_shortlist

_SHORTLIST = 1024
_BLOCK = 64
_CHUNK = 4096
_NUCLEUS_BLOCK = 4096
_COLDEST = 1e-30  # as in sampler.py


class Choosing(Protocol):
    """What decides the token of each row; tensors [R] on the device.

    temperature float32 (0: greedy), top_k int32 (0: all), top_p and min_p float64, seeds and positions int64.
    """

    @property
    def temperature(self) -> Tensor: ...  # noqa: D102
    @property
    def top_k(self) -> Tensor: ...  # noqa: D102
    @property
    def top_p(self) -> Tensor: ...  # noqa: D102
    @property
    def min_p(self) -> Tensor: ...  # noqa: D102
    @property
    def seeds(self) -> Tensor: ...  # noqa: D102
    @property
    def positions(self) -> Tensor: ...  # noqa: D102


def greedy(logits: Tensor) -> Tensor:
    """The first largest of each row of `logits` [R, V], int64 [R]; -1 where none is finite."""
    best = logits.argmax(dim=-1, keepdim=True)
    return torch.where(logits.gather(1, best).isfinite(), best, -1)[:, 0]


def sample(logits: Tensor, rows: Choosing, *, limited: bool = True) -> Tensor:
    """A token for each row of `logits` float32 [R, V], int64 [R]; -1 where no logit is finite, or one is no number.

    `limited` False promises that no row has top_k or top_p.
    """
    largest = logits.argmax(dim=-1, keepdim=True)
    peaks = logits.gather(1, largest)[:, 0]
    tokens = _raced(logits, rows, largest, peaks)
    if limited:
        _race_limited(logits, rows, peaks, tokens)
    return tokens


def _unit(vocab_size: int) -> float:
    """The weight of the most likely token."""
    return 2.0 ** (53 - vocab_size.bit_length())


def _raced(logits: Tensor, rows: Choosing, largest: Tensor, peaks: Tensor) -> Tensor:
    """The tokens of greedy rows and of those without limits, whatever those of others."""
    count, vocab_size = logits.shape
    block = _BLOCK if vocab_size > _BLOCK**2 else 1
    chunk = min(_CHUNK, triton.next_power_of_2(vocab_size))
    chunks = triton.cdiv(vocab_size, chunk)
    bests = torch.empty(count, chunks, dtype=torch.float64, device=logits.device)
    names = torch.empty(count, chunks, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(count, dtype=torch.int64, device=logits.device)
    settings = (rows.temperature, rows.min_p, rows.seeds, rows.positions, logits.stride(0), _unit(vocab_size))
    race_chunk[(count, chunks)](bests, names, logits, peaks, *settings, V=vocab_size, CHUNK=chunk, BLOCK=block)
    finish_race[(count,)](
        tokens,
        bests,
        names,
        logits,
        peaks,
        largest,
        *settings,
        chunks,
        V=vocab_size,
        CHUNKS=triton.next_power_of_2(chunks),
        BLOCK=block,
        num_warps=1,
    )
    return tokens


def _race_limited(logits: Tensor, rows: Choosing, peaks: Tensor, tokens: Tensor) -> None:
    """Write the tokens of rows that have top_k or top_p."""
    count, vocab_size = logits.shape
    size = min(_SHORTLIST, vocab_size)
    has_k = (rows.top_k > 0) & (rows.top_k < vocab_size)
    takes_part = (has_k | (rows.top_p < 1)) & (rows.temperature > 0) & peaks.isfinite()
    is_decided, weights, ids = _shortlist(logits, rows, peaks, has_k, size)
    settings = (rows.min_p, rows.seeds, rows.positions)
    race_shortlist[(count,)](
        tokens,
        weights,
        ids,
        (takes_part & is_decided).to(torch.int8),
        *settings,
        _unit(vocab_size),
        SIZE=size,
        BLOCK=triton.next_power_of_2(size),
    )
    if size < vocab_size:
        race_nucleus[(count,)](
            tokens,
            logits,
            peaks,
            (takes_part & ~is_decided).to(torch.int8),
            rows.temperature,
            rows.top_k,
            rows.top_p,
            *settings,
            logits.stride(0),
            _unit(vocab_size),
            V=vocab_size,
            BLOCK=min(_NUCLEUS_BLOCK, triton.next_power_of_2(vocab_size)),
            num_warps=8,
        )


def _shortlist(
    logits: Tensor, rows: Choosing, peaks: Tensor, has_k: Tensor, size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """`sampler._shortlist` with its parameters on the device: (is_decided [R], weights [R, size], ids [R, size])."""
    vocab_size, has_k = logits.shape[1], has_k[:, None]
    values, ids = logits.topk(size)
    weights = _weights(values, peaks, rows.temperature, vocab_size)
    top_k = torch.where(has_k[:, 0], rows.top_k, vocab_size).long()[:, None]
    kth = values.gather(1, top_k.clamp(max=size) - 1)
    weights = weights.masked_fill(has_k & (values < kth), 0.0)
    upto = weights.cumsum(dim=-1, dtype=torch.float64)
    # Without top_k the mass is that of all tokens.
    everything = _weights(logits, peaks, rows.temperature, vocab_size).sum(dim=-1, keepdim=True, dtype=torch.float64)
    mass = torch.where(has_k, upto[:, -1:], everything)
    kept = (upto - weights < rows.top_p[:, None] * mass).sum(dim=-1, keepdim=True).clamp(min=1)
    cutoff = values.gather(1, kept - 1)
    is_decided = (values[:, -1:] < torch.where(has_k, kth, cutoff)) & (~has_k | (top_k <= size))
    ids, order = ids.sort(dim=-1)
    values, weights = values.gather(1, order), weights.gather(1, order)
    is_equal = values == cutoff
    quota = kept - (values > cutoff).sum(dim=-1, keepdim=True)
    is_out = (values < cutoff) | (is_equal & (is_equal.cumsum(dim=-1) > quota))
    is_whole = torch.full_like(is_decided[:, 0], size == vocab_size)
    return is_decided[:, 0] | is_whole, weights.masked_fill(is_out, 0.0), ids


def _weights(logits: Tensor, peaks: Tensor, temperature: Tensor, vocab_size: int) -> Tensor:
    """floor(unit * exp((logit - peak) / temperature)), as the kernels have it."""
    scaled = (logits - peaks[:, None]) / temperature.clamp(min=_COLDEST)[:, None]
    return scaled.exp_().mul_(_unit(vocab_size)).floor_()
