"""A draft model never changes what is said, and its cache always holds what it should.

The sharpest test of the cache: a model that drafts for itself. Whatever was shared, preempted, rolled back or caught up,
every draft has to stand.
"""

from pathlib import Path

import pytest

from servery import amuse
from servery.engine.core import EngineCore
from servery.engine.request import NewRequest, SamplingParams
from servery.engine.tokenizer import Tokenizer
from tests.engine import tiny_model
from tests.engine.speculation.drafting import core_of, run, stop_at_chance, texts

SHARED = [7 + (3 * position) % 250 for position in range(70)]
PARAMS = {
    "greedy": {"temperature": 0.0},
    "greedy, penalties": {"temperature": 0.0, "repetition_penalty": 1.2, "frequency_penalty": 0.4},
    "seeded": {"seed": 3, "temperature": 0.9, "top_p": 0.9},
    "seeded, penalties": {"seed": 3, "presence_penalty": 0.5, "logit_bias": {70: 2.0}, "min_p": 0.01, "logprobs": 1},
}
SCHEDULES = {
    "plain": {},
    "chunks": {"max_step_tokens": 14, "max_running": 8},
    "blocks of four": {"block_size": 4},
    "no cache": {"prefix_cache": False},
    "other windows": {"max_drafts": 3},
}


