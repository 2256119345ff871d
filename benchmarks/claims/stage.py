"""Where measurements run: the models they need, how many threads, and whether at full or at a tiny size."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.grown_model import grow
from benchmarks.random_model import LLAMA_88M, QWEN3_473M, make_model
from servery import amuse
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore

T = TypeVar("T")
_TINY = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 512}
_TINY_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}


@dataclass(frozen=True)
class Stage:
    """`folder` is where models are made. Engines of this process compute with one thread on the last core.

    With `is_tiny` everything is as small as can be: figures of such a run mean nothing.
    """

    folder: Path
    is_tiny: bool = False

    @property
    def amuse(self) -> Path:
        """The embedded model; a trained one, of which answers have a meaning."""
        return amuse.path("draft" if self.is_tiny else "small")

    @property
    def draft(self) -> Path:
        """What drafts for it."""
        return amuse.path("draft")

    @cached_property
    def large(self) -> Path:
        """Random numbers in the shape of Qwen3, 473M parameters."""
        return make_model(self.folder / "qwen3-473m", self._shape(QWEN3_473M))

    @cached_property
    def middle(self) -> Path:
        """Random numbers in the shape of Llama, 88M parameters."""
        return make_model(self.folder / "llama-88m", self._shape(LLAMA_88M))

    @cached_property
    def grown(self) -> Path:
        """The embedded model with the weights of one of 148M parameters: its own answers, in the time that such a model takes."""
        width, layers = self.pick((4, 28), (1, 3))
        return grow(self.amuse, self.folder / "grown", widening=width, intermediate=640 * width, layers=layers)

    def pick(self, full: T, tiny: T) -> T:
        """The one for this size."""
        return tiny if self.is_tiny else full

    def engine(self, model: Path, **settings: Any) -> EngineCore:
        """An engine in this process, with one thread and no prefix cache unless `settings` say otherwise."""
        usual: dict[str, Any] = {"threads": 1, "prefix_cache": False}
        if self.is_tiny:
            usual["kv_memory_bytes"] = 32 << 20
        return EngineCore(EngineConfig(model=model, **usual | settings))

    def _shape(self, fields: dict[str, Any]) -> dict[str, Any]:
        return fields | _TINY | _TINY_HEADS if self.is_tiny else fields


@contextmanager
def pinned_to_last_core() -> Iterator[None]:
    """This process keeps to the last of its cores meanwhile; the system has the others."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
