"""--alias: which names stand for which models, and what is wrong with one that stands for none."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from servery import cli
from servery.batch.work import Asked
from servery.engine.adapter_source import AdapterSource
from servery.engine.config import EngineConfig
from servery.server.aliases import alias_target, check_aliases, read_aliases
from servery.server.option_error import OptionError
from servery.server.options import ServedModel, ServeOptions
from servery.server.storage import Answering
from servery.upstream.upstream import Chunk
from tests.server.asgi import ask
from tests.server.fakes import FakeUpstream, make_app, make_service

MESSAGES = [{"role": "user", "content": "hi"}]


def test_arguments_become_names_and_what_they_stand_for() -> None:
    assert read_aliases([]) == {}
    assert read_aliases(["gpt-4o=amuse", "*=amuse", "sql=amuse:sql", "*=amuse"]) == {
        "gpt-4o": "amuse",
        "*": "amuse",
        "sql": "amuse:sql",
    }


@pytest.mark.parametrize("argument", ["amuse", "=amuse", "gpt-4o=", ""])
def test_an_argument_without_both_sides_is_refused(argument: str) -> None:
    with pytest.raises(OptionError, match=rf"^--alias is '{argument}'; it must be ALIAS=MODEL, or '\*=MODEL'"):
        read_aliases([argument])


def test_an_alias_stands_for_one_model_only() -> None:
    with pytest.raises(OptionError, match="--alias x stands for 'a' and for 'b'; give one of them"):
        read_aliases(["x=a", "x=b"])


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("gpt-4o", "m"),
        ("other", "n"),
        ("org/other", "n"),
        ("other:adapter", "n"),
        ("m:adapter", None),
        ("m:known", "m:a"),
    ],
)
def test_every_other_name_is_none_of_an_adapter(name: str, target: str | None) -> None:
    assert alias_target({"gpt-4o": "m", "m:known": "m:a", "*": "n"}, ["m", "n"], name) == target


def test_without_aliases_a_name_stands_for_nothing() -> None:
    assert alias_target({}, ["m"], "gpt-4o") is None


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ({"x": "amus"}, "--alias x=amus: 'amus' is not served, only 'amuse', 'amuse:sql'. Did you mean 'amuse'?"),
        ({"x": "y", "y": "amuse"}, "--alias x=y: 'y' is not served"),
        ({"x": "amuse:later"}, "--alias x=amuse:later: 'amuse:later' is not served"),
        ({"amuse": "amuse:sql"}, "--alias amuse=amuse:sql: 'amuse' is served by that name; take another"),
        ({"a\nb": "amuse"}, r"the alias 'a\nb' has unprintable characters"),
        ({"x" * 101: "amus"}, f"--alias {'x' * 100}...=amus: "),
    ],
    ids=str,
)
def test_an_alias_of_nothing_is_refused(targets: Mapping[str, str], message: str) -> None:
    with pytest.raises(OptionError) as refused:
        check_aliases(targets, ["amuse"], ["amuse:sql"], may_load=False)
    assert message in str(refused.value)


def test_an_adapter_that_may_be_loaded_later_can_have_an_alias() -> None:
    check_aliases({"x": "amuse:later"}, ["amuse"], [], may_load=True)
    with pytest.raises(OptionError, match="'other:later' is not served"):
        check_aliases({"x": "other:later"}, ["amuse"], [], may_load=True)


def test_the_servers_options_know_the_adapters_of_their_models() -> None:
    engine = EngineConfig(model=Path("/nowhere"), adapters=(AdapterSource("sql", Path("/nowhere")),))
    models = (ServedModel(name="m", engine=engine),)
    assert ServeOptions(models=models, aliases={"x": "m:sql", "*": "m"}).aliases == {"x": "m:sql", "*": "m"}
    with pytest.raises(OptionError, match="--alias x=m:other: 'm:other' is not served, only 'm', 'm:sql'"):
        ServeOptions(models=models, aliases={"x": "m:other"})


def test_the_command_line_says_what_is_wrong_with_an_alias(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["serve", "amuse", "--alias", "gpt-4o=amus"]) == cli.USAGE
    assert "servery serve: --alias gpt-4o=amus: 'amus' is not served, only 'amuse'." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "once"}),
        ("/v1/embeddings", {"input": "once"}),
        ("/v1/rerank", {"query": "once", "documents": ["a"]}),
        ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}),
        ("/v1/responses", {"input": "hi"}),
    ],
)
def test_whoever_answers_is_asked_by_its_own_name(path: str, body: dict[str, Any]) -> None:
    async def story() -> None:
        upstream = FakeUpstream(Chunk(data=b"{}"))
        app = make_app(upstream, FakeUpstream(name="n"), aliases={"gpt-4o": "m", "*": "n"})

        assert (await ask(app, "POST", path, {"model": "gpt-4o", **body})).status == 200
        assert [request.model for request, _ in upstream.requests] == ["m"]

    asyncio.run(story())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/tokenize", {"prompt": "once"}),
        ("/detokenize", {"tokens": [1]}),
        ("/v1/messages/count_tokens", {"messages": MESSAGES}),
        ("/v1/responses/input_tokens", {"input": "hi"}),
    ],
)
def test_what_only_counts_takes_aliases_too(path: str, body: dict[str, Any]) -> None:
    async def story() -> None:
        app = make_app(FakeUpstream(), FakeUpstream(name="n"), aliases={"*": "n"})
        assert (await ask(app, "POST", path, {"model": "whatever", **body})).status == 200

    asyncio.run(story())


@pytest.mark.parametrize(
    ("endpoint", "body", "prefix"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}, "chatcmpl-"),
        ("/v1/completions", {"prompt": "once"}, "cmpl-"),
        ("/v1/embeddings", {"input": "once"}, "embd-"),
        ("/v1/responses", {"input": "hi"}, "resp_"),
    ],
)
def test_requests_of_a_batch_may_use_aliases_and_their_answers_have_the_endpoints_ids(
    endpoint: str, body: dict[str, Any], prefix: str
) -> None:
    async def story() -> None:
        upstream = FakeUpstream(Chunk(data=b"{}"))
        service = make_service(upstream, aliases={"gpt-4o": "m"})
        answering = Answering(service.located, service.gateway.collect)
        text = json.dumps({"model": "gpt-4o", **body}).encode()

        asked = Asked(endpoint=endpoint, body=text, owner=b"somebody", request_id="req_1")
        assert await answering.answer(asked) == b"{}"
        assert [request.model for request, _ in upstream.requests] == ["m"]
        [(_, call)] = upstream.requests
        assert call.id.startswith(prefix)

    asyncio.run(story())


def test_whole_aliases_are_listed_and_every_name_that_can_be_asked_for_is_found() -> None:
    async def story() -> None:
        upstream = FakeUpstream()
        upstream.loaded["a"] = Path("/nowhere")
        app = make_app(
            upstream,
            lora_dir=Path(),
            api_keys=("k",),
            admin_keys=("a",),
            aliases={"x": "m", "y": "m:a", "z": "m:b", "*": "m"},
        )
        key = {"authorization": "Bearer k"}

        listed = (await ask(app, "GET", "/v1/models", **key)).json["data"]
        assert [(each["id"], each["root"], each["parent"]) for each in listed] == [
            ("m", "m", None),
            ("m:a", "m", "m"),
            ("x", "m", None),
            ("y", "m", "m"),
        ]
        found = {
            name: await ask(app, "GET", f"/v1/models/{name}", **key) for name in ("x", "y", "z", "any/name", "m:b")
        }
        assert {name: call.status for name, call in found.items()} == {
            "x": 200, "y": 200, "z": 404, "any/name": 200, "m:b": 404,
        }  # fmt: skip
        assert found["any/name"].json["id"] == "any/name"
        assert "The model 'm:b' does not exist. Served here: 'm', 'm:a', 'x', 'y', 'z'." in found["z"].error["message"]

    asyncio.run(story())
