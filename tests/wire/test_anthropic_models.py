"""The list of models as Anthropic's clients ask for it and read it."""

import json

import pytest

from servery.wire.anthropic_models import (
    ModelPage,
    encode_anthropic_model,
    encode_anthropic_models,
    is_anthropic,
    read_model_page,
)
from servery.wire.errors import ApiError
from servery.wire.models import Model

MODELS = [Model(id=name, created=1_763_700_000, max_model_len=4096, root=name) for name in "abcde"]


def test_its_clients_are_known_by_their_header() -> None:
    assert is_anthropic({b"anthropic-version": b"2023-06-01"})
    assert not is_anthropic({b"x-api-key": b"k", b"user-agent": b"OpenAI/Python"})


def test_a_model_has_a_name_a_date_and_limits() -> None:
    assert json.loads(encode_anthropic_model(MODELS[0])) == {
        "type": "model",
        "id": "a",
        "display_name": "a",
        "created_at": "2025-11-21T04:40:00Z",
        "lifecycle": "active",
        "max_input_tokens": 4095,
        "max_tokens": 4095,
    }


def test_a_model_that_is_not_loaded_has_no_limits() -> None:
    told = json.loads(encode_anthropic_model(Model(id="a", created=0, max_model_len=None, root="a")))
    assert (told["max_input_tokens"], told["max_tokens"]) == (None, None)


@pytest.mark.parametrize(
    ("query", "ids", "has_more"),
    [
        (b"", "abcde", False),
        (b"beta=true&lifecycle[]=active", "abcde", False),
        (b"limit=1000", "abcde", False),
        (b"limit=2", "ab", True),
        (b"limit=2&after_id=b", "cd", True),
        (b"limit=2&after_id=c", "de", False),
        (b"after_id=e", "", False),
        (b"limit=2&before_id=d", "bc", True),
        (b"limit=2&before_id=c", "ab", False),
        (b"before_id=a", "", False),
    ],
)
def test_a_page_begins_after_a_model_or_ends_before_one(query: bytes, ids: str, has_more: bool) -> None:
    page = read_model_page(query).of(MODELS)
    assert ("".join(model.id for model in page[0]), page[1]) == (ids, has_more)


def test_a_page_tells_its_ends() -> None:
    told = json.loads(encode_anthropic_models(MODELS[1:3], has_more=True))
    assert [model["id"] for model in told.pop("data")] == ["b", "c"]
    assert told == {"has_more": True, "first_id": "b", "last_id": "c"}
    empty = json.loads(encode_anthropic_models([], has_more=False))
    assert empty == {"data": [], "has_more": False, "first_id": None, "last_id": None}


@pytest.mark.parametrize(
    ("query", "param", "message"),
    [
        (b"limit=0", "limit", "'limit' is '0'; it must be a number from 1 to 1000."),
        (b"limit=1001", "limit", "'limit' is '1001'; it must be"),
        (b"limit=", "limit", "'limit' is ''; it must be"),
        (b"limit=%D9%A3", "limit", "it must be a number"),
        (b"limit=" + b"9" * 5000, "limit", f"'limit' is '{'9' * 100}...'; it must be"),
        (b"after_id=a&before_id=c", "before_id", "'after_id' and 'before_id' exclude each other."),
        (b"lifecycle[]=retired", "lifecycle", "'lifecycle' must be 'active'"),
        (b"page=2", "page", "Unknown parameter: 'page'."),
    ],
)
def test_what_no_page_can_be_is_refused(query: bytes, param: str, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        read_model_page(query)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert message in refused.value.message


@pytest.mark.parametrize("page", [ModelPage(after_id="z"), ModelPage(before_id="z")])
def test_a_page_beside_an_unknown_model_is_refused(page: ModelPage) -> None:
    with pytest.raises(ApiError, match="is 'z', which is not in the list"):
        page.of(MODELS)
