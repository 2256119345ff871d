"""OpenVINO: the model itself, with its state, or GenAI's continuous batching, step by step."""

from importlib import import_module
from typing import Any

from worker import prompts, serve  # type: ignore[import-not-found]  # beside this file, in the peer's environment


class OpenVino:
    """A compiled model that keeps keys and values itself, for a rectangle of sequences."""

    def __init__(self, model: str, threads: int, context: int, sequences: int) -> None:
        package = import_module("openvino")
        self._numpy: Any = import_module("numpy")
        self.version = f"openvino {package.__version__.partition('-')[0]}"
        hints = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
        compiled = package.Core().compile_model(f"{model}/openvino_model.xml", "CPU", hints)
        self._request = compiled.create_infer_request()
        self._inputs = {name for each in compiled.inputs for name in each.names}
        self._vocab_size = compiled.output("logits").partial_shape[2].get_length()
        self._newest: Any = None
        self._length = 0

    def prefill(self, sequences: int, tokens: int) -> None:
        """All prompts as one rectangle."""
        self._request.reset_state()
        self._length = 0
        self._step(self._numpy.array(prompts(sequences, tokens, self._vocab_size), self._numpy.int64))

    def decode(self, steps: int) -> None:
        """Greedily."""
        for _ in range(steps):
            self._step(self._newest)

    def _step(self, ids: Any) -> None:
        numpy, (rows, count) = self._numpy, ids.shape
        first, self._length = self._length, self._length + count
        given = {
            "input_ids": ids,
            "attention_mask": numpy.ones((rows, self._length), numpy.int64),
            "position_ids": numpy.tile(numpy.arange(first, self._length, dtype=numpy.int64), (rows, 1)),
            "beam_idx": numpy.arange(rows, dtype=numpy.int32),
        }
        self._request.infer({name: value for name, value in given.items() if name in self._inputs}, share_inputs=True)
        logits = self._request.get_tensor("logits").data
        self._newest = logits[:, -1:].argmax(-1)


class OpenVinoGenAI:
    """GenAI's `ContinuousBatchingPipeline`, a step at a time."""

    def __init__(self, model: str, threads: int, context: int, sequences: int) -> None:
        self._api: Any = import_module("openvino_genai")
        self._openvino: Any = import_module("openvino")
        self._numpy: Any = import_module("numpy")
        self.version = f"openvino-genai {self._api.__version__.partition('-')[0]}"
        scheduling = self._api.SchedulerConfig()
        scheduling.cache_size = 4
        scheduling.max_num_seqs = sequences
        scheduling.max_num_batched_tokens = max(256, sequences)
        scheduling.enable_prefix_caching = False
        hints = {"INFERENCE_NUM_THREADS": threads}
        self._pipeline = self._api.ContinuousBatchingPipeline(model, scheduling, "CPU", hints)
        self._vocab_size, self._next = 1024, 0
        self._handles: list[Any] = []

    def prefill(self, sequences: int, tokens: int) -> None:
        """Add the requests, then steps until each has a token."""
        for handle in self._handles:
            handle.stop()
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
        config = self._api.GenerationConfig(max_new_tokens=100_000, ignore_eos=True, do_sample=False)
        self._handles = []
        for prompt in prompts(sequences, tokens, self._vocab_size):
            ids = self._openvino.Tensor(self._numpy.array([prompt], self._numpy.int64))
            self._handles.append(self._pipeline.add_request(self._next, ids, config))
            self._next += 1
        waiting = list(self._handles)
        while waiting:
            self._pipeline.step()
            waiting = [handle for handle in waiting if not handle.can_read()]

    def decode(self, steps: int) -> None:
        """Greedily."""
        for _ in range(steps):
            self._pipeline.step()


def make(kind: str, **settings: Any) -> OpenVino | OpenVinoGenAI:
    """The way of running it that is asked for."""
    return OpenVinoGenAI(**settings) if kind == "genai" else OpenVino(**settings)


if __name__ == "__main__":
    serve(make)
