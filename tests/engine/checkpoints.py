"""Small random checkpoints in Hugging Face layout, one of each architecture, the same for the same seed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    Cohere2Config,
    CohereConfig,
    DeepseekV2Config,
    DeepseekV3Config,
    Ernie4_5Config,
    Exaone4Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    Glm4MoeConfig,
    Glm4MoeLiteConfig,
    GlmConfig,
    GptOssConfig,
    GraniteConfig,
    GraniteMoeConfig,
    HunYuanDenseV1Config,
    LlamaConfig,
    MinistralConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Olmo3Config,
    OlmoeConfig,
    Phi3Config,
    PreTrainedModel,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen3Config,
    Qwen3MoeConfig,
    SeedOssConfig,
    SmolLM3Config,
)
from transformers.models.cohere.modeling_cohere import CohereForCausalLM
from transformers.models.cohere2.modeling_cohere2 import Cohere2ForCausalLM
from transformers.models.deepseek_v2.modeling_deepseek_v2 import DeepseekV2ForCausalLM
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3ForCausalLM
from transformers.models.ernie4_5.modeling_ernie4_5 import Ernie4_5ForCausalLM
from transformers.models.exaone4.modeling_exaone4 import Exaone4ForCausalLM
from transformers.models.gemma.modeling_gemma import GemmaForCausalLM
from transformers.models.gemma2.modeling_gemma2 import Gemma2ForCausalLM
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM
from transformers.models.glm.modeling_glm import GlmForCausalLM
from transformers.models.glm4.modeling_glm4 import Glm4ForCausalLM
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeForCausalLM
from transformers.models.glm4_moe_lite.modeling_glm4_moe_lite import Glm4MoeLiteForCausalLM
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssForCausalLM
from transformers.models.granite.modeling_granite import GraniteForCausalLM
from transformers.models.granitemoe.modeling_granitemoe import GraniteMoeForCausalLM
from transformers.models.hunyuan_v1_dense.modeling_hunyuan_v1_dense import HunYuanDenseV1ForCausalLM
from transformers.models.llama.modeling_llama import LlamaForCausalLM
from transformers.models.ministral.modeling_ministral import MinistralForCausalLM
from transformers.models.mistral.modeling_mistral import MistralForCausalLM
from transformers.models.mixtral.modeling_mixtral import MixtralForCausalLM
from transformers.models.olmo2.modeling_olmo2 import Olmo2ForCausalLM
from transformers.models.olmo3.modeling_olmo3 import Olmo3ForCausalLM
from transformers.models.olmoe.modeling_olmoe import OlmoeForCausalLM
from transformers.models.phi3.modeling_phi3 import Phi3ForCausalLM
from transformers.models.qwen2.modeling_qwen2 import Qwen2ForCausalLM
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeForCausalLM
from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeForCausalLM
from transformers.models.seed_oss.modeling_seed_oss import SeedOssForCausalLM
from transformers.models.smollm3.modeling_smollm3 import SmolLM3ForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 112,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    # Wider than what training starts from: attention and logits must be far from uniform to tell a mistake.
    "initializer_range": 0.15,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
    "rope_theta": 500_000.0,
}
YARN_ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10_000.0}


def llama2(**changes: Any) -> PreTrainedModel:
    return _seeded(LlamaForCausalLM, LlamaConfig(**SHAPE | {"num_key_value_heads": 4} | changes))


def llama_with_biases() -> PreTrainedModel:
    return _seeded(LlamaForCausalLM, LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True))


def llama3(**changes: Any) -> PreTrainedModel:
    return _seeded(LlamaForCausalLM, LlamaConfig(**SHAPE | {"rope_parameters": dict(LLAMA3_ROPE)} | changes))


def llama_linear_rope() -> PreTrainedModel:
    return llama3(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0})


def llama_dynamic_rope() -> PreTrainedModel:
    return llama3(rope_parameters={"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10_000.0})


def llama_yarn_rope() -> PreTrainedModel:
    return llama3(rope_parameters=dict(YARN_ROPE))


def mistral(**changes: Any) -> PreTrainedModel:
    """Its window is shorter than the sequences that tests run."""
    return _seeded(MistralForCausalLM, MistralConfig(**SHAPE | {"sliding_window": 24, "head_dim": 24} | changes))


def qwen2(**changes: Any) -> PreTrainedModel:
    return _seeded(Qwen2ForCausalLM, Qwen2Config(**SHAPE | changes))


def qwen25() -> PreTrainedModel:
    """Tied, with sliding layers above the first."""
    windows = {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
    return qwen2(tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 1e6}, **windows)


def qwen3(**changes: Any) -> PreTrainedModel:
    return _seeded(Qwen3ForCausalLM, Qwen3Config(**SHAPE | {"head_dim": 32} | changes))


def qwen3_tied() -> PreTrainedModel:
    return qwen3(tie_word_embeddings=True)


def gemma2(**changes: Any) -> PreTrainedModel:
    """Its caps are low and its scale is not that of head_dim, so that leaving either out shows."""
    caps = {"attn_logit_softcapping": 4.0, "final_logit_softcapping": 6.0, "query_pre_attn_scalar": 20}
    shape = SHAPE | {"head_dim": 32, "sliding_window": 24} | caps
    # transformers' sdpa passes the cap over.
    return _seeded(Gemma2ForCausalLM, Gemma2Config(**shape | changes, attn_implementation="eager"))


def gemma3(**changes: Any) -> PreTrainedModel:
    windows = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    shape = SHAPE | windows | {"head_dim": 32, "query_pre_attn_scalar": 20}
    return _seeded(Gemma3ForCausalLM, Gemma3TextConfig(**shape | changes))


def gemma3_linear_rope() -> PreTrainedModel:
    scaled = {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}
    return gemma3(rope_parameters={"full_attention": scaled, "sliding_attention": {"rope_type": "default"}})


def glm4(**changes: Any) -> PreTrainedModel:
    return _seeded(Glm4ForCausalLM, Glm4Config(**SHAPE | {"head_dim": 24} | changes))


def glm4_whole_rope() -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 1.0}
    return glm4(attention_bias=False, rope_parameters=rope, tie_word_embeddings=True)


def phi3(**changes: Any) -> PreTrainedModel:
    return _seeded(Phi3ForCausalLM, Phi3Config(**SHAPE | {"sliding_window": 24} | changes))


def phi4_mini() -> PreTrainedModel:
    """Three quarters of a head rotate, by factors of their own; its original context is longer than what tests run."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5],
        "long_factor": [2.0, 3.0, 5.0, 8.0, 13.0, 21.0],
        "original_max_position_embeddings": 300,
    }
    return phi3(
        rope_parameters=rope, original_max_position_embeddings=300, sliding_window=None, tie_word_embeddings=True
    )


