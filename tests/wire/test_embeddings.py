import base64
import json
import math
import struct
from typing import Any

import pytest

from servery.wire.embeddings import decode_embedding, encode_embeddings, unit_vector
from servery.wire.errors import ApiError


def request(text: Any = "hello", **fields: Any) -> bytes:
    return json.dumps({"model": "m", "input": text, **fields}).encode()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (request(""), "input"),
        (request([]), "input"),
        (request(["a"] * 2049), "input"),
        (request(encoding_format="hex"), "encoding_format"),
        (request(dimensions=0), "dimensions"),
        (request(stream=True), "stream"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(body: bytes, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        decode_embedding(body)
    assert (caught.value.status, caught.value.param) == (400, param)


def test_inputs_are_texts_or_tokens() -> None:
    assert [decode_embedding(request(text)).inputs for text in ("a", ["a", "b"], [1, 2])] == [
        ["a"],
        ["a", "b"],
        [[1, 2]],
    ]


def test_fewer_dimensions_are_scaled_to_length_one_again() -> None:
    vector = unit_vector([3.0, 4.0, 12.0], 2)

    assert vector == [0.6, 0.8]
    assert math.isclose(sum(number**2 for number in unit_vector([3.0, 4.0, 12.0], None)), 1.0)
    assert unit_vector([0.0, 0.0], None) == [0.0, 0.0]


def test_floats_and_base64_are_the_same_numbers() -> None:
    vectors = [[0.5, -0.25], [1.0, 0.0]]
    plain = json.loads(encode_embeddings("m", vectors, 7, "float"))
    packed = json.loads(encode_embeddings("m", vectors, 7, "base64"))

    assert plain == {
        "object": "list",
        "model": "m",
        "data": [{"object": "embedding", "index": at, "embedding": vector} for at, vector in enumerate(vectors)],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    }
    unpacked = [list(struct.unpack("<2f", base64.b64decode(item["embedding"]))) for item in packed["data"]]
    assert unpacked == vectors
