"""Reasoning before an answer: free but for its budget, ended by its marker, and then the answer follows its constraint."""

import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import llguidance
import numpy as np
import pytest

from servery.engine import constraint
from servery.engine.config import EngineConfig
from servery.engine.constraint import Constraint, ConstraintKind, Reasoning
from servery.engine.core import EngineCore
from servery.engine.llm import LLM, Completion
from servery.engine.request import FinishReason, NewRequest, SamplingParams
from servery.engine.structure.follower import Follower
from servery.engine.structure.grammar import grammar_text
from servery.engine.structure.mask import Mask
from servery.engine.structure.mask_filler import MaskRequest, fill_masks
from servery.engine.structure.vocabulary import Vocabulary
from servery.engine.tokenizer import Tokenizer
from tests.engine import vocabularies
from tests.engine.test_core import core_of, run, tokens

BEGIN, END = "<think>", "</think>"
BEGUN, OPTIONAL = Reasoning(end=END), Reasoning(begin=BEGIN, end=END)
CHOICE = ["x", "yes", "naïve"]
EXECUTOR = llguidance.LLExecutor(1)


def vocabulary(*, is_added: bool) -> Vocabulary:
    """Where the markers are tokens, or texts of several."""
    backend = vocabularies.byte_level() if is_added else vocabularies.without_markers()
    tokenizer = Tokenizer(backend)
    return Vocabulary(tokenizer, tokenizer.vocab_size, {tokenizer.token_id("<|im_end|>") or 0})


ADDED, SPELLED = vocabulary(is_added=True), vocabulary(is_added=False)


def follower(wanted: Constraint, known: Vocabulary) -> Follower:
    matcher = llguidance.LLMatcher(known.compiled, grammar_text(wanted), log_level=0)
    return Follower(wanted, matcher, known, prompt_len=0)


def rows(follower: Follower, known: Vocabulary, written: Sequence[int], drafts: Sequence[int] = ()) -> list[list[int]]:
    """The tokens that each row may choose."""
    (masks,) = fill_masks(EXECUTOR, known, [MaskRequest(follower, written, drafts)])
    return [allowed(mask, known.size) for mask in masks]


def allowed(mask: Mask | None, size: int) -> list[int]:
    if mask is None:
        return list(range(size))
    found: list[int] = np.flatnonzero(np.unpackbits(mask.view(np.uint8), count=size, bitorder="little")).tolist()
    return found


def walk(wanted: Constraint, known: Vocabulary, seed: int, most: int = 120) -> tuple[str, bool]:
    """A text that a model might write which chooses by chance among what it may, and whether it is complete.

    Now and then it wants to write a marker.
    """
    chance, one = random.Random(seed), follower(wanted, known)
    assert wanted.reasoning is not None
    written: list[int] = []
    intended: list[int] = []
    while len(written) < most and not one.is_complete:
        (may,) = rows(one, known, written)
        assert may, known.tokenizer.decode(written)
        if not intended and chance.random() < (0.05 if written else 0.5):
            intended = known.spelled(END if written or not wanted.reasoning.begin else BEGIN)
        chosen = intended[0] if intended and intended[0] in may else chance.choice(may)
        intended = intended[1:] if intended and chosen == intended[0] else []
        if chosen in known.end_ids:
            return known.tokenizer.decode(written, skip_special_tokens=False), True
        written.append(chosen)
        one.accept([chosen])
        assert one.error is None
    return known.tokenizer.decode(written, skip_special_tokens=False), one.is_complete


@pytest.mark.parametrize("known", [ADDED, SPELLED], ids=["a token", "spelled"])
@pytest.mark.parametrize("reasoning", [BEGUN, OPTIONAL], ids=["begun", "optional"])
@pytest.mark.parametrize("budget", [None, 7])
def test_the_answer_follows_its_constraint_behind_any_reasoning(
    known: Vocabulary, reasoning: Reasoning, budget: int | None
) -> None:
    wanted = constraint.choice(CHOICE, Reasoning(begin=reasoning.begin, end=END, budget=budget))
    kinds = set()
    for seed in range(40):
        text, is_complete = walk(wanted, known, seed)
        thought = re.match(f"(?:{reasoning.begin}).*?{END}\n{{0,2}}", text, re.DOTALL)
        if is_complete:
            assert text[thought.end() if thought else 0 :] in CHOICE
            kinds.add(thought is not None)
        else:
            assert budget is None
            begun = text.partition(END)[2].lstrip("\n")
            assert any(option.startswith(begun) for option in CHOICE)
    assert kinds == ({True} if reasoning is BEGUN else {True, False})


