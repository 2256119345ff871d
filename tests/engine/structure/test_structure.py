"""What models say under constraints: every answer that ends by itself is of the language."""

import json
import random
import re
import threading
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servery import amuse as models
from servery.engine import constraint
from servery.engine.config import EngineConfig
from servery.engine.constraint import Constraint, Reasoning
from servery.engine.core import EngineCore
from servery.engine.errors import InvalidRequest, Overloaded, RequestFailed
from servery.engine.llm import LLM, Completion
from servery.engine.request import FinishReason, NewRequest, SamplingParams, Sequence
from tests.engine.structure.schemas import SCHEMAS
from tests.engine.test_core import core_of, run, tokens

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llm(tiny: Path) -> LLM:
    return LLM(tiny, threads=1, max_model_len=512)


def answers(llm: LLM, wanted: Constraint | None, **changes: object) -> list[Completion]:
    settings = {"temperature": 1.0, "max_tokens": 450, "seed": 1, "constraint": wanted, **changes}
    return llm.generate(["hello"], SamplingParams(**settings))[0].completions  # type: ignore[arg-type]


def finished(completions: list[Completion]) -> list[str]:
    """The texts that were not cut by max_tokens; the test must not be about none."""
    texts = [one.text for one in completions if one.finish_reason is FinishReason.STOP]
    assert texts
    return texts


def validate(text: str, schema: object) -> None:
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(schema=SCHEMAS, seed=st.integers(0, 2**31))
def test_every_document_validates(llm: LLM, schema: object, seed: int) -> None:
    """Random weights, random schemas, temperature 1."""
    try:
        completions = answers(llm, constraint.json_schema(schema), seed=seed, n=2)  # type: ignore[arg-type]
    except InvalidRequest:
        return  # what cannot be enforced is refused
    for completion in completions:
        if completion.finish_reason is FinishReason.STOP:
            validate(completion.text, schema)


@pytest.mark.parametrize("speculate", ["ngram", "draft"])
@pytest.mark.parametrize("seed", [None, 7])
def test_with_speculation_every_document_validates(tiny: Path, speculate: str, seed: int | None) -> None:
    """Without a seed drafts of a model are judged by rejection sampling, with one by coupling."""
    schema = {"type": "array", "items": PERSON, "minItems": 2, "maxItems": 3}
    draft = {"draft_model": tiny} if speculate == "draft" else {}
    llm = LLM(tiny, threads=1, speculate=speculate, **draft)
    params = SamplingParams(n=6, max_tokens=300, seed=seed, constraint=constraint.json_schema(schema))
    (generation,) = llm.generate(["hello"], params)
    for text in finished(generation.completions):
        validate(text, schema)
    stats = llm.core.stats()
    assert stats.scheduler.accepted_draft_tokens > 0


@pytest.fixture(scope="module")
def amuse() -> LLM:
    return LLM(models.path("draft"), threads=1)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_shipped_model_writes_documents(amuse: LLM, temperature: float) -> None:
    params = SamplingParams(
        temperature=temperature, max_tokens=300, seed=3, n=4, constraint=constraint.json_schema(PERSON)
    )
    (generation,) = amuse.chat([[{"role": "user", "content": "Tell me about Ada as JSON."}]], params)
    for text in finished(generation.completions):
        validate(text, PERSON)


def test_each_kind_is_kept_to(llm: LLM) -> None:
    pattern = r"[ab]{2,5}-\d{2}(x|é)"
    assert all(re.fullmatch(pattern, text) for text in finished(answers(llm, constraint.regex(pattern), n=8)))
    options = ["yes", "no", "not sure\n", "naïve"]
    assert set(finished(answers(llm, constraint.choice(options), n=16))) <= set(options)
    calls = constraint.grammar('start: NAME "(" [arg ("," arg)~0..2] ")"\nNAME: /[a-z]{1,4}/\narg: /[0-9]{1,3}/')
    assert all(
        re.fullmatch(r"[a-z]{1,4}\((\d{1,3}(,\d{1,3})*)?\)", text) for text in finished(answers(llm, calls, n=8))
    )
    for text in finished(answers(llm, constraint.json_object(), n=8, max_tokens=60)):
        assert isinstance(json.loads(text), dict)


