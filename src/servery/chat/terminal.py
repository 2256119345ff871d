"""A conversation in a terminal or a pipe: read a line, stream the answer, tell how fast it came.

Where input is a terminal there is a prompt, Ctrl-C interrupts the answer and errors leave the conversation standing. In
a pipe each line is a question, only answers are printed, and the first error ends it.
"""

import asyncio
import sys
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, TextIO

from servery.bench.address import Address
from servery.bench.client import LOADING_S, Client
from servery.bench.dialect import Dialect
from servery.bench.errors import ClientError, Malformed, WrongStatus
from servery.bench.sample import Sample
from servery.chat.conversation import Conversation, ConversationError

PROMPT, MORE_PROMPT = "> ", ". "


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """What `servery chat` was asked for; `sampling` goes into every request as it is."""

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    system: str | None = None
    load: Path | None = None
    sampling: dict[str, float | int] = field(default_factory=dict)
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class Screen:
    """Where lines come from and text goes to; `read` raises `EOFError` at the end, `tell` is for everything but answers."""

    read: Callable[[str], str]
    write: Callable[[str], None]
    tell: Callable[[str], None]
    is_interactive: bool


class _Leave(Exception):
    """The user wants to leave."""


def run(options: ChatOptions) -> int:
    """Talk until the input ends; 0. Raises `ClientError` when the server cannot be used, `ConversationError`."""
    screen = _screen()
    conversation = Conversation.load(options.load) if options.load else Conversation()
    conversation.system = options.system or conversation.system
    with asyncio.Runner() as runner:
        Terminal(options, screen, runner, conversation).talk()
    return 0


class Terminal:
    """One user, one server, one conversation."""

    def __init__(
        self, options: ChatOptions, screen: Screen, runner: asyncio.Runner, conversation: Conversation
    ) -> None:
        self.conversation = conversation
        self._options = options
        self._screen = screen
        self._runner = runner
        self._client = Client(Address.parse(options.url), options.api_key, options.timeout_s)
        self._dialect = Dialect()
        self._model = ""

    def talk(self) -> None:
        """Greet, then answer line after line until the input ends."""
        self._model = self._runner.run(self._choose_model())
        if self._screen.is_interactive:
            self._screen.tell(f"{self._model} at {self._client.address}. /help lists the commands, Ctrl-D leaves.\n")
        try:
            while True:
                self._turn()
        except (_Leave, EOFError):
            if self._screen.is_interactive:
                self._screen.tell("\n")
        finally:
            self._runner.run(self._leave())

    async def _choose_model(self) -> str:
        """The model asked for, else the first one listed; either way somebody must listen there."""
        try:
            if not await self._client.wait_until_ready(0.0):
                self._screen.tell("The server is loading its model; waiting for it.\n")
                await self._client.wait_until_ready(LOADING_S)
            first = await self._client.first_model()
        except (WrongStatus, Malformed) as error:
            _explain_key(error)
            if self._options.model is None:
                raise
            return self._options.model  # some servers list nothing
        return self._options.model or first

    async def _leave(self) -> None:
        self._client.close()

    def _turn(self) -> None:
        """One line: a command or a question."""
        try:
            line = self._read()
            if line.startswith("//"):
                self._ask(line[1:])
            elif line.startswith("/"):
                self._command(line)
            elif line.strip():
                self._ask(line)
        except KeyboardInterrupt:
            if not self._screen.is_interactive:
                raise
            self._screen.tell("\n(interrupted; Ctrl-D leaves)\n")
        except (ClientError, ConversationError, OSError) as error:
            if not self._screen.is_interactive:
                raise
            self._screen.tell(f"{error}\n")

    def _read(self) -> str:
        """A line; one that ends in a backslash goes on with the next."""
        line = self._screen.read(PROMPT)
        while self._screen.is_interactive and line.endswith("\\"):
            line = line[:-1] + "\n" + self._screen.read(MORE_PROMPT)
        return line

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        command = COMMANDS.get(name)
        if command is None:
            known = ", ".join(f"/{name}" for name in COMMANDS)
            raise ConversationError(
                f"/{name} is no command ({known}); begin with // to send a line that begins with /."
            )
        command(self, rest.strip())

    def _ask(self, text: str) -> None:
        """Send a question with all that was said before, and stream the answer; what came of it is kept."""
        self.conversation.ask(text)
        answer: list[str] = []
        try:
            sample = self._runner.run(self._stream(answer))
        finally:
            self.conversation.answer("".join(answer))
            self._screen.write("\n")
        if self._screen.is_interactive:
            self._screen.tell(f"[{pace(sample)}]\n")

    async def _stream(self, answer: list[str]) -> Sample:
        options = {"stream_options": {"include_usage": True}, **self._options.sampling}
        request = {"model": self._model, "messages": self.conversation.messages(), **options}
        while True:
            try:
                return await self._stream_once(self._dialect.speak(request), answer)
            except WrongStatus as error:
                _explain_key(error)
                learnt = self._dialect.learn(request, error)
                if learnt is None:
                    raise
                self._dialect = learnt

    async def _stream_once(self, request: dict[str, Any], answer: list[str]) -> Sample:
        sample = Sample(sent=perf_counter())
        async with aclosing(self._client.chat(request)) as deltas:
            async for delta in deltas:
                sample.take(delta)
                if delta.reasoning and self._screen.is_interactive:
                    self._screen.tell(delta.reasoning)
                if delta.text:
                    answer.append(delta.text)
                    self._screen.write(delta.text)
        return sample

    def help(self, _: str) -> None:
        """List the commands"""
        for name, command in COMMANDS.items():
            self._screen.tell(f"/{name:<8}{command.__doc__ or ''}\n")
        self._screen.tell("A line that ends in \\ goes on. Ctrl-C interrupts an answer, Ctrl-D leaves.\n")

    def reset(self, _: str) -> None:
        """Forget what was said; the system prompt stays"""
        self.conversation.reset()

    def system(self, text: str) -> None:
        """Set the system prompt: /system TEXT; without a text it is shown"""
        if text:
            self.conversation.system = text
        else:
            self._screen.tell(f"{self.conversation.system or '(no system prompt)'}\n")

    def save(self, name: str) -> None:
        """Write the conversation as JSON: /save FILE"""
        self.conversation.save(_path(name, "save"), self._model)

    def load(self, name: str) -> None:
        """Go on with a saved conversation: /load FILE"""
        self.conversation = Conversation.load(_path(name, "load"))

    def retry(self, _: str) -> None:
        """Ask the last question again, without its answer"""
        self._ask(self.conversation.take_back())

    def quit(self, _: str) -> None:
        """Leave, like Ctrl-D"""
        raise _Leave


