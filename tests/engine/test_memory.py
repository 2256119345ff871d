"""The KV plan: sizes are decided in bytes before anything is allocated, and every refusal carries its numbers."""

from pathlib import Path

import pytest

from servery.engine.config import EngineConfig
from servery.engine.errors import LoadError
from servery.engine.memory import DEFAULT_KV_BYTES, RESERVE_BYTES, KVPlan, available_bytes, plan_kv

MIB = 1 << 20


def plan(config: EngineConfig, *, available: int | None = 64 << 30, kv_bytes_per_token: int = 2048) -> KVPlan:
    return plan_kv(
        config,
        max_position=2048,
        kv_bytes_per_token=kv_bytes_per_token,
        weight_bytes=10 * MIB,
        available=available,
    )


def config(**settings: int) -> EngineConfig:
    return EngineConfig(model=Path("m"), **settings)  # type: ignore[arg-type]


def test_default_is_what_all_running_contexts_need() -> None:
    """64 running contexts of 2,048 tokens at 2 KiB each are 256 MiB."""
    assert plan(config()) == KVPlan(num_blocks=8192, block_size=16, max_model_len=2048, kv_bytes=256 * MIB)


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
        LoadError, match=r"2048 tokens needs 4 MiB, .* hold 512.* to 4194304 bytes, or lower --max-model-len to 512"
    ):
        plan(config(kv_memory_bytes=1 * MIB))


def test_kv_memory_below_one_block_does_not_advise_a_length_of_zero() -> None:
    with pytest.raises(LoadError, match=r"or lower --max-model-len\.$"):
        plan(config(kv_memory_bytes=1))


def test_blocks_larger_than_the_context_are_refused() -> None:
    with pytest.raises(LoadError, match="--block-size is 4096 and the context 2048 tokens"):
        plan(config(block_size=4096))


def test_longer_than_the_model_was_made_for_is_refused() -> None:
    with pytest.raises(LoadError, match="--max-model-len is 4096, but the model was made for 2048"):
        plan(config(max_model_len=4096))


def test_available_is_the_smaller_of_system_and_container(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:   50 kB\n")
    (tmp_path / "memory.max").write_text("40960\n")
    (tmp_path / "memory.current").write_text("10240\n")
    assert available_bytes(meminfo, tmp_path) == 30720
    (tmp_path / "memory.stat").write_text("anon 1024\ninactive_file 8192\nactive_file 1024\n")
    assert available_bytes(meminfo, tmp_path) == 30720 + 8192, "files that were read are no lost memory"
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 51200


def test_available_is_unknown_where_the_system_does_not_tell(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "none", tmp_path / "none") is None
