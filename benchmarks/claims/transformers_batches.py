"""Static batching as transformers does it: left-padded rectangles, every row computed until the longest answer ends."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

from benchmarks.continuous_batching import answer_length
from servery.engine.request import NewRequest


class TransformersBatches:
    """A model loaded by transformers, which answers with `generate`."""

    def __init__(self, model: Path, dtype: str) -> None:
        transformers: Any = import_module("transformers")
        load = transformers.AutoModelForCausalLM.from_pretrained
        self._model = load(model, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
        self._model.generation_config.eos_token_id = None

    def tokens_per_s(self, requests: Sequence[NewRequest], batch: int) -> float:
        """Tokens that were asked for, over the time of all batches; greedy."""
        began = perf_counter()
        for start in range(0, len(requests), batch):
            self.answer(requests[start : start + batch])
        return sum(map(answer_length, requests)) / (perf_counter() - began)

    @torch.inference_mode()
    def answer(self, requests: Sequence[NewRequest]) -> list[list[int]]:
        """One batch to the end; of each answer what was asked for."""
        width = max(len(request.prompt) for request in requests)
        longest = max(map(answer_length, requests))
        ids = torch.zeros((len(requests), width), dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, width - len(request.prompt) :] = torch.tensor(request.prompt)
            mask[row, width - len(request.prompt) :] = 1
        limits = {"max_new_tokens": longest, "min_new_tokens": longest}
        found = self._model.generate(ids, attention_mask=mask, do_sample=False, pad_token_id=0, **limits)
        rows: list[list[int]] = found[:, width:].tolist()
        return [row[: answer_length(request)] for row, request in zip(rows, requests, strict=True)]