COMMANDS: dict[str, Callable[[Terminal, str], None]] = {
    "help": Terminal.help,
    "reset": Terminal.reset,
    "system": Terminal.system,
    "save": Terminal.save,
    "load": Terminal.load,
    "retry": Terminal.retry,
    "quit": Terminal.quit,
}


def pace(sample: Sample) -> str:
    """How fast an answer came: `12 ms to the first token, 85 tokens, 240 tokens/s`."""
    parts = []
    if sample.ttft_s is not None:
        parts.append(f"{1e3 * sample.ttft_s:.0f} ms to the first token")
    parts.append(f"{sample.output_tokens} tokens")
    if sample.tpot_s:
        parts.append(f"{1 / sample.tpot_s:.0f} tokens/s")
    if sample.finish_reason == "length":
        parts.append("cut at the longest answer or the end of the context")
    return ", ".join(parts)


def printable(text: str) -> str:
    """`text` without control characters: a model must not move the cursor or set the clipboard of who reads it."""
    return "".join(character for character in text if character in "\n\t" or not _is_control(character))


def _is_control(character: str) -> bool:
    return character < " " or "\x7f" <= character <= "\x9f"


def _explain_key(error: ClientError) -> None:
    if isinstance(error, WrongStatus) and error.status in (401, 403):
        raise WrongStatus(
            error.status, f"{error.message} Give a key with --api-key or $SERVERY_API_KEY.", error.code, error.param
        ) from None


def _path(name: str, command: str) -> Path:
    if not name:
        raise ConversationError(f"/{command} needs the name of a file: /{command} talk.json")
    return Path(name).expanduser()


def _screen() -> Screen:
    """The process's own input and output; what a terminal shows is made harmless, what a pipe gets is left alone."""
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        with suppress(ImportError):
            import readline  # noqa: F401 - gives input() line editing and history
    return Screen(
        read=input if is_interactive else _next_line,
        write=partial(_put, sys.stdout),
        tell=partial(_put, sys.stderr),
        is_interactive=is_interactive,
    )


def _next_line(_: str) -> str:
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _put(stream: TextIO, text: str) -> None:
    stream.write(printable(text) if stream.isatty() else text)
    stream.flush()
