"""Text deltas: what is released adds up to the whole, and the engine is told when a stop string ends a completion."""

from pathlib import Path

import pytest

from servery.engine.completion import TextAssembly, TextDelta
from servery.engine.request import FinishReason, NewRequest, Output, SamplingParams, TokenLogprobs
from servery.engine.tokenizer import Tokenizer

EOS = 4


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Tokenizer:
    return Tokenizer.load(tiny)


class Story:
    """One request fed with outputs; `aborted` is what the engine was told."""

    def __init__(self, tokenizer: Tokenizer, **params: object) -> None:
        self.aborted: list[tuple[str, int]] = []
        self.tokenizer = tokenizer
        request = NewRequest(request_id="r", prompt=[7], params=SamplingParams(**params))  # type: ignore[arg-type]
        self.assembly = TextAssembly(
            request, tokenizer, lambda request_id, index: self.aborted.append((request_id, index))
        )

    def feed(self, token_ids: list[int], index: int = 0, **output: object) -> TextDelta | None:
        scores = [TokenLogprobs(token_id, -1.0, []) for token_id in token_ids]
        return self.assembly.feed(
            Output(request_id="r", index=index, token_ids=token_ids, logprobs=scores, **output)  # type: ignore[arg-type]
        )

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text)


def test_every_token_s_text_is_released_at_once(tokenizer: Tokenizer) -> None:
    story = Story(tokenizer)
    deltas = [story.feed([token_id]) for token_id in story.ids("hello world")]
    assert "".join(delta.text for delta in deltas if delta) == "hello world"
    assert [token for delta in deltas if delta for token in delta.token_ids] == story.ids("hello world")


def test_the_end_token_is_no_text_but_a_token(tokenizer: Tokenizer) -> None:
    story = Story(tokenizer)
    delta = story.feed([*story.ids("hello"), EOS], finish_reason=FinishReason.STOP, stop_token_id=EOS)
    assert delta is not None
    assert (delta.text, delta.stop, delta.finish_reason) == ("hello", None, FinishReason.STOP)
    assert delta.num_tokens == len(story.ids("hello")) + 1


def test_an_end_token_that_only_the_model_s_config_knows_is_not_named(tokenizer: Tokenizer) -> None:
    """The engine reads EOS from config.json too, which the tokenizer never saw."""
    delta = Story(tokenizer).feed([70], finish_reason=FinishReason.STOP, stop_token_id=70)
    assert delta is not None
    assert (delta.text, delta.stop, delta.finish_reason) == ("", None, FinishReason.STOP)


def test_a_stop_token_of_the_request_is_named_and_is_no_text(tokenizer: Tokenizer) -> None:
    story = Story(tokenizer, stop_token_ids=(70,))
    delta = story.feed([*story.ids("hello"), 70], finish_reason=FinishReason.STOP, stop_token_id=70)
    assert delta is not None
    assert (delta.text, delta.stop) == ("hello", 70)


def test_a_stop_string_across_outputs_cuts_text_and_aborts_once(tokenizer: Tokenizer) -> None:
    story = Story(tokenizer, stop=("wor",))
    texts = [delta.text for token_id in story.ids("hello worst") if (delta := story.feed([token_id]))]
    assert "".join(texts) == "hello "
    assert story.assembly.is_finished
    assert story.aborted == [("r", 0)]
    assert story.feed(story.ids("more")) is None


def test_what_was_held_back_comes_out_at_the_end(tokenizer: Tokenizer) -> None:
    story = Story(tokenizer, stop=("worse",))
    held = [delta for token_id in story.ids("hello wors") if (delta := story.feed([token_id]))]
    assert "".join(delta.text for delta in held) == "hello "
    last = story.feed([EOS], finish_reason=FinishReason.STOP, stop_token_id=EOS)
    assert last is not None
    assert (last.text, last.finish_reason, last.stop) == ("wors", FinishReason.STOP, None)
    assert len(last.logprobs) == len(last.token_ids)
    assert story.aborted == []


def test_a_stop_string_in_the_last_output_needs_no_abort(tokenizer: Tokenizer) -> None:
    story = Story(tokenizer, stop=("world",))
    delta = story.feed(story.ids("hello world"), finish_reason=FinishReason.LENGTH)
    assert delta is not None
    assert (delta.text, delta.finish_reason, delta.stop) == ("hello ", FinishReason.STOP, "world")
    assert story.aborted == []


def test_completions_are_assembled_apart(tokenizer: Tokenizer) -> None:
    story = Story(tokenizer, n=2, stop=("world",))
    story.feed(story.ids("hello world"), index=1)
    assert not story.assembly.is_finished
    delta = story.feed(story.ids("hello"), index=0, finish_reason=FinishReason.LENGTH)
    assert delta is not None
    assert (delta.index, delta.text) == (0, "hello")
    assert story.assembly.is_finished
    assert story.aborted == [("r", 1)]


def test_an_unfinished_character_becomes_a_replacement_at_the_end(tokenizer: Tokenizer) -> None:
    story = Story(tokenizer)
    first_byte_of_e_acute = story.ids("é")[0]
    delta = story.feed([first_byte_of_e_acute], finish_reason=FinishReason.LENGTH)
    assert delta is not None
    assert delta.text == "\ufffd"


@pytest.mark.parametrize(
    ("params", "text", "stop"),
    [
        ({"stop": ("lo",)}, "hel", "lo"),
        ({"stop": ("lo",), "include_stop_str_in_output": True}, "hello", "lo"),
        ({"stop": ("lo",), "min_tokens": 100}, "hello world", None),
    ],
)
def test_a_stop_string_is_shown_if_asked_for_and_waits_for_the_least_length(
    tokenizer: Tokenizer, params: dict[str, object], text: str, stop: str | None
) -> None:
    story = Story(tokenizer, **params)
    deltas = [delta for token_id in story.ids("hello world") if (delta := story.feed([token_id]))]
    assert "".join(delta.text for delta in deltas) == text
    assert deltas[-1].stop == stop
