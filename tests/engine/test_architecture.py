import json
import os
import subprocess
import sys

import pytest

from servery.engine.architecture import ModelConfig
from servery.engine.errors import LoadError
from servery.engine.latent_config import LatentConfig
from servery.engine.rope_config import RopeConfig
from servery.engine.supported import ARCHITECTURES, nearest
from servery.engine.traits import Clamp
from tests.engine import checkpoints

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}
SCALED = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def write(path, config, generation=None):
    (path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    if generation is not None:
        (path / "generation_config.json").write_text(json.dumps(generation))
    return path


GRANITE = {"architectures": ["GraniteForCausalLM"]}
SMOL = {"architectures": ["SmolLM3ForCausalLM"]}
MIXTRAL = {"architectures": ["MixtralForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
QWEN_MOE = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
}
QWEN2_MOE = QWEN_MOE | {"architectures": ["Qwen2MoeForCausalLM"], "shared_expert_intermediate_size": 16}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "kv_lora_rank": 8,
    "q_lora_rank": None,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 6,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 8,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
}
OLMOE = {"architectures": ["OlmoeForCausalLM"], "num_experts": 4, "num_experts_per_tok": 2}
GPT_OSS = {"architectures": ["GptOssForCausalLM"], "num_local_experts": 4, "num_experts_per_tok": 2}
COHERE = {"architectures": ["CohereForCausalLM"], "layer_norm_eps": 1e-5}
HUNYUAN = {"architectures": ["HunYuanDenseV1ForCausalLM"]}
GEMMA1 = {"architectures": ["GemmaForCausalLM"]}
EXAONE = {"architectures": ["Exaone4ForCausalLM"], "num_hidden_layers": 5, "sliding_window": 8}
DEEPSEEK2 = DEEPSEEK | {"architectures": ["DeepseekV2ForCausalLM"]}
GEMMA3 = {"architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 7}
PHI = {"architectures": ["Phi3ForCausalLM"]}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "original_max_position_embeddings": 32}
GEMMA = {"architectures": ["Gemma2ForCausalLM"], "num_hidden_layers": 4}


def load(path, **changes):
    return ModelConfig.load(write(path, LLAMA | changes))


def test_a_minimal_config_is_filled_with_the_meaning_of_missing_fields(tmp_path):
    assert load(tmp_path) == ModelConfig(
        architecture="LlamaForCausalLM",
        vocab_size=100,
        hidden_size=32,
        intermediate_size=48,
        num_layers=3,
        num_heads=4,
        num_kv_heads=4,
        head_dim=8,
        max_position=64,
        norm_eps=1e-5,
        ropes=(RopeConfig(theta=10_000.0),) * 3,
        windows=(None, None, None),
        qkv_bias=False,
        output_bias=False,
        mlp_bias=False,
        qk_norm=False,
        tie_embeddings=False,
        eos_token_ids=frozenset(),
        dtype=None,
    )


@pytest.mark.parametrize("make", checkpoints.MODELS.values(), ids=checkpoints.MODELS)
def test_sizes_are_those_of_the_real_model(make, tmp_path):
    model = make()
    config = ModelConfig.load(checkpoints.save(model, tmp_path))
    stored = model.num_parameters() + sum(buffer.numel() for buffer in checkpoints.stored_buffers(model).values())
    assert (config.num_parameters, config.weight_bytes(2)) == (stored, 2 * stored)
    assert config.kv_bytes_per_token(4) == config.kv_planes * 3 * config.num_kv_heads * config.head_dim * 4


def test_eos_is_the_set_of_both_files(tmp_path):
    write(tmp_path, LLAMA | {"eos_token_id": 2}, {"eos_token_id": [7, 9]})
    assert ModelConfig.load(tmp_path).eos_token_ids == {2, 7, 9}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_scaling": SCALED | {"rope_type": "llama3"}},
        {"rope_theta": 5e5, "rope_scaling": SCALED | {"type": "llama3"}},
        {"rope_parameters": SCALED | {"rope_type": "llama3", "rope_theta": 5e5}},
    ],
    ids=["before transformers 5", "long before", "transformers 5"],
)
def test_rope_is_read_as_any_transformers_wrote_it(changes, tmp_path):
    rope = RopeConfig(
        theta=5e5, kind="llama3", factor=8.0, original_max_position=32, low_freq_factor=1.0, high_freq_factor=4.0
    )
    assert load(tmp_path, **changes).ropes == (rope,) * 3


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"architectures": ["MistralForCausalLM"]}, (4096,) * 3),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, (None,) * 3),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 8}, (8,) * 3),
        ({"architectures": ["LlamaForCausalLM"], "sliding_window": 8}, (None,) * 3),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8, "max_window_layers": 1}, (None,) * 3),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "use_sliding_window": True,
                "sliding_window": 8,
                "max_window_layers": 1,
            },
            (None, 8, 8),
        ),
        (
            {
                "architectures": ["Qwen3ForCausalLM"],
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            },
            (8, None, 8),
        ),
        (GEMMA, (4096, None, 4096, None)),
        (
            GEMMA | {"sliding_window": 8, "layer_types": ["full_attention"] * 3 + ["sliding_attention"]},
            (None,) * 3 + (8,),
        ),
    ],
)
def test_windows_follow_the_architecture(changes, windows, tmp_path):
    assert load(tmp_path, **changes).windows == windows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["FalconForCausalLM"]},
            r'architectures is \["FalconForCausalLM"\]; supported are Llama',
        ),
        ({"architectures": None}, "architectures is null; it must be a list with one name; supported are Llama"),
        ({"architectures": "LlamaForCausalLM"}, "architectures is .* it must be a list"),
        ({"hidden_act": ["silu"]}, r'hidden_act is \["silu"\]; only silu'),
        ({"hidden_act": "gelu"}, 'hidden_act is "gelu"; only silu'),
        ({"vocab_size": 0}, "vocab_size is 0; it must be a whole number of at least 1"),
        ({"hidden_size": 32.5}, "hidden_size is 32.5; it must be a whole number"),
        ({"num_hidden_layers": True}, "num_hidden_layers is true; it must be a whole number"),
        ({"num_hidden_layers": None}, "num_hidden_layers is null"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers is 1000000000000; it must be at most 1024"),
        ({"num_nextn_predict_layers": 10**12}, "num_nextn_predict_layers is 1000000000000; it must be at most 1024"),
        ({"max_position_embeddings": 10**30}, "max_position_embeddings is 1.*; it must be at most 1073741824"),
        ({"rope_theta": 1}, "rope_theta is 1; it must be greater than 1"),
        ({"architectures": ["GlmForCausalLM"], "partial_rotary_factor": 1e29}, "it must make an even number of"),
        (
            {"architectures": ["HunYuanDenseV1ForCausalLM"], "rope_scaling": {"type": "dynamic", "alpha": 1e300}},
            r"rope_scaling.alpha is 1e\+300; it must be a number greater than 0, and less than 1e\+30",
        ),
        ({"hidden_size": 33}, "hidden_size is 33; without head_dim it must be a multiple of num_attention_heads 4"),
        ({"head_dim": 7}, "head_dim is 7; rotary embeddings need an even head_dim"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; it must divide num_attention_heads, which is 4"),
        ({"rms_norm_eps": -1}, "rms_norm_eps is -1; it must be a number greater than 0"),
        ({"rms_norm_eps": "1e-5"}, 'rms_norm_eps is "1e-5"; it must be a number'),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings is 1; it must be true or false"),
        ({"eos_token_id": [2, "x"]}, "eos_token_id is .* it must be a token id or a list of token ids"),
        ({"rope_scaling": 3}, "rope_scaling is 3; it must be an object"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_scaling is .*; supported rope types are default, linear"),
        ({"rope_scaling": {"rope_type": "linear"}}, "rope_scaling.factor is missing; it must be a number"),
        (
            {"rope_scaling": SCALED | {"rope_type": "llama3", "low_freq_factor": 4.0}},
            "rope_scaling.low_freq_factor is 4.0; it must be less than high_freq_factor, which is 4",
        ),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5; only 1, which rotates all of a head"),
        (
            {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "rope_parameters.partial_rotary_factor is 0.5; only 1",
        ),
        (
            {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "sliding_window": 8},
            "max_window_layers is missing; with use_sliding_window it must be a whole number",
        ),
        (
            {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "layer_types": [{}, [], 1]},
            "layer_types is .*; it must list one of full_attention, sliding_attention for each layer",
        ),
        (GEMMA | {"hidden_activation": "gelu"}, 'hidden_activation is "gelu"; only gelu_pytorch_tanh is supported'),
        (GEMMA | {"attn_logit_softcapping": 0}, "attn_logit_softcapping is 0; it must be a number greater than 0"),
        (GEMMA | {"final_logit_softcapping": "30"}, 'final_logit_softcapping is "30"; it must be a number'),
        (GEMMA | {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar is -1; it must be a number"),
        (GEMMA | {"sliding_window": 0}, "sliding_window is 0; it must be a whole number of at least 1"),
        (GEMMA | {"use_bidirectional_attention": True}, "use_bidirectional_attention is true; only causal"),
        (
            PHI | {"partial_rotary_factor": 1.5},
            "partial_rotary_factor is 1.5; it must make an even number of head_dim 8",
        ),
        (GRANITE | {"attention_multiplier": 0}, "attention_multiplier is 0; it must be a number greater than 0"),
        (GRANITE | {"embedding_multiplier": "12"}, 'embedding_multiplier is "12"; it must be a number'),
        (GRANITE | {"residual_multiplier": -1}, "residual_multiplier is -1; it must be a number"),
        (GRANITE | {"logits_scaling": True}, "logits_scaling is true; it must be a number"),
        (SMOL | {"no_rope_layers": [1, 0]}, "no_rope_layers is .*; it must list 1 for each layer that rotates"),
        (SMOL | {"no_rope_layers": [1, 0, 2]}, "no_rope_layers is .*; it must list 1 for each layer that rotates"),
        (SMOL | {"no_rope_layer_interval": 0}, "no_rope_layer_interval is 0; it must be a whole number"),
        (MIXTRAL | {"num_local_experts": None}, "num_local_experts is null; it must be a whole number of at least 1"),
        (MIXTRAL | {"num_experts_per_tok": 5}, "num_experts_per_tok is 5; it must be at most num_local_experts, which"),
        (QWEN_MOE | {"moe_intermediate_size": 0}, "moe_intermediate_size is 0; it must be a whole number"),
        (QWEN_MOE | {"norm_topk_prob": 1}, "norm_topk_prob is 1; it must be true or false"),
        (QWEN_MOE | {"mlp_only_layers": 1}, "mlp_only_layers is 1; it must be a list of numbers of layers"),
        (QWEN_MOE | {"decoder_sparse_step": 0}, "decoder_sparse_step is 0; it must be a whole number of at least 1"),
        (
            QWEN2_MOE | {"use_sliding_window": True},
            "use_sliding_window is true; for this architecture it must be missing, null or false",
        ),
        (QWEN2_MOE | {"shared_expert_intermediate_size": None}, "shared_expert_intermediate_size is null; it must be"),
        (DEEPSEEK | {"num_key_value_heads": 2}, "num_key_value_heads is 2; .* it must be num_attention_heads 4"),
        (DEEPSEEK | {"kv_lora_rank": 0}, "kv_lora_rank is 0; it must be a whole number of at least 1"),
        (DEEPSEEK | {"qk_rope_head_dim": 7}, "qk_rope_head_dim is 7; rotary embeddings need an even number"),
        (DEEPSEEK | {"moe_layer_freq": 2}, "moe_layer_freq is 2; only 1 is supported"),
        (DEEPSEEK | {"mlp_layer_types": ["dense"]}, "mlp_layer_types is .*; it must list dense or sparse for each"),
        (
            DEEPSEEK | {"first_k_dense_replace": -1},
            "first_k_dense_replace is -1; it must be a whole number of at least",
        ),
        (DEEPSEEK | {"scoring_func": "softmax"}, 'scoring_func is "softmax"; for this architecture only sigmoid'),
        (DEEPSEEK | {"topk_method": "greedy"}, 'topk_method is "greedy"; for this architecture noaux_tc'),
        (DEEPSEEK | {"n_group": 3}, "n_group is 3; it must divide the 8 experts into groups of at least 2"),
        (DEEPSEEK | {"n_group": 8}, "n_group is 8; it must divide the 8 experts into groups of at least 2"),
        (DEEPSEEK | {"topk_group": 5}, "topk_group is 5; it must be at most n_group 4 and leave 3 experts to choose"),
        (DEEPSEEK | {"topk_group": 1}, "topk_group is 1; it must be at most n_group 4 and leave 3 experts to choose"),
        (DEEPSEEK | {"routed_scaling_factor": 0}, "routed_scaling_factor is 0; it must be a number greater than 0"),
        (DEEPSEEK2 | {"norm_topk_prob": True}, "norm_topk_prob is true; for this architecture only false"),
        (DEEPSEEK2 | {"topk_method": "noaux_tc"}, "topk_method is .*; for this architecture greedy and group_limited"),
        (DEEPSEEK | {"mlp_layer_types": [[]]}, "mlp_layer_types is .*; it must list dense or sparse for each"),
        (QWEN_MOE | {"num_experts": 10**9}, "num_experts is 1000000000; it must be at most 1024"),
        (QWEN_MOE | {"num_experts": 0}, "num_experts is 0; it must be a whole number"),
        (
            GEMMA3 | {"rope_parameters": {"rope_type": "default"}},
            "rope_parameters is .*; it must have full_attention and",
        ),
        (GEMMA3 | {"rope_local_base_freq": 0}, "rope_local_base_freq is 0; it must be a number greater than 0"),
        (GEMMA3 | {"sliding_window_pattern": 0}, "sliding_window_pattern is 0; it must be a whole number"),
        (OLMOE | {"clip_qkv": 8.0}, "clip_qkv is 8.0; for this architecture it must be missing, null or false"),
        (GPT_OSS | {"swiglu_limit": 0}, "swiglu_limit is 0; it must be a number greater than 0"),
        (GPT_OSS | {"swiglu_alpha": "x"}, 'swiglu_alpha is "x"; it must be a number greater than 0'),
        (COHERE | {"use_qk_norm": True}, "use_qk_norm is true; for this architecture it must be missing, null or fal"),
        (COHERE | {"layer_norm_eps": None}, "layer_norm_eps is null; it must be a number greater than 0"),
        (COHERE | {"logit_scale": 0}, "logit_scale is 0; it must be a number greater than 0"),
        (HUNYUAN | {"rope_scaling": {"type": "dynamic", "alpha": -1}}, "rope_scaling.alpha is -1; it must be a number"),
        (GEMMA1 | {"hidden_act": "silu"}, 'hidden_act is "silu"; only gelu_pytorch_tanh is supported'),
        (EXAONE | {"sliding_window_pattern": "LLLG"}, 'sliding_window_pattern is "LLLG"; it must be a whole number'),
        (PHI | {"partial_rotary_factor": 0.4}, "partial_rotary_factor is 0.4; it must make an even number"),
        (
            PHI | {"rope_scaling": LONGROPE | {"short_factor": [1.0]}},
            r"short_factor is \[1.0\]; it must have 4 numbers",
        ),
        (
            PHI | {"rope_scaling": LONGROPE | {"short_factor": [1, 1, 1, 0]}},
            "it must be a list of numbers greater than",
        ),
        (
            PHI | {"rope_scaling": LONGROPE | {"original_max_position_embeddings": None}},
            "original_max_position_embeddings is missing",
        ),
    ],
)
def test_a_config_that_cannot_be_served_names_file_field_and_rule(changes, message, tmp_path):
    with pytest.raises(LoadError, match=message) as refusal:
        load(tmp_path, **changes)
    assert str(refusal.value).startswith(str(tmp_path / "config.json"))


def test_an_unknown_architecture_lists_all_that_are_supported(tmp_path):
    with pytest.raises(LoadError) as refusal:
        load(tmp_path, architectures=["GPT2LMHeadModel"])
    assert all(name in str(refusal.value) for name in ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Llama4ForCausalLM", "LlamaForCausalLM"),
        ("Gemma2ForSequenceClassification", "Gemma2ForCausalLM"),
        ("Qwen3NextForCausalLM", "Qwen3ForCausalLM"),
        ("mistral3forconditionalgeneration", "MistralForCausalLM"),
    ],
)
def test_an_unknown_architecture_is_told_the_nearest(name, expected, tmp_path):
    assert nearest(name) == expected
    with pytest.raises(LoadError, match=f"the nearest by name is {expected}"):
        load(tmp_path, architectures=[name])


@pytest.mark.parametrize("name", ["BertModel", "GPTNeoXForCausalLM", "GPT2LMHeadModel", "T5ForConditionalGeneration"])
def test_no_name_is_given_that_only_shares_a_few_letters(name):
    assert nearest(name) is None


def test_longrope_is_served_up_to_the_original_context(tmp_path):
    config = load(tmp_path, **PHI, rope_scaling=LONGROPE)
    assert config == load(tmp_path, **PHI, rope_scaling=LONGROPE | {"rope_type": "su"})
    assert (config.max_position, config.ropes[0].attention_factor) == (32, pytest.approx((1 + 1 / 5) ** 0.5))


def test_every_fourth_layer_of_a_smollm3_does_not_rotate(tmp_path):
    ropes = load(tmp_path, **SMOL, num_hidden_layers=5).ropes
    assert [(rope.theta, rope.rotary_dim) for rope in ropes] == [(2e6, 0 if layer == 3 else None) for layer in range(5)]


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "rope_local_base_freq": 2e4},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            }
        },
    ],
    ids=["before transformers 5", "transformers 5"],
)
def test_every_sixth_layer_of_a_gemma3_sees_everything_and_rotates_by_another_base(changes, tmp_path):
    config = load(tmp_path, **GEMMA3 | changes, sliding_window=8)
    whole, local = RopeConfig(theta=5e5, kind="linear", factor=8.0), RopeConfig(theta=2e4)
    assert config.windows == (8, 8, 8, 8, 8, None, 8)
    assert config.ropes == (local, local, local, local, local, whole, local)


