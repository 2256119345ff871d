"""The places for adapters are bounded, and the deltas go over any kind of linear."""

from pathlib import Path

import pytest
import torch

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.architecture import ModelConfig
from servery.engine.config import EngineConfig
from servery.engine.constraint import Constraint, ConstraintKind
from servery.engine.core import EngineCore
from servery.engine.errors import LoadError
from servery.engine.linear import QuantizedLinear, linear_of
from servery.engine.lora.adapted import ActiveRows, AdaptedLinear
from servery.engine.lora.adapter import Adapter, Delta
from servery.engine.lora.sites import adapter_values
from servery.engine.memory import RESERVE_BYTES, plan_kv
from servery.engine.quantization.matrix import Float8Matrix
from servery.engine.request import FinishReason, NewRequest, SamplingParams
from tests.engine import checkpoints, tiny_model
from tests.engine.lora import adapters


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoints.save(checkpoints.qwen3(), tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return adapters.save(tmp_path_factory.mktemp("adapter"), checkpoints.qwen3(), targets=("q_proj",))


def core_of(model: Path, **changes: object) -> EngineCore:
    return EngineCore(EngineConfig(model=model, threads=1, max_model_len=256, **changes))  # type: ignore[arg-type]


def test_without_places_nothing_is_wrapped_and_nothing_can_be_loaded(base: Path, folder: Path) -> None:
    core = core_of(base)
    assert core.adapters._adapted is core.adapters._plain
    assert core.info.adapter_reserve_bytes == 0
    with pytest.raises(LoadError, match="'a' cannot be loaded: the engine was started without max_loras"):
        core.load_adapter(1, AdapterSource("a", folder))


def test_a_full_pool_names_who_is_in_it(base: Path, folder: Path) -> None:
    core = core_of(base, max_loras=2)
    core.load_adapter(1, AdapterSource("a", folder))
    core.load_adapter(2, AdapterSource("b", folder))
    with pytest.raises(LoadError, match="'c' has no place: 2 are held, 'a', 'b', and max_loras is 2; unload one"):
        core.load_adapter(3, AdapterSource("c", folder))
    core.unload_adapter(1)
    core.load_adapter(4, AdapterSource("c", folder))
    assert core.stats().adapters == 2


def test_an_adapter_that_cannot_be_read_takes_no_place(base: Path, folder: Path, tmp_path: Path) -> None:
    core = core_of(base, max_loras=1)
    with pytest.raises(LoadError, match=r"has no adapter_config\.json"):
        core.load_adapter(1, AdapterSource("a", tmp_path))
    core.load_adapter(2, AdapterSource("a", folder))


def test_memory_for_adapters_is_set_aside_before_the_cache_is_planned(base: Path) -> None:
    config = EngineConfig(model=base, max_loras=3, max_lora_rank=16)
    model = ModelConfig.load(base)
    reserve_bytes = 3 * 4 * adapter_values(model, 16)
    assert core_of(base, max_loras=3, max_lora_rank=16).info.adapter_reserve_bytes == reserve_bytes
    available = RESERVE_BYTES + 1000 + reserve_bytes
    facts = {"max_position": 256, "kv_bytes_per_token": 4, "weight_bytes": 1000}
    with pytest.raises(LoadError, match=r"are for adapters \(--max-loras, --max-lora-rank\)"):
        plan_kv(config, available=available, adapter_bytes=reserve_bytes, **facts)
    roomier = available + (1 << 20)
    kept = plan_kv(config, available=roomier, adapter_bytes=reserve_bytes, **facts).kv_bytes
    assert kept == plan_kv(config, available=roomier - reserve_bytes, **facts).kv_bytes


@pytest.mark.parametrize("changes", [{"max_loras": -1}, {"max_loras": 0, "adapters": ("a",)}, {"max_lora_rank": 0}])
def test_settings_outside_their_range_are_refused(base: Path, changes: dict[str, object]) -> None:
    changes |= {"adapters": tuple(AdapterSource(name, base) for name in changes.pop("adapters", ()))}  # type: ignore[attr-defined]
    with pytest.raises(LoadError, match=r"max_lora(s|_rank) is -?\d"):
        EngineConfig(model=base, **changes)  # type: ignore[arg-type]


def test_two_adapters_of_one_name_are_refused(base: Path) -> None:
    twice = (AdapterSource("a", base), AdapterSource("a", base))
    with pytest.raises(LoadError, match="two adapters are named 'a'"):
        EngineConfig(model=base, adapters=twice)


def test_rows_of_a_quantized_linear_get_their_own_adapter_s_delta() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=generator).to(torch.float8_e4m3fn)
    quantized = linear_of([Float8Matrix(weight, torch.full((6, 1), 0.5))])
    assert isinstance(quantized, QuantizedLinear)
    x, residual = torch.randn(5, 8, generator=generator), torch.randn(5, 6, generator=generator)
    halves = [torch.randn(2, 8, generator=generator), torch.randn(3, 2, generator=generator)]
    delta = Delta(halves[0].t().contiguous(), [(slice(3, 6), slice(0, 2), halves[1].t().contiguous())])
    info = AdapterInfo(adapter_id=1, name="a", rank=2, num_modules=1, nbytes=0)
    active = ActiveRows(((1, 3, Adapter(info, {"0.qkv": delta})), (4, 5, Adapter(info, {}))))
    adapted = AdaptedLinear(quantized, "0.qkv", active)

    expected = quantized(x)
    expected[1:3, 3:] += x[1:3] @ halves[0].t() @ halves[1].t()
    torch.testing.assert_close(adapted(x), expected)
    torch.testing.assert_close(adapted.add_to(residual, x), expected + residual)
    assert (adapted.shape, adapted.nbytes) == ((6, 8), quantized.nbytes)
    active.segments = ()
    assert torch.equal(adapted(x), quantized(x))


def test_an_unloaded_adapter_stays_for_a_request_that_waits_for_its_grammar(tmp_path: Path, folder: Path) -> None:
    core = core_of(tiny_model.save(tmp_path), max_loras=1)
    core.load_adapter(1, AdapterSource("a", folder))
    params = SamplingParams(
        max_tokens=12, temperature=0.0, constraint=Constraint(kind=ConstraintKind.REGEX, text="[a-z]{3}")
    )
    core.add(NewRequest(request_id="r", prompt=[5, 6], params=params, adapter=1), 1)
    core.unload_adapter(1)
    assert core.stats().adapter_bytes > 0
    outputs = []
    while core.has_work:
        outputs += core.step()
    assert outputs[-1].finish_reason is FinishReason.STOP
    assert core.stats().adapter_bytes == 0
