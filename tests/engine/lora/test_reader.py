"""An adapter that does not fit its base, or is damaged, is refused with what is wrong and what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from servery.engine.adapter_source import AdapterInfo, AdapterSource
from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.lora.reader import read_adapter
from servery.engine.lora.sites import adapter_values
from tests.engine import checkpoints
from tests.engine.lora import adapters

PREFIX = "base_model.model."
Q0 = "model.layers.0.self_attn.q_proj"
UP0 = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig.load(checkpoints.save(checkpoints.qwen3(), tmp_path_factory.mktemp("base")))


def read(folder: Path, base: ModelConfig, max_rank: int = 8) -> AdapterInfo:
    return read_adapter(AdapterSource("a", folder), 1, base, max_rank).info


def changed(folder: Path, change: Callable[[dict[str, Tensor]], None]) -> Path:
    """Rewrite the weights of an adapter."""
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return adapters.save(tmp_path / "a", checkpoints.qwen3(), targets=("q_proj", "up_proj"))


def test_an_adapter_of_every_module_takes_the_memory_that_is_reserved_for_it(tmp_path: Path, base: ModelConfig) -> None:
    info = read(adapters.save(tmp_path / "a", checkpoints.qwen3(), rank=8), base)
    assert info == AdapterInfo(adapter_id=1, name="a", rank=8, num_modules=21, nbytes=4 * adapter_values(base, 8))


def test_tensors_may_lack_the_prefix_of_peft(folder: Path, base: ModelConfig) -> None:
    def strip(tensors: dict[str, Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix(PREFIX)] = tensors.pop(name)

    assert read(changed(folder, strip), base).num_modules == 6


def test_weights_in_half_precision_are_read(folder: Path, base: ModelConfig) -> None:
    def halve(tensors: dict[str, Tensor]) -> None:
        tensors.update({name: tensor.half() for name, tensor in tensors.items()})

    assert read(changed(folder, halve), base).num_modules == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(f"{PREFIX}{Q0}.lora_A.weight"), f"lacks {Q0}.lora_A. Save or download it again"),
        (
            lambda t: [t.pop(f"{PREFIX}{UP0}.lora_{letter}.weight") for letter in "AB"],
            f"lacks {UP0}.lora_A, {UP0}.lora_B",
        ),
        (lambda t: [t.pop(name) for name in list(t)[:9]], "and 6 more"),
        (
            lambda t: t.update({f"{PREFIX}{Q0}.lora_A.weight": torch.zeros(4, 63)}),
            r"has shape \[4, 63\]; by adapter_config.json and the base it must be \[4, 64\]. Is it the adapter of another",
        ),
        (
            lambda t: t.update({f"{PREFIX}{Q0}.lora_B.weight": torch.zeros(128, 5)}),
            r"has shape \[128, 5\]; .* it must be \[128, 4\]",
        ),
        (
            lambda t: t.update({f"{PREFIX}{Q0}.lora_B.weight": torch.full((128, 4), float("nan"))}),
            "values that are no finite numbers",
        ),
        (
            lambda t: t.update({f"{PREFIX}{Q0}.lora_B.weight": torch.full((128, 4), 3e38)}),
            "become none when they are multiplied by lora_alpha",
        ),
        (
            lambda t: t.update({f"{PREFIX}{Q0}.lora_B.weight": torch.zeros(128, 4, dtype=torch.int8)}),
            "is stored as I8; adapters are F32, BF16, F16",
        ),
        (lambda t: t.update({f"{Q0}.lora_A.weight": torch.zeros(4, 64)}), "with and without PEFT's prefix"),
        (
            lambda t: t.update({f"{PREFIX}{Q0}.lora_magnitude_vector": torch.zeros(4)}),
            "belongs to DoRA, which is not supported; merge the adapter into its base",
        ),
        (lambda t: t.update({f"{PREFIX}model.embed_tokens.lora_embedding_A": torch.zeros(4)}), "adapts the embedding"),
        (lambda t: t.update({f"{PREFIX}lm_head.lora_A.weight": torch.zeros(4, 64)}), "the embedding and the head cannot"),
        (lambda t: t.update({f"{PREFIX}lm_head.weight": torch.zeros(4, 64)}), "is neither A nor B of a LoRA pair"),
        (
            lambda t: t.update({f"{PREFIX}model.layers.3.self_attn.q_proj.lora_A.weight": torch.zeros(4, 64)}),
            "which the base does not have or cannot adapt: is it the adapter of another model",
        ),
        (
            lambda t: t.update({f"{PREFIX}model.layers.0.mlp.experts.1.up_proj.lora_A.weight": torch.zeros(4, 64)}),
            "experts and routers of a mixture cannot be adapted. Adapted can be .*q_proj, k_proj",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(
    folder: Path, base: ModelConfig, change: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    with pytest.raises(LoadError, match=f"adapter_model.safetensors.*{message}"):
        read(changed(folder, change), base)


def test_a_rank_above_the_limit_says_which_flag_raises_it(folder: Path, base: ModelConfig) -> None:
    with pytest.raises(
        LoadError, match="the rank is 4, and the engine takes adapters up to rank 2; start it with --max-lora-rank 4"
    ):
        read(folder, base, max_rank=2)


def test_a_truncated_file_is_called_damaged(folder: Path, base: ModelConfig) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(LoadError, match=r"adapter_model.safetensors is damaged .* bytes. Download it again"):
        read(folder, base)


def test_a_file_in_another_format_is_named(folder: Path, base: ModelConfig) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(LoadError, match=r"has no adapter_model\.safetensors\. It has adapter_model\.bin: convert it"):
        read(folder, base)


@pytest.mark.parametrize(
    ("fields", "tensor", "field"),
    [
        ({"target_modules": ["up_proj"]}, Q0, "target_modules"),
        ({"target_modules": "all-linear", "exclude_modules": ["mlp.up_proj"]}, UP0, "exclude_modules"),
        ({"layers_to_transform": [1, 2]}, UP0, "layers_to_transform"),
    ],
)
def test_matrices_that_the_config_leaves_out_are_not_applied(
    fields: dict[str, Any], tensor: str, field: str, tmp_path: Path, base: ModelConfig
) -> None:
    """PEFT does not apply them; taking them for meant gave another model than the one that was trained."""
    folder = adapters.save(tmp_path / "a", checkpoints.qwen3(), targets=("q_proj", "up_proj"), **fields)
    message = rf"lora_A\.weight adapts {tensor}, which adapter_config\.json leaves out \({field}\): remove the tensor"
    with pytest.raises(LoadError, match=message.replace("layers.0", r"layers\.\d").replace(".self", r"\.self")):
        read(folder, base)


def test_an_adapter_that_targets_nothing_is_refused(tmp_path: Path, base: ModelConfig) -> None:
    folder = adapters.write(tmp_path / "a", {}, target_modules=["nothing"])
    with pytest.raises(LoadError, match="target_modules names nothing that can be adapted, here q_proj, k_proj"):
        read(folder, base)


@pytest.mark.parametrize("name", ["", "a:b", "-a", "a b", "x" * 101, "a=b", "ä"])
def test_a_name_that_could_not_be_asked_for_is_refused(name: str) -> None:
    with pytest.raises(LoadError, match="cannot be used; take up to 100 letters"):
        AdapterSource(name, Path("x"))
