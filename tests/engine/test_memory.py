"""The KV plan: sizes are decided in bytes before anything is allocated, and every refusal carries its numbers."""

from pathlib import Path
from typing import Any

import pytest

from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError, NotEnoughMemory
from servery.engine.memory import DEFAULT_KV_BYTES, RESERVE_BYTES, KVPlan, advice, plan_kv

MIB = 1 << 20


def plan(config: EngineConfig, *, available: int | None = 64 << 30, kv_bytes_per_token: int = 2048) -> KVPlan:
    return plan_kv(
        config,
        max_position=2048,
        kv_bytes_per_token=kv_bytes_per_token,
        weight_bytes=10 * MIB,
        available=available,
    )


def config(**settings: Any) -> EngineConfig:
    return EngineConfig(model=Path("m"), **settings)


def test_default_is_what_all_running_contexts_need() -> None:
    """64 running contexts of 2,048 tokens at 2 KiB each are 256 MiB."""
    assert plan(config()) == KVPlan(
        num_blocks=8192, block_size=16, max_model_len=2048, kv_bytes=256 * MIB, weight_bytes=10 * MIB
    )


def test_default_never_exceeds_four_gib() -> None:
    assert plan(config(), kv_bytes_per_token=131072).kv_bytes == DEFAULT_KV_BYTES


def test_default_leaves_half_of_what_the_weights_leave() -> None:
    available = RESERVE_BYTES + 10 * MIB + 100 * MIB
    assert plan(config(), available=available).kv_bytes == 50 * MIB


def test_asked_memory_is_taken_to_the_block() -> None:
    assert plan(config(kv_memory_bytes=9 * MIB + 5)).num_blocks == 9 * 32


def test_unknown_memory_is_no_limit() -> None:
    assert plan(config(kv_memory_bytes=8 << 30), available=None).kv_bytes == 8 << 30


def test_weights_that_do_not_fit_are_refused_with_both_numbers() -> None:
    with pytest.raises(LoadError, match=r"weights need 10 MiB .* 100 MiB are available"):
        plan(config(), available=100 * MIB)


def test_kv_memory_beyond_the_machine_is_refused() -> None:
    with pytest.raises(LoadError, match=r"--kv-memory asks for 2 GiB, .* 100 MiB are available"):
        plan(config(kv_memory_bytes=2 << 30), available=RESERVE_BYTES + 110 * MIB)


def test_kv_memory_below_one_context_says_what_would_do() -> None:
    with pytest.raises(
        LoadError,
        match=r"2048 tokens needs 4 MiB, .* hold 512.* Raise --kv-memory to 4194304 bytes, or lower --max-model-len to 512",
    ):
        plan(config(kv_memory_bytes=1 * MIB))


def test_kv_memory_below_one_block_does_not_advise_a_length_of_zero() -> None:
    with pytest.raises(LoadError, match=r"or lower --max-model-len, or take --kv-dtype int8\.$"):
        plan(config(kv_memory_bytes=1))


def test_blocks_larger_than_the_context_are_refused() -> None:
    with pytest.raises(LoadError, match="--block-size is 4096 and the context 2048 tokens"):
        plan(config(block_size=4096))


def test_longer_than_the_model_was_made_for_is_refused() -> None:
    with pytest.raises(LoadError, match="--max-model-len is 4096, but the model was made for 2048"):
        plan(config(max_model_len=4096))


def test_what_the_operator_grants_is_a_limit_too() -> None:
    granted = RESERVE_BYTES + 10 * MIB + 100 * MIB
    assert plan(config(memory_bytes=granted)).kv_bytes == 50 * MIB
    assert plan(config(memory_bytes=granted), available=None).kv_bytes == 50 * MIB
    with pytest.raises(NotEnoughMemory, match=r"547356672 bytes in all .* 100 MiB are available \(--memory\)"):
        plan(config(memory_bytes=100 * MIB))


def test_a_machine_with_less_than_was_granted_is_the_limit() -> None:
    with pytest.raises(NotEnoughMemory, match=r"100 MiB are available\. Free"):
        plan(config(memory_bytes=64 << 30), available=100 * MIB)


def test_where_memory_is_short_nobody_is_told_to_take_more_of_it() -> None:
    """One context needs 4 MiB, and 3 MiB are left: --kv-memory cannot help."""
    available = RESERVE_BYTES + 10 * MIB + 3 * MIB
    with pytest.raises(NotEnoughMemory) as caught:
        plan(config(), available=available)
    assert str(caught.value) == (
        "not enough KV memory: one context of 2048 tokens needs 4 MiB, but 1.5 MiB hold 768. Lower --max-model-len to "
        "768, or free 1048576 bytes of memory, or take --kv-dtype int8."
    )
    assert caught.value.needed_bytes == available + 1 * MIB


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"draft_model": None},
            "take --kv-dtype int8, or take --quantize int8 or int4 if the weights are stored unquantized",
        ),
        (
            {"kv_dtype": "fp8", "quantize": "int8", "speculate": "draft", "draft_model": Path("d")},
            "leave --draft-model out, or take --quantize int4 if the weights are stored unquantized",
        ),
    ],
    ids=["nothing tried", "most tried"],
)
def test_only_flags_that_would_help_are_named(settings: dict[str, Any], said: str) -> None:
    assert advice(config(**settings)) == f"lower --kv-memory or --max-model-len, or {said}, or serve a smaller model"
    tried = config(kv_dtype="int8", quantize="int4")
    assert advice(tried) == "lower --kv-memory or --max-model-len, or serve a smaller model"


def test_a_plan_says_what_it_is_for() -> None:
    assert str(plan(config(kv_memory_bytes=8 * MIB))) == (
        "555745280 bytes (10 MiB for weights, 8 MiB for the KV cache, 512 MiB for the process)"
    )
