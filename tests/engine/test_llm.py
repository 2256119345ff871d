"""Offline use: many prompts at once, in order, each as it would be alone."""

from pathlib import Path

import pytest

from servery import amuse
from servery.engine.errors import InvalidRequest, PromptTooLong
from servery.engine.llm import LLM
from servery.engine.request import FinishReason, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, ignore_eos=True)


@pytest.fixture(scope="module")
def llm(tiny: Path) -> LLM:
    return LLM(tiny, threads=1, max_model_len=256, max_waiting_requests=2)


def test_answers_keep_the_order_of_the_prompts(llm: LLM) -> None:
    """More prompts than the queue takes, of different lengths."""
    prompts = ["hello " * (1 + number % 3) + str(number) for number in range(9)]
    together = [generation.text for generation in llm.generate(prompts, GREEDY)]
    assert together == [llm.generate([prompt], GREEDY)[0].text for prompt in prompts]
    assert len(set(together)) > 1


def test_text_and_tokens_are_the_same_prompt(llm: LLM) -> None:
    text = "this is a test"
    (by_text,) = llm.generate([text], GREEDY)
    (by_tokens,) = llm.generate([llm.tokenizer.encode(text)], GREEDY)
    assert (by_text.text, by_text.prompt) == (by_tokens.text, by_tokens.prompt)


def test_chat_renders_the_model_s_template(llm: LLM) -> None:
    (answer,) = llm.chat([[{"role": "user", "content": "hello"}]], GREEDY)
    expected = llm.tokenizer.encode("<|user|>hello<|end|><|assistant|>", add_special_tokens=False)
    assert answer.prompt == expected
    assert answer.completions[0].num_tokens == 12


def test_several_completions_with_log_probabilities(llm: LLM) -> None:
    params = SamplingParams(n=2, seed=5, max_tokens=6, logprobs=2, prompt_logprobs=1, ignore_eos=True)
    (generation,) = llm.generate(["hello world"], params)
    assert [len(completion.logprobs) for completion in generation.completions] == [6, 6]
    assert generation.prompt_logprobs[0] is None
    assert len(generation.prompt_logprobs) == len(generation.prompt)
    assert generation.completions[0].finish_reason is FinishReason.LENGTH


def test_a_stop_string_ends_one_completion_and_not_the_others(llm: LLM) -> None:
    """The stop string is taken from the middle of what the first completion would say."""
    params = SamplingParams(n=2, seed=5, max_tokens=40, ignore_eos=True)
    first, second = (completion.text for completion in llm.generate(["hello"], params)[0].completions)
    stop = next(first[at : at + 2] for at in range(5, len(first)) if first[at : at + 2] not in second)
    stopped = SamplingParams(n=2, seed=5, max_tokens=40, ignore_eos=True, stop=(stop,))
    completions = llm.generate(["hello"], stopped)[0].completions
    assert completions[0].text == first[: first.index(stop)]
    assert (completions[0].finish_reason, completions[0].stop) == (FinishReason.STOP, stop)
    assert (completions[1].text, completions[1].finish_reason) == (second, FinishReason.LENGTH)
    assert not llm.core.has_work


def test_a_prompt_that_cannot_be_served_is_refused_before_any_work(llm: LLM) -> None:
    steps = llm.core.stats().steps
    with pytest.raises(PromptTooLong, match="the context is 256"):
        llm.generate(["fine", [5] * 300], GREEDY)
    with pytest.raises(InvalidRequest, match="no tokens"):
        llm.generate([[]], GREEDY)
    assert llm.core.stats().steps == steps


@pytest.mark.parametrize("prompts", ["hello", [5, 6, 7], [{"role": "user", "content": "hello"}]])
def test_one_prompt_where_several_are_expected_is_refused(llm: LLM, prompts: object) -> None:
    """Python would take a text for a list of characters, and a chat for a list of chats."""
    with pytest.raises(InvalidRequest, match=r"put it into a list: generate\(\[text\]\)"):
        llm.generate(prompts)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match=r"put it into a list: chat\(\[messages\]\)"):
        llm.chat(prompts)  # type: ignore[arg-type]


def test_what_is_no_prompt_is_named(llm: LLM) -> None:
    with pytest.raises(InvalidRequest, match=r"prompts\[1\] is neither a text nor a list of token ids"):
        llm.generate(["hello", 2.5])  # type: ignore[list-item]


def test_nothing_to_do_is_no_error(llm: LLM) -> None:
    assert llm.generate([]) == []


def test_the_progress_bar_goes_to_stderr(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    llm.generate(["hello"], GREEDY, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "generate" in err


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_the_embedded_model_answers_when_it_is_quantized(scheme: str, tmp_path: Path) -> None:
    sample = tmp_path / "sample.txt"
    sample.write_text("What is 17 + 25? 17 + 25 = 42. Sort these words: pear, apple, fig. apple, fig, pear. " * 8)
    settings = {"calibration": str(sample)} if scheme == "int4" else {}
    llm = LLM(amuse.path(), threads=1, quantize=scheme, **settings)
    (answer,) = llm.chat([[{"role": "user", "content": "What is 17 + 25?"}]], SamplingParams(temperature=0.0))
    assert answer.text == "17 + 25 = 42"
    assert llm.core.info.weight_bytes < 0.37 * llm.core.info.parameters * 4