@pytest.mark.parametrize("known", [ADDED, SPELLED], ids=["a token", "spelled"])
def test_every_row_is_as_if_its_drafts_had_been_written(known: Vocabulary) -> None:
    """But for rows behind a choice between reasoning and answer, which have nothing to choose."""
    chance = random.Random(3)
    text = f"{BEGIN}hello{END}\n\nyes"
    whole = known.tokenizer.encode(text, add_special_tokens=False)
    found = 0
    for kind in (constraint.choice(CHOICE, OPTIONAL), constraint.anything(Reasoning(begin=BEGIN, end=END, budget=3))):
        for _ in range(60):
            start = chance.randrange(len(whole))
            drafts = [t if chance.random() < 0.9 else chance.randrange(known.size) for t in whole[start : start + 6]]
            one = follower(kind, known)
            one.catch_up(whole[:start])
            if one.error is not None:
                continue
            drafted = rows(one, known, whole[:start], drafts)
            for at, may in enumerate(drafted):
                alone = follower(kind, known)
                alone.catch_up([*whole[:start], *drafts[:at]])
                if at and not may:
                    break
                expected = [] if alone.error else rows(alone, known, [*whole[:start], *drafts[:at]])[0]
                assert may == expected, (start, drafts, at)
                found += at > 0
                if at < len(drafts) and drafts[at] not in may:
                    break
    assert found > 30


@pytest.mark.parametrize(("text", "left"), [("hm", True), ("", True), (f"hm{END}", False)])
def test_an_answer_cannot_end_before_its_reasoning_has(text: str, left: bool) -> None:
    one = follower(constraint.regex("a*", BEGUN), ADDED)
    (may,) = rows(one, ADDED, ADDED.tokenizer.encode(text))
    assert (not ADDED.end_ids & set(may)) is left


def test_no_token_ends_the_reasoning_with_something_behind_it() -> None:
    """Where the marker is a text, a token may have its end and more, which would be the beginning of the answer."""
    backend = vocabularies.without_markers()
    backend.add_tokens([">yes", "> \n"])
    tokenizer = Tokenizer(backend)
    known = Vocabulary(tokenizer, tokenizer.vocab_size, {0})
    written = tokenizer.encode("hm</think")
    (may,) = rows(follower(constraint.choice(CHOICE, BEGUN), known), known, written)
    assert [tokenizer.token_id(token) in may for token in (">yes", "> \n", ">")] == [False, True, True]


@pytest.mark.parametrize(
    ("written", "forced"),
    [
        ("<think>ab", None),
        ("<think>abc", [END]),
        (" \n<think>abc", [END]),
        ("<think>ab</think>cde", None),
        ("abcde", None),
        ("<think>abc</think>", None),
        ("<think>abc</think><think>abcd", None),
    ],
)
def test_the_end_marker_is_forced_once_when_the_budget_is_used_up(written: str, forced: list[str] | None) -> None:
    one = follower(constraint.anything(Reasoning(begin=BEGIN, end=END, budget=3)), ADDED)
    ids = [id_ for piece in re.findall(r"</?think>|.", written, re.DOTALL) for id_ in ADDED.spelled(piece)]
    (may,) = rows(one, ADDED, ids)
    expected = None if forced is None else [ADDED.tokenizer.token_id(END)]
    assert (None if len(may) == ADDED.size else may) == expected
    assert one.forced(9) == (expected or [])


def test_a_marker_of_several_tokens_is_forced_to_its_end() -> None:
    one = follower(constraint.anything(Reasoning(end=END, budget=2)), SPELLED)
    end = SPELLED.spelled(END)
    assert len(end) > 1
    written = [*SPELLED.cut("a"), *SPELLED.cut("b")]
    for at, token in enumerate(end):
        assert rows(one, SPELLED, [*written, *end[:at]]) == [[token]]
        assert one.forced(9) == end[at:]
        assert one.allowed_drafts([*end[at:], 5]) == len(end) - at + 1
        assert one.allowed_drafts([5]) == (1 if token == 5 else 0)
    assert rows(one, SPELLED, [*written, *end]) == [list(range(SPELLED.size))]


# On a model.


@pytest.fixture(scope="module")
def llm(tiny: Path) -> LLM:
    return LLM(tiny, threads=1, max_model_len=512)


