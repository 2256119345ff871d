"""Batches as they are on a device, from those of the CPU's tests."""

from dataclasses import dataclass

import torch
from torch import Tensor

from servery.engine.batch import Batch


@dataclass
class Rows:
    block_tables: Tensor
    context_lens: Tensor
    query_starts: Tensor
    max_query_tokens: int
    longest_context: int
    num_rows: int
    num_tokens: int


def rows_of(batch: Batch, *, padding: int = 0, longest_context: int | None = None) -> Rows:
    """`padding` rows without a token or a context behind the others, as in a captured graph."""
    counts, contexts = torch.from_numpy(batch.counts), torch.from_numpy(batch.starts + batch.counts)
    tables = torch.cat((batch.block_tables, torch.zeros(padding, batch.block_tables.shape[1], dtype=torch.int64)))
    ends = counts.cumsum(0)
    return Rows(
        tables.int(),
        torch.cat((contexts, torch.zeros(padding, dtype=torch.int64))).int(),
        torch.cat((torch.zeros(1, dtype=torch.int64), ends, ends[-1:].repeat(padding))).int(),
        int(counts.max()),
        longest_context or batch.longest_context,
        len(counts) + padding,
        len(batch.input_ids),
    )


@dataclass
class StepRows(Rows):
    input_ids: Tensor
    positions: Tensor
    slots: Tensor


def step_of(batch: Batch) -> StepRows:
    """All that a decoder reads of a batch."""
    return StepRows(**vars(rows_of(batch)), input_ids=batch.input_ids, positions=batch.positions, slots=batch.slots)