def test_only_sliding_layers_of_an_exaone4_rotate_if_any_can_slide(tmp_path):
    config = load(tmp_path, **EXAONE)
    assert config.windows == (8, 8, 8, None, 8)
    assert [rope.rotary_dim for rope in config.ropes] == [None, None, None, 0, None]
    config = load(tmp_path, **EXAONE | {"sliding_window": None})
    assert (config.windows, config.ropes) == ((None,) * 5, (RopeConfig(theta=10_000.0),) * 5)


def test_every_other_layer_of_a_gpt_oss_slides_and_its_gate_is_clamped(tmp_path):
    config = load(tmp_path, **GPT_OSS, num_hidden_layers=4, head_dim=None)
    assert config.windows == (128, None, 128, None)
    assert (config.activation, config.head_dim, config.has_sinks) == (Clamp(1.702, 7.0), 64, True)
    assert (config.qkv_bias, config.output_bias, config.ropes[0].theta) == (True, True, 150_000.0)


def test_a_hunyuan_stretches_its_base_by_alpha(tmp_path):
    config = load(tmp_path, **HUNYUAN, rope_theta=1e4, rope_scaling={"type": "dynamic", "alpha": 64.0, "factor": 1.0})
    assert config.ropes[0].theta == pytest.approx(1e4 * 64 ** (8 / 6))