def test_an_answer_ends_with_its_last_character(llm: LLM) -> None:
    """No end token is needed, and none is counted."""
    (one,) = answers(llm, constraint.choice(["hello?!"]))
    assert (one.text, one.finish_reason, one.stop) == ("hello?!", FinishReason.STOP, None)
    assert len(one.token_ids) == one.num_tokens
    (same,) = answers(llm, constraint.choice(["hello?!"]), max_tokens=one.num_tokens, ignore_eos=True)
    assert (same.text, same.finish_reason) == ("hello?!", FinishReason.STOP)
    (cut,) = answers(llm, constraint.choice(["hello?!"]), max_tokens=one.num_tokens - 1)
    assert (cut.finish_reason, "hello?!".startswith(cut.text)) == (FinishReason.LENGTH, True)


def test_the_end_token_comes_where_the_grammar_may_end_and_not_before(llm: LLM) -> None:
    """A model that wants to end at once."""
    end = 4
    (one,) = answers(llm, constraint.regex("[ab]{3,}"), logit_bias={end: 100.0})
    assert (len(one.text), one.finish_reason) == (3, FinishReason.STOP)
    (free,) = answers(llm, None, logit_bias={end: 100.0})
    assert free.text == ""
    (on,) = answers(llm, constraint.regex("[ab]{3,}"), logit_bias={end: 100.0}, ignore_eos=True, max_tokens=20)
    assert (on.num_tokens, on.finish_reason) == (20, FinishReason.LENGTH)


def test_bias_and_penalties_work_within_the_constraint(llm: LLM) -> None:
    token = llm.tokenizer.encode("b")[0]
    (one,) = answers(llm, constraint.regex("[ab]{6}"), logit_bias={token: 100.0})
    assert one.text == "bbbbbb"
    (other,) = answers(llm, constraint.regex("[ab]{6}"), logit_bias={token: -100.0}, frequency_penalty=0.5)
    assert other.text == "aaaaaa"


def test_log_probabilities_are_the_model_s_own(llm: LLM) -> None:
    (one,) = answers(llm, constraint.choice(["hello"]), logprobs=1)
    assert all(entry.logprob < -0.01 for entry in one.logprobs)


def test_a_constraint_begins_after_its_marker(llm: LLM) -> None:
    """Before it the answer is free, but cannot end."""
    wanted = constraint.regex("[ab]{3}", Reasoning(end="lo"))
    text = answers(llm, wanted, logit_bias={4: 100.0}, max_tokens=450, n=4)
    for one in text:
        before, marker, after = one.text.partition("lo")
        assert "lo" not in before
        assert one.finish_reason is (FinishReason.STOP if marker else FinishReason.LENGTH)
        assert not marker or re.search("[ab]{3}$", after)  # the token with the marker's end may have more
    assert any("lo" in one.text for one in text)


def test_free_requests_are_untouched_by_constrained_ones_beside_them(tiny: Path) -> None:
    def request(number: int, wanted: Constraint | None) -> NewRequest:
        params = SamplingParams(temperature=1.0, max_tokens=24, constraint=wanted, ignore_eos=True)
        return NewRequest(request_id=f"r{number}", prompt=list(range(10, 20 + number)), params=params)

    kinds = [None, constraint.json_schema(PERSON), None, constraint.regex("[ab]+"), None]
    together = tokens(run(core_of(tiny), [request(number, kind) for number, kind in enumerate(kinds)]))
    for number, kind in enumerate(kinds):
        assert (
            together[f"r{number}", 0]
            == tokens(run(core_of(tiny), [request(number, kind)], seed=1 + number))[f"r{number}", 0]
        )


