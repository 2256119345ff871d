"""The core on a real model: what a request gets does not depend on who shares its steps."""

import dataclasses
import gc
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servery.engine.architecture import ModelConfig
from servery.engine.config import EngineConfig
from servery.engine.core import EngineCore
from servery.engine.dtype import resolve_dtype
from servery.engine.errors import CannotSleep, InvalidRequest, LoadError, NotEnoughMemory, PromptTooLong
from servery.engine.memory import KVPlan, plan_kv
from servery.engine.quantization.scheme import plan_rounding
from servery.engine.request import FinishReason, NewRequest, Output, SamplingParams
from tests.engine import tiny_model

PROMPTS = [[7 + (3 * row * position) % 250 for position in range(5 + 13 * row)] for row in range(8)]
SHARED = [[*range(10, 90), 100 + row] for row in range(4)]


def core_of(model: Path, **changes: object) -> EngineCore:
    return EngineCore(EngineConfig(model=model, threads=1, max_model_len=256, **changes))  # type: ignore[arg-type]


def request(number: int, prompt: list[int], **params: object) -> NewRequest:
    settings = {"max_tokens": 24, "ignore_eos": True, **params}
    return NewRequest(request_id=f"r{number}", prompt=prompt, params=SamplingParams(**settings))  # type: ignore[arg-type]


def run(core: EngineCore, requests: Iterable[NewRequest] = (), seed: int = 1) -> dict[tuple[str, int], list[Output]]:
    """Everything that comes out until nothing is left to do."""
    for number, one in enumerate(requests):
        core.add(one, seed + number)
    outputs: dict[tuple[str, int], list[Output]] = {}
    while core.has_work:
        for output in core.step():
            outputs.setdefault((output.request_id, output.index), []).append(output)
        core.scheduler.check_integrity()
    return outputs


def tokens(outputs: dict[tuple[str, int], list[Output]]) -> dict[tuple[str, int], list[int]]:
    return {key: [token for output in row for token in output.token_ids] for key, row in outputs.items()}


def alone(model: Path, requests: list[NewRequest], seed: int = 1) -> dict[tuple[str, int], list[int]]:
    """What each request gets with a core of its own, without prefix cache, its prompt in one chunk."""
    result: dict[tuple[str, int], list[int]] = {}
    for number, one in enumerate(requests):
        result |= tokens(run(core_of(model, prefix_cache=False), [one], seed + number))
    return result


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.0},
        {"temperature": 1.0, "seed": 7, "top_p": 0.9},
        {"temperature": 0.8, "seed": 3, "top_k": 20, "repetition_penalty": 1.2, "frequency_penalty": 0.3},
    ],
    ids=["greedy", "top-p", "penalties"],
)
@pytest.mark.parametrize("changes", [{}, {"max_step_tokens": 16, "max_running": 4}, {"block_size": 4}])
def test_tokens_do_not_depend_on_the_batch(tiny: Path, params: dict[str, object], changes: dict[str, object]) -> None:
    requests = [request(number, prompt, **params) for number, prompt in enumerate(PROMPTS)]
    assert tokens(run(core_of(tiny, **changes), requests)) == alone(tiny, requests)


def test_hot_sampling_in_a_wide_batch_is_as_alone(tiny: Path) -> None:
    """A product of 48 rows rounds differently from one of a single row; at this temperature anything may be drawn."""
    requests = [request(number, PROMPTS[number % 8], temperature=1.5, max_tokens=12) for number in range(48)]
    assert tokens(run(core_of(tiny), requests)) == alone(tiny, requests)


def test_tokens_do_not_depend_on_cache_hits(tiny: Path) -> None:
    requests = [request(number, prompt, temperature=0.7) for number, prompt in enumerate(SHARED)]
    core = core_of(tiny)
    first = run(core, requests[:1])
    rest = run(core, requests[1:], seed=2)
    assert tokens(first) | tokens(rest) == alone(tiny, requests)
    assert [row[0].cached_tokens for row in rest.values()] == [80, 80, 80]


