"""adapter_config.json means what it means to PEFT, and what cannot be honoured is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from servery.engine.errors import LoadError
from servery.engine.lora.adapter_config import AdapterConfig

Q0, K0, DOWN0 = (f"model.layers.0.{name}" for name in ("self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"))
Q1, Q12 = "model.layers.1.self_attn.q_proj", "model.layers.12.self_attn.q_proj"


def config(folder: Path, **fields: Any) -> AdapterConfig:
    written = {"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]} | fields
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return AdapterConfig.read(folder)


@pytest.mark.parametrize(
    ("fields", "targets"),
    [
        ({"target_modules": ["q_proj", "down_proj"]}, {Q0, Q1, Q12, DOWN0}),
        ({"target_modules": ["layers.1.self_attn.q_proj"]}, {Q1}),
        ({"target_modules": [K0]}, {K0}),
        ({"target_modules": "all-linear"}, {Q0, K0, DOWN0, Q1, Q12}),
        ({"target_modules": "All-Linear", "exclude_modules": ["q_proj"]}, {K0, DOWN0}),
        ({"target_modules": r".*layers\.1\d?\..*q_proj"}, {Q1, Q12}),
        ({"target_modules": "q_proj|k_proj"}, set()),  # a pattern has to match the whole name
        ({"exclude_modules": r".*\.1\..*"}, {Q0, Q12}),
        ({"layers_to_transform": 1}, {Q1}),
        ({"layers_to_transform": [0, 12]}, {Q0, Q12}),
        ({"layers_to_transform": []}, {Q0, Q1, Q12}),
        ({"layers_to_transform": [0], "layers_pattern": "layers"}, {Q0}),
        ({"layers_to_transform": [0], "layers_pattern": ["h", "blocks"]}, set()),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_targets_are_those_that_peft_would_choose(tmp_path: Path, fields: dict[str, Any], targets: set[str]) -> None:
    read = config(tmp_path, **fields)
    assert {module for module in (Q0, K0, DOWN0, Q1, Q12) if read.is_target(module)} == targets


def test_rank_and_scale_go_by_the_first_pattern_that_matches(tmp_path: Path) -> None:
    read = config(
        tmp_path, rank_pattern={"layers.1.self_attn.q_proj": 4, "q_proj": 2}, alpha_pattern={r".*layers\.0\..*": 32}
    )
    assert [(read.rank_of(module), read.scale_of(module)) for module in (Q0, Q1, Q12, K0)] == [
        (2, 16.0),
        (4, 4.0),
        (2, 8.0),
        (8, 4.0),
    ]


def test_a_rank_stabilized_scale_is_over_the_root_of_the_rank(tmp_path: Path) -> None:
    assert config(tmp_path, use_rslora=True, r=16).scale_of(Q0) == 4.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "LOHA"}, 'peft_type is "LOHA"; only LORA is supported'),
        ({"use_dora": True}, "use_dora is true; DoRA is not supported; merge the adapter"),
        ({"bias": "all"}, 'bias is "all"; trained biases are not supported'),
        ({"modules_to_save": ["lm_head"]}, "modules that were trained whole are not supported; merge"),
        ({"trainable_token_indices": [1]}, "trained token embeddings are not supported"),
        ({"lora_bias": True}, "lora_bias is true; a bias on B"),
        ({"fan_in_fan_out": True}, "transposed weights are not supported"),
        ({"layer_replication": [[0, 2]]}, "replicated layers are not supported"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "such as fused experts, are not supported"),
        ({"alora_invocation_tokens": [5]}, "activated LoRA is not supported"),
        ({"init_lora_weights": "pissa_niter_16"}, "path_initial_model_for_weight_conversion"),
        ({"r": 0}, "r is 0; it must be a whole number of at least 1"),
        ({"lora_alpha": "much"}, 'lora_alpha is "much"; it must be a number greater than 0'),
        ({"target_modules": None}, "target_modules is null; it must be a list of names, or a pattern"),
        ({"target_modules": []}, "target_modules is \\[\\]; it must be a list of names"),
        ({"target_modules": "x" * 3000}, "a pattern of at most 2000 characters"),
        ({"layers_to_transform": ["one"]}, "the number of a layer or a list of them"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern.q_proj is 0; it must be a whole number"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern is .*; it must be an object"),
        ({"alpha_pattern": {"x" * 3000: 1}}, "a pattern has at most 2000 characters"),
    ],
    ids=str,
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=f"adapter_config.json: .*{message}"):
        config(tmp_path, **fields)


@pytest.mark.parametrize("fields", [{"init_lora_weights": "gaussian"}, {"use_dora": False, "modules_to_save": None}])
def test_what_changes_nothing_is_taken(tmp_path: Path, fields: dict[str, Any]) -> None:
    assert config(tmp_path, **fields).rank == 8


@pytest.mark.parametrize("fields", [{"target_modules": "(q_proj"}, {"rank_pattern": {"*q": 3}}])
def test_a_broken_pattern_is_shown(tmp_path: Path, fields: dict[str, Any]) -> None:
    read = config(tmp_path, **fields)
    with pytest.raises(LoadError, match="is no regular expression"):
        read.is_target(Q0), read.rank_of(Q0)


def test_a_folder_without_an_adapter_is_said(tmp_path: Path) -> None:
    with pytest.raises(
        LoadError, match=r"has no adapter_config\.json; give the folder that PEFT's save_pretrained wrote"
    ):
        AdapterConfig.read(tmp_path)
    with pytest.raises(LoadError, match="is not a folder"):
        AdapterConfig.read(tmp_path / "nowhere")
    (tmp_path / "adapter_config.json").write_text('{"r": 8')
    with pytest.raises(LoadError, match="is not valid JSON"):
        AdapterConfig.read(tmp_path)
