"""Steps launched before the one before them is known give what they give one after the other."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from servery.engine.ahead import Flight
from servery.engine.config import EngineConfig
from servery.engine.constraint import Constraint, ConstraintKind
from servery.engine.core import EngineCore
from servery.engine.cuda import sampling as kernels
from servery.engine.device_rows import DeviceRows
from servery.engine.packed_arrays import PackedArrays
from servery.engine.request import FinishReason, NewRequest, Output, SamplingParams
from servery.engine.sampler import SamplingRow, draw
from servery.engine.structure.follower import Follower

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


WORD = Constraint(kind=ConstraintKind.REGEX, text="[a-z]{3,12}")
EVERYTHING = [
    request(0, max_tokens=40),
    request(1, frequency_penalty=0.5, repetition_penalty=1.3, logprobs=0),
    request(2, temperature=0.9, seed=4, top_p=0.8, min_p=0.05),
    request(3, logprobs=2, prompt_logprobs=1, temperature=1.2, seed=9),
    request(4, max_tokens=24, logit_bias={17: 4.0, 30: -3.0}, temperature=0.7, seed=2, top_k=20),
    request(5, constraint=WORD, ignore_eos=False),
    request(6, min_tokens=3, ignore_eos=False, allowed_token_ids=()),
    request(7, max_tokens=50, allowed_token_ids=tuple(range(40, 90)), presence_penalty=1.0, seed=1, temperature=0.8),
]


def by_the_host(logits: Tensor, rows: DeviceRows, *, limited: bool) -> Tensor:
    """In the place of kernels for a GPU: the host's sampler, told what they are told."""
    settings = zip(*(each.tolist() for each in rows), strict=True)
    made = [
        SamplingRow(SamplingParams(temperature=t, top_k=k, top_p=p, min_p=m), seed, position, 0, [])
        for t, k, p, m, seed, position in settings
    ]
    return torch.tensor([each.token_id for each in draw(logits, made)])


def told_of(outputs: dict[str, list[Output]]) -> list[float]:
    """All log probabilities; rounding may change their last bits where steps are of other sizes."""
    every = [one for row in outputs.values() for o in row for one in (*o.prompt_logprobs, *o.logprobs) if one]
    return [value for one in every for value in (one.logprob, *(logprob for _, logprob in one.top))]


@pytest.mark.parametrize("sampler", ["greedy alone", "any"])
def test_whatever_a_request_says_steps_are_launched_ahead_and_change_nobodys_text(tiny: Path, sampler: str) -> None:
    """Penalties, chance, log probabilities, a form to keep to. Where kernels choose greedily alone, some steps wait."""
    ahead, after = core_of(tiny, ahead=True), core_of(tiny, ahead=False)
    launched: list[Flight] = []
    runner = ahead._ahead
    if sampler == "any":
        runner._launcher._sample, runner._launcher.takes_any = by_the_host, True
    launch = runner.launch
    runner.launch = lambda step, before: launched.append(launch(step, before)) or launched[-1]
    found, expected = run(ahead, EVERYTHING), run(after, EVERYTHING)
    assert texts(found) == texts(expected)
    assert told_of(found) == pytest.approx(told_of(expected), rel=1e-3, abs=1e-4)
    waiting = [flight for flight in launched if not flight.is_open]
    if sampler == "any":  # the step that reports on a prompt is finished by the host, and no other
        assert waiting == launched[:1]
        assert len(launched) > 40


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of numpy, which Triton's interpreter computes with
def test_kernels_choose_what_the_host_does_from_what_requests_say(tiny: Path) -> None:
    requests = [
        request(0, max_tokens=5, repetition_penalty=1.5, temperature=0.9, seed=3, top_p=0.9),
        request(1, max_tokens=4, constraint=WORD, temperature=1.0, seed=8, logprobs=2),
    ]
    ahead, after = core_of(tiny, ahead=True), core_of(tiny, ahead=False)
    ahead._ahead._launcher._sample, ahead._ahead._launcher.takes_any = kernels.sample, True
    assert texts(run(ahead, requests)) == texts(run(after, requests))


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_answers_with_a_form_end_where_the_form_does(tiny: Path, chance: float) -> None:
    """The step launched before that was known is of no consequence, for the sequence and for those beside it."""
    requests = [
        request(number, constraint=WORD if number % 2 else None, ignore_eos=False, max_tokens=30, temperature=chance)
        for number in range(6)
    ]
    ahead, after = core_of(tiny, ahead=True), core_of(tiny, ahead=False)
    ahead._ahead._launcher._sample, ahead._ahead._launcher.takes_any = by_the_host, True
    found = texts(run(ahead, requests))
    assert found == texts(run(after, requests))
    assert FinishReason.STOP in {reason for _, reason, _ in found.values()}
    assert ahead.scheduler.pool.held_blocks == 0
    assert ahead.stats().structure.masks > 0


def test_who_cannot_go_on_within_its_form_says_so(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of(tiny, ahead=True)
    monkeypatch.setattr(Follower, "_consume", lambda self, token_id: setattr(self, "error", "it is broken"))
    outputs = run(core, [request(0), request(1, constraint=WORD)])
    last = outputs["r1"][-1]
    assert (last.finish_reason, last.invalid_param) == (FinishReason.ERROR, "constraint")
    assert "within its constraint: it is broken" in (last.error or "")
    assert outputs["r0"][-1].finish_reason is FinishReason.LENGTH


def test_a_choice_that_fails_ends_the_requests_of_its_step_alone(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of(tiny, ahead=True)

    def failing(edits: PackedArrays) -> None:
        raise RuntimeError("CUDA error: out of luck")

    core.add(request(0, max_tokens=20), 1)
    outputs = [output for _ in range(4) for output in core.step()]
    with monkeypatch.context() as patched:
        patched.setattr(core._ahead._launcher, "choose_edited", failing)
        core.add(request(1, constraint=WORD), 1)
        while core.has_work:
            outputs += core.step()
    assert {each.request_id for each in outputs if each.finish_reason is FinishReason.ERROR} == {"r0", "r1"}
    assert texts(run(core, [request(2)])) == texts(run(core_of(tiny, ahead=False), [request(2)]))


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


@pytest.mark.parametrize("ahead", [True, False])
def test_the_time_of_the_host_is_counted_apart_from_its_waiting(tiny: Path, ahead: bool) -> None:
    core = core_of(tiny, ahead=ahead)
    run(core, [request(0)])
    stats = core.stats()
    assert 0.0 < stats.decode_host_s < stats.host_s
    assert 0.0 < stats.decode_s < stats.step_s
    assert 0 < stats.decode_steps < stats.steps
    assert (stats.graphs, stats.graph_bytes) == (0, 0)