def requests(count: int = 5, **params: object) -> list[NewRequest]:
    settings = {"max_tokens": 50, "ignore_eos": True, **params}
    return [
        NewRequest(
            request_id=f"r{number}",
            prompt=[*SHARED[: 70 - 16 * (number % 3)], *range(60, 61 + 5 * number)],
            params=SamplingParams(**settings, n=1 + number % 2),  # type: ignore[arg-type]
        )
        for number in range(count)
    ]


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the same tokens that says other things."""
    return tiny_model.save(tmp_path_factory.mktemp("other"), num_hidden_layers=1, hidden_size=32)


def kv_bytes(core: EngineCore, blocks: int) -> int:
    """Memory for so many blocks of 16, both caches together."""
    return blocks * (core.info.kv_bytes + core.info.draft_kv_bytes) // core.info.num_blocks


@pytest.mark.parametrize("params", PARAMS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_texts_are_those_without_a_draft_model(tiny: Path, other: Path, params: str, schedule: str) -> None:
    expected = texts(run(core_of(tiny), requests(**PARAMS[params])))
    core = core_of(tiny, draft=other, **SCHEDULES[schedule])
    assert texts(run(core, requests(**PARAMS[params]))) == expected
    assert core.stats().scheduler.drafted_tokens > 100


@pytest.mark.parametrize("params", [*PARAMS, "free"])
def test_drafting_that_stops_early_changes_nothing_but_the_number_of_drafts(
    tiny: Path, other: Path, params: str
) -> None:
    """With a model that drafts for itself, every draft that is left stands: what was given up left no trace."""
    for drafter in (tiny, other):
        core, whole = core_of(tiny, draft=drafter), core_of(tiny, draft=drafter)
        stop_at_chance(core)
        stopped = texts(run(core, requests(**PARAMS.get(params, {}))))
        complete = texts(run(whole, requests(**PARAMS.get(params, {}))))
        stats, longer = core.stats().scheduler, whole.stats().scheduler
        assert stats.drafted_tokens > 50
        assert stats.drafted_tokens / stats.draft_rounds < 0.9 * longer.drafted_tokens / longer.draft_rounds
        if params != "free":
            assert stopped == complete
        if drafter == tiny:
            assert stats.accepted_draft_tokens >= 0.995 * stats.drafted_tokens


@pytest.mark.parametrize("kv_dtype", ["int8", "fp8"])
def test_drafts_that_fell_leave_no_trace_in_a_cache_of_8_bits(tiny: Path, other: Path, kv_dtype: str) -> None:
    """Codes and scales of a slot are overwritten together."""
    expected = texts(run(core_of(tiny, kv_dtype=kv_dtype), requests(**PARAMS["seeded"])))
    core = core_of(tiny, draft=other, kv_dtype=kv_dtype)
    assert texts(run(core, requests(**PARAMS["seeded"]))) == expected
    stats = core.stats().scheduler
    assert stats.accepted_draft_tokens < stats.drafted_tokens > 100


@pytest.mark.parametrize("params", [*PARAMS, "free"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_model_that_drafts_for_itself_is_always_right(tiny: Path, params: str, schedule: str) -> None:
    core = core_of(tiny, draft=tiny, **SCHEDULES[schedule])
    for _ in range(2):  # the second time what the first one left in the caches is shared
        run(core, requests(**PARAMS.get(params, {})))
    stats = core.stats().scheduler
    assert stats.drafted_tokens > 200
    assert stats.accepted_draft_tokens >= 0.995 * stats.drafted_tokens, "two roundings may disagree once in a while"


@pytest.mark.parametrize("draft", ["tiny", "other"])
def test_preemption_and_sharing_leave_text_and_cache_right(tiny: Path, other: Path, draft: str) -> None:
    """23 blocks of 16 hold the prompts but not their answers."""
    batch = requests(6, seed=3, max_tokens=60)
    drafter = tiny if draft == "tiny" else other
    expected = texts(run(core_of(tiny), batch))
    blocks = kv_bytes(core_of(tiny, draft=drafter), 23)
    core = core_of(tiny, draft=drafter, kv_memory_bytes=blocks)
    assert texts(run(core, batch)) == expected
    stats = core.stats().scheduler
    assert stats.preemptions > 0
    assert stats.prefix_hit_tokens > 0
    if draft == "tiny":
        assert stats.accepted_draft_tokens >= 0.995 * stats.drafted_tokens > 100


def test_blocks_that_were_drafted_for_once_are_not_computed_again(tiny: Path) -> None:
    core = core_of(tiny, draft=tiny, least=1)
    run(core, [NewRequest(request_id="a", prompt=SHARED, params=SamplingParams(max_tokens=9, ignore_eos=True))])
    (sequence,) = core.scheduler.add(
        NewRequest(request_id="b", prompt=[*SHARED[:64], 9, 9], params=SamplingParams(max_tokens=9)), 0, 0.0
    )
    core.step()
    offer = core._speculator._proposer.offer(sequence, 4)
    assert offer is not None
    assert offer.entry_tokens == 2, "of 66 prompt tokens, 64 are in blocks that the draft model has"


def test_a_long_context_is_entered_in_pieces(tiny: Path) -> None:
    """300 tokens are more than a step may spend on it: the first drafts come a step later, and all stand."""
    core = core_of(tiny, draft=tiny, least=1, max_model_len=512, max_step_tokens=300, max_running=4)
    params = SamplingParams(max_tokens=12, ignore_eos=True, temperature=0.0)
    outputs = run(core, [NewRequest(request_id="a", prompt=[7 + p % 250 for p in range(300)], params=params)])
    lengths = [len(output.token_ids) for output in outputs["a", 0]]
    assert lengths[:2] == [1, 1]
    assert max(lengths) > 1
    stats = core.stats().scheduler
    assert stats.accepted_draft_tokens == stats.drafted_tokens > 0


def test_drafts_end_where_the_draft_models_context_does(tiny: Path, tmp_path: Path) -> None:
    short = tiny_model.save(tmp_path, num_hidden_layers=1, max_position_embeddings=90)
    batch = requests(temperature=0.0)
    core = core_of(tiny, draft=short, least=1)
    assert texts(run(core, batch)) == texts(run(core_of(tiny), batch))
    assert core.stats().scheduler.drafted_tokens > 0


@pytest.mark.parametrize("vocab_size", [290, 352])
def test_a_vocabulary_padded_otherwise_is_no_obstacle(tiny: Path, tmp_path: Path, vocab_size: int) -> None:
    """Rows of unused ids at the end are often rounded up differently in models of one family."""
    drafter = tiny_model.save(tmp_path, vocab_size=vocab_size, num_hidden_layers=1)
    for params in ({"temperature": 0.0}, {}):
        batch = requests(**params, logit_bias={299: 4.0})
        core = core_of(tiny, draft=drafter)
        drafted = texts(run(core, batch))
        assert core.stats().scheduler.drafted_tokens > 100
        if params:
            assert drafted == texts(run(core_of(tiny), batch))


def test_answers_of_the_embedded_model_are_the_same_for_hundreds_of_tokens() -> None:
    model, drafter = amuse.path(), amuse.path("draft")
    tokenizer = Tokenizer.load(model)
    prompts = [tokenizer.encode(text) for text in ("What is a KV cache?", "Tell me a story", "1, 2, 3, 4, 5, 6,")]
    for params in ({"temperature": 0.0}, {"seed": 1, "temperature": 0.8, "top_k": 30}):
        settings = SamplingParams(max_tokens=120, ignore_eos=True, **params)
        batch = [NewRequest(request_id=str(at), prompt=prompt, params=settings) for at, prompt in enumerate(prompts)]
        expected = texts(run(core_of(model), batch))
        drafted, looked_up = core_of(model, draft=drafter), core_of(model, ngram=True)
        assert texts(run(drafted, batch)) == expected
        assert texts(run(looked_up, batch)) == expected
        stats = drafted.stats().scheduler
        assert stats.accepted_draft_tokens > 0.2 * stats.drafted_tokens > 80
        assert looked_up.stats().scheduler.accepted_draft_tokens > 0