def olmo2() -> PreTrainedModel:
    return _seeded(Olmo2ForCausalLM, Olmo2Config(**SHAPE))


def granite(**changes: Any) -> PreTrainedModel:
    multipliers = {"attention_multiplier": 0.4, "residual_multiplier": 0.3, "logits_scaling": 3.0}
    shape = SHAPE | multipliers | {"embedding_multiplier": 5.0}
    return _seeded(GraniteForCausalLM, GraniteConfig(**shape | changes))


def granite_with_biases() -> PreTrainedModel:
    return granite(attention_bias=True, mlp_bias=True, tie_word_embeddings=True)


def smollm3(**changes: Any) -> PreTrainedModel:
    return _seeded(SmolLM3ForCausalLM, SmolLM3Config(**SHAPE | {"no_rope_layer_interval": 2} | changes))


def smollm3_sliding() -> PreTrainedModel:
    windows = {"use_sliding_window": True, "sliding_window": 20}
    return smollm3(no_rope_layers=[0, 1, 1], attention_bias=True, tie_word_embeddings=False, **windows)


def mixtral(**changes: Any) -> PreTrainedModel:
    experts = {"num_local_experts": 5, "num_experts_per_tok": 2}
    return _seeded(MixtralForCausalLM, MixtralConfig(**SHAPE | experts | {"sliding_window": 24} | changes))


def qwen3_moe(**changes: Any) -> PreTrainedModel:
    experts = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40, "norm_topk_prob": True}
    return _seeded(Qwen3MoeForCausalLM, Qwen3MoeConfig(**SHAPE | experts | {"head_dim": 32} | changes))


def qwen3_moe_sliding() -> PreTrainedModel:
    """The weights of its chosen experts do not sum to 1."""
    return qwen3_moe(norm_topk_prob=False, use_sliding_window=True, sliding_window=20, attention_bias=True)


def qwen2_moe(**changes: Any) -> PreTrainedModel:
    """A dense layer between two mixtures."""
    experts = {"num_experts": 6, "num_experts_per_tok": 3, "moe_intermediate_size": 40}
    shared = {"shared_expert_intermediate_size": 72, "mlp_only_layers": [1]}
    return _seeded(Qwen2MoeForCausalLM, Qwen2MoeConfig(**SHAPE | experts | shared | changes))


