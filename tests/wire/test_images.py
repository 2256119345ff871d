import json
from typing import Any

import pytest

from servery.wire.anthropic import decode_anthropic
from servery.wire.chat import ChatRequest, check_text_only, decode_chat
from servery.wire.errors import ApiError
from servery.wire.images import ImagePart, ImageUrl, InlineImage, read_image
from servery.wire.responses import decode_responses
from servery.wire.responses_items import InputImage, MessageItem

DATA = "data:image/png;base64,aGk="
TEXT = {"type": "text", "text": "what is this?"}
BLOCK = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


def chat(*parts: dict[str, Any]) -> ChatRequest:
    messages = [{"role": "user", "content": [*parts]}]
    return decode_chat(json.dumps({"model": "m", "messages": messages}).encode())


def messages(*blocks: dict[str, Any]) -> ChatRequest:
    turns = [{"role": "user", "content": [*blocks]}]
    return decode_anthropic(json.dumps({"model": "m", "max_tokens": 9, "messages": turns}).encode()).chat()


def responses(*parts: dict[str, Any]) -> ChatRequest:
    items = [{"role": "user", "content": [*parts]}]
    return decode_responses(json.dumps({"model": "m", "input": items}).encode()).chat([])


def images(request: ChatRequest) -> list[ImageUrl]:
    parts = [part for message in request.messages for part in message.content or () if isinstance(part, ImagePart)]
    return [part.image_url for part in parts]


def refusal(request: ChatRequest) -> tuple[str | None, str]:
    with pytest.raises(ApiError) as caught:
        check_text_only(request.messages)
    return caught.value.param, caught.value.message


def test_an_image_is_kept_as_the_client_gave_it() -> None:
    shown = {"type": "image_url", "image_url": {"url": DATA, "detail": "low"}}

    assert images(chat(TEXT, shown)) == [ImageUrl(DATA, "low")]
    assert images(messages(BLOCK, TEXT)) == [ImageUrl(DATA)]
    assert images(messages({"type": "image", "source": {"type": "url", "url": "https://a/b.png"}})) == [
        ImageUrl("https://a/b.png")
    ]
    assert images(responses({"type": "input_image", "image_url": DATA, "detail": "high"})) == [ImageUrl(DATA, "high")]


def test_a_tool_may_answer_with_an_image() -> None:
    request = messages({"type": "tool_result", "tool_use_id": "t", "content": [TEXT, BLOCK]})

    assert images(request) == [ImageUrl(DATA)]


def test_a_model_of_text_refuses_images_by_the_clients_names() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [TEXT, BLOCK]}
    unsupported = "is not supported by this server"

    assert refusal(chat(TEXT, {"type": "image_url", "image_url": {"url": DATA}})) == (
        "messages[0].content[1]",
        f"'messages[0].content[1]' {unsupported}: 'image_url' parts cannot be read; this model takes text only.",
    )
    assert refusal(messages(TEXT, result)) == (
        "messages[0].content[1].content[1]",
        f"'messages[0].content[1].content[1]' {unsupported}: 'image' blocks cannot be read; this model takes text only.",
    )
    assert refusal(responses({"type": "input_image", "image_url": DATA})) == (
        "input[0].content[0]",
        f"'input[0].content[0]' {unsupported}: 'input_image' parts cannot be read; this model takes text only.",
    )


def test_an_image_of_an_earlier_request_is_refused_by_what_brought_it_back() -> None:
    history = MessageItem(role="user", content=[InputImage(image_url=DATA)])
    request = decode_responses(b'{"model": "m", "input": "and now?"}').chat([history])

    assert refusal(request)[0] == "previous_response_id.content[0]"


def test_an_image_is_in_its_data_url_or_at_its_address() -> None:
    assert read_image(ImagePart(ImageUrl("data:image/webp;base64,aG\nk=")), "p") == InlineImage("image/webp", "aGk=")
    assert read_image(ImagePart(ImageUrl("https://a/b.png")), "p") == "https://a/b.png"


@pytest.mark.parametrize("url", ["data:image/png,hi", "data:;base64,aGk=", "data:image/png;base64,", "data:x;base64,!"])
def test_a_data_url_without_data_is_refused(url: str) -> None:
    with pytest.raises(ApiError, match="a data URL begins with 'data:image/png;base64,'") as caught:
        read_image(ImagePart(ImageUrl(url)), "messages[0]")

    assert (caught.value.status, caught.value.param) == (400, "messages[0]")
