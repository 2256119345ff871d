"""The faulty API goes on with what an answer's beginning says, by either API."""

from benchmarks.chaos.faulty import TEXT, _Form


def test_it_goes_on_behind_the_assistants_message_or_the_end_of_the_prompt() -> None:
    begun = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": TEXT[:7]}]
    forms = [
        _Form("/v1/chat/completions", {"model": "m", "messages": begun}),
        _Form("/v1/completions", {"model": "m", "prompt": f"A story. {TEXT[:7]}"}),
    ]
    assert ["".join(each.words) for each in forms] == [TEXT[7:], TEXT[7:]]
    assert "".join(_Form("/v1/completions", {"model": "m", "prompt": "A story."}).words) == TEXT
