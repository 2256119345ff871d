import pytest

from servery.upstream.redaction import parameter, redacted, without, word


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("This model's maximum context length is 8192 tokens.", "This model's maximum context length is 8192 tokens."),
        ("Incorrect API key provided: sk-proj-abcdefgh1234.", "Incorrect API key provided: [key]"),
        ("bad Authorization: Bearer abc.def-123", "bad Authorization: [key]"),
        ("api_key=hunter2 was wrong", "[key] was wrong"),
        ("creds AKIAIOSFODNN7EXAMPLE", "creds [key]"),
        ("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.sig", "jwt [key]"),
        ("Rate limit for org-Ab12Cd34Ef", "Rate limit for [key]"),
        ("dial tcp 10.0.0.5:8000: refused", "dial tcp [address]: refused"),
        ("http://user:pw@db.internal:5432/x failed", "[address] failed"),
        ("no route to [fd00::1]:80", "no route to [address]"),
        ("engine-0.llm.svc.cluster.local:8000 is down", "[address] is down"),
        ('File "/srv/app/server.py", line 3', 'File "[path]", line 3'),
        ("use /v1/chat/completions with Qwen/Qwen3-8B", "use /v1/chat/completions with Qwen/Qwen3-8B"),
        ("two\nlines\tof  text", "two lines of text"),
    ],
)
def test_a_message_keeps_what_is_about_the_request_and_nothing_of_the_house(said: str, told: str) -> None:
    assert redacted(said) == told


def test_a_message_is_not_longer_than_it_need_be() -> None:
    assert len(redacted("x" * 100_000)) == 1_000


@pytest.mark.parametrize("given", ["sk-abc", "two words", "x" * 65, "a.b", "", "10", "häh", "key=1"])
def test_what_is_no_word_is_no_code(given: str) -> None:
    assert word(given) is None
    assert word("context_length_exceeded") == "context_length_exceeded"


@pytest.mark.parametrize("given", ["messages[0].content", "n", "tools[12].function.name"])
def test_parameters_are_named(given: str) -> None:
    assert parameter(given) == given


@pytest.mark.parametrize("given", ["sk-live-1", "a b", "x[y]", "[0]", "http://h"])
def test_what_is_no_parameter_is_not_named(given: str) -> None:
    assert parameter(given) is None


def test_known_secrets_are_taken_out_whatever_they_look_like() -> None:
    assert without("the key was tulips, not tulip", ["tulips", "not"]) == "the key was [secret], not tulip"
