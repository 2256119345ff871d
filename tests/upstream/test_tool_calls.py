"""Tool calls and reasoning through the embedded upstream, as OpenAI's clients read them."""

import asyncio
import json
from pathlib import Path
from typing import Any, cast

import pytest

from servery.engine.engine import AsyncEngine
from servery.engine.request import FinishReason
from servery.upstream.embedded import EmbeddedUpstream
from servery.upstream.upstream import Call
from servery.wire.chat import decode_chat
from servery.wire.errors import ApiError
from tests.upstream.fake_engine import TEMPLATE, FakeEngine, asking, out, save_checkpoint

CALL = Call(id="chatcmpl-1")
STOP = FinishReason.STOP
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("add", "now")]
TEXT = '<think>\nhm\n</think>\n\nI add.\n<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n'
NOW = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'


async def upstream(
    folder: Path, *script: Any, template: str = TEMPLATE, **formats: str
) -> tuple[EmbeddedUpstream, FakeEngine]:
    engine = FakeEngine(save_checkpoint(folder, template=template), *script)
    made = EmbeddedUpstream("m", cast("AsyncEngine", engine), **formats)
    await made.start()
    return made, engine


async def ask(made: EmbeddedUpstream, **fields: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "tools": TOOLS, **fields}
    request = decode_chat(json.dumps(body).encode())
    return b"".join([chunk.data async for chunk in made.answer(asking(request, CALL), CALL)])


def test_reasoning_and_calls_are_parts_of_the_message(tmp_path: Path) -> None:
    async def story() -> None:
        made, _ = await upstream(
            tmp_path, *map(out, TEXT + NOW), out(end=STOP), template=TEMPLATE + "{# <tool_call> </think> #}"
        )

        (choice,) = json.loads(await ask(made))["choices"]
        calls = choice["message"].pop("tool_calls")
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"] == {
            "role": "assistant",
            "content": "I add.",
            "reasoning_content": "hm",
            "refusal": None,
        }
        assert [(call["type"], call["function"]) for call in calls] == [
            ("function", {"name": "add", "arguments": '{"a": 1}'}),
            ("function", {"name": "now", "arguments": "{}"}),
        ]

    asyncio.run(story())


def test_a_stream_gives_the_arguments_as_they_are_written(tmp_path: Path) -> None:
    async def story() -> None:
        made, _ = await upstream(
            tmp_path, *map(out, TEXT), out(end=STOP), tool_format="hermes", reasoning_format="think"
        )

        lines = (await ask(made, stream=True)).decode().splitlines()
        deltas = [json.loads(line[6:])["choices"][0]["delta"] for line in lines if line]
        calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
        assert "".join(delta.get("reasoning_content", "") for delta in deltas) == "hm"
        assert "".join(delta.get("content", "") for delta in deltas) == "I add."
        assert [(call["index"], call["function"].get("name"), call["function"]["arguments"]) for call in calls] == [
            (0, "add", ""), *[(0, None, char) for char in '{"a": 1}'],
        ]  # fmt: skip

    asyncio.run(story())


def test_an_answer_may_be_held_to_one_call(tmp_path: Path) -> None:
    async def story() -> None:
        made, engine = await upstream(tmp_path, out(TEXT), out(NOW), out(NOW), out(end=STOP), tool_format="hermes")

        (choice,) = json.loads(await ask(made, parallel_tool_calls=False))["choices"]
        assert [call["function"]["name"] for call in choice["message"]["tool_calls"]] == ["add"]
        assert choice["finish_reason"] == "tool_calls"
        assert engine.aborted == [("chatcmpl-1-0", 0)]

    asyncio.run(story())


def test_without_tools_in_the_request_nothing_is_taken_for_a_call(tmp_path: Path) -> None:
    async def story() -> None:
        made, _ = await upstream(tmp_path, out(NOW), out(end=STOP), tool_format="hermes")
        for fields in ({"tools": None}, {"tool_choice": "none"}):
            (choice,) = json.loads(await ask(made, **fields))["choices"]
            assert (choice["message"]["content"], choice["finish_reason"]) == (NOW, "stop")

    asyncio.run(story())


def test_reasoning_that_the_template_began_is_counted_as_such(tmp_path: Path) -> None:
    async def story() -> None:
        script = (out("hm"), out("</think>four"), out(end=STOP))
        made, _ = await upstream(tmp_path, *script, template=TEMPLATE + "<think>\n{# </think> #}")

        answer = json.loads(await ask(made))
        assert answer["choices"][0]["message"]["reasoning_content"] == "hm"
        assert answer["choices"][0]["message"]["content"] == "four"
        assert answer["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2 + len("</think>")}

    asyncio.run(story())


def test_tools_that_the_template_cannot_show_are_refused(tmp_path: Path) -> None:
    async def story() -> None:
        made, _ = await upstream(tmp_path, template="{% for m in messages %}{{ m.content }}{% endfor %}")
        with pytest.raises(ApiError, match="the chat template of 'm' shows no tools to the model") as caught:
            await ask(made)
        assert (caught.value.status, caught.value.param) == (400, "tools")

    asyncio.run(story())