def test_an_old_gemma_means_the_tanh_approximation_when_it_says_gelu(tmp_path):
    assert load(tmp_path, **GEMMA1, hidden_act="gelu").activation == "gelu_pytorch_tanh"


def test_a_cap_is_off_when_null_and_the_architectures_own_when_missing(tmp_path):
    config = load(tmp_path, **GEMMA, attn_logit_softcapping=None)
    assert (config.attention_soft_cap, config.logit_soft_cap) == (None, 30.0)
    assert (load(tmp_path, attn_logit_softcapping=3.0).attention_soft_cap, config.tie_embeddings) == (None, True)


def test_what_is_cached_of_a_latent_model_is_a_latent_and_a_rotated_key(tmp_path):
    config = load(tmp_path, **DEEPSEEK, num_hidden_layers=5)
    assert (config.num_kv_heads, config.head_dim, config.kv_planes, config.rope_dim) == (1, 12, 1, 4)
    assert config.kv_bytes_per_token(2) == 5 * (8 + 4) * 2
    assert config.latent == LatentConfig(kv_rank=8, query_rank=None, key_dim=4, rope_dim=4, value_dim=6)


def test_a_latent_model_must_say_whether_its_queries_have_a_latent(tmp_path):
    fields = {name: value for name, value in DEEPSEEK.items() if name != "q_lora_rank"}
    with pytest.raises(LoadError, match="q_lora_rank is missing; it must be a whole number of at least 1, or null"):
        load(tmp_path, **fields)


