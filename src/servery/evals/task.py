"""A task file, plain or packed with gzip: one question with its expected answer per line, every line checked before anything is asked."""

import gzip
import hashlib
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from servery.evals.errors import TaskFileError

ScorerName = Literal["exact", "number", "json-equal", "regex", "contains", "choice", "judge"]


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One question. `prompt` is continued as it is (`/completions`); `messages` are a chat, in the model's template.

    What `expected` is depends on the scorer: a text (exact, judge), a number, any JSON (json-equal), a pattern
    (regex), a text or several that must all occur (contains), one of `choices` (choice). `tolerance` is the largest
    absolute difference that `number` accepts; `rubric` tells the judge what counts.
    """

    id: str
    expected: Any
    scorer: ScorerName
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    stratum: str = "all"
    max_tokens: int = 256
    stop: list[str] = []
    choices: list[str] = []
    tolerance: float = 0.0
    rubric: str | None = None

    def __post_init__(self) -> None:
        for rule in (_check_texts, _check_prompt, _check_numbers, _check_expected):
            rule(self)

    @property
    def is_chat(self) -> bool:
        """Whether the model's chat template is used."""
        return self.messages is not None


@dataclass(frozen=True, slots=True)
class TaskFile:
    """All tasks in the order of the file, and the hash of its (unpacked) bytes."""

    name: str
    sha256: str
    tasks: tuple[Task, ...]


def load(path: Path) -> TaskFile:
    """Read and check a task file. Raises `TaskFileError` naming line and key, `OSError` if it cannot be read."""
    data = read_bytes(path)
    tasks: dict[str, Task] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        task = _task(line, f"{path}:{number}")
        if task.id in tasks:
            raise TaskFileError(f"{path}:{number}: `id` {task.id!r} is that of line {lines[task.id]}; ids are unique.")
        tasks[task.id], lines[task.id] = task, number
    if not tasks:
        raise TaskFileError(f"{path} has no task; write one JSON object per line.")
    return TaskFile(path.name, hashlib.sha256(data).hexdigest(), tuple(tasks.values()))


def read_bytes(path: Path) -> bytes:
    """The file's content, unpacked if its name ends in .gz; raises `TaskFileError` if it cannot be unpacked."""
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TaskFileError(f"{path} cannot be unpacked: {error}; a name in .gz is for files packed by gzip.") from None


def sha256_of(path: Path) -> str:
    """What `TaskFile.sha256` is of a file: of its content, packed or not."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _task(line: bytes, place: str) -> Task:
    try:
        return msgspec.json.decode(line, type=Task)
    except msgspec.ValidationError as error:
        raise TaskFileError(f"{place}: {error}") from None
    except msgspec.DecodeError as error:
        raise TaskFileError(f"{place}: this line is no JSON object ({error}).") from None


def _check_texts(task: Task) -> None:
    for key in ("id", "stratum"):
        if not getattr(task, key).strip():
            raise ValueError(f"`{key}` is empty; write a name.")
    if "" in task.stop:
        raise ValueError("`stop` has an empty text; every stop needs at least one character.")


def _check_prompt(task: Task) -> None:
    if (task.prompt is None) == (task.messages is None):
        raise ValueError("give either `prompt` or `messages`, not both and not neither.")
    if task.prompt == "":
        raise ValueError("`prompt` is empty; it needs at least one character.")
    if task.messages == []:
        raise ValueError("`messages` is empty; it needs at least one message.")
    for at, message in enumerate(task.messages or []):
        if not isinstance(message.get("role"), str):
            raise ValueError(f"`messages[{at}]` has no `role`; it is system, user, assistant or tool.")
    if task.tools is not None and not task.is_chat:
        raise ValueError("`tools` need `messages`; a `prompt` is continued as it is.")


def _check_numbers(task: Task) -> None:
    if task.max_tokens < 1:
        raise ValueError(f"`max_tokens` is {task.max_tokens}; it must be at least 1.")
    if not 0 <= task.tolerance < float("inf"):
        raise ValueError(f"`tolerance` is {task.tolerance}; it must not be negative.")


def _check_expected(task: Task) -> None:
    for key, scorer, is_given in (
        ("choices", "choice", bool(task.choices)),
        ("tolerance", "number", task.tolerance > 0),
        ("rubric", "judge", task.rubric is not None),
    ):
        if is_given and task.scorer != scorer:
            raise ValueError(f"`{key}` is only for the scorer {scorer!r}; this one is {task.scorer!r}.")
    match task.scorer:
        case "number":
            if isinstance(task.expected, bool) or not isinstance(task.expected, int | float):
                raise ValueError(f"`expected` is {task.expected!r}; the scorer 'number' needs a number.")
        case "contains":
            _check_parts(task.expected)
        case "choice":
            _check_choices(task.choices, task.expected)
        case "exact" | "regex" | "judge":
            if not isinstance(task.expected, str):
                raise ValueError(f"`expected` is {task.expected!r}; the scorer {task.scorer!r} needs a text.")
    if task.scorer == "regex":
        _check_pattern(task.expected)


def _check_parts(expected: Any) -> None:
    parts = [expected] if isinstance(expected, str) else expected
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) and part for part in parts):
        raise ValueError(f"`expected` is {expected!r}; the scorer 'contains' needs a text or a list of texts.")


def _check_choices(choices: Sequence[str], expected: Any) -> None:
    if len(set(choices)) < 2 or len(set(choices)) < len(choices) or "" in choices:
        raise ValueError(f"`choices` is {choices!r}; the scorer 'choice' needs two or more different texts.")
    if expected not in choices:
        raise ValueError(f"`expected` is {expected!r}; it must be one of `choices`.")


def _check_pattern(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`expected` is no regular expression: {error}.") from None