def test_tokens_do_not_depend_on_preemption(tiny: Path) -> None:
    """22 blocks of 16 hold six prompts but not their answers."""
    requests = [request(number, prompt, temperature=0.7, max_tokens=60) for number, prompt in enumerate(PROMPTS[:6])]
    core = core_of(tiny, kv_memory_bytes=22 * 16 * core_of(tiny).info.kv_bytes_per_token)
    assert tokens(run(core, requests)) == alone(tiny, requests)
    assert core.stats().scheduler.preemptions > 0


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    order=st.permutations(range(8)),
    max_step_tokens=st.sampled_from([8, 17, 64, 256]),
    block_size=st.sampled_from([1, 4, 16]),
    steps_between=st.integers(0, 5),
)
def test_tokens_do_not_depend_on_arrival(
    tiny: Path, order: list[int], max_step_tokens: int, block_size: int, steps_between: int
) -> None:
    core = core_of(tiny, max_step_tokens=max_step_tokens, max_running=8, block_size=block_size)
    outputs: dict[str, list[int]] = {}
    for number in order:
        core.add(request(number, PROMPTS[number], temperature=0.9, max_tokens=8), 1 + number)
        for _ in range(steps_between):
            for output in core.step():
                outputs.setdefault(output.request_id, []).extend(output.token_ids)
    for (request_id, _), row in run(core).items():
        outputs.setdefault(request_id, []).extend(token for output in row for token in output.token_ids)
    requests = [request(number, prompt, temperature=0.9, max_tokens=8) for number, prompt in enumerate(PROMPTS)]
    expected = {request_id: row for (request_id, _), row in alone(tiny, requests).items()}
    assert outputs == expected


KV_DTYPES = pytest.mark.parametrize("kv_dtype", ["bfloat16", "int8", "fp8"])


@KV_DTYPES
def test_tokens_do_not_depend_on_company_with_a_smaller_kv(tiny: Path, kv_dtype: str) -> None:
    """In chunks, over shared blocks, preempted and computed again, as with a cache that keeps everything."""
    rows = [*PROMPTS[:5], *SHARED]
    requests = [request(number, prompt, temperature=0.7, max_tokens=60) for number, prompt in enumerate(rows)]
    bytes_per_token = core_of(tiny, kv_dtype=kv_dtype).info.kv_bytes_per_token
    changes = {"max_step_tokens": 17, "max_running": 8, "kv_memory_bytes": 24 * 16 * bytes_per_token}
    core = core_of(tiny, kv_dtype=kv_dtype, **changes)
    together = tokens(run(core, requests))
    expected: dict[tuple[str, int], list[int]] = {}
    for number, one in enumerate(requests):
        expected |= tokens(run(core_of(tiny, kv_dtype=kv_dtype, prefix_cache=False), [one], 1 + number))
    assert together == expected
    stats = core.stats().scheduler
    assert stats.preemptions > 0
    assert stats.prefix_hit_tokens > 0


@KV_DTYPES
def test_a_smaller_kv_holds_more_tokens_and_says_so(tiny: Path, kv_dtype: str) -> None:
    config = ModelConfig.load(tiny)
    scales = 0 if kv_dtype == "bfloat16" else 2
    width = {"bfloat16": 2, "int8": 1, "fp8": 1}[kv_dtype]
    info = core_of(tiny, kv_dtype=kv_dtype, kv_memory_bytes=1 << 20).info
    per_token = 2 * config.num_layers * config.num_kv_heads * (config.head_dim * width + scales)
    assert (info.kv_dtype, info.kv_bytes_per_token) == (kv_dtype, per_token)
    assert info.num_blocks == (1 << 20) // (16 * per_token)
    assert info.kv_bytes == info.num_blocks * 16 * per_token


def test_awq_is_calibrated_in_float32_whatever_the_model_computes_in(tiny: Path) -> None:
    """Computed in bfloat16, the embedding is bfloat16 while the layers being rounded are float32."""
    core = core_of(tiny, quantize="int4", group_size=32, dtype="bfloat16")
    assert core.info.weight_bytes < core_of(tiny, dtype="bfloat16").info.weight_bytes
    assert len(tokens(run(core, [request(0, PROMPTS[2])]))[("r0", 0)]) == 24


