"""Steps launched before the one before them is known give what they give one after the other."""

from pathlib import Path

import pytest

from servery.engine.config import EngineConfig
from servery.engine.constraint import Constraint, ConstraintKind
from servery.engine.core import EngineCore
from servery.engine.request import FinishReason, NewRequest, Output, SamplingParams

PROMPTS = [[7 + (3 * row * position) % 250 for position in range(5 + 13 * row)] for row in range(8)]


def core_of(model: Path, *, ahead: bool, **changes: object) -> EngineCore:
    settings = {"threads": 1, "max_model_len": 256, "kernels": "torch"} | changes
    return EngineCore(EngineConfig(model=model, **settings), ahead=ahead)  # type: ignore[arg-type]


def request(number: int, **params: object) -> NewRequest:
    settings = {"max_tokens": 6 + 3 * number, "ignore_eos": True, "temperature": 0.0, **params}
    return NewRequest(request_id=f"r{number}", prompt=PROMPTS[number], params=SamplingParams(**settings))  # type: ignore[arg-type]


def run(core: EngineCore, requests: list[NewRequest]) -> dict[str, list[Output]]:
    """Everything that comes out; the books agree after every step."""
    for number, one in enumerate(requests):
        core.add(one, 1 + number)
    outputs: dict[str, list[Output]] = {}
    while core.has_work:
        for output in core.step():
            outputs.setdefault(output.request_id, []).append(output)
        core.scheduler.check_integrity()
    return outputs


def texts(outputs: dict[str, list[Output]]) -> dict[str, tuple[list[int], FinishReason | None, int]]:
    return {
        key: ([t for output in row for t in output.token_ids], row[-1].finish_reason, row[-1].cached_tokens)
        for key, row in outputs.items()
    }


def both(model: Path, requests: list[NewRequest], **changes: object) -> tuple[EngineCore, EngineCore]:
    ahead, after = core_of(model, ahead=True, **changes), core_of(model, ahead=False, **changes)
    assert texts(run(ahead, requests)) == texts(run(after, requests))
    return ahead, after


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_step_tokens": 16, "max_running": 4},
        {"block_size": 4},
    ],
    ids=["wide", "narrow", "small blocks"],
)
def test_tokens_are_those_of_one_step_after_the_other(tiny: Path, changes: dict[str, object]) -> None:
    ahead, after = both(tiny, [request(number) for number in range(8)], **changes)
    assert ahead.stats().steps <= after.stats().steps + 2


def test_who_is_preempted_while_its_token_is_on_its_way_goes_on_with_it(tiny: Path) -> None:
    """There are blocks for two thirds of what four sequences become."""
    few = {"kv_memory_bytes": 14 * 16 * 1536, "max_model_len": 160}
    ahead, after = both(tiny, [request(number, max_tokens=60) for number in range(4)], **few)
    assert ahead.stats().scheduler.preemptions
    assert after.stats().scheduler.preemptions


def test_who_stops_at_a_token_gets_none_after_it(tiny: Path) -> None:
    """The step that was launched meanwhile computed one too many, which nobody sees."""
    free = texts(run(core_of(tiny, ahead=False), [request(number, max_tokens=30) for number in range(6)]))
    stops = [request(n, max_tokens=30, stop_token_ids=(free[f"r{n}"][0][4 + n],)) for n in range(6)]
    ahead, _ = both(tiny, stops)
    found = texts(run(core_of(tiny, ahead=True), stops))
    assert {reason for _, reason, _ in found.values()} == {FinishReason.STOP}
    pool = ahead.scheduler.pool
    assert pool.held_blocks == 0


def test_those_that_need_the_host_share_steps_with_those_that_do_not(tiny: Path) -> None:
    """Penalties, chance, log probabilities, a form to keep to: each is finished on the host, and changes nobody's text."""
    requests = [
        request(0, max_tokens=40),
        request(1, frequency_penalty=0.5, repetition_penalty=1.3),
        request(2, temperature=0.9, seed=4, top_p=0.8),
        request(3, logprobs=2, prompt_logprobs=1),
        request(4, max_tokens=24),
        request(5, constraint=Constraint(kind=ConstraintKind.REGEX, text="[a-z]{3,12}"), ignore_eos=False),
        request(6, min_tokens=3, ignore_eos=False),
        request(7, max_tokens=50),
    ]
    both(tiny, requests)


def test_an_abort_between_steps_leaves_nothing_behind(tiny: Path) -> None:
    core = core_of(tiny, ahead=True)
    for number in range(4):
        core.add(request(number, max_tokens=40), 1)
    seen: list[str] = []
    for at in range(60):
        if at == 6:
            core.abort("r1")
            core.abort("r3")
        seen += [output.request_id for output in core.step()] if core.has_work else []
        core.scheduler.check_integrity()
    assert not core.has_work
    assert core.scheduler.pool.held_blocks == 0
    assert seen.count("r0") == seen.count("r2") == 40
    assert 0 < seen.count("r1") < 40


def test_a_step_that_fails_ends_its_requests_and_no_others(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of(tiny, ahead=True)
    core.add(request(0, max_tokens=20), 1)
    outputs = [output for _ in range(4) for output in core.step()]
    launch, calls = core._ahead._launcher.launch, []

    def failing(arrays, shape):
        calls.append(shape)
        if len(calls) == 2:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return launch(arrays, shape)

    monkeypatch.setattr(core._ahead._launcher, "launch", failing)
    while core.has_work:
        outputs += core.step()
        core.scheduler.check_integrity()
    assert outputs[-1].finish_reason is FinishReason.ERROR
    assert "illegal memory access" in (outputs[-1].error or "")
    monkeypatch.undo()
    assert texts(run(core, [request(1)])) == texts(run(core_of(tiny, ahead=False), [request(1)]))


def test_the_time_of_the_host_is_counted_apart_from_its_waiting(tiny: Path) -> None:
    core = core_of(tiny, ahead=True)
    run(core, [request(0)])
    stats = core.stats()
    assert stats.host_s > 0.0
    assert (stats.graphs, stats.graph_bytes) == (0, 0)