def answers(llm: LLM, wanted: Constraint, **changes: object) -> list[Completion]:
    settings = {"temperature": 1.0, "max_tokens": 100, "seed": 1, "constraint": wanted, **changes}
    return llm.generate(["hello"], SamplingParams(**settings))[0].completions  # type: ignore[arg-type]


@pytest.mark.parametrize("budget", [1, 8, 30])
def test_the_budget_is_kept_to_the_token(llm: LLM, budget: int) -> None:
    """A model of random weights never ends its reasoning by itself."""
    end = llm.tokenizer.encode("</think>")
    wanted = constraint.anything(Reasoning(end="</think>", budget=budget))
    for one in answers(llm, wanted, n=4, ignore_eos=True):
        assert one.token_ids[budget : budget + len(end)] == end
        assert (one.text.count("</think>"), one.finish_reason) == (1, FinishReason.LENGTH)


def test_a_constraint_follows_when_the_budget_is_used_up(llm: LLM) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    wanted = constraint.json_schema({**schema, "additionalProperties": False}, Reasoning(end="</think>", budget=5))
    for one in answers(llm, wanted, n=8):
        assert one.finish_reason is FinishReason.STOP
        assert isinstance(json.loads(one.text.partition("</think>")[2])["a"], bool)


def request(number: int, wanted: Constraint | None, **changes: object) -> NewRequest:
    settings = {"temperature": 1.0, "max_tokens": 40, "constraint": wanted, "ignore_eos": True, **changes}
    params = SamplingParams(**settings)  # type: ignore[arg-type]
    return NewRequest(request_id=f"r{number}", prompt=list(range(10, 20 + number)), params=params)


def mixed(**changes: object) -> list[NewRequest]:
    end: Callable[[int], Reasoning] = lambda budget: Reasoning(end="</think>", budget=budget)  # noqa: E731
    kinds = [None, constraint.anything(end(3)), constraint.regex("([ab][0-9])+", end(9)), constraint.anything(end(12))]
    return [request(number, kind, n=1 + number % 2, **changes) for number, kind in enumerate(kinds)]


def test_budgets_are_kept_whoever_shares_the_batch(tiny: Path) -> None:
    alone = {}
    for number, one in enumerate(mixed()):
        alone |= tokens(run(core_of(tiny), [one], seed=1 + number))
    assert tokens(run(core_of(tiny), mixed())) == alone


def test_preemption_does_not_disturb_a_budget(tiny: Path) -> None:
    wanted = constraint.anything(Reasoning(end="</think>", budget=20))
    requests = [request(number, wanted, max_tokens=60) for number in range(8)]
    crowded = EngineCore(EngineConfig(model=tiny, threads=1, max_model_len=128, block_size=4, kv_memory_bytes=280_000))
    assert tokens(run(crowded, requests)) == tokens(run(core_of(tiny), requests))
    assert crowded.stats().scheduler.preemptions > 0


def test_until_the_budget_is_used_up_it_changes_nothing(tiny: Path) -> None:
    free, bounded = (
        tokens(run(core_of(tiny), [request(0, wanted)]))["r0", 0]
        for wanted in (None, constraint.anything(Reasoning(end="</think>", budget=30)))
    )
    assert bounded[:30] == free[:30]
    assert bounded != free


def test_a_forced_marker_takes_one_step(tiny: Path) -> None:
    requests = [request(0, constraint.anything(Reasoning(end="</think>", budget=10)))]
    slow, fast = core_of(tiny), core_of(tiny)
    slow._structure._most_forced = 0
    assert tokens(run(slow, requests)) == tokens(run(fast, requests))
    assert fast.stats().steps < slow.stats().steps


@pytest.mark.parametrize("speculate", ["ngram", "draft"])
def test_speculation_leaves_budgets_as_they_are(tiny: Path, speculate: str) -> None:
    """Greedily, where a draft model's drafts change no token either."""
    drafted = core_of(tiny, speculate=speculate, draft_model=tiny if speculate == "draft" else None)
    requests = mixed(temperature=0.0)
    assert tokens(run(drafted, requests)) == tokens(run(core_of(tiny), requests))
    assert drafted.stats().scheduler.accepted_draft_tokens > 0


def test_a_free_answer_without_reasoning_is_a_kind_of_its_own() -> None:
    assert constraint.anything(BEGUN) == Constraint(kind=ConstraintKind.ANYTHING, text="", reasoning=BEGUN)
