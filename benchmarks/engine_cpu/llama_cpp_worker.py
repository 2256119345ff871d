"""llama.cpp through its C interface, as its own `llama-batched-bench` drives it: nothing is sampled."""

import ctypes
from importlib import import_module
from typing import Any

from worker import prompts, serve  # type: ignore[import-not-found]  # beside this file, in the peer's environment


class LlamaCpp:
    """A model and, for each order to prefill, a context of its own."""

    def __init__(self, model: str, threads: int, context: int, sequences: int) -> None:
        package = import_module("llama_cpp")
        self.version = f"llama-cpp-python {package.__version__}"
        self._api: Any = package.llama_cpp
        self._api.llama_backend_init()
        self._log = self._api.llama_log_callback(lambda level, text, data: None)
        self._api.llama_log_set(self._log, ctypes.c_void_p(0))
        self._model = self._api.llama_model_load_from_file(model.encode(), self._api.llama_model_default_params())
        if not self._model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        self._vocab_size = self._api.llama_vocab_n_tokens(self._api.llama_model_get_vocab(self._model))
        self._settings = {"threads": threads, "context": context}
        self._context: Any = None
        self._shape = (0, 0)
        self._positions = self._sequences = 0

    def prefill(self, sequences: int, tokens: int) -> None:
        """A sequence's prompt in one batch, as they come from users."""
        self._prepare(sequences)
        self._sequences, self._positions = sequences, tokens
        for row, prompt in enumerate(prompts(sequences, tokens, self._vocab_size)):
            self._decode([(token, at, row, at == tokens - 1) for at, token in enumerate(prompt)])

    def decode(self, steps: int) -> None:
        """One batch with a token of each sequence, `steps` times."""
        for _ in range(steps):
            token = 8 + self._positions % (self._vocab_size - 16)
            self._decode([(token, self._positions, row, True) for row in range(self._sequences)])
            self._positions += 1

    def _prepare(self, sequences: int) -> None:
        """An empty context for so many sequences."""
        if self._shape == (sequences, 0):
            self._api.llama_memory_clear(self._api.llama_get_memory(self._context), True)
            return
        if self._context:
            self._api.llama_free(self._context)
        params = self._api.llama_context_default_params()
        params.n_ctx = self._settings["context"] * sequences
        params.n_batch, params.n_ubatch, params.n_seq_max = 2048, 512, sequences
        params.n_threads = params.n_threads_batch = self._settings["threads"]
        # Off, it is faster for one long sequence on a CPU (12.0 tokens/s against 9.5 at 1,024); else its own choice.
        params.flash_attn_type = 0 if sequences == 1 else -1
        self._context = self._api.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp gives no context for {sequences} sequences")
        self._shape = (sequences, 0)

    def _decode(self, tokens: list[tuple[int, int, int, bool]]) -> None:
        """Compute (token, position, sequence, whether its logits are wanted)."""
        batch = self._api.llama_batch_init(len(tokens), 0, 1)
        batch.n_tokens = len(tokens)
        for at, (token, position, sequence, is_wanted) in enumerate(tokens):
            batch.token[at], batch.pos[at] = token, position
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
            batch.logits[at] = is_wanted
        status = self._api.llama_decode(self._context, batch)
        self._api.llama_batch_free(batch)
        if status:
            raise RuntimeError(f"llama_decode returned {status} for {len(tokens)} tokens")
        self._api.llama_synchronize(self._context)


if __name__ == "__main__":
    serve(LlamaCpp)