def test_preemption_does_not_disturb_a_constraint(tiny: Path) -> None:
    def request(number: int) -> NewRequest:
        params = SamplingParams(temperature=1.0, max_tokens=60, constraint=constraint.regex("([ab][0-9]){25,}"))
        return NewRequest(request_id=f"r{number}", prompt=[9] * (17 + number), params=params)

    config = EngineConfig(model=tiny, threads=1, max_model_len=128, block_size=4, kv_memory_bytes=280_000)
    core = EngineCore(config)
    crowded = tokens(run(core, [request(number) for number in range(8)]))
    assert core.stats().scheduler.preemptions > 0
    assert crowded == tokens(run(core_of(tiny), [request(number) for number in range(8)]))


def constrained(number: int, wanted: Constraint, **changes: object) -> NewRequest:
    settings = {"temperature": 1.0, "max_tokens": 60, "constraint": wanted, **changes}
    params = SamplingParams(**settings)  # type: ignore[arg-type]
    return NewRequest(request_id=f"r{number}", prompt=list(range(10, 20 + number)), params=params)


def test_forced_tokens_take_fewer_steps_to_the_same_answers(tiny: Path) -> None:
    requests = [constrained(number, constraint.json_schema(PERSON)) for number in range(4)]
    slow, fast = core_of(tiny), core_of(tiny)
    slow._structure._most_forced = 0
    expected = tokens(run(slow, requests))
    assert tokens(run(fast, requests)) == expected
    assert fast.stats().steps < slow.stats().steps
    assert fast.stats().structure.forced_tokens >= fast.stats().scheduler.accepted_draft_tokens > 0


