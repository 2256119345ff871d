"""What two models are compared on, token by token: the right answers of a task file, or a text cut into windows."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from servery.evals import task
from servery.evals.errors import OptionError
from servery.evals.task import Task

if TYPE_CHECKING:
    from servery.engine.teacher_forcing import Passage

# Whose `expected` is an answer, word for word; of the others nobody knows what a right answer looks like.
ANSWERED = ("exact", "choice", "judge")


@dataclass(frozen=True, slots=True)
class Source:
    """A file of tasks, or a text as one stratum `all`; `sha256` is of its (unpacked) content."""

    name: str
    sha256: str
    tasks: tuple[Task, ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Passages:
    """Passages by stratum, in the order of the file, and how many were left out for which reason."""

    strata: "dict[str, list[Passage]]"
    left_out: dict[str, int]


def read(path: Path) -> Source:
    """A task file if the name ends in .jsonl or .jsonl.gz, else a text. Raises `TaskFileError` or `OptionError`."""
    if path.name.removesuffix(".gz").endswith(".jsonl"):
        found = task.load(path)
        return Source(found.name, found.sha256, tasks=found.tasks)
    data = task.read_bytes(path)
    try:
        return Source(path.name, hashlib.sha256(data).hexdigest(), text=data.decode())
    except UnicodeDecodeError as error:
        raise OptionError(f"{path} is no text in UTF-8 ({error.reason} at byte {error.start}).") from None


class Encoder:
    """Makes passages of a source, with the tokenizer and the chat template of one checkpoint."""

    def __init__(self, checkpoint: Path) -> None:
        """Raises `LoadError` where the checkpoint has no tokenizer that can be used."""
        from servery.engine.chat_template import ChatTemplate
        from servery.engine.tokenizer import Tokenizer

        self._name = checkpoint.name
        self._tokenizer: Tokenizer = Tokenizer.load(checkpoint)
        self._template: ChatTemplate | None = ChatTemplate.load(checkpoint)

    def passages(self, source: Source, longest: int, window: int, limit: int | None) -> Passages:
        """At most `limit` of each stratum, of at most `longest` tokens; a text is cut into `window` tokens each."""
        strata: dict[str, list[Passage]] = {}
        left_out: Counter[str] = Counter()
        pieces = self._answers(source.tasks) if source.text is None else self._windows(source.text, window)
        for stratum, passage in pieces:
            if isinstance(passage, str):
                left_out[passage] += 1
            elif len(passage.tokens) > longest:
                left_out[f"longer than the context of {longest} tokens"] += 1
            elif limit is None or len(strata.setdefault(stratum, [])) < limit:
                strata.setdefault(stratum, []).append(passage)
        return Passages(strata, dict(left_out))

    def _answers(self, tasks: Sequence[Task]) -> "Iterator[tuple[str, Passage | str]]":
        """(stratum, passage or why there is none) of each task."""
        for one in tasks:
            is_answer = one.scorer in ANSWERED
            yield one.stratum, self._answer(one) if is_answer else f"scorer {one.scorer}: its `expected` is no answer"

    def _answer(self, one: Task) -> "Passage | str":
        """Scored is what follows the tokens that the prompt alone and the prompt with its answer have in common."""
        from servery.engine.teacher_forcing import Passage

        prompt, whole = self._chat(one) if one.is_chat else self._completion(one)
        first = max(1, common(prompt, whole))
        return Passage(tuple(whole), first) if first < len(whole) else "the answer has no token"

    def _chat(self, one: Task) -> tuple[list[int], list[int]]:
        from servery.engine.chat_template import no_chat_template

        if self._template is None:
            raise no_chat_template(self._name)
        asked = one.messages or []
        prompt = self._template.encode(self._tokenizer, asked, one.tools)
        said = [*asked, {"role": "assistant", "content": one.expected}]
        return prompt, self._template.encode(self._tokenizer, said, one.tools, add_generation_prompt=False)

    def _completion(self, one: Task) -> tuple[list[int], list[int]]:
        prompt = one.prompt or ""
        return self._tokenizer.encode(prompt), self._tokenizer.encode(prompt + one.expected)

    def _windows(self, text: str, size: int) -> "Iterator[tuple[str, Passage | str]]":
        from servery.engine.teacher_forcing import Passage

        tokens = self._tokenizer.encode(text)
        for start in range(0, len(tokens), size):
            piece = tuple(tokens[start : start + size])
            yield "all", Passage(piece, 1) if len(piece) > 1 else "a window of one token"


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many leading tokens two texts share."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
