"""What requests say about particular tokens, as arrays by which a device changes a step's logits by itself.

They say it of few tokens: of those that have a bias, and those that were there before. So the arrays are lists of tokens,
which are sent with each step, and nothing of a vocabulary's size is kept for a request. The newest token of a row may
be known to the device only: there it is counted, too. The order of what is done is that of `sampler`.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from servery.engine.penalties import TokenHistory
from servery.engine.sampler import SamplingRow

_WORD = 32


class LogitEdits(NamedTuple):
    """Of R rows over V tokens; "places" are `row * V + token`.

    Biases: places `biased` int64 [B] and `biases` float32 [B]. Penalties: rows `penalised` int64 [P] with `knobs` float32
    [P, 3] (repetition, frequency, presence), whose known tokens are `seen` int64 [S], generated `counts` float32 [S]
    times, of row number `of_penalised` int64 [S] among the penalised; of those numbered `fed` int64 [F] the newest token
    is at `newest` int64 [F] among the tokens on the device. Rows `masked` int64 [M] may choose the tokens of which `masks`
    int32 [M, ceil(V / 32)] have the bit; the places `barred` int64 [C] may not be chosen.
    """

    biased: Tensor
    biases: Tensor
    penalised: Tensor
    knobs: Tensor
    of_penalised: Tensor
    seen: Tensor
    counts: Tensor
    fed: Tensor
    newest: Tensor
    masked: Tensor
    masks: Tensor
    barred: Tensor


def pack_edits(rows: Sequence[SamplingRow], newest: Sequence[int], vocab_size: int) -> list[NDArray[np.generic]]:
    """The arrays of `LogitEdits`. `newest` is where on the device a row's newest token is, which its history lacks; -1: nowhere."""
    biases = [(row, row_bias.params.logit_bias) for row, row_bias in enumerate(rows) if row_bias.params.logit_bias]
    penalised = [(row, each) for row, each in enumerate(rows) if each.params.has_penalties]
    histories = [_history(each) for _, each in penalised]
    fed = [number for number, (row, _) in enumerate(penalised) if newest[row] >= 0]
    allowed = [(row, bits) for row, each in enumerate(rows) if (bits := _allowed(each, vocab_size)) is not None]
    params = [each.params for _, each in penalised]
    knobs = [(p.repetition_penalty, p.frequency_penalty, p.presence_penalty) for p in params]
    words = -(-vocab_size // _WORD)
    return [
        np.array([row * vocab_size + token for row, bias in biases for token in bias], np.int64),
        np.array([value for _, bias in biases for value in bias.values()], np.float32),
        np.array([row for row, _ in penalised], np.int64),
        np.array(knobs, np.float32).reshape(-1, 3),
        np.repeat(np.arange(len(penalised)), [len(history.ids) for history in histories]),
        np.concatenate([np.zeros(0, np.int64), *(history.ids for history in histories)]),
        np.concatenate([np.zeros(0, np.float32), *(history.counts for history in histories)]),
        np.array(fed, np.int64),
        np.array([newest[penalised[number][0]] for number in fed], np.int64),
        np.array([row for row, _ in allowed], np.int64),
        np.array([bits[:words] for _, bits in allowed], np.int32).reshape(-1, words),
        np.array([row * vocab_size + token for row, each in enumerate(rows) for token in each.barred], np.int64),
    ]


def edited(logits: Tensor, edits: LogitEdits, last: Tensor) -> Tensor:
    """What is chosen from, for `logits` float32 [R, V], which stay; themselves if nobody has said anything.

    `last` int64 holds the tokens that the device alone knows. Nothing waits for the device.
    """
    if not any(len(each) for each in (edits.biased, edits.penalised, edits.masked, edits.barred)):
        return logits
    changed = logits.clone(memory_format=torch.contiguous_format)
    flat = changed.view(-1)
    if len(edits.biased):
        flat.index_add_(0, edits.biased, edits.biases)
    if len(edits.penalised):
        _penalise(flat, logits.shape[1], edits, last)
    if len(edits.masked):
        _forbid(changed, edits)
    if len(edits.barred):
        flat.index_fill_(0, edits.barred, -torch.inf)
    return changed


def _penalise(flat: Tensor, vocab_size: int, edits: LogitEdits, last: Tensor) -> None:
    """As `penalties.penalise`, with the newest tokens counted."""
    newest = last.index_select(0, edits.newest).clamp_(min=0)  # of a row that failed there is none, and nobody reads it
    of_row = torch.full_like(edits.penalised, -1).index_copy_(0, edits.fed, newest)
    is_newest = edits.seen == of_row.index_select(0, edits.of_penalised)
    counts = edits.counts + is_newest
    listed = torch.zeros_like(of_row, dtype=torch.float32).index_add_(0, edits.of_penalised, counts * is_newest)
    # The newest tokens follow as entries of their own. Where one was there before, both entries say the same.
    number = torch.cat([edits.of_penalised, edits.fed])
    counts = torch.cat([counts, listed.index_select(0, edits.fed).clamp_(min=1.0)])
    tokens = torch.cat([edits.seen, newest])
    repetition, frequency, presence = edits.knobs.index_select(0, number).unbind(1)
    at = edits.penalised.index_select(0, number) * vocab_size + tokens
    chosen = flat.index_select(0, at)
    repeated = torch.where(chosen > 0, chosen / repetition, chosen * repetition)
    flat.scatter_(0, at, repeated - (frequency * counts + presence * (counts > 0)))


def _forbid(logits: Tensor, edits: LogitEdits) -> None:
    """Set to -inf what masks do not allow. Their words lie in memory lowest byte first, on CPUs and GPUs alike."""
    octets = edits.masks.view(torch.uint8)
    shifts = torch.arange(8, dtype=torch.uint8, device=logits.device)
    bits = ((octets[:, :, None] >> shifts) & 1).flatten(1)[:, : logits.shape[1]]
    kept = logits.index_select(0, edits.masked).masked_fill_(bits == 0, -torch.inf)
    logits.index_copy_(0, edits.masked, kept)


def _history(row: SamplingRow) -> TokenHistory:
    history = row.history or TokenHistory(row.params, row.prompt_len)
    history.catch_up(row.tokens)
    return history


def _allowed(row: SamplingRow, vocab_size: int) -> NDArray[np.int32] | None:
    """The bits of the tokens that may be chosen, by a constraint or by the request; None is all."""
    if row.allowed is not None or not row.params.allowed_token_ids:
        return row.allowed
    return _bits(row.params.allowed_token_ids, vocab_size)


def _bits(token_ids: Collection[int], vocab_size: int) -> NDArray[np.int32]:
    is_allowed = np.zeros(-(-vocab_size // _WORD) * _WORD, bool)
    is_allowed[list(token_ids)] = True
    return np.packbits(is_allowed, bitorder="little").view(np.int32)
