"""This project's engine, as its own process runs it: scheduler, batch, model and sampler, without messages and text."""

from pathlib import Path

from benchmarks.engine_cpu.worker import prompts, serve
from servery import __version__
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, Output, SamplingParams

# Longer than anybody decodes here.
_ENDLESS = 1 << 16


class Servery:
    """An `EngineCore` driven step by step."""

    def __init__(self, model: str, threads: int, context: int, sequences: int, **settings: str) -> None:
        self.version = __version__
        tokens = sequences * (context + 16)
        self._core = EngineCore(
            EngineConfig(
                model=Path(model),
                threads=threads,
                max_model_len=context,
                max_running=sequences,
                max_step_tokens=max(256, sequences),
                prefix_cache=False,
                kv_memory_bytes=_kv_bytes(model, tokens),
                **settings,  # type: ignore[arg-type]
            )
        )
        self._under_way: list[str] = []

    @property
    def read_bytes(self) -> int:
        """What all steps so far had to read at least."""
        return self._core.stats().read_bytes

    def prefill(self, sequences: int, tokens: int) -> None:
        """Add the requests and run until each has its first token."""
        for request_id in self._under_way:
            self._core.abort(request_id)
        limit = self._core.info.max_model_len - tokens
        params = SamplingParams(temperature=0.0, ignore_eos=True, max_tokens=min(limit, _ENDLESS))
        self._under_way = [str(row) for row in range(sequences)]
        for request_id, prompt in zip(
            self._under_way, prompts(sequences, tokens, self._core.info.vocab_size), strict=True
        ):
            self._core.add(NewRequest(request_id=request_id, prompt=prompt, params=params), 0)
        waiting = set(self._under_way)
        while waiting:
            waiting -= {output.request_id for output in self._step() if output.token_ids}

    def decode(self, steps: int) -> None:
        """A token for every sequence in each step."""
        for _ in range(steps):
            outputs = self._step()
            if len(outputs) != len(self._under_way) or any(output.finish_reason for output in outputs):
                raise RuntimeError(f"{len(self._under_way)} sequences gave {len(outputs)} outputs in a step")

    def _step(self) -> list[Output]:
        outputs = self._core.step()
        for output in outputs:
            if output.error is not None:
                raise RuntimeError(output.error)
        return outputs


def _kv_bytes(model: str, tokens: int) -> int:
    """Room for so many tokens in the widest type that a cache can have."""
    from servery.engine.architecture import ModelConfig

    config = ModelConfig.load(Path(model))
    return 2 * 4 * config.num_layers * config.num_kv_heads * config.head_dim * (tokens + 4096)


if __name__ == "__main__":
    serve(Servery)