def qwen2_moe_without_biases() -> PreTrainedModel:
    return qwen2_moe(qkv_bias=False, norm_topk_prob=True, mlp_only_layers=[], decoder_sparse_step=2)


LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 40,
    "q_lora_rank": 48,
    "qk_nope_head_dim": 24,
    "qk_rope_head_dim": 16,
    "v_head_dim": 20,
}
EXPERTS_IN_GROUPS: dict[str, Any] = {
    "n_routed_experts": 12,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 40,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.7,
}
DEEPSEEK_ROPE = YARN_ROPE | {"factor": 6.0, "mscale": 0.7, "mscale_all_dim": 1.3}


def deepseek_v2(**changes: Any) -> PreTrainedModel:
    shape = SHAPE | LATENT | EXPERTS_IN_GROUPS | {"topk_method": "group_limited_greedy"}
    return _seeded(DeepseekV2ForCausalLM, DeepseekV2Config(**shape | changes))


def deepseek_v2_lite() -> PreTrainedModel:
    """No latent of queries, no groups."""
    return deepseek_v2(q_lora_rank=None, topk_method="greedy", n_group=1, topk_group=1, first_k_dense_replace=0)


def deepseek_v3(**changes: Any) -> PreTrainedModel:
    shape = SHAPE | LATENT | EXPERTS_IN_GROUPS | {"rope_parameters": dict(DEEPSEEK_ROPE)}
    return _seeded(DeepseekV3ForCausalLM, DeepseekV3Config(**shape | changes))


def deepseek_v3_plain() -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    changes = {"q_lora_rank": None, "norm_topk_prob": False, "rope_interleave": False, "first_k_dense_replace": 3}
    return deepseek_v3(rope_parameters=rope, **changes)


def glm4_moe(**changes: Any) -> PreTrainedModel:
    shape = SHAPE | EXPERTS_IN_GROUPS | {"head_dim": 24, "use_qk_norm": True, "attention_bias": True}
    return _seeded(Glm4MoeForCausalLM, Glm4MoeConfig(**shape | changes))


def glm4_moe_plain() -> PreTrainedModel:
    return glm4_moe(use_qk_norm=False, attention_bias=False, n_group=1, topk_group=1)


def glm4_moe_lite() -> PreTrainedModel:
    layers = {"mlp_layer_types": ["sparse", "dense", "sparse"]}
    return _seeded(Glm4MoeLiteForCausalLM, Glm4MoeLiteConfig(**SHAPE | LATENT | EXPERTS_IN_GROUPS | layers))


def ministral(**changes: Any) -> PreTrainedModel:
    windows = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    return _seeded(MinistralForCausalLM, MinistralConfig(**SHAPE | windows | {"head_dim": 24} | changes))


def gemma() -> PreTrainedModel:
    return _seeded(GemmaForCausalLM, GemmaConfig(**SHAPE, head_dim=24))


def glm() -> PreTrainedModel:
    return _seeded(GlmForCausalLM, GlmConfig(**SHAPE, head_dim=24))


