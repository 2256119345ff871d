"""transformers: the loop of `generate` without its checks, and continuous batching as `generate_batch` has it."""

from importlib import import_module
from typing import Any

import torch
from worker import prompts, serve  # type: ignore[import-not-found]  # beside this file


class Transformers:
    """A causal language model with a cache that grows."""

    def __init__(self, model: str, threads: int, context: int, sequences: int, dtype: str = "bfloat16") -> None:
        self._package: Any = import_module("transformers")
        self.version = f"transformers {self._package.__version__}"
        torch.set_num_threads(threads)
        load = self._package.AutoModelForCausalLM.from_pretrained
        self._model = load(model, dtype=getattr(torch, dtype), attn_implementation="sdpa").eval()
        self._path, self._dtype = model, dtype
        self._cache: Any = None
        self._newest = torch.zeros((1, 1), dtype=torch.int64)

    @torch.inference_mode()
    def prefill(self, sequences: int, tokens: int) -> None:
        """All prompts as one rectangle."""
        self._cache = self._package.DynamicCache()
        ids = torch.tensor(prompts(sequences, tokens, self._model.config.vocab_size))
        self._step(ids)

    @torch.inference_mode()
    def decode(self, steps: int) -> None:
        """Greedily."""
        for _ in range(steps):
            self._step(self._newest)

    def batch(self, sequences: int, prompt: int, tokens: int) -> None:
        """Continuous batching from prompts to the last token."""
        config = self._package.GenerationConfig(
            max_new_tokens=tokens, do_sample=False, eos_token_id=-1, pad_token_id=0, num_blocks=40, max_batch_tokens=512
        )
        results = self._model.generate_batch(
            inputs=prompts(sequences, prompt, self._model.config.vocab_size), generation_config=config
        )
        short = [each for each in results.values() if len(each.generated_tokens) < tokens]
        if len(results) != sequences or short:
            raise RuntimeError(f"{len(results)} of {sequences} sequences came back, {len(short)} of them short")

    def _step(self, ids: torch.Tensor) -> None:
        logits = self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1).logits
        self._newest = logits[:, -1:].argmax(-1)


if __name__ == "__main__":
    serve(Transformers)