@pytest.mark.parametrize("changes", [{}, {"temperature": 0.0}, {"n": 3}, {"frequency_penalty": 0.5}])
def test_drafts_of_all_kinds_leave_the_answers_as_they_are(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    """Right ones, wrong ones, forbidden ones, and ones that go on behind the end of the document."""
    wanted = [constraint.json_schema(PERSON), constraint.regex("([ab][0-9])+", Reasoning(end="e")), None]
    requests = [constrained(number, kind, **changes) for number, kind in enumerate(wanted)]  # type: ignore[arg-type]
    core = core_of(tiny)
    monkeypatch.setattr(core._structure, "propose", lambda _: None)
    expected = tokens(run(core, requests))

    chance = random.Random(1)

    def propose(decoding: list[Sequence]) -> None:
        for sequence in decoding:
            rest = expected[sequence.request_id, sequence.index][len(sequence.tokens) - sequence.prompt_len :]
            drafts = [token if chance.random() < 0.8 else chance.randrange(300) for token in [*rest[:6], 20, 4]]
            sequence.drafts = drafts[: chance.randrange(8)]
        if chance.random() < 0.5:
            drafted._structure.prune(decoding)

    drafted = core_of(tiny)
    monkeypatch.setattr(drafted._structure, "propose", propose)
    assert tokens(run(drafted, requests)) == expected
    assert drafted.stats().scheduler.accepted_draft_tokens > 0


def test_a_refused_grammar_ends_its_request_and_no_other(tiny: Path) -> None:
    """What only the model's tokens tell: a control token that it does not have."""
    core = core_of(tiny)
    bad = NewRequest(
        request_id="bad",
        prompt=[9],
        params=SamplingParams(n=2, constraint=constraint.grammar("start: <|nope|>"), max_tokens=4),
    )
    good = NewRequest(request_id="good", prompt=[9], params=SamplingParams(max_tokens=4, ignore_eos=True))
    outputs = run(core, [bad, good])
    told = [
        (index, one.finish_reason, one.invalid_param) for (name, index), (one, *_) in outputs.items() if name == "bad"
    ]
    assert told == [(0, FinishReason.ERROR, "constraint"), (1, FinishReason.ERROR, "constraint")]
    assert "unknown special token" in str(outputs["bad", 0][0].error)
    assert len(tokens(outputs)["good", 0]) == 4


def test_a_request_can_be_aborted_while_its_grammar_is_compiled(tiny: Path) -> None:
    core = core_of(tiny)
    wanted = SamplingParams(n=2, constraint=constraint.regex("[ab]+"), max_tokens=4, ignore_eos=True)
    for name in ("a", "b"):
        core.add(NewRequest(request_id=name, prompt=[9], params=wanted), seed=1)
    with pytest.raises(InvalidRequest, match="'a' is in use"):
        core.add(NewRequest(request_id="a", prompt=[9], params=wanted), seed=1)
    core.abort("a")
    core.abort("b", 0)
    assert set(run(core)) == {("b", 1)}


def test_nobody_waits_for_another_s_grammar(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The free request is answered while the grammar of the other one is still being compiled."""
    core, may_compile = core_of(tiny), threading.Event()
    compile_now = core._compiler._compile

    def compile_later(wanted: Constraint) -> object:
        assert may_compile.wait(60)
        return compile_now(wanted)

    monkeypatch.setattr(core._compiler, "_compile", compile_later)
    core.add(constrained(1, constraint.choice(["hello"])), seed=1)
    core.add(NewRequest(request_id="free", prompt=[9], params=SamplingParams(max_tokens=4, ignore_eos=True)), seed=1)
    outputs = [output for _ in range(6) for output in core.step()]
    assert {output.request_id for output in outputs} == {"free"}
    assert outputs[-1].finish_reason is FinishReason.LENGTH
    may_compile.set()
    assert set(run(core)) == {("r1", 0)}


def test_requests_that_wait_for_grammars_are_bounded(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core, may_compile = core_of(tiny, max_waiting_requests=2), threading.Event()
    monkeypatch.setattr(core._compiler, "_compile", lambda _: may_compile.wait(60))
    for number in (1, 2):
        core.add(constrained(number, constraint.choice(["hello"])), seed=1)
    with pytest.raises(Overloaded, match="2 requests wait for their grammars"):
        core.add(constrained(3, constraint.choice(["hello"])), seed=1)
    core.abort("r1")
    core.add(constrained(3, constraint.choice(["hello"])), seed=1)
    core.abort("r2")
    core.abort("r3")
    assert not core.has_work
    may_compile.set()


def test_a_grammar_is_compiled_once_for_all(tiny: Path) -> None:
    core = core_of(tiny)
    params = SamplingParams(constraint=constraint.regex("[ab]{3}"), max_tokens=9)
    first = [NewRequest(request_id=f"r{number}", prompt=[9], params=params) for number in range(3)]
    run(core, first)
    run(core, [NewRequest(request_id="again", prompt=[9], params=params)])
    stats = core.stats().structure
    assert (stats.compiled, stats.refused, stats.hits) == (1, 0, 1)
    assert stats.masks >= 8
    assert min(stats.compile_s, stats.mask_s) > 0


def test_offline_what_cannot_be_enforced_is_refused_before_anything_is_computed(llm: LLM) -> None:
    steps = llm.core.stats().steps
    with pytest.raises(InvalidRequest, match="keywords that cannot be enforced: 'not'"):
        answers(llm, constraint.json_schema({"not": {}}))
    assert llm.core.stats().steps == steps


def test_a_grammar_with_no_text_is_an_error_that_says_so(llm: LLM) -> None:
    with pytest.raises((InvalidRequest, RequestFailed), match="no text that the model can write fulfils it"):
        answers(llm, constraint.grammar("start: a\na: b\nb: a"))
    with pytest.raises((InvalidRequest, RequestFailed), match="no text that the model can write fulfils it"):
        answers(llm, constraint.json_schema({"$ref": "#"}))


def test_a_grammar_that_says_too_much_is_an_error_that_says_so(llm: LLM) -> None:
    with pytest.raises((InvalidRequest, RequestFailed), match="it says too much at once; ask for fewer repetitions"):
        answers(llm, constraint.regex("a{10000000}"))


def test_an_empty_text_fulfils_a_form_that_allows_it(llm: LLM) -> None:
    assert [one.text for one in answers(llm, constraint.regex(""))] == [""]
