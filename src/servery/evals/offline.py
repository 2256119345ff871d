"""The engine in this process as the system under evaluation; what it needs is imported when one is made."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servery.evals import choices
from servery.evals.answer import Answer, Failure, OnAnswer
from servery.evals.computed import Computed
from servery.evals.passages import common
from servery.evals.task import Task

if TYPE_CHECKING:
    from servery.engine.llm import Generation
    from servery.engine.request import SamplingParams

_AT_A_TIME = 256  # tasks between two writes to the file of results: more are computed together for longer


class Offline:
    """A checkpoint loaded here; tasks with equal limits are computed together."""

    def __init__(self, checkpoint: Path, settings: dict[str, Any]) -> None:
        """`settings` are fields of `EngineConfig`. Raises `LoadError` if the model cannot be loaded."""
        from servery.engine.llm import LLM

        self._llm: LLM = LLM(checkpoint, **settings)
        self.model = checkpoint.name
        self.computed = Computed.of(self._llm.core.info)

    async def answer(self, tasks: Sequence[Task], on_answer: OnAnswer) -> None:
        """Answer group after group; a task that the engine refuses (too long, no template) fails alone."""
        for group in _groups(tasks):
            for task, found in zip(group, self._answer(group), strict=True):
                await on_answer(task, found)

    def close(self) -> None:
        """Nothing is open: the memory goes with the object."""

    def _answer(self, group: Sequence[Task]) -> list[Answer | Failure]:
        from servery.engine.request import SamplingParams

        first = group[0]
        if first.scorer == "choice":
            return [self._choice(task) for task in group]
        params = SamplingParams(temperature=0.0, max_tokens=first.max_tokens, stop=tuple(first.stop))
        prompts = [self._prompt(task, params) for task in group]
        servable = [prompt for prompt in prompts if not isinstance(prompt, Failure)]
        computed = iter(self._llm.generate(servable, params, progress=False))
        return [prompt if isinstance(prompt, Failure) else _answer(next(computed)) for prompt in prompts]

    def _prompt(self, task: Task, params: "SamplingParams") -> list[int] | Failure:
        """The token ids that ask a task, if the engine takes them."""
        from servery.engine.errors import InvalidRequest
        from servery.engine.request import NewRequest

        try:
            prompt = self._encoded(task)
            self._llm.core.check(NewRequest(request_id=task.id, prompt=prompt, params=params))
        except InvalidRequest as error:
            return Failure("refused", str(error))
        return prompt

    def _encoded(self, task: Task) -> list[int]:
        from servery.engine.chat_template import no_chat_template

        template = self._llm.chat_template
        if not task.is_chat:
            return self._llm.tokenizer.encode(task.prompt or "")
        if template is None:
            raise no_chat_template(self.model)
        return template.encode(self._llm.tokenizer, task.messages or [], task.tools)

    def _choice(self, task: Task) -> Answer | Failure:
        from servery.engine.errors import InvalidRequest

        try:
            return self._first_token(task) if task.is_chat else self._likelihoods(task)
        except InvalidRequest as error:  # raised before anything is computed
            return Failure("refused", str(error))

    def _first_token(self, task: Task) -> Answer:
        from servery.engine.request import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, logprobs=choices.TOP_LOGPROBS, ignore_eos=True)
        (generation,) = self._llm.generate([self._encoded(task)], params, progress=False)
        top = generation.completions[0].logprobs[0].top
        return choices.by_first_token(task, [(self._llm.tokenizer.decode([token]), value) for token, value in top])

    def _likelihoods(self, task: Task) -> Answer:
        """Sum over what follows the tokens that the prompt alone and the prompt with the choice have in common."""
        from servery.engine.request import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, ignore_eos=True)
        prompt = self._llm.tokenizer.encode(task.prompt or "")
        whole = [self._llm.tokenizer.encode((task.prompt or "") + choice) for choice in task.choices]
        scored = []
        for tokens, generation in zip(whole, self._llm.generate(whole, params, progress=False), strict=True):
            start = max(1, min(common(prompt, tokens), len(tokens) - 1))
            scored.append(math.fsum(entry.logprob for entry in generation.prompt_logprobs[start:] if entry))
        return choices.answer(task, scored)


def _answer(generation: "Generation") -> Answer:
    return Answer(generation.text, generation.completions[0].finish_reason.value)


def _groups(tasks: Sequence[Task]) -> Iterator[list[Task]]:
    """Tasks that one call can answer, in the order of the first of each kind."""
    alike: dict[str, list[Task]] = {}
    for task in tasks:
        key = repr((task.scorer == "choice", task.max_tokens, task.stop))
        alike.setdefault(key, []).append(task)
    for group in alike.values():
        for start in range(0, len(group), _AT_A_TIME):
            yield group[start : start + _AT_A_TIME]
