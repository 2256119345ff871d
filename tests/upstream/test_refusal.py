import pytest

from servery.upstream.refusal import retry_after_s, unspoken

DATE = "Sat, 21 Nov 2026 12:00:30 GMT"
NOW_S = 1795262400.0  # half a minute before


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({}, None),
        ({"retry-after": "3"}, 3.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "3", "retry-after-ms": "250"}, 0.25),
        ({"retry-after": DATE}, 30.0),
        ({"retry-after": "Sat, 21 Nov 2020 12:00:30 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "soon"}, None),
        ({"retry-after-ms": "inf"}, 86_400.0),
        ({"retry-after-ms": "nan"}, None),
        ({"retry-after-ms": "-5"}, 0.0),
        ({"retry-after": "9" * 400}, 86_400.0),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, 86_400.0),
        ({"retry-after": "Sat, 21 Nov 2026 12:00:30 +999999999999999999"}, None),
    ],
)
def test_when_to_ask_again_is_read_in_all_its_forms(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers, NOW_S) == wait_s


ELSEWHERE = (
    "TGI's /generate, /generate_stream and / are answered by models that run in this server, and this one runs "
    "elsewhere: ask /v1/chat/completions for it (InferenceClient.chat_completion)."
)


@pytest.mark.parametrize(
    ("api", "told"),
    [
        ("rerank", "The model is not served for rerank; its deployments' 'apis' do not have it."),
        ("generate", ELSEWHERE),
    ],
)
def test_an_api_that_nobody_speaks_is_named_with_what_to_do(api: str, told: str) -> None:
    error = unspoken(api).error
    assert (error.status, error.code, error.message) == (400, "unsupported_api", told)