def olmo3() -> PreTrainedModel:
    windows = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    rope = {"full_attention": dict(YARN_ROPE), "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}}
    return _seeded(Olmo3ForCausalLM, Olmo3Config(**SHAPE | windows, rope_parameters=rope))


def olmoe() -> PreTrainedModel:
    return _seeded(OlmoeForCausalLM, OlmoeConfig(**SHAPE, num_experts=6, num_experts_per_tok=3))


def exaone4(**changes: Any) -> PreTrainedModel:
    windows = {"sliding_window": 24, "sliding_window_pattern": 2}
    return _seeded(Exaone4ForCausalLM, Exaone4Config(**SHAPE | windows | changes))


def exaone4_whole() -> PreTrainedModel:
    """As the small ones are: every layer sees everything and rotates."""
    return exaone4(sliding_window=None, layer_types=["full_attention"] * 3)


def cohere(**changes: Any) -> PreTrainedModel:
    return _seeded(CohereForCausalLM, CohereConfig(**SHAPE | {"logit_scale": 0.3} | changes))


def cohere2() -> PreTrainedModel:
    windows = {"sliding_window": 24, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    return _seeded(Cohere2ForCausalLM, Cohere2Config(**SHAPE | windows, attention_bias=True))


def seed_oss() -> PreTrainedModel:
    return _seeded(SeedOssForCausalLM, SeedOssConfig(**SHAPE, head_dim=24, attention_out_bias=True, mlp_bias=True))


def ernie4_5(**changes: Any) -> PreTrainedModel:
    return _seeded(Ernie4_5ForCausalLM, Ernie4_5Config(**SHAPE | {"head_dim": 24} | changes))


def ernie4_5_with_biases() -> PreTrainedModel:
    return ernie4_5(use_bias=True, tie_word_embeddings=False)


def hunyuan(**changes: Any) -> PreTrainedModel:
    rope = {"rope_type": "dynamic", "alpha": 40.0, "factor": 1.0, "rope_theta": 10_000.0}
    shape = SHAPE | {"head_dim": 24, "rope_parameters": rope}
    return _seeded(HunYuanDenseV1ForCausalLM, HunYuanDenseV1Config(**shape | changes))


def hunyuan_plain() -> PreTrainedModel:
    return hunyuan(rope_parameters={"rope_type": "default", "rope_theta": 10_000.0}, attention_bias=True)


def granite_moe(**changes: Any) -> PreTrainedModel:
    multipliers = {"attention_multiplier": 0.4, "residual_multiplier": 0.3, "logits_scaling": 3.0}
    shape = SHAPE | multipliers | {"embedding_multiplier": 5.0, "num_local_experts": 5, "num_experts_per_tok": 2}
    return _seeded(GraniteMoeForCausalLM, GraniteMoeConfig(**shape | changes))


def gpt_oss(**changes: Any) -> PreTrainedModel:
    """Its limit is low, so that gates that are not clamped show; its second layer sees everything."""
    experts = {"num_local_experts": 5, "num_experts_per_tok": 2, "swiglu_limit": 1.5, "intermediate_size": 96}
    rope = YARN_ROPE | {"truncate": False}
    shape = SHAPE | experts | {"head_dim": 24, "sliding_window": 24, "rope_parameters": rope}
    return _seeded(GptOssForCausalLM, GptOssConfig(**shape | changes, attn_implementation="eager"))


MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "cohere": cohere,
    "cohere2": cohere2,
    "ernie4_5": ernie4_5,
    "ernie4_5_with_biases": ernie4_5_with_biases,
    "exaone4": exaone4,
    "exaone4_whole": exaone4_whole,
    "gemma": gemma,
    "glm": glm,
    "hunyuan": hunyuan,
    "hunyuan_plain": hunyuan_plain,
    "ministral": ministral,
    "olmo3": olmo3,
    "olmoe": olmoe,
    "seed_oss": seed_oss,
    "llama2": llama2,
    "llama_with_biases": llama_with_biases,
    "llama3": llama3,
    "llama_linear_rope": llama_linear_rope,
    "llama_dynamic_rope": llama_dynamic_rope,
    "llama_yarn_rope": llama_yarn_rope,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen25": qwen25,
    "qwen3": qwen3,
    "qwen3_tied": qwen3_tied,
    "deepseek_v2": deepseek_v2,
    "deepseek_v2_lite": deepseek_v2_lite,
    "deepseek_v3": deepseek_v3,
    "deepseek_v3_plain": deepseek_v3_plain,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3_linear_rope": gemma3_linear_rope,
    "glm4": glm4,
    "glm4_whole_rope": glm4_whole_rope,
    "glm4_moe": glm4_moe,
    "glm4_moe_plain": glm4_moe_plain,
    "glm4_moe_lite": glm4_moe_lite,
    "gpt_oss": gpt_oss,
    "granite": granite,
    "granite_moe": granite_moe,
    "granite_with_biases": granite_with_biases,
    "mixtral": mixtral,
    "olmo2": olmo2,
    "phi3": phi3,
    "phi4_mini": phi4_mini,
    "qwen2_moe": qwen2_moe,
    "qwen2_moe_without_biases": qwen2_moe_without_biases,
    "qwen3_moe": qwen3_moe,
    "qwen3_moe_sliding": qwen3_moe_sliding,
    "smollm3": smollm3,
    "smollm3_sliding": smollm3_sliding,
}


def save(model: PreTrainedModel, path: Path, **options: Any) -> Path:
    """Write the checkpoint into the directory `path` and return it; `options` as of `save_pretrained`."""
    model.save_pretrained(path, **options)
    return path


def stored_buffers(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What a checkpoint holds besides parameters, by name."""
    return {name: tensor for name, tensor in model.named_buffers() if name in model.state_dict()}


def _seeded(model_class: Callable[[Any], PreTrainedModel], config: Any) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
        # transformers starts norms at one and biases at zero, which would hide a norm or bias that is left out.
        for name, parameter in model.named_parameters():
            if name.endswith(("norm.weight", ".bias", "_bias", ".sinks")):
                torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.2)
        for buffer in stored_buffers(model).values():
            torch.nn.init.normal_(buffer, std=0.3)
    return model.eval()
