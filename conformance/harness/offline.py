"""`servery.LLM` as a model of lm-eval: the engine in this process, its own tokenizer, and no server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance  # type: ignore[import-not-found]
from lm_eval.api.model import TemplateLM  # type: ignore[import-not-found]
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window  # type: ignore[import-not-found]

from conformance.harness.tasks import END
from servery import LLM, SamplingParams

Encoded = tuple[tuple[str, str], list[int], list[int]]


class OfflineModel(TemplateLM):  # type: ignore[misc]
    """Answers lm-eval's three kinds of requests."""

    def __init__(self, checkpoint: Path, **settings: Any) -> None:
        super().__init__()
        self._llm = LLM(checkpoint, **settings)

    @property
    def eot_token_id(self) -> int:
        """What an empty context is replaced by."""
        found = self._llm.tokenizer.token_id(END)
        assert found is not None
        return found

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """The text's tokens."""
        return self._llm.tokenizer.encode(string, bool(add_special_tokens))

    def _loglikelihood_tokens(self, requests: Sequence[Encoded], **_: Any) -> list[tuple[float, bool]]:
        prompts = [context + continuation for _, context, continuation in requests]
        scored = self._llm.generate(prompts, SamplingParams(max_tokens=1, prompt_logprobs=1, temperature=0.0))
        lengths = [len(continuation) for _, _, continuation in requests]
        return [_score(each.prompt_logprobs, length) for each, length in zip(scored, lengths, strict=True)]

    def loglikelihood_rolling(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log probabilities of whole texts, by lm-eval's own windows."""
        limit = self._llm.core.info.max_model_len - 1
        return [self._rolling(request.args[0], limit) for request in requests]

    def _rolling(self, text: str, limit: int) -> float:
        windows = get_rolling_token_windows(
            token_list=self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=limit, context_len=1
        )
        encoded = [(("", text), *make_disjoint_window(window)) for window in windows]
        return sum(score for score, _ in self._loglikelihood_tokens(encoded))

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model goes on with."""
        return [self._until(*request.args) for request in requests]

    def _until(self, context: str, wanted: dict[str, Any]) -> str:
        params = SamplingParams(
            max_tokens=wanted["max_gen_toks"], temperature=wanted["temperature"], stop=tuple(wanted["until"])
        )
        (answer,) = self._llm.generate([self.tok_encode(context)], params)
        return answer.text


def _score(logprobs: Sequence[Any], length: int) -> tuple[float, bool]:
    """The sum over the last `length` tokens, and whether each of them is the likeliest."""
    last = logprobs[len(logprobs) - length :]
    return sum(each.logprob for each in last), all(each.logprob == each.top[0][1] for each in last)
