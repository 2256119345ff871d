import json
from typing import Any

import pytest

from servery.wire.errors import ApiError
from servery.wire.rerank import decode_rerank, encode_ranking, ranked


def body(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "query": "q", "documents": ["a", {"text": "b"}, "c"], **fields}).encode()


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        ({"query": ""}, "query", "'query' is empty; at least one character is needed."),
        ({"documents": []}, "documents", "'documents' is empty; at least one document is needed."),
        ({"documents": ["a", ""]}, "documents[1]", "'documents[1]' is empty; at least one character is needed."),
        ({"documents": [{"text": ""}]}, "documents[0]", "'documents[0]' is empty; at least one character is needed."),
        ({"documents": ["a"] * 2049}, "documents", "'documents' has 2049 items; at most 2048 are allowed."),
        ({"documents": "a"}, "documents", "Invalid type for 'documents'"),
        ({"documents": [{"title": "a"}]}, "documents[0].title", "Unknown parameter: 'documents[0].title'."),
        ({"top_n": 0}, "top_n", "'top_n' is 0; it must be at least 1."),
        ({"rank_fields": ["text"]}, "rank_fields", "Unknown parameter: 'rank_fields'."),
    ],
)
def test_what_cannot_be_ranked_is_refused_by_name(fields: dict[str, Any], param: str, told: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode_rerank(body(**fields))
    assert (caught.value.status, caught.value.param) == (400, param)
    assert caught.value.message.startswith(told)


def test_the_closest_comes_first_and_of_equal_ones_the_first() -> None:
    documents = [[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, 0.0]]
    assert ranked([1.0, 0.0], documents) == [(1, 1.0), (3, 1.0), (0, 0.0), (4, 0.0), (2, -1.0)]


def test_rounding_leads_to_no_score_beyond_one() -> None:
    assert ranked([1.0 + 1e-9], [[1.0]]) == [(0, 1.0)]


@pytest.mark.parametrize(
    ("fields", "results"),
    [
        (
            {},
            [
                {"index": 1, "relevance_score": 1.0, "document": {"text": "b"}},
                {"index": 2, "relevance_score": 0.6, "document": {"text": "c"}},
                {"index": 0, "relevance_score": 0.0, "document": {"text": "a"}},
            ],
        ),
        ({"top_n": 1, "return_documents": False}, [{"index": 1, "relevance_score": 1.0}]),
    ],
)
def test_the_answer_has_what_was_asked_for(fields: dict[str, Any], results: list[dict[str, Any]]) -> None:
    vectors = [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.6, 0.8]]
    assert json.loads(encode_ranking("rerank-1", decode_rerank(body(**fields)), vectors, 9)) == {
        "id": "rerank-1",
        "object": "list",
        "model": "m",
        "results": results,
        "usage": {"prompt_tokens": 9, "total_tokens": 9},
    }
