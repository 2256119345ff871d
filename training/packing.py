"""Packing conversations into rows of fixed lengths, so that nearly every position is trained.

A row holds several conversations. Positions restart in each, and none can look at another: training sees what
inference sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.chat import ASSISTANT, END, segments
from training.mix import Dialogue
from training.tokenizer import token_id

ROW_LENGTHS = (2048, 1024, 512, 256)


@dataclass(frozen=True, slots=True)
class Example:
    """The tokens of one conversation; ``answers`` marks the tokens that the model has to write."""

    tokens: list[int]
    answers: list[bool]


@dataclass(frozen=True, slots=True)
class Batch:
    """Packed rows, all [B, L]. ``documents`` numbers the conversations of a row from 1; 0 is padding."""

    tokens: NDArray[np.int64]
    documents: NDArray[np.int64]
    positions: NDArray[np.int64]
    answers: NDArray[np.bool_]


def encode(tokenizer: Tokenizer, conversations: Sequence[Dialogue]) -> list[Example]:
    """Tokenise conversations turn by turn and mark the answers with their end tokens."""
    parts = [list(segments(one)) for one in conversations]
    encoded = iter(tokenizer.encode_batch_fast([text for turns in parts for _, text in turns]))
    end = token_id(tokenizer, END)
    examples = []
    for turns in parts:
        tokens: list[int] = []
        answers: list[bool] = []
        for opening, _ in turns:
            ids = next(encoded).ids
            tokens += [token_id(tokenizer, opening), *ids, end]
            answers += [False, *[opening == ASSISTANT] * (len(ids) + 1)]
        examples.append(Example(tokens, answers))
    return examples


def pack(examples: Sequence[Example], rng: Random, batch_tokens: int, pad: int = 0) -> list[Batch]:
    """Batches of about ``batch_tokens`` in random order; rows that do not fill a batch are dropped."""
    waiting = sorted((e for e in examples if len(e.tokens) <= ROW_LENGTHS[0]), key=lambda e: len(e.tokens))
    batches = []
    for length in ROW_LENGTHS:
        shorter = length // 2 if length != ROW_LENGTHS[-1] else 0
        rows = []
        while waiting and len(waiting[-1].tokens) > shorter:
            rows.append(_fill_row(waiting, length))
        rng.shuffle(rows)
        size = max(1, batch_tokens // length)
        batches += [_batch(rows[at : at + size], length, pad) for at in range(0, len(rows) - size + 1, size)]
    rng.shuffle(batches)
    return batches


def _fill_row(waiting: list[Example], length: int) -> list[Example]:
    """Take the longest waiting example, then always the longest that still fits."""
    row: list[Example] = []
    while waiting and (index := _longest_fitting(waiting, length)) is not None:
        row.append(waiting.pop(index))
        length -= len(row[-1].tokens)
    return row


def _longest_fitting(waiting: list[Example], room: int) -> int | None:
    low, high = 0, len(waiting)
    while low < high:
        middle = (low + high) // 2
        if len(waiting[middle].tokens) <= room:
            low = middle + 1
        else:
            high = middle
    return low - 1 if low else None


def _batch(rows: list[list[Example]], length: int, pad: int) -> Batch:
    shape = (len(rows), length)
    batch = Batch(np.full(shape, pad), np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool))
    for number, row in enumerate(rows):
        at = 0
        for document, example in enumerate(row, 1):
            span = slice(at, at + len(example.tokens))
            batch.tokens[number, span] = example.tokens
            batch.documents[number, span] = document
            batch.positions[number, span] = np.arange(len(example.tokens))
            batch.answers[number, span] = example.answers
            at = span.stop
    return batch