def test_a_kv_dtype_that_nobody_knows_is_refused(tiny: Path) -> None:
    with pytest.raises(LoadError, match=r"kv_dtype is 'int3'; choose one of auto, float32, bfloat16, int8, fp8"):
        core_of(tiny, kv_dtype="int3")


def test_completions_of_one_request_share_the_prompt_and_differ(tiny: Path) -> None:
    core = core_of(tiny)
    outputs = run(core, [request(0, SHARED[0], n=3, temperature=1.0)])
    assert [row[0].cached_tokens for row in outputs.values()] == [0, 80, 80]
    assert len({tuple(row) for row in tokens(outputs).values()}) == 3


def test_logprobs_are_those_of_the_model(tiny: Path) -> None:
    """The log probabilities given with generated tokens equal those of scoring prompt + answer in one go."""
    core = core_of(tiny, max_step_tokens=16, max_running=4)
    outputs = run(core, [request(0, PROMPTS[3], logprobs=3, temperature=0.7)])[("r0", 0)]
    answer = [token for output in outputs for token in output.token_ids]
    given_scores = [score for output in outputs for score in output.logprobs]
    scored = run(core, [request(1, PROMPTS[3] + answer, prompt_logprobs=3, max_tokens=1)])[("r1", 0)]
    prompt_scores = scored[0].prompt_logprobs
    assert prompt_scores[0] is None
    assert len(prompt_scores) == len(PROMPTS[3]) + len(answer)
    for score, expected in zip(given_scores, prompt_scores[len(PROMPTS[3]) :], strict=True):
        assert expected is not None
        assert score.token_id == expected.token_id
        assert score.logprob == pytest.approx(expected.logprob, abs=1e-4)
        assert [token for token, _ in score.top] == [token for token, _ in expected.top]


def test_embedding_does_not_depend_on_chunks_or_company(tiny: Path) -> None:
    def embed(core: EngineCore, company: list[NewRequest]) -> list[float]:
        pooled = NewRequest(request_id="e", prompt=SHARED[0], pooling=True)
        return run(core, [*company, pooled])[("e", 0)][-1].embedding

    whole = embed(core_of(tiny), [])
    chunked = embed(core_of(tiny, max_step_tokens=8, max_running=4), [request(0, SHARED[0])])
    assert chunked == pytest.approx(whole, abs=1e-5)
    assert len(whole) == core_of(tiny).info.hidden_size


def test_abort_in_the_middle_frees_everything(tiny: Path) -> None:
    core = core_of(tiny, max_step_tokens=16, max_running=4)
    core.add(request(0, SHARED[0], n=2), 1)
    core.add(NewRequest(request_id="e", prompt=SHARED[1], pooling=True), 1)
    core.step()
    core.abort("r0", 1)
    core.abort("r0")
    core.abort("e")
    core.abort("never seen")
    stats = core.stats().scheduler
    assert (core.has_work, stats.held_blocks, stats.finished_abort) == (False, 0, 3)
    core.scheduler.check_integrity()


