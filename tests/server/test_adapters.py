"""Adapters at the server's edge: asked for by name, loaded below one folder only, by those with a key."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from servery.server.adapters import adapter_folder
from servery.server.app import App
from servery.upstream.upstream import Chunk
from servery.wire.errors import ApiError
from tests.server.asgi import Call, ask
from tests.server.fakes import FakeUpstream, make_app

KEY = {"authorization": "Bearer k"}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


def run(story: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(story())  # type: ignore[arg-type]


def save(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    return folder


async def post(app: App, path: str, **body: Any) -> Call:
    return await ask(app, "POST", path, body, **KEY)


def loading_app(root: Path, *upstreams: FakeUpstream) -> App:
    return make_app(*(upstreams or (FakeUpstream(),)), lora_dir=root, admin_keys=("k",))


def test_an_adapter_is_loaded_listed_and_unloaded(tmp_path: Path) -> None:
    async def story() -> None:
        upstream = FakeUpstream()
        app = loading_app(tmp_path, upstream)
        save(tmp_path / "team" / "sql")
        loaded = await post(app, "/v1/load_lora_adapter", lora_name="sql", lora_path="team/sql")
        assert (loaded.status, loaded.body) == (200, b"Success: LoRA adapter 'sql' added successfully.")
        assert upstream.loaded == {"sql": (tmp_path / "team" / "sql").resolve()}

        listed = await ask(app, "GET", "/v1/models", **KEY)
        assert [(model["id"], model["root"], model["parent"]) for model in listed.json["data"]] == [
            ("m", "m", None),
            ("m:sql", "m", "m"),
        ]
        for name in ("m:sql", "sql"):
            assert (await ask(app, "GET", f"/v1/models/{name}", **KEY)).json["id"] == "m:sql"

        again = await post(app, "/v1/load_lora_adapter", lora_name="sql", lora_path="team/sql")
        assert (again.status, again.error["param"]) == (400, "lora_name")

        gone = await post(app, "/v1/unload_lora_adapter", lora_name="sql")
        assert gone.status == 200
        assert gone.body.endswith(b"removed successfully. It is in use by 2 under way, which are finished first.")
        unknown = await post(app, "/v1/unload_lora_adapter", lora_name="sql")
        assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")

    run(story)


def test_an_adapter_is_deleted_as_openais_clients_delete_a_model(tmp_path: Path) -> None:
    async def story() -> None:
        upstream = FakeUpstream()
        app = loading_app(tmp_path, upstream)
        for name in ("m:sql", "sql"):
            upstream.loaded = {"sql": tmp_path}
            gone = await ask(app, "DELETE", f"/v1/models/{name}", **KEY)
            assert (gone.status, gone.json) == (200, {"id": name, "object": "model", "deleted": True})
            assert upstream.loaded == {}
        model = await ask(app, "DELETE", "/v1/models/m", **KEY)
        assert (model.status, model.error["code"], model.error["param"]) == (400, "not_deletable", "model")
        assert model.error["message"].startswith(
            "The model 'm' is no adapter, and nothing else can be deleted; POST /v1/"
        )
        assert (await ask(app, "DELETE", "/v1/models/nobody", **KEY)).status == 404
        assert (await ask(app, "DELETE", "/v1/models/m:sql")).status == 401

    run(story)


def test_a_request_reaches_the_base_of_its_adapter(tmp_path: Path) -> None:
    async def story() -> None:
        first, second = FakeUpstream(Chunk(data=b"{}")), FakeUpstream(name="n")
        first.loaded = {"sql": tmp_path, "both": tmp_path}
        second.loaded = {"both": tmp_path}
        app = make_app(first, second)
        for model in ("m:sql", "sql", "m:both"):
            assert (await ask(app, "POST", "/v1/chat/completions", {"model": model, **CHAT})).status == 200
        assert [request.model for request, _ in first.requests] == ["m:sql", "sql", "m:both"]
        for model in ("both", "n:sql", "m:", ":sql", "m:sql:x", "x:sql"):
            refused = await ask(app, "POST", "/v1/chat/completions", {"model": model, **CHAT})
            assert (refused.status, refused.error["code"]) == (404, "model_not_found")
        assert "Served here: 'm', 'm:both', 'm:sql', 'n', 'n:both'." in refused.error["message"]
        for path, body in (("/tokenize", {"prompt": "x"}), ("/detokenize", {"tokens": [1]})):
            assert (await ask(app, "POST", path, {"model": "m:sql", **body})).status == 200
            assert (await ask(app, "POST", path, {"model": "m:no", **body})).status == 404
        # Adapters come and go: metrics know the base only, so that their labels stay few.
        text = (await ask(app, "GET", "/metrics")).body.decode()
        assert 'model_name="m"' in text
        assert "m:sql" not in text

    run(story)


def test_a_model_whose_name_looks_like_an_adapter_is_itself(tmp_path: Path) -> None:
    async def story() -> None:
        base, tagged = FakeUpstream(name="qwen"), FakeUpstream(Chunk(data=b"{}"), name="qwen:7b")
        tagged.loaded = {"sql": tmp_path}
        app = make_app(base, tagged, lora_dir=tmp_path, admin_keys=("k",))
        for model in ("qwen:7b", "qwen:7b:sql"):
            assert (await post(app, "/v1/chat/completions", model=model, **CHAT)).status == 200
        assert len(tagged.requests) == 2
        clash = await post(app, "/v1/load_lora_adapter", model="qwen", lora_name="7b", lora_path="x")
        assert (clash.status, clash.error["param"]) == (400, "lora_name")
        assert "A model is named 'qwen:7b' already" in clash.error["message"]

    run(story)


@pytest.mark.parametrize("path", ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"])
def test_loading_is_off_unless_a_folder_is_named_and_asks_for_the_key_that_there_is(tmp_path: Path, path: str) -> None:
    async def story() -> None:
        body = {"lora_name": "sql", "lora_path": "sql"} if "unload" not in path else {"lora_name": "sql"}
        off = await post(make_app(FakeUpstream(), admin_keys=("k",)), path, **body)
        assert (off.status, off.error["code"]) == (403, "lora_loading_disabled")
        assert "--lora-dir" in off.error["message"]
        assert (await ask(loading_app(tmp_path), "POST", path, body)).status == 401
        assert (await ask(loading_app(tmp_path), "GET", path, **KEY)).status == 405
        local = await ask(make_app(FakeUpstream(), lora_dir=tmp_path), "POST", path, body)
        assert (local.status, local.error["param"]) in {(400, "lora_path"), (404, "model")}

    run(story)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"lora_path": "sql"}, "lora_name"),
        ({"lora_name": "sql"}, "lora_path"),
        ({"lora_name": "sql", "lora_path": 3}, "lora_path"),
        ({"lora_name": "sql", "lora_path": "sql", "lora_pth": "x"}, "lora_pth"),
        ({"lora_name": "sql", "lora_path": "sql", "load_inplace": True}, "load_inplace"),
    ],
    ids=str,
)
def test_a_malformed_load_names_its_field(tmp_path: Path, body: dict[str, Any], param: str) -> None:
    async def story() -> None:
        refused = await post(loading_app(tmp_path), "/v1/load_lora_adapter", **body)
        assert (refused.status, refused.error["param"]) == (400, param)

    run(story)


def test_with_several_models_the_base_has_to_be_named(tmp_path: Path) -> None:
    async def story() -> None:
        first, second = FakeUpstream(), FakeUpstream(name="n")
        app = loading_app(tmp_path, first, second)
        save(tmp_path / "sql")
        unclear = await post(app, "/v1/load_lora_adapter", lora_name="sql", lora_path="sql")
        assert (unclear.status, unclear.error["param"]) == (400, "model")
        assert (await post(app, "/v1/load_lora_adapter", model="x", lora_name="sql", lora_path="sql")).status == 404
        assert (await post(app, "/v1/load_lora_adapter", model="n", lora_name="sql", lora_path="sql")).status == 200
        # An adapter is no base.
        nested = await post(app, "/v1/load_lora_adapter", model="n:sql", lora_name="x", lora_path="sql")
        assert (nested.status, first.loaded, [*second.loaded]) == (404, {}, ["sql"])

    run(story)


def test_only_folders_below_the_root_are_taken(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", save(tmp_path / "outside")
    inside = save(root / "sql")
    (root / "link").symlink_to(inside)
    (root / "way-out").symlink_to(outside)
    (root / "loop").symlink_to(root / "loop")
    leaking = save(root / "leaking")
    (leaking / "adapter_model.safetensors").unlink()
    (leaking / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    (tmp_path / "root-too").mkdir()
    assert adapter_folder(root, "sql") == inside.resolve()
    assert adapter_folder(root, str(inside)) == inside.resolve()
    assert adapter_folder(root, "link") == inside.resolve()
    assert adapter_folder(root, "./x/../sql/") == inside.resolve() if (root / "x").mkdir() is None else False
    messages = set()
    for given in (
        "", ".", "..", "../outside", str(outside), "way-out", "loop", "leaking", "nowhere", "../root-too", "sql\0x",
        "/etc", "sql/adapter_config.json", "~", "x" * 5000,
    ):  # fmt: skip
        with pytest.raises(ApiError) as refused:
            adapter_folder(root, given)
        assert (refused.value.status, refused.value.param) == (400, "lora_path")
        messages.add(refused.value.message.replace(f"'{given[:100]}", "'"))
    # What lies elsewhere cannot be told from what is nowhere.
    assert {message.replace("...'", "'") for message in messages} == {
        "'lora_path' is ''; it must name an adapter's folder below the server's --lora-dir."
    }
