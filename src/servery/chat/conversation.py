"""What was said so far: the messages that go to the model with the next question."""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import orjson

SCHEMA = "servery.chat/1"


class ConversationError(Exception):
    """A conversation cannot be loaded or cannot go on as asked; the message says what to do."""


class Message(msgspec.Struct, frozen=True):
    """One turn, as the API has it."""

    role: str
    content: str


class _Saved(msgspec.Struct):
    messages: list[Message]


@dataclass(slots=True)
class Conversation:
    """Questions and answers in turn, under an optional system prompt."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)
    unanswered: str | None = None  # the last question, if nothing came of it

    def messages(self) -> list[dict[str, str]]:
        """As the API takes them."""
        system = [Message("system", self.system)] if self.system else []
        return [{"role": message.role, "content": message.content} for message in (*system, *self.turns)]

    def ask(self, text: str) -> None:
        """Add a question."""
        self.unanswered = None
        self.turns.append(Message("user", text))

    def answer(self, text: str) -> None:
        """Add the answer to the question just asked; without any text the question is put aside."""
        if text:
            self.turns.append(Message("assistant", text))
        else:
            self.unanswered = self.turns.pop().content

    def reset(self) -> None:
        """Forget all turns; the system prompt stays."""
        self.unanswered = None
        self.turns.clear()

    def take_back(self) -> str:
        """Remove the last question and its answer, and return the question. Raises `ConversationError` without one."""
        if self.unanswered is not None:
            return self.unanswered
        for index in range(len(self.turns) - 1, -1, -1):
            if self.turns[index].role == "user":
                question = self.turns[index].content
                del self.turns[index:]
                return question
        raise ConversationError("There is no question yet; type one first.")

    def save(self, path: Path, model: str) -> None:
        """Write everything as JSON. Raises `OSError`."""
        saved = {"schema": SCHEMA, "model": model, "messages": self.messages()}
        path.write_bytes(orjson.dumps(saved, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))

    @classmethod
    def load(cls, path: Path) -> "Conversation":
        """Read what `save` wrote, or any JSON object with `messages`. Raises `OSError`, `ConversationError`."""
        try:
            messages = msgspec.json.decode(path.read_bytes(), type=_Saved).messages
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise ConversationError(f"{path} is no saved conversation ({error}); it needs what /save writes.") from None
        strange = sorted({message.role for message in messages} - {"system", "user", "assistant"})
        if strange:
            raise ConversationError(
                f"{path} has the role {strange[0]!r}; only system, user and assistant can go on here."
            )
        system = [message.content for message in messages if message.role == "system"]
        return cls("\n".join(system) or None, [message for message in messages if message.role != "system"])
