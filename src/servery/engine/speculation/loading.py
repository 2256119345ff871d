"""The proposer that a configuration asks for; a draft model is opened first, so that memory can be planned with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from servery.engine.architecture import ModelConfig
from servery.engine.config import EngineConfig
from servery.engine.device import CPU
from servery.engine.errors import LoadError
from servery.engine.kv import KVCache
from servery.engine.kv_format import KVFormat, resolve_kv_format
from servery.engine.loader import LoadTarget, build_decoder
from servery.engine.native.library import NativeContext
from servery.engine.sampling_rows import SamplingRows
from servery.engine.speculation.draft_model import DraftModel
from servery.engine.speculation.prompt_lookup import PromptLookup
from servery.engine.speculation.proposer import Proposer
from servery.engine.tokenizer import Tokenizer
from servery.engine.weights import WeightReader, open_weights


class ProposerSource(Protocol):
    """What a proposer will need, known before anything is loaded."""

    weight_bytes: int
    kv_bytes_per_token: int

    def load(self, num_blocks: int, block_size: int, rows: SamplingRows) -> Proposer | None:
        """Make the proposer; None where nobody asked for one."""


class _Lookup:
    weight_bytes = kv_bytes_per_token = 0

    def __init__(self, *, is_wanted: bool) -> None:
        self._is_wanted = is_wanted

    def load(self, num_blocks: int, block_size: int, rows: SamplingRows) -> Proposer | None:
        return PromptLookup() if self._is_wanted else None


class _Draft:
    def __init__(
        self,
        config: ModelConfig,
        reader: WeightReader,
        kv_format: KVFormat,
        vocab_size: int,
        native: NativeContext | None,
        device: torch.device,
    ) -> None:
        self._target = LoadTarget(device, None if device.type == "cpu" else partial(_to, device))
        self._config = config
        self._reader = reader
        self._format = kv_format
        self._vocab_size = vocab_size
        self._native = native
        self.weight_bytes = reader.total_bytes
        self.kv_bytes_per_token = kv_format.bytes_per_token(config)

    def load(self, num_blocks: int, block_size: int, rows: SamplingRows) -> Proposer | None:
        model = build_decoder(self._config, self._reader, native=self._native, target=self._target)
        cache = KVCache(self._config, num_blocks, block_size, self._reader.dtype, str(model.device), self._format)
        drafter = DraftModel(model, cache, rows, self._vocab_size)
        drafter.warm_up()
        return drafter


@contextmanager
def open_proposer(
    config: EngineConfig,
    target: ModelConfig,
    dtype: torch.dtype,
    native: NativeContext | None = None,
    device: torch.device = CPU,
) -> Iterator[ProposerSource]:
    """The source of the proposer that `config` names, usable while the context is open.

    `dtype` is that of the draft model. Raises `LoadError` if it cannot be read, or is one with other tokens.
    """
    if config.draft_model is None:
        yield lookup_source(config)
        return
    check_same_tokens(config.model, config.draft_model)
    drafter = ModelConfig.load(config.draft_model)
    with open_weights(config.draft_model, drafter, dtype) as reader:
        kv_format = resolve_kv_format(config.kv_dtype, dtype, str(device))
        yield _Draft(drafter, reader, kv_format, target.vocab_size, native, device)


def lookup_source(config: EngineConfig) -> ProposerSource:
    """The source of a proposer that is no model."""
    return _Lookup(is_wanted=config.speculate == "ngram")


def _to(device: torch.device, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return tensor.to(device, dtype, copy=True)


def check_same_tokens(model: Path, draft_model: Path) -> None:
    """Raise `LoadError` unless every token id stands for the same text in both checkpoints."""
    ours, theirs = _texts(model), _texts(draft_model)
    differing = sorted(token_id for token_id in {*ours, *theirs} if ours.get(token_id) != theirs.get(token_id))
    if differing:
        first = differing[0]
        raise LoadError(
            f"the draft model {draft_model} has another tokenizer than {model}: {len(differing)} of {len(ours)} token "
            f"ids stand for something else; {first} is {_shown(theirs, first)} there and {_shown(ours, first)} here. "
            "Drafts are token ids: choose a draft model of the same family."
        )


def _texts(folder: Path) -> dict[int, str]:
    vocabulary = Tokenizer.load(folder).backend.get_vocab(with_added_tokens=True)
    return {token_id: text for text, token_id in vocabulary.items()}


def _shown(texts: dict[int, str], token_id: int) -> str:
    return repr(texts[token_id]) if token_id in texts else "nothing"