@pytest.mark.parametrize(
    ("changes", "layers"),
    [
        (DEEPSEEK, (False, True, True)),
        (DEEPSEEK | {"first_k_dense_replace": None}, None),
        (DEEPSEEK2 | {"first_k_dense_replace": None}, (True, True, True)),
        (DEEPSEEK | {"mlp_layer_types": ["sparse", "dense", "dense"]}, (True, False, False)),
        (QWEN_MOE | {"mlp_only_layers": [1]}, (True, False, True)),
        (QWEN_MOE | {"decoder_sparse_step": 2}, (False, True, False)),
    ],
)
def test_layers_are_mixtures_where_the_architecture_says(changes, layers, tmp_path):
    config = load(tmp_path, **changes)
    assert (config.experts and config.experts.layers) == layers
    assert [config.experts_of(layer) is not None for layer in range(3)] == list(layers or [False] * 3)


@pytest.mark.parametrize("field", sorted(LLAMA))
def test_a_missing_field_is_named(field, tmp_path):
    with pytest.raises(LoadError, match=f"config.json: {field} is missing"):
        ModelConfig.load(write(tmp_path, {name: value for name, value in LLAMA.items() if name != field}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"vocab_size": ', "config.json is not valid JSON: .*Download it again"),
        ("", "config.json is not valid JSON"),
        ("\udcff\udcfe", "config.json is not valid JSON"),
        ("[" * 100_000, "config.json is not valid JSON"),
        ("[1]", "config.json holds a list; it must be a JSON object"),
    ],
)
def test_a_config_that_is_no_json_object_is_refused(content, message, tmp_path):
    (tmp_path / "config.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(LoadError, match=message):
        ModelConfig.load(tmp_path)


def test_a_config_that_is_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(LoadError, match=r"config\.json is not a file"):
        ModelConfig.load(tmp_path)


def test_a_directory_without_config_is_refused(tmp_path):
    (tmp_path / "tokenizer.json").touch()
    with pytest.raises(
        LoadError, match=r"config\.json does not exist; a model directory in Hugging Face layout has it"
    ):
        ModelConfig.load(tmp_path)


def test_a_path_that_is_no_directory_is_refused(tmp_path):
    with pytest.raises(LoadError, match=r"nowhere is not a directory; give one with config\.json"):
        ModelConfig.load(tmp_path / "nowhere")


def test_a_broken_generation_config_is_named(tmp_path):
    with pytest.raises(LoadError, match=r"generation_config\.json: eos_token_id is -1"):
        ModelConfig.load(write(tmp_path, LLAMA, {"eos_token_id": -1}))


def test_reading_a_config_does_not_load_torch(tmp_path):
    write(tmp_path, LLAMA)
    program = (
        "import sys; from servery.engine.architecture import ModelConfig; "
        f"ModelConfig.load({str(tmp_path)!r}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