def test_a_step_that_raises_fails_its_requests_and_no_others(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = core_of(tiny)

    def broken(*_: object) -> None:
        raise RuntimeError("no memory for activations")

    core.add(request(0, PROMPTS[0]), 1)
    with monkeypatch.context() as patch:
        patch.setattr(core._runner._model, "forward", broken)
        (output,) = core.step()
    assert output.finish_reason is FinishReason.ERROR
    assert "no memory for activations" in (output.error or "")
    core.scheduler.check_integrity()
    assert len(tokens(run(core, [request(1, PROMPTS[1])]))[("r1", 0)]) == 24
    assert core.stats().failed_steps == 1


def test_requests_that_can_never_be_served_are_refused(tiny: Path) -> None:
    core = core_of(tiny)
    with pytest.raises(PromptTooLong, match="300 tokens and the context is 256"):
        core.add(request(0, [5] * 300), 1)
    with pytest.raises(InvalidRequest, match="logit_bias"):
        core.add(request(0, [5], logit_bias={10**6: 1.0}), 1)
    with pytest.raises(InvalidRequest, match="token ids"):
        core.check(request(0, [10**6]))
    assert not core.has_work


def test_bytes_read_count_weights_once_per_step_and_every_context(tiny: Path) -> None:
    core = core_of(tiny)
    run(core, [request(0, PROMPTS[0], max_tokens=2)])
    stats, info = core.stats(), core.info
    assert stats.steps == 2
    assert stats.read_bytes == 2 * info.weight_bytes + (5 + 6) * info.kv_bytes_per_token


def test_not_enough_memory_is_said_before_loading(tiny: Path) -> None:
    with pytest.raises(LoadError, match="one context of 256 tokens needs"):
        core_of(tiny, kv_memory_bytes=1000)


@pytest.mark.parametrize(
    ("name", "num_layers", "checkpoint", "expected"),
    [
        ("float32", 400, "bfloat16", torch.float32),
        ("bfloat16", 3, "float32", torch.bfloat16),
        ("auto", 3, "bfloat16", torch.float32),
        ("auto", 400, "float16", torch.float32),
        ("auto", 400, "float32", torch.float32),
    ],
)
def test_dtype_is_what_was_asked_for_or_what_serves_best(
    tiny: Path, name: str, num_layers: int, checkpoint: str, expected: torch.dtype
) -> None:
    config = dataclasses.replace(ModelConfig.load(tiny), num_layers=num_layers, dtype=checkpoint)
    assert resolve_dtype(name, config) is expected


def test_a_large_bfloat16_checkpoint_stays_so_where_the_machine_can(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = dataclasses.replace(ModelConfig.load(tiny), num_layers=400, dtype="bfloat16")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert resolve_dtype("auto", config) is torch.bfloat16
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert resolve_dtype("auto", config) is torch.float32


def test_the_runner_forgets_a_sequence_with_its_end(tiny: Path) -> None:
    """One that finishes, and one that is aborted in the middle of its embedding."""
    core = core_of(tiny, max_step_tokens=16, max_running=4)
    run(core, [request(0, PROMPTS[1], repetition_penalty=1.5)])
    core.add(NewRequest(request_id="e", prompt=SHARED[1], pooling=True), 1)
    core.step()
    assert len(core._runner._sums) == 1
    core.abort("e")
    gc.collect()
    assert (len(core._runner._sums), len(core._runner._rows._histories)) == (0, 0)


@pytest.mark.parametrize(("scheme", "bits"), [("int8", 8), ("int4", 4)])
def test_quantized_weights_take_fewer_bytes_and_give_the_same_tokens_in_any_company(
    tiny: Path, scheme: str, bits: int
) -> None:
    requests = [request(number, prompt, temperature=0.0) for number, prompt in enumerate(PROMPTS[:4])]
    core = core_of(tiny, quantize=scheme, quantize_method="round", kernels="torch")
    plan = plan_rounding(ModelConfig.load(tiny), scheme)
    assert min(rounding.bits for rounding in plan.roundings.values()) == bits
    assert (core.info.quantization, core.info.weight_dtype, core_of(tiny).info.weight_dtype) == (
        scheme,
        scheme,
        "float32",
    )
    dense = core_of(tiny, kernels="torch").info.weight_bytes
    assert core.info.weight_bytes - plan.weight_bytes(ModelConfig.load(tiny), 4) == dense - core.info.parameters * 4
    for kernels in ("torch", "auto"):
        settings = {"quantize": scheme, "quantize_method": "round", "kernels": kernels}
        found = tokens(run(core_of(tiny, **settings), requests))
        for number, one in enumerate(requests):
            assert found == found | tokens(run(core_of(tiny, **settings), [one], 1 + number))


def test_memory_is_planned_for_the_weights_as_they_will_be_held(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[int] = []

    def plan(config: EngineConfig, *, weight_bytes: int, **facts: object) -> KVPlan:
        planned.append(weight_bytes)
        return plan_kv(config, weight_bytes=weight_bytes, **facts)  # type: ignore[arg-type]

    monkeypatch.setattr("servery.engine.loaded_model.plan_kv", plan)
    for scheme in (None, "int8"):
        core_of(tiny, quantize=scheme)
    config = ModelConfig.load(tiny)
    assert planned == [config.weight_bytes(4), plan_rounding(config, "int8").weight_bytes(config, 4)]


def test_quantization_that_cannot_be_done_is_refused_before_anything_is_loaded(tiny: Path) -> None:
    with pytest.raises(LoadError, match=r"group_size 128 does not divide the 64 input features of model\.layers\.0"):
        core_of(tiny, quantize="int4", group_size=128)
    with pytest.raises(LoadError, match="quantize is 'int5'; choose one of int8, int4"):
        core_of(tiny, quantize="int5")


def test_every_step_says_beforehand_how_long_it_should_take(tiny: Path) -> None:
    """Whoever watches over the loop can tell a long step from a hang."""
    expected: list[float | None] = []
    core = EngineCore(EngineConfig(model=tiny, threads=1, max_model_len=256), before_step=expected.append)
    run(core, [request(0, PROMPTS[0], max_tokens=4)])
    assert expected[0] is None
    assert len(expected) == core.stats().steps == 4
    assert all(seconds is not None and seconds > 0 for seconds in expected[1:])


@pytest.fixture(scope="session")
def swappable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose matrices are large enough to leave memory."""
    return tiny_model.save(tmp_path_factory.mktemp("swappable"), hidden_size=256, intermediate_size=512)


@pytest.mark.parametrize("kernels", ["torch", "auto"])
@pytest.mark.parametrize("settings", [{}, {"quantize": "int8"}, {"kv_dtype": "int8"}], ids=["plain", "int8", "int8 KV"])
def test_a_model_that_slept_answers_as_before_and_has_forgotten_what_was_cached(
    swappable: Path, settings: dict[str, object], kernels: str
) -> None:
    core = core_of(swappable, kernels=kernels, **settings)
    before = tokens(run(core, [request(0, SHARED[0])]))
    for _ in range(2):
        freed_bytes = core.sleep()
        assert freed_bytes > core.info.kv_bytes
        core.wake()
        outputs = run(core, [request(0, SHARED[0])])
        assert tokens(outputs) == before
        assert outputs["r0", 0][0].cached_tokens == 0


def test_a_draft_model_sleeps_with_the_one_that_it_drafts_for(swappable: Path) -> None:
    core = core_of(swappable, speculate="draft", draft_model=swappable)
    alone_bytes = core_of(swappable).sleep()
    before = tokens(run(core, [request(0, SHARED[0], temperature=0.0)]))
    # Its cache and its weights besides; what kernels packed of both may lie in one arena.
    assert core.sleep() > alone_bytes + core.info.draft_kv_bytes
    core.wake()
    assert tokens(run(core, [request(0, SHARED[0], temperature=0.0)])) == before


def test_nobody_sleeps_at_work(tiny: Path) -> None:
    core = core_of(tiny)
    core.add(request(0, PROMPTS[0]), 1)
    with pytest.raises(CannotSleep, match="requests are under way"):
        core.sleep()
    assert len(tokens(run(core))["r0", 0]) == 24


def test_waking_without_the_memory_for_it_is_refused_and_can_be_tried_again(
    swappable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    core = core_of(swappable)
    before = tokens(run(core, [request(0, SHARED[0])]))
    core.sleep()
    with monkeypatch.context() as patch:
        patch.setattr("servery.engine.core.available_bytes", lambda: 1000)
        with pytest.raises(NotEnoughMemory, match=r"the weights need \d+ bytes again, but 1000 B are available"):
            core.wake()
    core.wake()
    assert tokens(run(core, [request(0, SHARED[0])])) == before
