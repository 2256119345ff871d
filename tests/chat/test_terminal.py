"""The terminal chat: what goes to the server, what is shown, and what an interruption or an error leaves standing."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from servery.bench.errors import ClientError, InBandError, WrongStatus
from servery.bench.sample import Sample
from servery.chat.conversation import Conversation, ConversationError, Message
from servery.chat.terminal import ChatOptions, Screen, Terminal, pace, printable
from tests.scripted_server import ScriptedServer, chunk, event, head, json_answer, scripted, stream

CHAT = "/v1/chat/completions"
MODELS = [json_answer({"data": [{"id": "amuse"}]})]
PACE = "ms to the first token"


@dataclass
class Paper:
    """A screen that keeps what it shows; a line that is an exception is raised where it would be typed."""

    lines: list[str | BaseException]
    is_interactive: bool = True
    shown: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    interrupted_by: str | None = None  # Ctrl-C is pressed when this is shown

    def read(self, prompt: str) -> str:
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    def show(self, text: str) -> None:
        self.shown.append(text)
        if text == self.interrupted_by:
            signal.raise_signal(signal.SIGINT)

    @property
    def screen(self) -> Screen:
        return Screen(self.read, self.show, self.told.append, self.is_interactive)

    @property
    def answers(self) -> str:
        return "".join(self.shown)

    @property
    def remarks(self) -> str:
        return "".join(self.told)


@contextmanager
def serving(script: dict[str, list[list[Any]]]) -> Iterator[tuple[asyncio.Runner, ScriptedServer]]:
    """A server on the runner that the terminal uses, so that it lives while an answer is under way."""
    with asyncio.Runner() as runner:
        context = scripted({"/v1/models": MODELS, **script})
        server = runner.run(context.__aenter__())
        try:
            yield runner, server
        finally:
            runner.run(context.__aexit__(None, None, None))  # type: ignore[arg-type]


def talk(
    script: dict[str, list[list[Any]]],
    lines: Sequence[str | BaseException],
    *,
    is_interactive: bool = True,
    **options: Any,
) -> tuple[Paper, Conversation, ScriptedServer]:
    paper = Paper(list(lines), is_interactive)
    return paper, *talk_on(paper, script, **options)


def talk_on(paper: Paper, script: dict[str, list[list[Any]]], **options: Any) -> tuple[Conversation, ScriptedServer]:
    conversation = Conversation(options.pop("system", None))
    with serving(script) as (runner, server):
        terminal = Terminal(ChatOptions(**{"url": server.url, **options}), paper.screen, runner, conversation)
        terminal.talk()
        return terminal.conversation, server


def turns(*contents: str) -> list[Message]:
    return [Message(("user", "assistant")[index % 2], content) for index, content in enumerate(contents)]


def test_each_question_carries_all_that_was_said_before() -> None:
    paper, conversation, server = talk(
        {CHAT: [stream("Hel", "lo."), stream("Bye.")]},
        ["Hi", "", "See you"],
        system="Be kind.",
        sampling={"temperature": 0.5, "max_tokens": 9},
        api_key="secret",
    )
    system = {"role": "system", "content": "Be kind."}
    said = [("user", "Hi"), ("assistant", "Hello."), ("user", "See you")]
    messages = [system, *({"role": role, "content": content} for role, content in said)]
    settings = {
        "model": "amuse",
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "max_tokens": 9,
    }
    assert server.bodies(CHAT) == [{"messages": messages[:2], **settings}, {"messages": messages, **settings}]
    assert {asked.headers["authorization"] for asked in server.asked} == {"Bearer secret"}
    assert paper.answers == "Hello.\nBye.\n"
    assert paper.remarks.count(PACE) == 2
    assert conversation == Conversation("Be kind.", turns("Hi", "Hello.", "See you", "Bye."))
    assert server.connections == 1


def test_a_pipe_gets_answers_and_nothing_else() -> None:
    paper, _, _ = talk({CHAT: [stream("one"), stream("two")]}, ["a", "b\\"], is_interactive=False)
    assert (paper.answers, paper.remarks) == ("one\ntwo\n", "")


def test_a_line_that_ends_in_a_backslash_goes_on() -> None:
    _, conversation, _ = talk({CHAT: [stream("ok")]}, ["first\\", "second\\", "third"])
    assert conversation.turns == turns("first\nsecond\nthird", "ok")


def test_two_slashes_send_a_line_that_begins_with_one() -> None:
    _, conversation, _ = talk({CHAT: [stream("ok")]}, ["//usr is what?"])
    assert conversation.turns == turns("/usr is what?", "ok")


def test_ctrl_c_interrupts_the_answer_and_keeps_what_came() -> None:
    """The signal comes in the middle of an answer that has fallen silent; the next question is answered."""
    half = [head(), chunk(event("half")), asyncio.Event()]
    paper = Paper(["a", "b"], interrupted_by="half")
    conversation, server = talk_on(paper, {CHAT: [half, stream("whole")]})
    assert paper.answers == "half\nwhole\n"
    assert "(interrupted; Ctrl-D leaves)" in paper.remarks
    assert conversation.turns == turns("a", "half", "b", "whole")
    assert server.connections == 2  # the first was closed, which tells the server to stop


def test_ctrl_c_at_the_prompt_does_not_leave() -> None:
    _, conversation, _ = talk({CHAT: [stream("ok")]}, [KeyboardInterrupt(), "a"])
    assert conversation.turns == turns("a", "ok")


def test_ctrl_c_in_a_pipe_leaves() -> None:
    with pytest.raises(KeyboardInterrupt):
        talk({}, [KeyboardInterrupt(), "a"], is_interactive=False)


def test_quit_leaves_what_is_behind_it_unread() -> None:
    paper, _, _ = talk({}, ["/quit", "never"])
    assert paper.lines == ["never"]


def test_an_error_leaves_the_conversation_standing() -> None:
    """In the stream, before it, and after a lost connection; /retry sends the question again."""
    broken = [head(), chunk(b'data: {"error": {"message": "engine died"}}\n\n'), chunk(b"")]
    busy = json_answer({"error": {"message": "queue full"}}, 429)
    paper, conversation, server = talk({CHAT: [broken, busy, stream("there")]}, ["a", "/retry", "/retry"])
    assert "engine died" in paper.remarks
    assert "HTTP 429: queue full" in paper.remarks
    assert conversation == Conversation(turns=turns("a", "there"))
    assert [body["messages"] for body in server.bodies(CHAT)] == [[{"role": "user", "content": "a"}]] * 3


def test_an_error_in_a_pipe_ends_it() -> None:
    broken = [head(), chunk(event("half") + b'data: {"error": {"message": "engine died"}}\n\n'), chunk(b"")]
    with pytest.raises(InBandError, match="engine died"):
        talk({CHAT: [broken, stream("no")]}, ["a", "b"], is_interactive=False)


def test_retry_asks_again_without_the_old_answer() -> None:
    paper, conversation, _ = talk({CHAT: [stream("bad"), stream("good")]}, ["a", "/retry"])
    assert (paper.answers, conversation.turns) == ("bad\ngood\n", turns("a", "good"))


def test_reset_and_system_change_what_is_sent_next() -> None:
    paper, _, server = talk({CHAT: [stream("x")]}, ["a", "/reset", "/system", "/system Rhyme.", "/system", "b"])
    assert "(no system prompt)\nRhyme.\n" in paper.remarks
    assert server.bodies(CHAT)[-1]["messages"] == [
        {"role": "system", "content": "Rhyme."},
        {"role": "user", "content": "b"},
    ]


def test_a_conversation_can_be_saved_and_loaded(tmp_path: Path) -> None:
    name = str(tmp_path / "talk.json")
    _, conversation, _ = talk({CHAT: [stream("x")]}, ["a", f"/save {name}", "/reset", f"/load {name}"], system="s")
    assert conversation == Conversation("s", turns("a", "x"))


def test_help_names_every_command() -> None:
    paper, _, _ = talk({}, ["/help"])
    for command in ("/help", "/reset", "/system", "/save", "/load", "/retry", "/quit"):
        assert f"\n{command}" in paper.remarks


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/hepl", "/hepl is no command (/help, /reset"),
        ("/save", "/save needs the name of a file"),
        ("/load nowhere.json", "No such file"),
        ("/retry", "no question yet"),
    ],
)
def test_a_wrong_command_is_explained(line: str, complaint: str) -> None:
    paper, _, server = talk({}, [line])
    assert complaint in paper.remarks
    assert server.bodies(CHAT) == []
    with pytest.raises((ConversationError, OSError)):
        talk({}, [line], is_interactive=False)


def test_a_server_that_is_still_loading_is_waited_for() -> None:
    paper, _, _ = talk({"/ready": [json_answer({}, 503), json_answer({})], CHAT: [stream("ok")]}, ["a"])
    assert (paper.answers, paper.told[0]) == ("ok\n", "The server is loading its model; waiting for it.\n")


def test_a_wrong_key_says_where_to_give_one() -> None:
    refused = [json_answer({"error": {"message": "Wrong key.", "code": "invalid_api_key"}}, 401)]
    for script in ({"/v1/models": refused}, {"/v1/models": refused, CHAT: refused}):
        with pytest.raises(WrongStatus, match=r"Wrong key\. Give a key with --api-key or \$SERVERY_API_KEY"):
            talk(script, ["a"], model="m", is_interactive=False)


def test_a_server_that_lists_nothing_needs_the_name_of_a_model() -> None:
    missing = {"/v1/models": [json_answer({}, 404)], CHAT: [stream("ok")]}
    paper, _, server = talk(missing, ["a"], model="m")
    assert (paper.answers, server.bodies(CHAT)[0]["model"]) == ("ok\n", "m")
    with pytest.raises(ClientError, match="404"):
        talk(missing, ["a"])
    with pytest.raises(ClientError, match="name one with --model"):
        talk({"/v1/models": [json_answer({"data": []})]}, ["a"])


def test_a_parameter_that_the_server_refuses_is_sent_otherwise() -> None:
    refusal = json_answer({"error": {"message": "Use max_completion_tokens.", "param": "max_tokens"}}, 400)
    _, conversation, server = talk({CHAT: [refusal, stream("ok")]}, ["a", "b"], sampling={"max_tokens": 7})
    assert conversation.turns == turns("a", "ok", "b", "ok")
    assert [(b.get("max_tokens"), b.get("max_completion_tokens")) for b in server.bodies(CHAT)] == [
        (7, None),
        (None, 7),
        (None, 7),
    ]


def test_the_pace_is_told_in_words() -> None:
    whole = Sample(1.0, [1.5, 2.0, 2.5], 2.5, counted_tokens=5, finish_reason="length")
    assert pace(whole) == (
        "500 ms to the first token, 5 tokens, 4 tokens/s, cut at the longest answer or the end of the context"
    )
    assert pace(Sample(1.0, ended=2.0)) == "0 tokens"


def test_a_terminal_is_not_sent_control_characters() -> None:
    assert printable("a\x1b[2J\tb\r\n\x9b\x7fé👩\u200d🚀\x00") == "a[2J\tb\né👩\u200d🚀"


def test_the_program_answers_a_pipe_and_leaves() -> None:
    """The real process, its real input and output, and an address where nobody is."""
    done = subprocess.run(
        [sys.executable, "-m", "servery", "chat", "--url", "http://127.0.0.1:1"],
        input="hello\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("servery chat: Nothing answers at http://127.0.0.1:1 (")
