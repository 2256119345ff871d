"""Which architectures the decoder runs, and how each differs from the others: a table. No torch."""

from collections.abc import Mapping
from dataclasses import replace
from difflib import SequenceMatcher

from servery.engine.traits import GELU_TANH, SIGMOID, Architecture, ExpertTraits, NormNames, Stack, Switch

_BIAS = Switch("attention_bias")

_POST_NORMS = NormNames(None, "post_attention_layernorm", None, "post_feedforward_layernorm")

_GEMMA_NORMS = NormNames(
    "input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"
)

# DeepSeek-V3's routing: scores that a stored number corrects, and groups of experts.
_CORRECTED = ExpertTraits(
    layers="later",
    scores=SIGMOID,
    correction="mlp.gate.e_score_correction_bias",
    methods=("noaux_tc",),
    normalizes="yes",
    scales=True,
    shared="mlp.shared_experts",
)

_GPT_OSS_STACKS = tuple(
    Stack(f"mlp.experts.{name}{stored}", f"mlp.experts.{{}}.{name}.{part}", is_transposed=not stored)
    for name in ("gate_up_proj", "down_proj")
    for stored, part in (("", "weight"), ("_bias", "bias"), ("_blocks", "blocks"), ("_scales", "scales"))
)

ARCHITECTURES: Mapping[str, Architecture] = {
    "LlamaForCausalLM": Architecture(
        "Llama 2, Llama 3, 3.1, 3.2 and what is built like them",
        "rope scaling of any supported kind",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        mlp_bias=Switch("mlp_bias"),
    ),
    "MistralForCausalLM": Architecture("Mistral 7B", "sliding window", window="all", default_window=4096),
    "MinistralForCausalLM": Architecture(
        "Ministral 8B", "sliding window in some layers", window="pattern", default_window=4096
    ),
    "Qwen2ForCausalLM": Architecture("Qwen2, Qwen2.5", "sliding window in upper layers", qkv_bias=True, window="upper"),
    "Qwen3ForCausalLM": Architecture(
        "Qwen3 (dense), amuse",
        "norms on queries and keys",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=True,
        window="upper",
        head_dim=128,
    ),
    "MixtralForCausalLM": Architecture(
        "Mixtral 8x7B, 8x22B",
        "mixture of experts",
        window="all",
        experts=ExpertTraits(
            count="num_local_experts",
            size="intermediate_size",
            normalizes="always",
            router="block_sparse_moe.gate",
            gate="block_sparse_moe.experts.{}.w1",
            up="block_sparse_moe.experts.{}.w3",
            down="block_sparse_moe.experts.{}.w2",
        ),
        theta=1_000_000.0,
    ),
    "Qwen3MoeForCausalLM": Architecture(
        "Qwen3 (mixture of experts)",
        "mixture of experts, norms on queries and keys",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=True,
        window="all_if_used",
        default_window=4096,
        experts=ExpertTraits(count="num_experts", layers="step"),
    ),
    "Qwen2MoeForCausalLM": Architecture(
        "Qwen1.5 and Qwen2 (mixture of experts)",
        "mixture of experts, one of them for all tokens",
        qkv_bias=Switch("qkv_bias", default=True),
        refused=("use_sliding_window",),
        experts=ExpertTraits(
            count="num_experts",
            layers="step",
            shared="mlp.shared_expert",
            shared_gate="mlp.shared_expert_gate",
            shared_size="shared_expert_intermediate_size",
        ),
    ),
    "DeepseekV2ForCausalLM": Architecture(
        "DeepSeek-V2, V2-Lite, Coder-V2",
        "latent attention, mixture of experts in groups",
        is_latent=True,
        interleaved_rope=True,
        experts=ExpertTraits(
            layers="later",
            methods=("greedy", "group_limited_greedy"),
            normalizes="never",
            scales=True,
            shared="mlp.shared_experts",
        ),
    ),
    "DeepseekV3ForCausalLM": Architecture(
        "DeepSeek-V3, V3.1, R1, Kimi-K2 (text), Moonlight",
        "latent attention, mixture of experts in groups with corrected scores",
        is_latent=True,
        interleaved_rope=True,
        experts=replace(_CORRECTED, num_dense=3),
    ),
    "Glm4MoeLiteForCausalLM": Architecture(
        "GLM-4.7-Flash",
        "as DeepSeek-V3",
        is_latent=True,
        interleaved_rope=True,
        experts=replace(_CORRECTED, num_dense=1),
    ),
    "Glm4MoeForCausalLM": Architecture(
        "GLM-4.5, 4.5-Air, 4.6",
        "mixture of experts with corrected scores, part of each head rotates",
        qkv_bias=_BIAS,
        qk_norm=Switch("use_qk_norm"),
        rotary_share=0.5,
        experts=replace(_CORRECTED, num_dense=1),
    ),
    "GemmaForCausalLM": Architecture(
        "Gemma 1, CodeGemma",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        head_dim=256,
        norm_offset=1.0,
        activation=GELU_TANH,
        old_activation="gelu",
        tied=True,
        scales_embedding=True,
    ),
    "Gemma2ForCausalLM": Architecture(
        "Gemma 2",
        "soft caps, sliding window in every other layer",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        window="pattern",
        default_window=4096,
        head_dim=256,
        norms=_GEMMA_NORMS,
        norm_offset=1.0,
        activation=GELU_TANH,
        tied=True,
        scales_embedding=True,
        query_scalar=256,
        full_every=2,
        soft_caps=(50.0, 30.0),
    ),
    "Gemma3ForCausalLM": Architecture(
        "Gemma 3 (text)",
        "sliding window in five of six layers, two rotary bases",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=True,
        window="pattern",
        default_window=4096,
        head_dim=256,
        norms=_GEMMA_NORMS,
        norm_offset=1.0,
        activation=GELU_TANH,
        tied=True,
        scales_embedding=True,
        query_scalar=256,
        soft_caps=(None, None),
        full_every=6,
        theta=1_000_000.0,
        local_theta=10_000.0,
    ),
    "Phi3ForCausalLM": Architecture(
        "Phi-3, Phi-3.5 (text), Phi-4, Phi-4-mini",
        "partial rotation, longrope up to the original context",
        window="all",
        fused_qkv=True,
        fused_mlp=True,
        rotary_share=1.0,
    ),
    "SmolLM3ForCausalLM": Architecture(
        "SmolLM3",
        "layers without rotation",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        mlp_bias=Switch("mlp_bias"),
        window="upper",
        tied=True,
        theta=2_000_000.0,
        still="listed",
    ),
    "GraniteForCausalLM": Architecture(
        "Granite 3 (dense)",
        "multipliers of embeddings, scores, residuals and logits",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        mlp_bias=Switch("mlp_bias"),
        has_multipliers=True,
    ),
    "GlmForCausalLM": Architecture(
        "GLM-4 9B, GLM-Edge",
        "half of each head rotates, in neighbouring pairs",
        qkv_bias=Switch("attention_bias", default=True),
        head_dim=128,
        fused_mlp=True,
        rotary_share=0.5,
        interleaved_rope=True,
    ),
    "Glm4ForCausalLM": Architecture(
        "GLM-4 0414",
        "half of each head rotates, in neighbouring pairs",
        qkv_bias=Switch("attention_bias", default=True),
        head_dim=128,
        norms=NormNames(
            "input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"
        ),
        fused_mlp=True,
        rotary_share=0.5,
        interleaved_rope=True,
    ),
    "Olmo2ForCausalLM": Architecture(
        "OLMo 2",
        "norms after attention and MLP, and over all queries and all keys",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=True,
        wide_qk_norm=True,
        norms=_POST_NORMS,
    ),
    "Olmo3ForCausalLM": Architecture(
        "OLMo 3",
        "as OLMo 2, sliding window in three of four layers",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=True,
        wide_qk_norm=True,
        norms=_POST_NORMS,
        window="pattern",
        default_window=4096,
        full_every=4,
        theta=500_000.0,
        local_theta=500_000.0,
    ),
    "OlmoeForCausalLM": Architecture(
        "OLMoE",
        "mixture of experts, norms over all queries and all keys",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=True,
        wide_qk_norm=True,
        experts=ExpertTraits(count="num_experts", size="intermediate_size"),
        refused=("clip_qkv",),
    ),
    "Exaone4ForCausalLM": Architecture(
        "EXAONE 4.0",
        "norms after attention and MLP, layers without rotation",
        qk_norm=True,
        norms=_POST_NORMS,
        window="pattern",
        default_window=4096,
        full_every=4,
        still="full_if_windowed",
    ),
    "Cohere2ForCausalLM": Architecture(
        "Command R7B, Command A, Tiny Aya",
        "attention and MLP side by side, layers without rotation",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        norms=NormNames("input_layernorm", mlp=None),
        centers=True,
        is_parallel=True,
        window="pattern",
        default_window=4096,
        full_every=4,
        still="full",
        interleaved_rope=True,
        tied=True,
        logit_scale=0.0625,
    ),
    "CohereForCausalLM": Architecture(
        "Command R, Aya",
        "attention and MLP side by side",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        norms=NormNames("input_layernorm", mlp=None),
        centers=True,
        is_parallel=True,
        theta=500_000.0,
        interleaved_rope=True,
        tied=True,
        logit_scale=0.0625,
        refused=("use_qk_norm",),
    ),
    "SeedOssForCausalLM": Architecture(
        "Seed-OSS",
        qkv_bias=Switch("attention_bias", default=True),
        output_bias=Switch("attention_out_bias"),
        mlp_bias=Switch("mlp_bias"),
        head_dim=128,
    ),
    "Ernie4_5ForCausalLM": Architecture(
        "ERNIE 4.5 (dense)",
        "neighbouring pairs rotate",
        qkv_bias=Switch("use_bias"),
        output_bias=Switch("use_bias"),
        mlp_bias=Switch("use_bias"),
        head_dim=128,
        theta=500_000.0,
        interleaved_rope=True,
        tied=True,
    ),
    "HunYuanDenseV1ForCausalLM": Architecture(
        "Hunyuan (dense), Hunyuan-MT",
        "norms on rotated queries and keys",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        qk_norm=True,
        late_qk_norm=True,
        has_ntk_alpha=True,
    ),
    "GraniteMoeForCausalLM": Architecture(
        "Granite 3 (mixture of experts)",
        "as Granite, mixture of experts",
        qkv_bias=_BIAS,
        output_bias=_BIAS,
        has_multipliers=True,
        experts=ExpertTraits(
            count="num_local_experts",
            size="intermediate_size",
            normalizes="always",
            router="block_sparse_moe.router.layer",
            fused="block_sparse_moe.input_linear.{}",
            down="block_sparse_moe.output_linear.{}",
            stacks=(
                Stack("block_sparse_moe.input_linear.weight", "block_sparse_moe.input_linear.{}.weight"),
                Stack("block_sparse_moe.output_linear.weight", "block_sparse_moe.output_linear.{}.weight"),
            ),
        ),
    ),
    "GptOssForCausalLM": Architecture(
        "gpt-oss 20b, 120b",
        "mixture of experts, attention sinks, sliding window in every other layer",
        qkv_bias=Switch("attention_bias", default=True),
        output_bias=Switch("attention_bias", default=True),
        head_dim=64,
        window="pattern",
        default_window=128,
        full_every=2,
        theta=150_000.0,
        clamps=True,
        has_sinks=True,
        experts=ExpertTraits(
            count="num_local_experts",
            size="intermediate_size",
            normalizes="always",
            router="mlp.router",
            fused="mlp.experts.{}.gate_up_proj",
            down="mlp.experts.{}.down_proj",
            has_biases=True,
            stacks=_GPT_OSS_STACKS,
        ),
    ),
}


# Below it names have a few letters in common by chance: BertModel and Qwen3Moe have 0.47, GPTNeoX and GptOss 0.62.
_LEAST_LIKENESS = 0.65


def nearest(name: str) -> str | None:
    """The supported architecture whose name is most like `name`, whatever it ends in; None if none is much like it."""
    stem = name.lower().partition("for")[0]

    def likeness(candidate: str) -> float:
        return SequenceMatcher(None, stem, candidate.lower().partition("for")[0]).ratio()

    best = max(ARCHITECTURES, key=likeness)
    return best if likeness(best) >= _LEAST_LIKENESS else None
